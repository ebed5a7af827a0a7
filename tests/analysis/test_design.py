"""The smallest design that sees a margin against a search through all of them, and Miller's formula in its limit."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
from statsmodels.stats.power import TTestPower

from analysis.design import Design, Size, SliceVariance, both_needed, items_needed, needed_text, seeds_needed
from analysis.detectable import detectable_in_se, minimum_detectable_effect


def design(
    variance: float = 0.2, seed_sd: float = 0.02, seeds: tuple[int, ...] = (3,), items: int = 300, per_cluster: int = 1
) -> Design:
    return Design((SliceVariance(Size(items, items // per_cluster), variance),), seed_sd**2, seeds)


def drawn(noise: np.random.Generator) -> Design:
    """Return any design: up to 3 slices with clusters of up to 5, up to 3 worlds."""
    sizes = [Size(int(n), max(1, int(n) // int(c))) for n, c in noise.integers([20, 1], [500, 6], size=(3, 2))]
    slices = tuple(SliceVariance(size, float(noise.uniform(0.01, 0.3))) for size in sizes[: noise.integers(1, 4)])
    seeds = tuple(int(k) for k in noise.integers(2, 8, size=noise.integers(1, 4)))
    return Design(slices, float(noise.uniform(0, 0.05)) ** 2, seeds)


def by_search(mde_at: list[float], margin: float) -> int | None:
    return next((place for place, mde in enumerate(mde_at) if mde <= margin), None)


@pytest.mark.parametrize("seed", range(12))
def test_fewest_items_and_seeds_are_those_that_a_search_through_all_finds(seed: int) -> None:
    noise = np.random.default_rng(seed)
    planned = drawn(noise)
    by_items = [math.inf, *(planned.with_items(num).mde() for num in range(1, 1500))]
    by_seeds = [math.inf, math.inf, *(planned.with_seeds(num).mde() for num in range(2, 400))]
    for factor in (0.5, 0.75, 0.9, 1.0, 1.5):
        margin = factor * planned.mde()
        found, expected = items_needed(planned, margin), by_search(by_items, margin)
        assert found == expected or (expected is None and (found is None or found >= len(by_items)))
        found, expected = seeds_needed(planned, margin), by_search(by_seeds, margin)
        assert found == expected or (expected is None and (found is None or found >= len(by_seeds)))


def test_one_item_or_seed_less_is_not_enough() -> None:
    planned = design(per_cluster=3)
    num = items_needed(planned, 0.09)
    assert num is not None
    assert planned.with_items(num).mde() <= 0.09 < planned.with_items(num - 1).mde()
    num = seeds_needed(design(seed_sd=0.05, items=5000), 0.05)
    assert num is not None
    assert design(seed_sd=0.05, items=5000).with_seeds(num).mde() <= 0.05
    assert design(seed_sd=0.05, items=5000).with_seeds(num - 1).mde() > 0.05


@pytest.mark.parametrize(("variance", "margin"), [(0.2, 0.03), (0.1, 0.02), (0.3, 0.01)])
def test_items_are_millers_in_the_limit_of_many_without_variance_of_seeds(variance: float, margin: float) -> None:
    z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    miller = z**2 * variance / margin**2
    assert items_needed(design(variance, 0.0, (1000,)), margin) == pytest.approx(miller, rel=0.01)
    assert z**2 * 0.11 / 0.03**2 == pytest.approx(1000, rel=0.05)  # his thousand items for three points


def test_seeds_are_millers_in_the_limit_of_many() -> None:
    """Both variances, many seeds: z^2 (v / n + s^2 / K) = margin^2, solved for K."""
    z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    margin, planned = 0.03, design(0.2, 0.3, (3,), items=20_000)
    miller = z**2 * 0.3**2 / (margin**2 - z**2 * 0.2 / 20_000)
    assert seeds_needed(planned, margin) == pytest.approx(miller, rel=0.01)


def test_where_one_part_alone_exceeds_the_margin_no_number_of_the_other_is_enough() -> None:
    seeds_alone = design(seed_sd=0.05)
    assert seeds_alone.with_items(10**9).mde() > 0.04
    assert items_needed(seeds_alone, 0.04) is None
    items_alone = design(seed_sd=0.0)
    assert items_alone.with_seeds(10**5).mde() > 0.04
    assert seeds_needed(items_alone, 0.04) is None


def test_needs_in_words_name_what_alone_is_enough_or_both() -> None:
    assert needed_text(640, 9, None, 1) == "enough: 640 test items a slice, or 9 seeds"
    assert needed_text(None, 9, None, 2) == "enough: 9 seeds a world; no number of items is"
    assert needed_text(640, None, None, 1) == "enough: 640 test items a slice; no number of seeds is"
    assert (
        needed_text(None, None, (5, 1200), 1) == "enough: 5 seeds and 1200 test items a slice together, neither alone"
    )
    assert needed_text(None, None, None, 1) == "no number of seeds and items is enough"


def test_where_neither_is_enough_alone_both_are_with_the_fewest_answers_to_score() -> None:
    planned, margin = design(0.2, 0.02, (3,), items=400), 0.05
    assert items_needed(planned, margin) is None
    assert seeds_needed(planned, margin) is None
    found = both_needed(planned, margin)
    assert found is not None
    num_seeds, num_items = found
    assert planned.with_seeds(num_seeds).with_items(num_items).mde() <= margin
    costs = {k: k * (items_needed(planned.with_seeds(k), margin) or math.inf) for k in range(2, 60)}
    assert num_seeds * num_items <= 1.01 * min(costs.values())
    # Many seeds, z^2 (v / n + s^2 / K) = margin^2: K n is least at K = 2 z^2 s^2 / margin^2.
    z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    many = both_needed(design(0.2, 0.3, (3,), items=50), 0.1)
    assert many is not None
    assert many[0] == pytest.approx(2 * (z * 0.3 / 0.1) ** 2, rel=0.1)
    assert both_needed(design(0.2, 50.0), 1e-4) is None


def test_two_seeds_of_one_world_are_the_fewest_that_have_an_interval() -> None:
    assert seeds_needed(design(), 5.0) == 2
    assert items_needed(design(), 50.0) == 1


def test_search_of_ten_parts_is_quick() -> None:
    design().mde()
    started = time.process_time()
    for place in range(10):
        items_needed(design(seed_sd=0.01 + place / 1000), 0.06)
        seeds_needed(design(seed_sd=0.01 + place / 1000), 0.06)
    assert time.process_time() - started < 0.3


# -- the detectable effect --------------------------------------------------------------------------------------------


def power_by_integration(noncentrality: float, df: float) -> float:
    """Return P(|t| > its 95 % limit), by integrating over the chi-square of the denominator."""
    limit = scipy.special.stdtrit(df, 0.975)

    def inside(root: float) -> float:
        width = limit * math.sqrt(root**4 / df)
        both = scipy.special.ndtr(noncentrality - width) + scipy.special.ndtr(-noncentrality - width)
        return both * scipy.stats.chi2.pdf(root**4, df) * 4 * root**3

    return scipy.integrate.quad(inside, 0, 8, limit=400, points=[0.1, 0.5, 1, 2])[0]


@pytest.mark.parametrize("df", [1.0, 1.4, 2.0, 3.0, 7.5, 29.0])
def test_detectable_effect_has_80_per_cent_power_by_integration(df: float) -> None:
    solved = scipy.optimize.brentq(lambda nc: power_by_integration(nc, df) - 0.8, 2, 40, xtol=1e-9)
    assert detectable_in_se(df) == pytest.approx(solved, rel=5e-6)


@pytest.mark.parametrize("df", [2.0, 3.0, 4.3, 10.0, 66.0, 120.0, 950.0])
def test_detectable_effect_is_that_of_statsmodels(df: float) -> None:
    effect = TTestPower().solve_power(nobs=df + 1, alpha=0.05, power=0.8)
    assert detectable_in_se(df) == pytest.approx(float(np.squeeze(effect)) * math.sqrt(df + 1), rel=1e-5)
    assert minimum_detectable_effect(0.5, df) == pytest.approx(0.5 * detectable_in_se(df), rel=0.005)


def test_detectable_effect_is_above_0_and_falls_with_the_degrees_of_freedom() -> None:
    """A solver that stops at the other root, or before it is there, breaks the row: statsmodels' does at 72 and 1.4."""
    grid = [*np.round(np.arange(1, 10, 0.1), 1), *range(10, 1000, 7), 72, math.inf]
    found = [detectable_in_se(float(df)) for df in sorted(grid)]
    assert found[-1] == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert all(first >= second * (1 - 5e-6) for first, second in pairwise(found))
