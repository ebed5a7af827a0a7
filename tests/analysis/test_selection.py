"""Choices read val alone and tables read test alone: poisoning the other side moves neither."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import selection, tables
from analysis.context import Context
from analysis.frames import sweep_frame
from analysis.opened import OpenedSweep, open_sweep
from analysis.optima import RateOptimum, optimum_of
from analysis.selection import mark_chosen
from harness.engine import objectives
from harness.records import result
from harness.records.schema import EvalScores, Score, SweepRecord, TrialResult
from harness.records.store import Store
from tests.analysis.synthetic import Plan, build

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
SELECTION = {"axis": "train.learning_rate", "within": "method", "measure": "learned"}
SCORED = ("before/", "after/", "delta/")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> OpenedSweep:
    """Return a small sweep over rates, with a selection."""
    plan = Plan(axis="train.learning_rate", values=RATES, arms=("equal_epochs",), selection=SELECTION, scale=0.25)
    return open_sweep(*build(tmp_path_factory.mktemp("made"), plan))


def poisoned(frame: pd.DataFrame, *, val: bool) -> pd.DataFrame:
    """Return a frame in which every score of one side is another number, in another order of conditions."""
    starts = tuple(f"val_{start}" for start in SCORED) if val else SCORED
    columns = [name for name in frame.columns if name.startswith(starts) and frame[name].dtype.kind == "f"]
    assert len(columns) > len(SCORED)
    noise = np.random.default_rng(7).normal(50.0, 9.0, (len(frame), len(columns)))
    return frame.assign(**dict(zip(columns, noise.T, strict=True)))


def chosen_of(frame: pd.DataFrame, record: SweepRecord) -> list[str]:
    """Return the conditions that are chosen in a frame."""
    marked = mark_chosen(frame.drop(columns=["chosen", "chosen_note"]).copy(), record, lower_is_better=False)
    return sorted(set(marked.loc[marked["chosen"].fillna(False).astype(bool), "condition"]))


def best_rate(frame: pd.DataFrame) -> RateOptimum:
    return optimum_of(frame, "learned", lower_is_better=False)


def test_selection_and_optimum_do_not_move_with_test_scores(made: OpenedSweep) -> None:
    frame = sweep_frame(made)
    other = poisoned(frame, val=False)
    assert chosen_of(other, made.record) == chosen_of(frame, made.record) != []
    assert best_rate(other) == best_rate(frame)


def test_selection_and_optimum_move_with_val_scores(made: OpenedSweep) -> None:
    frame = sweep_frame(made)
    other = poisoned(frame, val=True)
    assert chosen_of(other, made.record) != chosen_of(frame, made.record)
    assert best_rate(other) != best_rate(frame)


def test_poison_catches_a_selection_that_reads_test(made: OpenedSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = sweep_frame(made)
    reads_val = selection._best_condition  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(
        selection,
        "_best_condition",
        lambda group, column, **options: reads_val(group, column.removeprefix("val_"), **options),
    )
    assert chosen_of(poisoned(frame, val=False), made.record) != chosen_of(frame, made.record)


def test_poison_catches_an_optimum_that_reads_test(made: OpenedSweep) -> None:
    def reads_test(frame: pd.DataFrame) -> RateOptimum:
        swapped = frame.assign(**{"val_after/learned": frame["after/learned"]})
        return optimum_of(swapped, "learned", lower_is_better=False)

    frame = sweep_frame(made)
    assert reads_test(poisoned(frame, val=False)) != reads_test(frame)


# -- a study's numbers ------------------------------------------------------------------------------------------------


def _moved(scores: EvalScores, *, val: bool) -> EvalScores:
    side = "val" if val else "test"
    other = {key: Score(value=9.0, num_items=score.num_items) for key, score in getattr(scores, side).items()}
    return scores.model_copy(update={side: other})


def moved(one: TrialResult, *, val: bool) -> TrialResult:
    """Return a result with every score of one side replaced after training."""
    assert one.after is not None
    return one.model_copy(update={"after": _moved(one.after, val=val)})


@pytest.mark.parametrize("value", ["after", "delta"])
def test_objective_moves_with_val_alone(made: OpenedSweep, value: str) -> None:
    _, one = next(iter(made.finished))
    told = objectives.objective(one, "learned", value)
    assert told is not None
    assert objectives.objective(moved(one, val=False), "learned", value) == told
    assert objectives.objective(moved(one, val=True), "learned", value) != told


@pytest.mark.parametrize("column", ["after/learned", "delta/fluency"])
def test_constraint_moves_with_val_alone(made: OpenedSweep, column: str) -> None:
    _, one = next(iter(made.finished))
    assert objectives.column(moved(one, val=False), column) == objectives.column(one, column)
    assert objectives.column(moved(one, val=True), column) != objectives.column(one, column)


# -- tables -----------------------------------------------------------------------------------------------------------


def with_val_poisoned(store: Store, folder: str) -> None:
    """Replace every val score and val item of every trial and base in a store, keeping the records valid."""
    record = store.read(store.sweep(folder) / "sweep.json", SweepRecord)
    assert record is not None
    for planned in record.trials:
        path = store.trial(planned.trial_id)
        one = result.read(path)
        assert one is not None
        assert one.after is not None
        changed = {"before": _moved(one.before, val=True), "after": _moved(one.after, val=True)}
        (path / "result.json").write_text(one.model_copy(update=changed).model_dump_json())
    for items in store.root.rglob("items.parquet"):
        rows = pd.read_parquet(items)
        rows.loc[rows["split"] == "val", "value"] = 9.0
        rows.to_parquet(items)


def test_tables_do_not_move_with_val_scores(tmp_path: Path) -> None:
    plan = Plan(axis="train.learning_rate", values=RATES[:2], arms=("equal_epochs",), seeds=(0, 1), scale=0.25)
    store, folder = build(tmp_path, plan)
    before = Context(open_sweep(store, folder))
    tables_before = [before.effects, before.contrasts, before.flips, before.condition_flips]
    with_val_poisoned(store, folder)
    after = Context(open_sweep(store, folder))
    assert set(after.frame["val_after/learned"]) == {9.0}
    assert 9.0 in set(after.items.query("split == 'val'")["after"])
    tables_after = [after.effects, after.contrasts, after.flips, after.condition_flips]
    for old, new in zip(tables_before, tables_after, strict=True):
        assert len(old) > 0
        pd.testing.assert_frame_equal(new, old)


def test_poison_catches_a_table_that_reads_val(made: OpenedSweep) -> None:
    context = Context(made)
    keys = context.primary_keys
    swapped = context.items.assign(split=context.items["split"].replace({"val": "test", "test": "val"}))
    told = tables.effects_table(context.frame, context.items, keys)
    assert not tables.effects_table(context.frame, swapped, keys)["delta"].equals(told["delta"])


def test_choice_is_open_without_val_scores(made: OpenedSweep) -> None:
    frame = sweep_frame(made)
    blind = frame.drop(columns=["chosen", "chosen_note"]).assign(**{"val_after/learned": math.nan})
    marked = mark_chosen(blind, made.record, lower_is_better=False)
    assert marked["chosen"].count() == 0
    assert set(marked["chosen_note"]) == {"open: no condition has a known val score on every seed"}
