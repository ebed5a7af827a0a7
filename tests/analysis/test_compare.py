"""Two sweeps beside each other: against the comparison within one sweep, and every way in which they differ."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import numbers
from analysis.compare import Comparison, compare, markdown, text
from analysis.frames import sweep_frame
from analysis.opened import OpenedSweep, open_sweep
from harness.records.store import write_atomic
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build

PLAN = Plan(values=(25, 100, 400), arms=(ARM,), scale=0.1)


def opened(root: Path, plan: Plan, edit: Callable[[dict[str, Any]], None] = lambda result: None) -> OpenedSweep:
    """Return a sweep in a folder of its own, its results edited."""
    store, folder = build(root, plan)
    for path in store.root.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        edit(result)
        write_atomic(path, json.dumps(result).encode())
    return open_sweep(store, folder)


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> OpenedSweep:
    """A sweep whose training does a third of what it does in `strong`."""
    return opened(tmp_path_factory.mktemp("weak"), replace(PLAN, effect=0.3))


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> OpenedSweep:
    """The same conditions, seeds and items."""
    return opened(tmp_path_factory.mktemp("strong"), PLAN)


def row_of(comparison: Comparison, condition: str, target: str, value: str = "after") -> pd.Series:
    """Return one row."""
    table = comparison.differences
    chosen = (table["pair"] == condition) & (table["target"] == target) & (table["value"] == value)
    assert chosen.sum() == 1
    return table[chosen].iloc[0]


def other_items(result: dict[str, Any]) -> None:
    result["resolved"]["items_sha256"]["people/question"] = "99" * 32


def test_a_sweep_against_itself_differs_nowhere_and_is_paired(strong: OpenedSweep) -> None:
    found = compare(strong, strong)
    assert found.differences["difference"].abs().max() == 0
    assert set(found.differences["pairing"]) == {"items and seeds"}
    assert found.unmatched.empty
    assert found.notes == ()
    assert set(found.differences["value"]) == {"after", "delta"}


def test_a_planted_effect_is_found_and_its_sign_is_second_less_first(weak: OpenedSweep, strong: OpenedSweep) -> None:
    row = row_of(compare(weak, strong), "num_examples=400", "learned")
    assert row["difference"] > 0.2
    assert row["low"] > 0
    assert row["second"] - row["first"] == pytest.approx(row["difference"], abs=1e-9)
    mirrored = row_of(compare(strong, weak), "num_examples=400", "learned")
    assert mirrored["difference"] == pytest.approx(-row["difference"])


def test_equal_bases_have_the_same_difference_in_delta_as_in_after(weak: OpenedSweep, strong: OpenedSweep) -> None:
    found = compare(weak, strong)
    delta, after = (row_of(found, "num_examples=100", "retained", value) for value in ("delta", "after"))
    assert delta["difference"] == pytest.approx(after["difference"])


def test_other_items_are_not_paired_and_the_interval_is_wider(
    weak: OpenedSweep, strong: OpenedSweep, tmp_path: Path
) -> None:
    edited = opened(tmp_path, PLAN, other_items)
    # At the smallest size the two differ little, so that most items are alike and pairing pays.
    paired, apart = (row_of(compare(weak, other), "num_examples=25", "learned") for other in (strong, edited))
    assert (paired["pairing"], apart["pairing"]) == ("items and seeds", "nothing")
    assert apart["difference"] == pytest.approx(paired["difference"])
    assert apart["high"] - apart["low"] > 1.2 * (paired["high"] - paired["low"])
    assert "other items" in apart["note"]
    assert paired["prob_better"] * 3 in (0, 1, 2, 3)
    assert math.isnan(apart["prob_better"])  # nothing pairs their runs
    assert (paired["num_runs"], apart["num_runs"], apart["better"]) == (3, 0, "unknown")
    assert row_of(compare(weak, edited), "num_examples=400", "retained")["pairing"] == "items and seeds"


def test_worlds_that_only_one_sweep_has_are_left_out_and_named(tmp_path: Path) -> None:
    plan = replace(PLAN, values=(25,), seeds=(0, 1))
    first = opened(tmp_path / "first", replace(plan, worlds=(0, 1)))
    second = opened(tmp_path / "second", replace(plan, worlds=(0, 2)), other_items)
    row = row_of(compare(first, second), "num_examples=25", "learned")
    assert row["pairing"] == "nothing"
    assert "world 1 is in one sweep only and left out; world 2 is in one sweep only and left out" in row["note"]


def test_other_seeds_are_paired_by_item_alone(strong: OpenedSweep, tmp_path: Path) -> None:
    first, second = strong, opened(tmp_path, replace(PLAN, seeds=(10, 11, 12)))
    row = row_of(compare(first, second), "num_examples=400", "learned")
    assert row["pairing"] == "items"
    assert row["low"] < row["difference"] < row["high"]


def test_scores_beside_a_difference_are_of_the_seeds_that_it_is_of(strong: OpenedSweep, tmp_path: Path) -> None:
    second = opened(tmp_path, replace(PLAN, seeds=(1, 2, 3), effect=0.3))
    found = compare(strong, second)
    frames = [sweep_frame(sweep) for sweep in (strong, second)]
    for value in ("after", "delta"):
        row = row_of(found, "num_examples=400", "learned", value)
        own = [frame[(frame["condition"] == "num_examples=400") & frame["seed"].isin([1, 2])] for frame in frames]
        assert (row["first"], row["second"]) == pytest.approx([part[f"{value}/learned"].mean() for part in own])
        assert row["second"] - row["first"] == pytest.approx(row["difference"])
        assert row["num_seeds"] == 2
    assert "of these alone" in markdown(found)


def test_scores_beside_a_difference_over_worlds_are_of_worlds_that_both_have(tmp_path: Path) -> None:
    plan = replace(PLAN, values=(25,), seeds=(0, 1))
    first = opened(tmp_path / "first", replace(plan, worlds=(0, 1)))
    second = opened(tmp_path / "second", replace(plan, worlds=(1, 2), effect=0.3), other_items)
    frames = [sweep_frame(sweep) for sweep in (first, second)]
    row = row_of(compare(first, second), "num_examples=25", "learned")
    means = [frame.loc[frame["world"] == 1, "after/learned"].mean() for frame in frames]
    assert (row["first"], row["second"]) == pytest.approx(means)
    assert row["second"] - row["first"] == pytest.approx(row["difference"])


def test_rendering_marks_what_an_interval_covers_and_says_why(tmp_path: Path) -> None:
    plan = replace(PLAN, values=(25,), seeds=(0,))
    sides = [opened(tmp_path / name, replace(plan, effect=effect)) for name, effect in (("a", 1.0), ("b", 0.3))]
    found = compare(*sides)
    row = row_of(found, "num_examples=25", "learned")
    assert row["kind"] == "items only"
    (line,) = [line for line in markdown(found).splitlines() if line.startswith("| num\\_examples=25 | learned, after")]
    assert "† | " in line
    assert f"{numbers.score(row['difference'], signed=True)}† [" in text(found)
    noted = replace(found, differences=found.differences.assign(note="a | b"))
    assert "a \\| b |" in markdown(noted)
    assert "; a | b" in text(noted)


def test_unmatched_conditions_are_listed_from_both_sides(strong: OpenedSweep, tmp_path: Path) -> None:
    first, second = strong, opened(tmp_path, replace(PLAN, values=(100, 400, 800)))
    found = compare(first, second)
    assert found.unmatched[["side", "condition"]].to_numpy().tolist() == [
        ["first", "num_examples=25"],
        ["second", "num_examples=800"],
    ]
    planned = len({t.condition for t in first.trials}) + len({t.condition for t in second.trials})
    assert 2 * found.differences["pair"].nunique() + len(found.unmatched) == planned


def test_a_comparison_that_dropped_unmatched_rows_would_be_caught(strong: OpenedSweep, tmp_path: Path) -> None:
    first, second = strong, opened(tmp_path, replace(PLAN, values=(100,)))
    broken = replace(compare(first, second), unmatched=pd.DataFrame(columns=["side"]))
    assert 2 * broken.differences["pair"].nunique() + len(broken.unmatched) != 4


def test_trials_without_results_keep_their_rows(strong: OpenedSweep, tmp_path: Path) -> None:
    outcomes = {(ARM, 400, seed): "PENDING" for seed in (0, 1, 2)} | {(ARM, 100, 0): "DIVERGED"}
    first, second = strong, opened(tmp_path, replace(PLAN, outcomes=outcomes))
    found = compare(first, second)
    gone = row_of(found, "num_examples=400", "learned")
    assert gone[["difference", "low", "second"]].isna().all()
    assert row_of(found, "num_examples=100", "learned")["num_seeds"] == 2


def test_sweeps_with_nothing_in_common_say_so(strong: OpenedSweep, tmp_path: Path) -> None:
    other = Plan(name="rate", base="b", axis="train.learning_rate", values=(1e-3,), arms=(ARM,), scale=0.25)
    found = compare(strong, opened(tmp_path, other))
    assert found.differences.empty
    assert len(found.unmatched) == 4
    assert any("bases differ" in note for note in found.notes)
    assert any("axes differ" in note for note in found.notes)
    assert "Not compared" in markdown(found)


def test_rendering_shows_every_row_and_nothing_in_it_is_markup(strong: OpenedSweep, tmp_path: Path) -> None:
    first, second = strong, opened(tmp_path, replace(PLAN, values=(100, 400, 800)))
    found = compare(first, second)
    shown = markdown(found)
    assert shown.count("\n| num\\_examples") == len(found.differences)
    assert "num\\_examples=25" in shown
    assert "is not compared" in text(found)
    hostile = replace(found, first="<b>x</b>|\n\x1b[31m")
    assert "<b>" not in markdown(hostile)
    assert "\x1b" not in text(hostile)
