"""Statistics against hand-computed numbers, scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from analysis import stats


def test_crossed_effect_one_seed_one_item_a_cluster_is_the_paired_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1.0, size=(40, 1))
    effect = stats.crossed_effect(differences)
    reference = scipy.stats.ttest_1samp(differences[:, 0], 0.0)
    interval = reference.confidence_interval(0.95)
    assert effect.estimate == pytest.approx(differences.mean())
    assert effect.p_value == pytest.approx(reference.pvalue)
    assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high))
    assert effect.kind == "items only"
    assert math.isnan(effect.seed_sd)


def test_crossed_effect_items_alike_is_the_t_test_over_seeds() -> None:
    by_seed = np.array([0.10, 0.16, 0.13])
    effect = stats.crossed_effect(np.tile(by_seed, (50, 1)))
    interval = scipy.stats.ttest_1samp(by_seed, 0.0).confidence_interval(0.95)
    assert effect.se_items == pytest.approx(0.0, abs=1e-12)
    assert effect.df == pytest.approx(2.0)
    assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high))


def test_crossed_effect_by_hand() -> None:
    # Items' seed means: 0.5, 0, 1, 0.5 -> mean 0.5, sum of squares 0.5, SE_items^2 = 0.5 / (3 * 4).
    # Seed means: 0.75, 0.25 -> s^2 = 0.125, s^2 / k = 0.0625.
    effect = stats.crossed_effect(np.array([[1, 0], [0, 0], [1, 1], [1, 0]], dtype=float))
    assert effect.estimate == pytest.approx(0.5)
    assert effect.se_items == pytest.approx(math.sqrt(0.5 / 12))
    assert effect.seed_sd == pytest.approx(math.sqrt(0.125))
    assert effect.se == pytest.approx(math.sqrt(0.5 / 12 + 0.0625))
    variance = 0.5 / 12 + 0.0625
    assert effect.df == pytest.approx(variance**2 / ((0.5 / 12) ** 2 / 3 + 0.0625**2 / 1))


def test_crossed_effect_clusters_by_hand() -> None:
    # Cluster sums of deviations from the mean 0.5: a: 1, b: -1. SE^2 = G/(G-1) * (1 + 1) / n^2 = 2 * 2 / 16.
    effect = stats.crossed_effect(np.array([[1.0], [1.0], [0.0], [0.0]]), clusters=["a", "a", "b", "b"])
    assert effect.se_items == pytest.approx(math.sqrt(4 / 16))
    assert effect.num_clusters == 2
    naive = stats.crossed_effect(np.array([[1.0], [1.0], [0.0], [0.0]]))
    assert naive.se_items == pytest.approx(math.sqrt(1 / 12))


def test_crossed_effect_strata_weigh_slices_equally_whatever_their_size() -> None:
    differences = np.array([[1.0]] * 9 + [[0.0]])
    differences[0] = 0.0
    effect = stats.crossed_effect(differences, strata=["big"] * 9 + ["small"])
    assert effect.estimate == pytest.approx((8 / 9 + 0.0) / 2)


def test_crossed_effect_every_item_alike_is_bounded_not_certain() -> None:
    none_moved = stats.crossed_effect(np.zeros((100, 3)), binary=True)
    exact = scipy.stats.binomtest(0, 100).proportion_ci(0.95, method="exact")
    assert none_moved.kind == "exact bound"
    assert none_moved.high == pytest.approx(exact.high)
    assert none_moved.low == pytest.approx(-exact.high)
    all_moved = stats.crossed_effect(np.ones((100, 3)), binary=True)
    assert all_moved.low == pytest.approx(1 - exact.high)
    assert all_moved.high == 1.0
    assert all_moved.p_value < 1e-20


def test_crossed_effect_without_items_is_unknown_with_a_reason() -> None:
    effect = stats.crossed_effect(np.empty((0, 3)))
    assert math.isnan(effect.estimate)
    assert math.isnan(effect.low)
    assert effect.note == "no common items"


def test_crossed_effect_one_cluster_one_seed_claims_no_interval() -> None:
    effect = stats.crossed_effect(np.array([[0.2], [0.4]]), clusters=["a", "a"])
    assert effect.estimate == pytest.approx(0.3)
    assert math.isnan(effect.low)
    assert "no interval" in effect.note


def test_seeds_effect_one_seed_claims_no_interval() -> None:
    effect = stats.seeds_effect([0.3])
    assert effect.estimate == pytest.approx(0.3)
    assert math.isnan(effect.low)


def test_unpaired_effect_without_items_is_welch() -> None:
    first, second = [0.50, 0.52, 0.55, 0.49], [0.58, 0.66, 0.61]
    effect = stats.unpaired_effect(first, second, math.nan)
    welch = scipy.stats.ttest_ind(second, first, equal_var=False)
    assert effect.p_value == pytest.approx(welch.pvalue)
    assert effect.estimate == pytest.approx(np.mean(second) - np.mean(first))


# Effects in standard deviations of the paired difference that k seeds find with 80 % power: t test power tables.
@pytest.mark.parametrize(("num_seeds", "detectable"), [(3, 3.3), (5, 1.7), (8, 1.2), (10, 1.0)])
def test_detectable_effect_matches_power_tables(num_seeds: int, detectable: float) -> None:
    assert stats.detectable_in_se(num_seeds - 1) / math.sqrt(num_seeds) == pytest.approx(detectable, abs=0.05)


# One paired comparison of a benchmark: items, share of answers that flip, detectable points.
@pytest.mark.parametrize(
    ("num_items", "flips", "points"), [(14_042, 0.15, 0.9), (1_319, 0.15, 3.0), (541, 0.20, 5.4), (164, 0.20, 9.8)]
)
def test_mde_from_flips_matches_published_sizes(num_items: int, flips: float, points: float) -> None:
    assert 100 * stats.mde_from_flips(flips, num_items) == pytest.approx(points, abs=0.06)


def test_flips_counts_by_hand() -> None:
    before = np.array([1, 1, 1, 0, 0, 0, math.nan, 1])
    after = np.array([1, 0, 0, 1, 0, 0, 1, math.nan])
    found = stats.flips(before, after)
    assert (found.num_items, found.kept, found.lost, found.gained) == (6, 1, 2, 1)
    assert found.net == pytest.approx(-1 / 6)
    assert found.churn == pytest.approx(3 / 6)
    assert found.retention == pytest.approx(1 / 3)
    assert found.p_value == pytest.approx(scipy.stats.binomtest(1, 3).pvalue)


def test_flips_many_discordant_is_chi_square_with_correction() -> None:
    found = stats.Flips(num_items=400, kept=100, lost=40, gained=15)
    statistic = (abs(40 - 15) - 1) ** 2 / (40 + 15)
    assert found.p_value == pytest.approx(scipy.stats.chi2.sf(statistic, 1))


def test_flips_base_that_knew_nothing_has_no_retention() -> None:
    assert math.isnan(stats.flips(np.zeros(5), np.ones(5)).retention)
    assert math.isnan(stats.flips(np.empty(0), np.empty(0)).p_value)


def test_flips_of_log_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        stats.flips(np.array([-0.5]), np.array([0.0]))


def test_chance_corrected_retention_near_chance_is_undefined() -> None:
    assert stats.chance_corrected_retention(0.45, 0.65, 0.25, 0.02) == pytest.approx(0.5)
    assert math.isnan(stats.chance_corrected_retention(0.27, 0.28, 0.25, 0.02))


def test_wilson_matches_scipy() -> None:
    reference = scipy.stats.binomtest(8, 10).proportion_ci(0.95, method="wilson")
    assert stats.wilson(8, 10) == pytest.approx((reference.low, reference.high))
    assert all(math.isnan(end) for end in stats.wilson(0, 0))


def test_holm_by_hand_and_unknown_does_not_count() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = stats.holm([0.01, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])


def test_benjamini_hochberg_by_hand() -> None:
    assert stats.benjamini_hochberg([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.03, 0.03])


# -- simulation: does a 95 % interval cover? ---------------------------------------------------------------------------

REPLICATES = 400
"""Standard error of a coverage of 0.95: 0.011. Bounds below leave three of them."""


def _covered(num_items: int, num_seeds: int, seed_sd: float, cluster_size: int) -> tuple[float, float]:
    """Return the coverage of the crossed interval and of one that looks at items alone, for a true change of 0.1."""
    random = np.random.default_rng([num_seeds, int(seed_sd * 1000), cluster_size])
    clusters = np.arange(num_items) // cluster_size
    hits, naive = 0, 0
    for _ in range(REPLICATES):
        shared = random.normal(0, 0.3, size=clusters.max() + 1)[clusters][:, None]
        item = random.normal(0, 0.4, size=(num_items, 1))
        noise = random.normal(0, 0.3, size=(num_items, num_seeds))
        differences = 0.1 + shared + item + noise + random.normal(0, seed_sd, size=(1, num_seeds))
        effect = stats.crossed_effect(differences, clusters)
        hits += effect.low <= 0.1 <= effect.high
        plain = differences.mean(axis=1)
        naive += abs(plain.mean() - 0.1) <= 1.96 * plain.std(ddof=1) / math.sqrt(num_items)
    return hits / REPLICATES, naive / REPLICATES


@pytest.mark.parametrize(("num_seeds", "seed_sd", "cluster_size"), [(3, 0.0, 1), (5, 0.03, 4), (10, 0.08, 4)])
def test_crossed_interval_covers(num_seeds: int, seed_sd: float, cluster_size: int) -> None:
    covered, _ = _covered(160, num_seeds, seed_sd, cluster_size)
    assert 0.917 <= covered <= 0.99


def test_interval_over_items_alone_does_not_cover_where_seeds_and_clusters_vary() -> None:
    _, naive = _covered(160, 5, 0.08, 4)
    assert naive < 0.85


def test_no_effect_is_called_significant_at_the_nominal_rate() -> None:
    random = np.random.default_rng(5)
    found = 0
    for _ in range(REPLICATES):
        p_values = [
            stats.crossed_effect(random.normal(0, 1, size=(80, 5)) + random.normal(0, 0.1, size=(1, 5))).p_value
            for _ in range(3)
        ]
        found += 3 * min(p_values) < 0.05  # whether Holm's first step rejects; statsmodels' own takes 60 ms a call
    assert found / REPLICATES <= 0.055 + 3 * 0.011
