"""Everything but the crossed interval, simulated: shares, McNemar, families, seeds alone, optima, aggregates, fits.

Invariant: what is simulated goes through the functions that reports use. What does not live here: those functions
(analysis/stats.py, curves.py, aggregate.py, fits.py).
"""

# pyright: basic
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from analysis import fits, stats
from analysis.aggregate import iqm, iqm_interval
from analysis.checks.scenario import AT_LEAST, AT_MOST_FAMILY, COVERS, Scenario
from analysis.curves import optimum
from analysis.randomisation import cluster_sums, randomised_p
from analysis.variance import Floats

Adjust = Callable[[Sequence[float]], list[float]]
OfSeeds = Callable[[Sequence[float]], stats.Effect]
NUM_TESTS = 20
AT_MOST = (0.0, 0.05)


def scenarios(adjust: Adjust = stats.holm, of_seeds: OfSeeds = stats.seeds_effect) -> Iterator[Scenario]:
    """Yield the scenarios; broken variants of what is checked must fail.

    Args:
        adjust: of the p values of a family.
        of_seeds: the interval over seeds alone.
    """
    yield from (_wilson(*case) for case in ((30, 0.1, 0.9), (100, 0.1, 0.9), (100, 0.94, 0.99)))
    yield from (_mcnemar(*case) for case in ((150, 0.1), (400, 0.25)))
    yield from (_randomised(*case) for case in ((12, 1.0), (60, 0.25)))
    yield _family(adjust, "independent")
    yield _family(adjust, "correlated", shared_sd=1.0)
    yield _family(adjust, "independent, seeds vary as items do", seed_sd=1.0)
    yield from (_seeds(of_seeds, num_seeds) for num_seeds in (3, 5, 10))
    yield from (_unpaired(num_seeds) for num_seeds in (3, 5))
    yield from (_other_items(num_clusters) for num_clusters in (4, 12))
    yield from (_optimum(of_seeds, num_seeds) for num_seeds in (3, 5))
    yield from (_iqm(num_seeds, shared=shared) for num_seeds in (5, 10) for shared in (False, True))
    yield _fit("straight line", "slope", fits.straight_line, lambda x: 2 - 1.5 * x, -1.5, 0.1)
    yield _fit("quadratic in log", "curvature", fits.quadratic_log, lambda x: -0.1 * np.log(x / 0.1) ** 2, -0.1, 0.05)
    yield _fit("power law", "b", fits.power_law, lambda x: 0.9 - 0.3 * x**-0.5, -0.5, 0.025)


def _wilson(num_items: int, low: float, high: float) -> Scenario:
    def draw(noise: np.random.Generator) -> bool:
        share = noise.uniform(low, high)
        ends = stats.wilson(int(noise.binomial(num_items, share)), num_items)
        return ends[0] <= share <= ends[1]

    return Scenario("Wilson", f"share in [{low}, {high}]", num_items, 0, 0.95, COVERS, draw)


def _mcnemar(num_items: int, churn: float) -> Scenario:
    def draw(noise: np.random.Generator) -> bool:
        changed = int(noise.binomial(num_items, churn))
        gained = int(noise.binomial(changed, 0.5))
        return stats.Flips(num_items, num_items - changed, changed - gained, gained).p_value < 0.05

    name = f"no change, {churn:.0%} of answers differ"
    return Scenario("McNemar", name, num_items, 0, 0.05, AT_MOST, draw, "size")


def _randomised(num_clusters: int, share: float) -> Scenario:
    """Return whether clusters of 4 items with heavy tails and no difference, 3 seeds, are called different."""
    clusters = np.arange(4 * num_clusters) // 4
    strata = np.zeros(len(clusters), dtype=np.int64)

    def draw(noise: np.random.Generator) -> bool:
        shared = noise.standard_t(3, num_clusters)[clusters][:, None]
        differences = shared + noise.normal(0, 0.5, (len(clusters), 3))
        return randomised_p([cluster_sums(differences, clusters, strata)]) < 0.05

    name = f"no difference, {num_clusters} clusters of 4, heavy tails"
    return Scenario("randomisation", name, len(clusters), 3, 0.05, AT_MOST, draw, "size", share)


def _family(adjust: Adjust, name: str, *, shared_sd: float = 0.0, seed_sd: float = 0.0) -> Scenario:
    """Return whether any of 20 comparisons without a difference is called one.

    Where 5 seeds vary as much as items do, the far tails of a t with approximate degrees of freedom are too thin.
    """
    num_items, num_seeds = 60, 5

    def draw(noise: np.random.Generator) -> bool:
        shared = noise.normal(0, shared_sd, (num_items, 1))
        p_values = [stats.crossed_effect(shared + one(noise)).p_value for _ in range(NUM_TESTS)]
        return min(adjust(p_values)) < 0.05

    def one(noise: np.random.Generator) -> Floats:
        item, seed = noise.normal(0, 0.7, (num_items, 1)), noise.normal(0, 0.7, (1, num_seeds))
        scale = seed_sd * math.sqrt(num_seeds / num_items)
        return item + scale * seed + noise.normal(0, 0.7, (num_items, num_seeds))

    bounds, why = (None, f"{num_seeds} seeds that matter") if seed_sd else (AT_MOST_FAMILY, "family-wise")
    return Scenario("Holm", f"family of {NUM_TESTS}, {name}", num_items, num_seeds, 0.05, bounds, draw, why)


def _seeds(of_seeds: OfSeeds, num_seeds: int) -> Scenario:
    def draw(noise: np.random.Generator) -> bool:
        effect = of_seeds(noise.normal(0.1, 0.03, num_seeds).tolist())
        return effect.low <= 0.1 <= effect.high

    return Scenario("seeds alone", "normal", 0, num_seeds, 0.95, COVERS, draw)


def _unpaired(num_seeds: int) -> Scenario:
    """Return whether conditions on different seeds are compared widely enough: noise of answers counts twice there."""

    def draw(noise: np.random.Generator) -> bool:
        item = noise.normal(0, 0.3, (100, 1))
        shape = (100, num_seeds)
        a, b = (item + noise.normal(0, 0.03, (1, num_seeds)) + noise.normal(0, 0.4, shape) for _ in range(2))
        items = stats.crossed_effect(b.mean(axis=1, keepdims=True) - a.mean(axis=1, keepdims=True))
        effect = stats.unpaired_effect(a.mean(axis=0).tolist(), b.mean(axis=0).tolist(), [stats.item_part(items)])
        return effect.low <= 0 <= effect.high

    bounds, why = (AT_LEAST, "conservative") if num_seeds >= 5 else (None, f"{num_seeds} seeds")
    return Scenario("unpaired", "different seeds", 100, num_seeds, 0.95, bounds, draw, why)


def _other_items(num_clusters: int) -> Scenario:
    """Return whether conditions on different seeds and items in few clusters, which dominate, are compared so."""
    num_seeds, clusters = 5, np.arange(10 * num_clusters) // 10

    def side(noise: np.random.Generator) -> Floats:
        shared = noise.normal(0, 0.3, num_clusters)[clusters][:, None]
        return shared + noise.normal(0, 0.02, (1, num_seeds)) + noise.normal(0, 0.2, (len(clusters), num_seeds))

    def draw(noise: np.random.Generator) -> bool:
        a, b = side(noise), side(noise)
        items = [stats.item_part(stats.crossed_effect(x.mean(axis=1, keepdims=True), clusters)) for x in (a, b)]
        effect = stats.unpaired_effect(a.mean(axis=0).tolist(), b.mean(axis=0).tolist(), items)
        return effect.low <= 0 <= effect.high

    name = f"different seeds and items, {num_clusters} clusters a side"
    return Scenario("unpaired", name, len(clusters), num_seeds, 0.95, AT_LEAST, draw, "conservative")


def _optimum(of_seeds: OfSeeds, num_seeds: int) -> Scenario:
    """Return whether the interval over seeds of an optimum's logarithm holds the truth."""
    grid, best = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3], math.log(8e-5)

    def draw(noise: np.random.Generator) -> bool:
        shape = -0.05 * (np.log(grid) - best) ** 2
        found = [optimum(grid, (shape + noise.normal(0, 0.01, len(grid))).tolist()) for _ in range(num_seeds)]
        effect = of_seeds([one.log_x for one in found if one is not None])
        return effect.low <= best <= effect.high

    return Scenario("optimum", "vertex of a parabola in log x", 0, num_seeds, 0.95, COVERS, draw)


@cache
def _iqm_truth() -> float:
    noise = np.random.default_rng(0)
    return iqm(np.concatenate([0.1 * task + noise.normal(0, 0.1, 200_000) for task in range(6)]))


def _iqm(num_seeds: int, *, shared: bool) -> Scenario:
    def draw(noise: np.random.Generator) -> bool:
        shift = noise.normal(0, 0.08, num_seeds) if shared else np.zeros(num_seeds)
        own = 0.06 if shared else 0.1
        tasks = {f"{task}": 0.1 * task + shift + noise.normal(0, own, num_seeds) for task in range(6)}
        found = iqm_interval({name: values.tolist() for name, values in tasks.items()}, shared_seeds=shared)
        return found.low <= _iqm_truth() <= found.high

    bounds, why = (COVERS, "") if num_seeds >= 10 else (None, f"{num_seeds} replicates")
    name = "6 tasks, seeds shared" if shared else "6 tasks"
    return Scenario("IQM", name, 0, num_seeds, 0.95, bounds, draw, why, 0.125)


def _fit(
    name: str,
    parameter: str,
    fit: Callable[[fits.Points], fits.Fit],
    curve: Callable[[np.ndarray], np.ndarray],
    truth: float,
    share: float,
) -> Scenario:
    x = np.tile([0.01, 0.03, 0.1, 0.3, 1.0], (10, 1))
    replicates = np.repeat(np.arange(10), 5)

    def draw(noise: np.random.Generator) -> bool:
        tilt = noise.normal(0, 0.02, (10, 1)) * np.log(x / 0.1)
        y = curve(x) + noise.normal(0, 0.03, (10, 1)) + tilt + noise.normal(0, 0.02, x.shape)
        found = fit(fits.Points(x.ravel(), y.ravel(), replicates)).parameters[parameter]
        return found.low <= truth <= found.high

    return Scenario("fit", f"{name}: {parameter}", 50, 10, 0.95, COVERS, draw, "", share)
