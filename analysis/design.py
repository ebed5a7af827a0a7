"""How the size of a design bears on what it can see, and the smallest size that sees a margin.

Legend: v, the variance between clusters of items of a slice, with the factor q / H^2 of `power.forecast` in it.
Invariant: pure, light to import, and the smallest size is where the forecast itself turns: the margin is seen at
it, and not at one less. What does not live here: where variances come from (power.py), the detectable effect in
standard errors (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false
# scipy has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

MAX_ITEMS, MAX_SEEDS = 10_000_000, 100_000
"""Where more would be needed, no number is said to be enough."""
GROWTH = 1.5


@dataclass(frozen=True)
class Size:
    """Test items of one slice."""

    num_items: int
    num_clusters: int


@dataclass(frozen=True)
class SliceVariance:
    """What a slice adds to the variance of an estimate: `weighted_variance` / clusters."""

    size: Size
    weighted_variance: float


@dataclass(frozen=True)
class Design:
    """A difference as it is planned."""

    slices: tuple[SliceVariance, ...]
    """Of one world; every world asks as many."""
    seed_variance: float
    """Of one seed, with its factor: it is divided by the seeds of a world."""
    seeds: tuple[int, ...]
    """Of each world, at least 2."""

    @property
    def num_items(self) -> int:
        """Over slices and worlds."""
        return sum(one.size.num_items for one in self.slices) * len(self.seeds)

    @property
    def num_clusters(self) -> int:
        """Over slices and worlds."""
        return sum(one.size.num_clusters for one in self.slices) * len(self.seeds)

    def precision(self) -> tuple[float, float]:
        """Return the standard error of the mean over worlds and its degrees of freedom, by Welch and Satterthwaite."""
        of_items = sum(one.weighted_variance / one.size.num_clusters for one in self.slices)
        item_df = max(sum(one.size.num_clusters for one in self.slices) - 1, 1)
        parts = [(of_items, item_df) for _ in self.seeds]
        parts += [(self.seed_variance / num_seeds, num_seeds - 1) for num_seeds in self.seeds]
        variance = sum(part for part, _ in parts)
        squares = sum(part**2 / df for part, df in parts)
        return math.sqrt(variance) / len(self.seeds), variance**2 / squares if squares else math.inf

    def mde(self) -> float:
        """Return the minimum detectable effect, with 80 % power at alpha = .05."""
        from analysis.detectable import minimum_detectable_effect  # scipy is slow to import, and some plans need none

        return minimum_detectable_effect(*self.precision())

    def with_items(self, num_items: int) -> Design:
        """Return the design with so many items in every slice, each with clusters as large as they are."""
        slices = tuple(replace(one, size=_scaled(one.size, num_items)) for one in self.slices)
        return replace(self, slices=slices)

    def with_seeds(self, num_seeds: int) -> Design:
        """Return the design with so many seeds in every world."""
        return replace(self, seeds=(num_seeds,) * len(self.seeds))


def _scaled(size: Size, num_items: int) -> Size:
    return Size(num_items, max(1, round(num_items * size.num_clusters / size.num_items)))


def items_needed(design: Design, margin: float) -> int | None:
    """Return the fewest test items a slice that see the margin at the planned seeds; None where no number does.

    In the limit of many items without variance of seeds it is n = (z_.975 + z_.8)^2 v / margin^2; here with the
    forecast's degrees of freedom. Seeds alone may exceed the margin: more items do not make up for few seeds, whose
    degrees of freedom are all that is left where the items' variance vanishes.

    Source: Miller, arXiv:2411.00640, section 5.
    """
    return _fewest(lambda num: design.with_items(num).mde(), margin, 1, MAX_ITEMS)


def seeds_needed(design: Design, margin: float) -> int | None:
    """Return the fewest seeds of each world that see the margin at the planned items; None where no number does.

    Source: as of `items_needed`, solved for K.
    """
    return _fewest(lambda num: design.with_seeds(num).mde(), margin, 2, MAX_SEEDS)


def both_needed(design: Design, margin: float) -> tuple[int, int] | None:
    """Return seeds of each world and test items a slice that see the margin together, with the fewest answers in all.

    For seeds K and the fewest items n at them, K n is as small as it gets: in the limit of many, where half of the
    variance is the seeds'. None where no such pair is found.
    """
    fewest = seeds_needed(design.with_items(MAX_ITEMS), margin)
    if fewest is None:
        return None

    def answers(num_seeds: int) -> float:
        return num_seeds * (items_needed(design.with_seeds(num_seeds), margin) or math.inf)

    num_seeds = _lowest(answers, fewest, 4 * fewest)
    num_items = items_needed(design.with_seeds(num_seeds), margin)
    return None if num_items is None else (num_seeds, num_items)


def _fewest(mde_at: Callable[[int], float], margin: float, low: int, high: int) -> int | None:
    """Return the smallest size from `low` to `high` whose detectable effect is at most the margin; None without one.

    The effect falls with the size as long as the standard error does, and may rise again towards the end, where few
    degrees of freedom are left: sizes a factor of 1.5 apart are tried, and between them the one that is best.
    """
    sizes = list(dict.fromkeys(round(low * GROWTH**power) for power in range(_num_steps(low, high))))
    effects = [mde_at(size) for size in sizes]
    place = next((at for at, effect in enumerate(effects) if effect <= margin), None)
    if place is None:
        best = effects.index(min(effects))
        enough = _lowest(mde_at, sizes[max(best - 1, 0)], sizes[min(best + 1, len(sizes) - 1)])
        if mde_at(enough) > margin:
            return None
        below = sizes[max(best - 1, 0)]
    elif place == 0:
        return low
    else:
        below, enough = sizes[place - 1], sizes[place]
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if mde_at(middle) <= margin else (middle, enough)
    return enough


def _num_steps(low: int, high: int) -> int:
    return math.floor(math.log(high / low, GROWTH)) + 1


def _lowest(value_at: Callable[[int], float], low: int, high: int) -> int:
    """Return the size between two others where a number that falls and then rises is smallest."""
    while high - low > 2:
        third = (high - low) // 3
        first, second = low + third, high - third
        low, high = (low, second) if value_at(first) <= value_at(second) else (first, high)
    return min(range(low, high + 1), key=value_at)


def needed_text(num_items: int | None, num_seeds: int | None, both: tuple[int, int] | None, num_worlds: int) -> str:
    """Return in words what would be enough: more of either alone, else of both."""
    each = " a world" if num_worlds > 1 else ""
    if num_items is None and num_seeds is None:
        if both is None:
            return "no number of seeds and items is enough"
        return f"enough: {both[0]} seeds{each} and {both[1]} test items a slice together, neither alone"
    if num_items is None:
        return f"enough: {num_seeds} seeds{each}; no number of items is"
    if num_seeds is None:
        return f"enough: {num_items} test items a slice; no number of seeds is"
    return f"enough: {num_items} test items a slice, or {num_seeds} seeds{each}"
