"""The check of the statistics: it passes with few replicates, and fails for what was broken on purpose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from analysis import stats_check
from analysis.checks import crossed, singles, sweeps
from analysis.checks.scenario import COVERS, Row, Scenario, simulate
from analysis.stats import Effect, crossed_effect, seeds_effect
from analysis.variance import Codes, Floats, crossed_variance

REPLICATES = 300
SLACK = 3.5
"""A rate on its bound lies outside by so many simulation standard errors in 1 of 4 000 rows."""


def chosen(found: Iterable[Scenario], *texts: str, num_seeds: int | None = None) -> list[Scenario]:
    """Return the scenarios that claim something and hold one of these texts."""
    return [
        one
        for one in found
        if one.bounds is not None
        and any(text in f"{one.estimator}: {one.name}" for text in texts)
        and num_seeds in (None, one.num_seeds)
    ]


def failures(found: Iterable[Scenario], replicates: int = REPLICATES, slack: float = SLACK) -> list[str]:
    rows = [simulate(one, replicates) for one in found]
    return [f"{row.scenario.name}, k={row.scenario.num_seeds}: {row.rate:.3f}" for row in rows if not row.passed(slack)]


# -- what holds -------------------------------------------------------------------------------------------------------


def test_crossed_interval_holds_its_claims() -> None:
    found = [one for one in chosen(crossed.scenarios(), "items x seeds") if one.num_items < 200]
    assert len(found) > 30
    assert failures(found) == []


@pytest.mark.slow
def test_shares_families_seeds_and_optima_hold_their_claims() -> None:
    found = chosen(singles.scenarios(), "Wilson", "McNemar", "seeds alone", "unpaired", "optimum")
    assert {one.estimator for one in found} == {"Wilson", "McNemar", "seeds alone", "unpaired", "optimum"}
    assert failures(found, 100) == []
    # statsmodels takes 60 ms a family: the whole check has 8 000 of each.
    assert failures(chosen(singles.scenarios(), "Holm"), 25) == []


def test_aggregates_and_fits_hold_their_claims() -> None:
    found = [replace(one, share=1.0) for one in chosen(singles.scenarios(), "IQM", "straight line")]
    assert len(found) == 3
    assert failures(found, 60) == []


def test_verdicts_hold_their_claims() -> None:
    assert failures([replace(one, share=1.0) for one in sweeps.scenarios()], 60) == []


# -- what is broken ---------------------------------------------------------------------------------------------------


def items_only(differences: Floats, clusters: Codes, strata: Codes, binary: bool) -> Effect:
    return crossed_effect(differences.mean(axis=1, keepdims=True), clusters, strata)


def without_clusters(differences: Floats, clusters: Codes, strata: Codes, binary: bool) -> Effect:
    return crossed_effect(differences, np.arange(len(differences)), strata)


def counted_twice(differences: Floats, clusters: Codes, strata: Codes, binary: bool) -> Effect:
    parts = crossed_variance(differences, clusters, strata)
    items, seeds = (parts.items, clusters.max() - strata.max()), (parts.seeds, differences.shape[1] - 1)
    variance = items[0] + seeds[0]
    df = variance**2 / sum(part**2 / own for part, own in (items, seeds))
    return around(parts.estimate, scipy.stats.t.ppf(0.975, df) * math.sqrt(variance))


def whole_spread_subtracted(differences: Floats, clusters: Codes, strata: Codes, binary: bool) -> Effect:
    """Two-way clustering as regressions do it: with few seeds it takes away what items vary by."""
    parts = crossed_variance(differences, clusters, strata)
    variance = parts.items + parts.seeds - differences.var(ddof=1) / differences.size
    return around(parts.estimate, 1.96 * math.sqrt(max(variance, 0.0)))


def clusters_pooled_over_slices(differences: Floats, clusters: Codes, strata: Codes, binary: bool) -> Effect:
    """The bound of all clusters together, as if each slice had as many."""
    effect = crossed_effect(differences, clusters, strata, binary=binary)
    return around(0.0, 1 - 0.025 ** (1 / effect.num_clusters)) if effect.kind == "exact bound" else effect


def around(estimate: float, half: float) -> Effect:
    return replace(crossed_effect(np.zeros((2, 2))), estimate=estimate, low=estimate - half, high=estimate + half)


@pytest.mark.parametrize(
    ("estimator", "scenario", "num_seeds"),
    [
        (items_only, "normal, seeds dominate", 10),
        (items_only, "normal, items and seeds alike", 5),
        (items_only, "0 and 1, seeds dominate", 5),
        (without_clusters, "normal, items dominate, clusters of 4", 5),
        (counted_twice, "normal, residual dominates", 5),
        (whole_spread_subtracted, "normal, seeds dominate", 5),
        (clusters_pooled_over_slices, "0 and 1, mostly nothing moves, slices of 150 and 10", 5),
    ],
)
def test_broken_crossed_interval_fails_its_claims(estimator: crossed.Estimate, scenario: str, num_seeds: int) -> None:
    broken = [one for one in crossed.scenarios(estimator) if one.name == scenario and one.num_seeds == num_seeds]
    assert broken
    assert len(failures(broken[:1], 4000, 2.0)) == 1


def percentile_of_resampled(values: Sequence[float]) -> Effect:
    """The seed bootstrap: of 3 seeds it has 10 distinct resamples."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), size=(1000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return replace(seeds_effect(values), low=float(low), high=float(high))


@pytest.mark.parametrize("scenario", ["seeds alone", "optimum"])
def test_seed_bootstrap_of_three_fails_its_claims(scenario: str) -> None:
    broken = chosen(singles.scenarios(of_seeds=percentile_of_resampled), scenario, num_seeds=3)
    assert len(failures(broken)) == len(broken) == 1


def test_items_that_count_as_endless_fail_their_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singles.stats, "item_part", lambda effect: (effect.se_items**2, 1e9))
    assert len(failures(chosen(singles.scenarios(), "unpaired: different seeds and items, 4 clusters"), 800, 2.0)) == 1


def test_randomisation_of_single_items_of_clusters_fails_its_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    of_clusters = singles.cluster_sums
    monkeypatch.setattr(singles, "cluster_sums", lambda d, clusters, strata: of_clusters(d, np.arange(len(d)), strata))
    broken = chosen(singles.scenarios(), "randomisation: no difference, 12 clusters")
    assert len(failures(broken, 400, 2.0)) == len(broken) == 1


def test_unadjusted_family_fails_its_claims() -> None:
    (broken,) = chosen(singles.scenarios(list), "Holm: family of 20, independent")
    assert simulate(broken, 200).rate > 0.5  # 1 - .95^20 = .64
    assert len(failures([broken], 200)) == 1


# -- the command ------------------------------------------------------------------------------------------------------


def never(noise: np.random.Generator) -> bool:
    return noise.uniform() > 2


@pytest.mark.parametrize(
    ("num_hits", "bounds", "passed"),
    [
        (950, COVERS, True),
        (920, COVERS, True),  # .93 less 2 standard errors of .008
        (905, COVERS, False),
        (985, COVERS, False),
        (500, None, True),
        (60, (0.0, 0.05), True),
        (80, (0.0, 0.05), False),
    ],
)
def test_row_passes_within_its_bounds_and_two_standard_errors(
    num_hits: int, bounds: tuple[float, float] | None, passed: bool
) -> None:
    row = Row(Scenario("e", "n", 10, 5, 0.95, bounds, never), num_hits, 1000)
    assert row.se == pytest.approx(math.sqrt(row.rate * (1 - row.rate) / 1000), rel=0.1)
    assert row.passed() is passed


def test_command_prints_a_row_a_scenario_and_fails_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--replicates", "200", "--workers", "1", "--only", "Wilson: share in [0.1, 0.9]"]
    assert stats_check.main(arguments) == 0
    assert capsys.readouterr().out.count("| Wilson |") == 2
    never_covers = Scenario("Wilson", "share in [0.1, 0.9]", 10, 0, 0.95, COVERS, never)
    monkeypatch.setattr(stats_check, "scenarios", lambda: (never_covers,))
    assert stats_check.main(arguments) == 1
    assert "FAIL" in capsys.readouterr().out


def test_command_rows_do_not_depend_on_the_workers() -> None:
    one, two = (list(stats_check.check(40, workers, "seeds alone")) for workers in (1, 2))
    assert [row.num_hits for row in one] == [row.num_hits for row in two]
    assert [row.num_replicates for row in one] == [40] * len(one)


def test_command_prints_each_row_before_it_simulates_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def draw(noise: np.random.Generator) -> bool:
        seen.append(capsys.readouterr().out)
        return True

    found = tuple(Scenario("e", name, 10, 0, 0.95, None, draw) for name in ("first", "second"))
    monkeypatch.setattr(stats_check, "scenarios", lambda: found)
    assert stats_check.main(["--replicates", "4", "--workers", "1"]) == 0
    assert "| estimator |" in seen[0]
    assert "| first |" in seen[4]
    assert "| second |" not in "".join(seen)
