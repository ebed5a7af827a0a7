"""Description length from logs against sums by hand, and every reason why there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.edl import description_length, edl_by_condition, edl_table, why_unknown
from analysis.items import metrics_frame
from analysis.opened import OpenedSweep, open_sweep
from harness.records.store import append_line
from harness.spec import TrialSpec
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build, spec_of

LN2 = math.log(2)


def log(*steps: tuple[float, float | None, int]) -> pd.DataFrame:
    """Return a log of steps: epoch after the step, loss, loss tokens."""
    rows = [
        {"step": place, "epoch": epoch, "train/loss": loss, "train/num_loss_tokens": tokens}
        for place, (epoch, loss, tokens) in enumerate(steps, start=1)
    ]
    return pd.DataFrame([*rows, {"step": len(rows), "val/loss": 0.5}])


def test_description_length_is_the_sum_by_hand() -> None:
    found = description_length(log((0.5, 2.0, 10), (1.0, 1.0, 30), (1.5, 0.2, 10), (2.0, 0.1, 30)), val_loss=0.5)
    assert not isinstance(found, str)
    assert found["code_bits"] == pytest.approx((20 + 30) / LN2)
    assert found["edl_bits"] == pytest.approx((50 - 40 * 0.5) / LN2)
    assert found["edl_bits_per_token"] == pytest.approx(30 / 40 / LN2)
    assert (found["num_tokens"], found["epoch_covered"]) == (40, 1.0)


def test_description_length_over_later_epochs_would_be_another_number() -> None:
    """A variant that sums every step pays for rows that were seen before."""
    steps = ((0.5, 2.0, 10), (1.0, 1.0, 30), (1.5, 0.2, 10), (2.0, 0.1, 30))
    found = description_length(log(*steps), val_loss=0.5)
    assert not isinstance(found, str)
    assert sum((loss - 0.5) * tokens for _, loss, tokens in steps) / LN2 != pytest.approx(found["edl_bits"])


def test_description_length_leaves_out_the_step_that_straddles_the_epoch() -> None:
    found = description_length(log((0.4, 2.0, 10), (0.8, 1.0, 30), (1.2, 0.9, 20)), val_loss=0.5)
    assert not isinstance(found, str)
    assert found["edl_bits"] == pytest.approx((50 - 20) / LN2)
    assert (found["num_tokens"], found["epoch_covered"]) == (40, 0.8)


def test_description_length_of_rows_that_teach_nothing_is_0() -> None:
    found = description_length(log((0.5, 0.7, 10), (1.0, 0.7, 10)), val_loss=0.7)
    assert not isinstance(found, str)
    assert found["edl_bits"] == pytest.approx(0.0, abs=1e-12)


def test_description_length_counts_a_step_without_loss_as_no_tokens() -> None:
    found = description_length(log((0.5, None, 0), (1.0, 1.0, 10)), val_loss=0.5)
    assert not isinstance(found, str)
    assert found["edl_bits"] == pytest.approx(5 / LN2)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (log((0.5, 1.0, 10), (0.9, 1.0, 10)), "0.90 epochs were trained: the first is not whole"),
        (log((1.5, 1.0, 10)), "no whole step of the first epoch carries loss"),
        (log((0.5, 1.0, 10), (1.0, 1.0, 10)).drop(columns="epoch"), "the log lacks epoch"),
        (log((0.5, 1.0, 10), (1.0, 1.0, 10)).iloc[1:], "the log lacks steps"),
        (pd.DataFrame(columns=["step", "epoch", "train/loss", "train/num_loss_tokens"]), "the log lacks steps"),
    ],
)
def test_description_length_of_an_unfit_log_is_a_reason(rows: pd.DataFrame, reason: str) -> None:
    assert description_length(rows, val_loss=0.5) == reason


def spec(**changes: Any) -> TrialSpec:
    return spec_of(Plan(), ARM, 400, 0).replace({name.replace("__", "."): value for name, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data__prompt_loss_weight": 0.3}, "a weighted loss is no code length"),
        ({"method__dropout": 0.1}, "under dropout"),
        ({"data__packing": "joined"}, "joined"),
        ({"data__noise_share": 0.2}, "data.noise_share is 0.2"),
        ({"data__duplicate_share": 0.5}, "data.duplicate_share is 0.5"),
    ],
)
def test_recipes_whose_losses_do_not_compare_have_a_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason in (why_unknown(spec(**changes)) or "")
    assert why_unknown(spec()) is None
    assert why_unknown(spec(data__prompt_loss_weight=1.0)) is None


# -- sweeps -----------------------------------------------------------------------------------------------------------


def sweep(root: Path, plan: Plan, loss_at: float = 2.0) -> OpenedSweep:
    """Return a sweep whose logs hold two whole epochs; the loss of the first falls with the seed."""
    store, folder = build(root, plan)
    opened = open_sweep(store, folder)
    for trial in opened.trials:
        path = trial.folder / "metrics.jsonl"
        if not path.exists():
            continue
        path.unlink()
        for place, (epoch, loss) in enumerate([(0.5, loss_at), (1.0, 1.0 + trial.planned.seed), (2.0, 0.1)], start=1):
            row = {"step": place, "epoch": epoch, "train/loss": loss, "train/num_loss_tokens": 100}
            append_line(path, row)
    return opened


PLAN = Plan(values=(25, 400), arms=(ARM,), scale=0.25)


def test_edl_table_has_every_planned_trial_and_a_reason_where_there_is_none(tmp_path: Path) -> None:
    opened = sweep(tmp_path, replace(PLAN, outcomes={(ARM, 25, 0): "DIVERGED", (ARM, 25, 1): "PENDING"}))
    table = edl_table(opened, metrics_frame(opened))
    assert len(table) == len(opened.trials)
    result = opened.trials[-1].result
    assert result is not None
    assert result.train.val_loss is not None
    last = table.iloc[-1]
    assert last["edl_bits"] == pytest.approx((200 + 300 - 200 * result.train.val_loss) / LN2)
    assert last["edl_bits_per_parameter"] == pytest.approx(last["edl_bits"] / 98_304)
    assert last["note"] == ""
    lost = table[table["edl_bits"].isna()]["note"].tolist()
    assert [note.split(":")[0] for note in lost] == ["DIVERGED", "PENDING"]


def test_edl_by_condition_averages_seeds_with_an_interval(tmp_path: Path) -> None:
    opened = sweep(tmp_path, PLAN)
    table = edl_table(opened, metrics_frame(opened))
    rows = edl_by_condition(table)
    assert rows["num_replicates"].tolist() == [3, 3]
    expected = table.groupby("condition", sort=False)["edl_bits"].mean()
    assert rows["edl_bits"].tolist() == pytest.approx(expected.tolist())
    assert (rows["edl_bits_low"] < rows["edl_bits"]).all()


def test_edl_of_logs_that_are_gone_is_a_reason(tmp_path: Path) -> None:
    opened = sweep(tmp_path, PLAN)
    for trial in opened.trials:
        (trial.folder / "metrics.jsonl").unlink()
    table = edl_table(opened, metrics_frame(opened))
    assert table["edl_bits"].isna().all()
    assert table["note"].str.startswith("the log lacks").all()
    assert edl_by_condition(table)["edl_bits"].isna().all()
    assert edl_by_condition(table.iloc[:0]).empty
