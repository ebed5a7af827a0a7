"""Runs near the front by hand, and the exponential that goes through them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis import fits
from analysis.near_front import ON_TEST, exponential_table, near_front


def trials(noise_of_far: float = -0.3, seeds: int = 2) -> pd.DataFrame:
    """Return five runs on retained = .9 - .01 exp(4 learned), and one far below it, in each seed."""
    learned = [0.2, 0.4, 0.6, 0.8, 0.9, 0.5]
    retained = [0.9 - 0.01 * math.exp(4 * x) for x in learned]
    retained[-1] += noise_of_far
    rows = [
        {"condition": f"c{n}", "arm": "a", "seed": seed, "world": 0, "axis.rate": float(n + 1)}
        | {"after/learned": x, "after/retained": y, "val_after/learned": x, "val_after/retained": y}
        for seed in range(seeds)
        for n, (x, y) in enumerate(zip(learned, retained, strict=True))
    ]
    return pd.DataFrame(rows)


def test_near_front_by_hand() -> None:
    points = np.array([[0.5, 0.5], [0.49, 0.49], [0.479, 0.479], [0.1, 0.499], [0.1, 0.6], [np.nan, 0.9]])
    assert near_front(points).tolist() == [True, True, False, True, True, False]
    assert near_front(points, 0.0).tolist() == [True, False, False, False, True, False]


def test_exponential_goes_through_the_runs_near_the_front_alone() -> None:
    row = exponential_table(trials(), ["rate"]).iloc[0]
    assert (row["num_trials"], row["num_near"], row["num_replicates"]) == (12, 10, 2)
    assert (row["a"], row["b"], row["c"]) == pytest.approx((-0.01, 4.0, 0.9), rel=1e-3)
    assert row["r2"] == pytest.approx(1.0)
    assert ON_TEST not in row["note"]


def test_exponential_through_the_far_run_as_well_is_another() -> None:
    row = exponential_table(trials(noise_of_far=-0.01), ["rate"]).iloc[0]
    assert row["num_near"] == 12
    assert row["r2"] < 1 - 1e-6


def test_runs_near_are_chosen_on_val_and_measured_on_test() -> None:
    frame = trials()
    frame["val_after/retained"] = frame["after/retained"].where(frame["condition"] != "c5", 0.9)
    assert exponential_table(frame, ["rate"]).iloc[0]["num_near"] == 12 - 4  # beaten on val: those that learned less
    without = exponential_table(frame.drop(columns=["val_after/learned", "val_after/retained"]), ["rate"]).iloc[0]
    assert without["num_near"] == 10
    assert ON_TEST in without["note"]


def test_exponential_interval_holds_the_truth_and_a_search_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "NUM_RESAMPLES", 100)
    frame = trials(seeds=6)
    frame["after/retained"] += np.random.default_rng(0).normal(0, 0.003, 6).repeat(6)
    row = exponential_table(frame, ["rate"]).iloc[0]
    assert row["c_low"] < 0.9 < row["c_high"]
    searched = exponential_table(frame, ["rate"], is_sampled=True).iloc[0]
    assert searched["c"] == row["c"]
    assert math.isnan(searched["c_low"])


def test_exponential_of_too_few_runs_is_unknown_with_a_reason() -> None:
    row = exponential_table(trials().iloc[:2], ["rate"]).iloc[0]
    assert math.isnan(row["b"])
    assert "no solution" in row["note"]
    assert exponential_table(pd.DataFrame(), ["rate"]).empty
