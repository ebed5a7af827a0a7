"""Intervals over items and seeds, simulated: which part of the noise dominates, clusters, slices, shares near 0 and 1.

Legend: a value is item + seed + residual; n items, k seeds. Invariant: the truth is the mean over all items and all
seeds that could have been drawn. What does not live here: the estimator (analysis/stats.py).
"""

# pyright: basic
# numpy's generators have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from analysis.checks.scenario import AT_LEAST, COVERS, Draw, Scenario
from analysis.stats import Effect, crossed_effect
from analysis.variance import Codes, Floats

Estimate = Callable[[Floats, Codes, Codes, bool], Effect]
"""Differences, clusters, strata, whether the values are 0 and 1 -> effect with its interval."""
TRUTH = 0.1


@dataclass(frozen=True)
class Regime:
    """Which noise dominates, as standard deviations."""

    name: str
    item_sd: float
    seed_sd: float
    """In units of sqrt(k / n): 1 moves the mean as much as items with standard deviation 1 do."""
    residual_sd: float


ITEMS = Regime("items dominate", 1.0, 0.0, 0.3)
SEEDS = Regime("seeds dominate", 1.0, 3.0, 0.5)
BOTH = Regime("items and seeds alike", 1.0, 1.0, 0.5)
RESIDUAL = Regime("residual dominates", 0.4, 0.25, 1.0)
NOISE = Regime("nothing but residual", 0.0, 0.0, 1.0)
REGIMES = (ITEMS, SEEDS, BOTH, RESIDUAL, NOISE)


def estimate(differences: Floats, clusters: Codes, strata: Codes, binary: bool) -> Effect:
    """Return the effect that reports and claims are made of."""
    return crossed_effect(differences, clusters, strata, binary=binary)


def scenarios(estimator: Estimate = estimate) -> Iterator[Scenario]:
    """Yield every scenario of the crossed interval.

    Args:
        estimator: what is checked; a broken one must fail.
    """
    yield _normal(estimator, ITEMS, 150, 1)
    for regime in REGIMES:
        for num_seeds in (2, 3, 5, 10):
            yield _normal(estimator, regime, 150, num_seeds)
        for num_items in (40, 400):
            for num_seeds in (3, 5):
                yield _normal(estimator, regime, num_items, num_seeds)
        yield _normal(estimator, regime, 152, 5, cluster_size=4)
        yield _normal(estimator, regime, 150, 5, num_strata=3)
        for num_seeds in (3, 5, 10):
            yield _binary(estimator, regime, 150, num_seeds)
    yield _binary(estimator, RESIDUAL, 40, 5)
    yield _binary(estimator, RESIDUAL, 400, 5)
    yield _binary(estimator, RESIDUAL, 152, 5, cluster_size=4)
    for share in (0.03, 0.97):
        yield _near_an_end(estimator, share, 400)
        yield _near_an_end(estimator, share, 100)
    yield _mostly_alike(estimator, 150, 10)
    yield _mostly_alike(estimator, 30, 30)


def _claim(regime: Regime, num_seeds: int) -> tuple[tuple[float, float] | None, str]:
    """Return what the interval claims: nothing for few seeds that matter, to be wide enough without either variance."""
    if regime is NOISE and num_seeds > 1:
        return AT_LEAST, "conservative"
    if num_seeds < 5 and regime is not ITEMS:
        return None, f"{num_seeds} seeds"
    return COVERS, ""


def _normal(
    estimator: Estimate, regime: Regime, num_items: int, num_seeds: int, *, cluster_size: int = 1, num_strata: int = 1
) -> Scenario:
    clusters, strata = np.arange(num_items) // cluster_size, np.arange(num_items) * num_strata // num_items
    seed_sd = regime.seed_sd * math.sqrt(num_seeds * cluster_size / num_items)

    def draw(noise: np.random.Generator) -> bool:
        shared = noise.normal(0, regime.item_sd, clusters[-1] + 1)[clusters][:, None]
        own = noise.normal(0, 0.5 * regime.item_sd, (num_items, 1)) if cluster_size > 1 else 0.0
        seeds = noise.normal(0, seed_sd, (1, num_seeds))
        values = TRUTH + shared + own + seeds + noise.normal(0, regime.residual_sd, (num_items, num_seeds))
        return _holds(estimator(values, clusters, strata, False), TRUTH)

    return _scenario("normal", regime, num_items, num_seeds, cluster_size, num_strata, draw)


def _binary(estimator: Estimate, regime: Regime, num_items: int, num_seeds: int, *, cluster_size: int = 1) -> Scenario:
    """Return before and after of 0 and 1. One before for all seeds, as of one base, is the item's; where the residual
    dominates, before is another trained model of the same seed.

    The chance to be right after is .5 + TRUTH + item + seed, both uniform so that it stays in [0, 1].
    """
    clusters, strata = np.arange(num_items) // cluster_size, np.zeros(num_items, dtype=np.int64)
    spread = {ITEMS: 0.38, SEEDS: 0.1, BOTH: 0.25, RESIDUAL: 0.35, NOISE: 0.0}[regime]
    seed_sd = min(0.16, 0.5 * regime.seed_sd * math.sqrt(num_seeds * cluster_size / num_items))

    def draw(noise: np.random.Generator) -> bool:
        item = noise.uniform(-spread, spread, clusters[-1] + 1)[clusters][:, None]
        seeds = noise.uniform(-1, 1, (1, num_seeds)) * seed_sd * math.sqrt(3)
        before = (noise.uniform(size=(num_items, 1)) < 0.5 + item) * (regime is not NOISE)
        if regime is RESIDUAL:
            before = noise.uniform(size=(num_items, num_seeds)) < 0.5
        after = noise.uniform(size=(num_items, num_seeds)) < 0.5 + TRUTH + item + seeds
        truth = TRUTH if regime is not NOISE else 0.5 + TRUTH
        return _holds(estimator(after.astype(float) - before, clusters, strata, True), truth)

    return _scenario("0 and 1", regime, num_items, num_seeds, cluster_size, 1, draw)


def _near_an_end(estimator: Estimate, share: float, num_items: int) -> Scenario:
    """Return a score near 0 or 1 before, from which a few items move to the other side and back."""
    clusters, strata = np.arange(num_items), np.zeros(num_items, dtype=np.int64)
    end = round(share)

    def draw(noise: np.random.Generator) -> bool:
        before = noise.uniform(size=(num_items, 1)) < share
        chance = np.where(before == end, abs(end - 0.04), abs(end - 0.4)) + noise.uniform(-0.02, 0.02, (1, 5))
        after = noise.uniform(size=(num_items, 5)) < chance
        rare = abs(end - share)
        truth = (1 if end == 0 else -1) * ((1 - rare) * 0.04 + rare * 0.4 - rare)
        return _holds(estimator(after.astype(float) - before, clusters, strata, True), truth)

    bounds, why = (COVERS, "") if num_items >= 400 else (None, "few items change")
    return Scenario("items x seeds", f"0 and 1, near {share}", num_items, 5, 0.95, bounds, draw, why)


def _mostly_alike(estimator: Estimate, num_first: int, num_second: int) -> Scenario:
    """Return two slices, in the second of which items move under every seed with a chance at which often none does."""
    strata = np.repeat([0, 1], [num_first, num_second])
    clusters, chance = np.arange(len(strata)), 1.2 / num_second

    def draw(noise: np.random.Generator) -> bool:
        moved = (noise.uniform(size=(len(strata), 1)) < chance) & (strata == 1)[:, None]
        return _holds(estimator(np.repeat(moved.astype(float), 5, axis=1), clusters, strata, True), chance / 2)

    name = f"0 and 1, mostly nothing moves, slices of {num_first} and {num_second}"
    return Scenario("items x seeds", name, len(strata), 5, 0.95, AT_LEAST, draw, "conservative")


def _scenario(
    kind: str, regime: Regime, num_items: int, num_seeds: int, cluster_size: int, num_strata: int, draw: Draw
) -> Scenario:
    bounds, why = _claim(regime, num_seeds)
    if regime is RESIDUAL and kind == "0 and 1" and bounds is not None:
        bounds, why = AT_LEAST, "conservative"
    parts = [kind, regime.name]
    parts += [f"clusters of {cluster_size}"] if cluster_size > 1 else []
    parts += [f"{num_strata} slices"] if num_strata > 1 else []
    return Scenario("items x seeds", ", ".join(parts), num_items, num_seeds, 0.95, bounds, draw, why)


def _holds(effect: Effect, truth: float) -> bool:
    return effect.low <= truth <= effect.high
