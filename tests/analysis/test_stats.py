"""Statistics against hand-computed numbers, scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.formula.api import ols
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.anova import anova_lm

from analysis import stats
from analysis.detectable import detectable_in_se
from analysis.variance import codes_of


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
    # Seed means: 0.75, 0.25 -> s^2 = 0.125, s^2 / k = 0.0625. Squares: all 2.0, items 2 * 0.5, seeds 4 * 0.125, so that
    # 0.5 is left on 3 degrees of freedom: R = 0.5 / 3 / 8.
    effect = stats.crossed_effect(np.array([[1, 0], [0, 0], [1, 1], [1, 0]], dtype=float))
    items, seeds = 0.5 / 12, 0.0625
    variance = items + seeds - 0.5 / 24
    assert effect.estimate == pytest.approx(0.5)
    assert effect.se_items == pytest.approx(math.sqrt(items))
    assert effect.seed_sd == pytest.approx(math.sqrt(0.125))
    assert effect.se == pytest.approx(math.sqrt(variance))
    assert effect.df == pytest.approx(variance**2 / (items**2 / 3 + seeds**2 / 1))


def test_crossed_effect_variance_is_that_of_the_two_way_layout() -> None:
    random = np.random.default_rng(3)
    d = random.normal(size=(30, 6)) + random.normal(size=(30, 1)) + random.normal(size=(1, 6))
    rows = pd.DataFrame([(i, s, d[i, s]) for i in range(30) for s in range(6)], columns=["item", "seed", "y"])
    squares = anova_lm(ols("y ~ C(item) + C(seed)", rows).fit())["mean_sq"]
    variance = (squares["C(item)"] + squares["C(seed)"] - squares["Residual"]) / 180
    assert stats.crossed_effect(d).se == pytest.approx(math.sqrt(variance))


def test_crossed_effect_items_vary_as_in_a_clustered_regression() -> None:
    random = np.random.default_rng(4)
    clusters, strata = np.arange(40) // 3, np.repeat([0, 1], [25, 15])
    d = random.normal(size=(40, 3)) + random.normal(size=14)[clusters][:, None]
    indicators = np.stack([strata == 0, strata == 1], axis=1).astype(float)
    fit = OLS(d.mean(axis=1), indicators).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    effect = stats.crossed_effect(d, clusters, strata)
    assert effect.se_items == pytest.approx(math.sqrt(fit.cov_params().sum() / 4))
    assert effect.estimate == pytest.approx(fit.params.mean())


def test_crossed_effect_is_never_surer_than_items_or_seeds_alone() -> None:
    # Seeds that agree by chance, and items that do: in each the variance of the other is all that is left.
    opposed = stats.crossed_effect(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]))
    assert opposed.seed_sd**2 / 2 < opposed.se_items**2
    assert opposed.se == pytest.approx(opposed.se_items)
    alike = stats.crossed_effect(np.array([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [1.0, 0.1, -0.1]]))
    assert alike.se == pytest.approx(alike.seed_sd / math.sqrt(3))
    assert alike.df == pytest.approx(2.0)


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


def test_crossed_effect_bound_over_slices_counts_the_fewest_clusters_of_one() -> None:
    """Of a slice of 10 items that no item of moved, 31 % may be other; half of that is the mean's share, not 2 %."""
    strata = [0] * 150 + [1] * 10
    effect = stats.crossed_effect(np.zeros((160, 3)), strata=strata, binary=True)
    assert effect.high == pytest.approx(scipy.stats.binomtest(0, 20).proportion_ci(0.95, method="exact").high)
    assert effect.df == 19
    assert stats.crossed_effect(np.ones((160, 3)), strata=strata, binary=True).p_value == pytest.approx(0.5**19)
    # Clusters that both slices hold count once.
    shared = stats.crossed_effect(np.zeros((20, 3)), [*range(10)] * 2, [0] * 10 + [1] * 10, binary=True)
    assert shared.high == pytest.approx(scipy.stats.binomtest(0, 10).proportion_ci(0.95, method="exact").high)


@pytest.mark.parametrize(
    ("labels", "codes"),
    [([0, 2, 2], [0, 1, 1]), ([1, 0, 1], [1, 0, 1]), ([-1, 0], [0, 1]), ([0, 10**12], [0, 1]), (["b", "a"], [1, 0])],
)
def test_codes_of_labels_have_no_gaps(labels: list[int] | list[str], codes: list[int]) -> None:
    assert codes_of(np.array(labels)).tolist() == codes


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


# Averages of Tulu 3's SFT models over its development suites, one a training seed: arXiv:2411.15124, Table 14.
@pytest.mark.parametrize(
    ("scores", "published_sd", "ends"),
    [([59.9, 60.1, 59.8, 59.8, 59.8], 0.13, (59.718, 60.042)), ([71.8, 70.0, 72.6], 1.33, (68.159, 74.775))],
)
def test_seeds_effect_recomputes_published_seed_noise(
    scores: list[float], published_sd: float, ends: tuple[float, float]
) -> None:
    effect = stats.seeds_effect(scores)
    assert effect.seed_sd == pytest.approx(published_sd, abs=0.005)
    assert (effect.low, effect.high) == pytest.approx(ends, abs=1e-3)
    assert effect.kind == "seeds only"


def test_unpaired_effect_without_items_is_welch() -> None:
    first, second = [0.50, 0.52, 0.55, 0.49], [0.58, 0.66, 0.61]
    effect = stats.unpaired_effect(first, second, [])
    welch = scipy.stats.ttest_ind(second, first, equal_var=False)
    assert effect.p_value == pytest.approx(welch.pvalue)
    assert effect.estimate == pytest.approx(np.mean(second) - np.mean(first))
    assert stats.unpaired_effect(first, second, [(0.01, 9.0), (math.nan, math.nan)]).kind == "seeds only"


def test_unpaired_effect_of_other_items_has_their_degrees_of_freedom() -> None:
    """Two samples of items under seeds that agree: Welch's t test of their means, by scipy."""
    random = np.random.default_rng(5)
    a, b = random.normal(0.4, 0.3, 6), random.normal(0.7, 0.1, 9)
    items = [stats.item_part(stats.crossed_effect(x[:, None])) for x in (a, b)]
    effect = stats.unpaired_effect([a.mean()] * 3, [b.mean()] * 3, items)
    welch = scipy.stats.ttest_ind(b, a, equal_var=False)
    assert effect.df == pytest.approx(welch.df)
    assert effect.p_value == pytest.approx(welch.pvalue)
    assert effect.se_items == pytest.approx(math.hypot(*(x.std(ddof=1) / math.sqrt(len(x)) for x in (a, b))))


# Effects in standard deviations of the paired difference that k seeds find with 80 % power: t test power tables.
@pytest.mark.parametrize(("num_seeds", "detectable"), [(3, 3.3), (5, 1.7), (8, 1.2), (10, 1.0)])
def test_detectable_effect_matches_power_tables(num_seeds: int, detectable: float) -> None:
    assert detectable_in_se(num_seeds - 1) / math.sqrt(num_seeds) == pytest.approx(detectable, abs=0.05)


# One paired comparison of a benchmark: items, share of answers that flip, detectable points.
@pytest.mark.parametrize(
    ("num_items", "churn", "points"), [(14_042, 0.15, 0.9), (1_319, 0.15, 3.0), (541, 0.20, 5.4), (164, 0.20, 9.8)]
)
def test_detectable_effect_of_many_items_matches_published_sizes(num_items: int, churn: float, points: float) -> None:
    se = math.sqrt(churn / num_items)
    assert 100 * stats.minimum_detectable_effect(se) == pytest.approx(points, abs=0.06)


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


@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_chance_corrected_retention_of_a_base_at_chance_or_below_is_undefined(chance: float) -> None:
    """A base at floor varies not at all: its SE is 0."""
    assert math.isnan(stats.chance_corrected_retention(0.5, 0.0, chance, 0.0))
    assert math.isnan(stats.chance_corrected_retention(0.0, 0.0, chance, 0.0))
    assert stats.chance_corrected_retention(0.5, 1.0, 0.0, 0.0) == 0.5


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
