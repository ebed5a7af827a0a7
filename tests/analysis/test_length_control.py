"""Changes at equal length against statsmodels and simulated scores."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analysis.length_control import (
    CONTROLLED,
    EXTRAPOLATED,
    MADE_OF_LENGTH,
    NO_SPREAD,
    controlled_change,
    length_controlled_table,
)
from harness.spec.metrics import BINARY_METRICS
from tests.analysis.test_answers import BAD, GOOD, answered, planned


def simulated(
    draw: np.random.Generator, effect: float, slope: float, shape: tuple[int, int] = (120, 1)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return changes of a score that has an effect of its own and one of length, of length, and clusters of 3."""
    clusters = np.arange(shape[0]) // 3
    length = 0.5 + draw.normal(0, 0.5, shape)
    person = draw.normal(0, 0.2, clusters.max() + 1)[clusters, None]
    seed = draw.normal(0, 0.05, (1, shape[1]))
    return effect + slope * length + person + seed + draw.normal(0, 0.2, shape), length, clusters


def test_intercept_and_its_clustered_error_are_those_of_statsmodels_under_one_seed() -> None:
    change, length, clusters = simulated(np.random.default_rng(0), 0.1, 0.3)
    found = controlled_change(change, length, clusters)
    fit = sm.OLS(change[:, 0], sm.add_constant(length[:, 0])).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    assert (found.at_equal_length.estimate, found.slope) == pytest.approx(tuple(fit.params))
    assert found.at_equal_length.se == pytest.approx(fit.bse[0])
    assert (found.at_equal_length.low, found.at_equal_length.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert found.plain.estimate == pytest.approx(change.mean())
    assert found.length_change == pytest.approx(length.mean())


def test_change_that_is_all_length_is_none_at_equal_length_and_one_that_is_not_stays() -> None:
    draw = np.random.default_rng(1)
    all_length = controlled_change(*simulated(draw, 0.0, 0.6, (400, 3)))
    assert all_length.plain.low > 0.1
    assert all_length.at_equal_length.low < 0 < all_length.at_equal_length.high
    own = controlled_change(*simulated(draw, 0.3, 0.0, (400, 3)))
    assert own.at_equal_length.low > 0.1


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_interval_at_equal_length_covers_the_truth(num_seeds: int) -> None:
    draw, covered, num_sweeps = np.random.default_rng(2 + num_seeds), 0, 200
    for _ in range(num_sweeps):
        change, length, clusters = simulated(draw, 0.1, 0.3, (60, num_seeds))
        found = controlled_change(change, length, clusters).at_equal_length
        covered += found.low <= 0.1 <= found.high
    # One seed's interval says nothing about another's shift, of .05 here.
    assert covered / num_sweeps >= (0.8 if num_seeds == 1 else 0.9)


def test_interval_that_takes_seeds_for_items_covers_too_little() -> None:
    draw, covered, num_sweeps = np.random.default_rng(3), 0, 200
    for _ in range(num_sweeps):
        change, length, clusters = simulated(draw, 0.1, 0.3, (60, 5))
        change = change + draw.normal(0, 0.2, (1, 5))
        fit = sm.OLS(change.ravel(), sm.add_constant(length.ravel())).fit(
            cov_type="cluster", cov_kwds={"groups": np.repeat(clusters, 5)}, use_t=True
        )
        low, high = fit.conf_int()[0]
        covered += low <= 0.1 <= high
    assert covered / num_sweeps < 0.8


def test_lengths_that_do_not_vary_leave_the_change_at_equal_length_unknown() -> None:
    change, _, clusters = simulated(np.random.default_rng(4), 0.1, 0.0)
    for length in (0.0, 0.7):
        found = controlled_change(change, np.full(change.shape, length), clusters)
        assert math.isnan(found.at_equal_length.estimate)
        assert found.at_equal_length.note == NO_SPREAD
        assert found.plain.estimate == pytest.approx(change.mean())
    words = [(1, 3), (3, 7), (7, 15), (2, 5), (4, 9), (10, 21), (5, 11), (6, 13)]  # each doubles 1 + words
    doubled = np.array([[math.log1p(after) - math.log1p(before)] for before, after in words])
    found = controlled_change(np.arange(8.0)[:, None] % 2, doubled, np.arange(8))
    assert (found.at_equal_length.note, math.isnan(found.slope)) == (NO_SPREAD, True)
    few = controlled_change(change[:2], np.array([[0.0], [1.0]]), clusters[:2])
    assert few.at_equal_length.note == "fewer than 3 answers"


def test_change_at_a_length_that_no_answer_kept_is_called_extrapolated() -> None:
    change, length, clusters = simulated(np.random.default_rng(5), 0.1, 0.3)
    assert EXTRAPOLATED not in controlled_change(change, length, clusters).at_equal_length.note
    assert controlled_change(change, np.abs(length) + 0.1, clusters).at_equal_length.note == EXTRAPOLATED


def test_metrics_that_are_lengths_themselves_are_not_controlled() -> None:
    assert not CONTROLLED & MADE_OF_LENGTH
    assert {"exact_match", "prompt_strict", "followed_loose", "refused"} <= CONTROLLED
    assert BINARY_METRICS - MADE_OF_LENGTH <= CONTROLLED


def test_table_is_the_regression_by_hand_and_has_both_worlds() -> None:
    after = [GOOD, f"{BAD} and {BAD}", GOOD, f"{BAD} or {BAD} or {BAD}", BAD, GOOD]
    parts = [answered([BAD] * 6, after[world:] + after[:world], world=world, trial_id=f"t{world}") for world in (0, 1)]
    rows = pd.concat(parts, ignore_index=True).assign(world=lambda part: part["world"].astype("Int64"))
    (row,) = length_controlled_table(rows, rows.drop(columns="slice"), planned()).to_dict("records")
    words = np.array([1, 3, 1, 5, 1, 1])
    design = np.column_stack([np.ones(6), np.log1p(words) - math.log(2)])
    intercept, slope = np.linalg.lstsq(design, np.array([1.0, 0, 1, 0, 0, 1]), rcond=None)[0]
    assert (row["change"], row["controlled"], row["slope"]) == pytest.approx((0.5, intercept, slope))
    assert row["length_change"] == pytest.approx(design[:, 1].mean())
    assert (row["num_items"], row["metric"], row["direction"]) == (12, "exact_match", "more")


def test_table_of_answers_that_were_not_kept_is_unknown() -> None:
    rows = answered([None] * 4, [None] * 4)
    (row,) = length_controlled_table(rows, rows.drop(columns="slice"), planned()).to_dict("records")
    assert math.isnan(row["controlled"])
    assert row["note"] == "no answer is known before and after under every seed"


def test_table_of_nothing_has_its_columns() -> None:
    nothing = answered([], [])
    assert "controlled" in length_controlled_table(nothing, nothing, planned()).columns
