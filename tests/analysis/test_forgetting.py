"""Retention, agreement and relative forgetting against numbers by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.forgetting import (
    agreement,
    chances,
    luo_forgetting,
    luo_table,
    mean_chance,
    retention_table,
)
from analysis.opened import open_sweep
from harness.records.store import Store
from tests.analysis import synthetic
from tests.analysis.conftest import ARM
from tests.analysis.undrawn import write_undrawn


def test_luo_forgetting_is_the_mean_relative_loss() -> None:
    assert luo_forgetting([0.5, 0.8], np.array([0.4, 0.8])) == pytest.approx((0.2 + 0.0) / 2)
    checkpoints = np.array([[0.4, 0.3], [0.8, 0.6]])
    assert luo_forgetting([0.5, 0.8], checkpoints) == pytest.approx((0.2 + 0.4 + 0.0 + 0.25) / 4)
    assert luo_forgetting([0.5], np.array([0.6])) == pytest.approx(-0.2)
    assert luo_forgetting([1.0], np.array([1.5]), lower_is_better=[True]) == pytest.approx(0.5)


@pytest.mark.parametrize(("before", "after"), [([], []), ([0.0], [0.1]), ([math.nan], [0.1]), ([0.5], [math.nan])])
def test_luo_forgetting_of_nothing_is_unknown(before: list[float], after: list[float]) -> None:
    assert math.isnan(luo_forgetting(before, np.array(after)))


def test_luo_forgetting_is_not_the_relative_loss_of_the_mean() -> None:
    """A broken variant that averages scores first says 0.154 where tasks lose 20 % and 12.5 %."""
    before, after = np.array([0.5, 0.8]), np.array([0.4, 0.7])
    assert luo_forgetting(before.tolist(), after) == pytest.approx(0.1625)
    assert 1 - after.mean() / before.mean() != pytest.approx(0.1625)


def test_agreement_counts_equal_answers_right_or_wrong() -> None:
    assert agreement(["a", "b", "c", None], ["a", "x", "c", "d"]) == pytest.approx(2 / 3)
    assert math.isnan(agreement([], []))
    assert math.isnan(agreement([None], ["a"]))


KEY = "people/cloze/acc"


def items(before: list[float], after: list[float], seed: int = 0, **columns: Any) -> pd.DataFrame:
    """Return the rows of one trial of one slice; answers follow from right and wrong."""
    count = len(before)
    return pd.DataFrame(
        {"condition": "c", "arm": "a", "trial_id": f"t{seed}", "seed": seed, "world": pd.NA, "suite": "people"}
        | {"task": "cloze", "metric": "acc", "split": "test", "item_id": [f"i{place}" for place in range(count)]}
        | {"cluster": [f"i{place}" for place in range(count)], "before": before, "after": after}
        | {"output_before": [f"b{value}" for value in before], "output_after": [f"b{value}" for value in after]}
        | columns
    )


def test_retention_table_is_the_numbers_by_hand() -> None:
    before, after = [1.0] * 60 + [0.0] * 40, [1.0] * 45 + [0.0] * 15 + [1.0] * 5 + [0.0] * 35
    row = retention_table(items(before, after), [KEY], {KEY: 0.25}).iloc[0]
    assert row["retention"] == pytest.approx(45 / 60)
    assert row["corrected"] == pytest.approx((0.50 - 0.25) / (0.60 - 0.25))
    assert row["agreement"] == pytest.approx(80 / 100)
    assert (row["num_items"], row["num_seeds"], row["note"]) == (100, 1, "")


def test_retention_table_averages_trials() -> None:
    both = pd.concat([items([1.0] * 10, [1.0] * 8 + [0.0] * 2), items([1.0] * 10, [1.0] * 6 + [0.0] * 4, seed=1)])
    row = retention_table(both, [KEY], {KEY: 0.25}).iloc[0]
    assert row["retention"] == pytest.approx(0.7)
    assert row["num_seeds"] == 2


def test_retention_above_chance_is_unknown_where_the_base_guesses() -> None:
    """27 of 100 right at chance 0.25 is no knowledge: a variant without the 2 SE rule says -0.5 or 5."""
    before = [1.0] * 27 + [0.0] * 73
    row = retention_table(items(before, [1.0] * 35 + [0.0] * 65), [KEY], {KEY: 0.25}).iloc[0]
    assert math.isnan(row["corrected"])
    assert row["note"] == "the base is less than 2 SE above chance"
    assert abs((0.35 - 0.25) / (0.27 - 0.25)) > 4


def test_retention_of_a_base_at_floor_on_open_answers_is_unknown() -> None:
    row = retention_table(items([0.0] * 20, [1.0] * 5 + [0.0] * 15), [KEY], {KEY: 0.0}).iloc[0]
    assert math.isnan(row["corrected"])
    assert row["note"] == "the base is not above chance"
    assert (row["before"], row["after"], row["num_seeds"], row["num_corrected"]) == (0.0, 0.25, 1, 0)


def test_retention_counts_the_trials_that_have_the_value() -> None:
    lost = items([1.0] * 10, [math.nan] * 10, seed=1)
    low = items([1.0] * 3 + [0.0] * 7, [1.0] * 3 + [0.0] * 7, seed=2)
    row = retention_table(pd.concat([items([1.0] * 10, [1.0] * 10), lost, low]), [KEY], {KEY: 0.25}).iloc[0]
    assert (row["num_seeds"], row["num_corrected"]) == (2, 1)


def test_report_of_a_base_at_floor_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_right_share", lambda measure, level, effect: 0.0 if level is None else 0.3)
    store, folder = synthetic.build(tmp_path, synthetic.Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1))
    report = write_undrawn(store.root, folder)
    rows = pd.read_csv(report.folder / "retention.csv").set_index("key").loc["skills/addition/acc"]
    assert (rows["before"] == 0).all()
    assert rows["corrected"].isna().all()
    assert set(rows["note"]) == {"the base is not above chance"}


def test_retention_above_an_unknown_chance_is_unknown() -> None:
    row = retention_table(items([1.0] * 9 + [0.0], [1.0] * 10), [KEY], {}).iloc[0]
    assert math.isnan(row["corrected"])
    assert row["note"] == "chance is not known"


def test_retention_table_of_nothing_is_empty() -> None:
    assert retention_table(items([], []), [KEY], {}).empty
    assert retention_table(items([1.0], [1.0], split="val"), [KEY], {}).empty
    lost = retention_table(items([math.nan] * 3, [1.0] * 3), [KEY], {KEY: 0.1}).iloc[0]
    assert math.isnan(lost["retention"])
    assert "no item" in lost["note"]


def frame(rows: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    """Return trials of one condition with two slices: accuracy before and after, bits before and after."""
    columns = ["before/s/a/acc", "after/s/a/acc", "before/s/b/bits_per_byte", "after/s/b/bits_per_byte"]
    return pd.DataFrame(rows, columns=columns).assign(condition="c", arm="a")


KEYS = ["s/a/acc", "s/b/bits_per_byte"]


def luo(rows: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    return luo_table(frame(rows), KEYS).set_index("scale")


def test_luo_table_turns_the_sign_of_losses_and_averages_trials() -> None:
    table = luo([(0.5, 0.4, 1.0, 1.1), (0.5, 0.3, 1.0, 1.2)])
    assert table["luo_fg"].tolist() == pytest.approx([(0.2 + 0.4) / 2, (0.1 + 0.2) / 2])
    assert table["bwt"].tolist() == pytest.approx([(-0.1 - 0.2) / 2, (-0.1 - 0.2) / 2])


def test_luo_table_never_averages_accuracy_with_bits_per_byte() -> None:
    """A variant that does says -.5 of an accuracy that fell by .1 and a text that became 0.9 bits harder."""
    table = luo([(0.5, 0.4, 1.0, 1.9)])
    assert table["bwt"].to_dict() == pytest.approx({"score": -0.1, "bits_per_byte": -0.9})
    assert table["num_keys"].tolist() == [1, 1]


def test_luo_table_names_keys_that_the_base_scores_0_in() -> None:
    table = luo([(0.0, 0.4, 1.0, 1.1)])
    assert table["luo_fg"].tolist() == pytest.approx([math.nan, 0.1], nan_ok=True)
    assert "scores 0 in s/a/acc" in table.loc["score", "note"]
    assert table.loc["score", ["num_trials", "num_trials_fg"]].tolist() == [1, 0]
    assert luo_table(frame([]), ["s/a/acc"]).empty
    assert luo_table(pd.DataFrame(), ["s/a/acc"]).empty


def test_luo_table_of_unknown_scores_is_unknown() -> None:
    table = luo([(0.5, math.nan, 1.0, 1.1), (0.5, 0.4, 1.0, 1.1)])
    assert table["bwt"].tolist() == pytest.approx([-0.1, -0.1])
    assert table["num_trials"].tolist() == [1, 2]
    assert luo([(0.5, math.nan, 1.0, 1.1)])["bwt"].isna().tolist() == [True, False]


def test_chances_are_0_for_open_answers_and_unknown_for_choices_that_are_not_counted(whole: tuple[Store, str]) -> None:
    found = chances(open_sweep(*whole))
    open_answers = ("people/question/exact_match", "people/ends_turn/exact_match", "skills/addition/acc")
    assert found == dict.fromkeys(open_answers, 0.0)


def test_mean_chance_is_unknown_where_one_key_is() -> None:
    assert mean_chance(["a"], {}) is None
    assert mean_chance([], {"a": 0.5}) is None
    assert mean_chance(["a", "b"], {"a": 0.5}) is None
    assert mean_chance(["a", "b"], {"a": 0.5, "b": 0.25}) == pytest.approx(0.375)
