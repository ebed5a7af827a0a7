"""What `analysis` exports for an analyst: one frame a kind of record, its columns there whatever is missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis import load_during, load_interpolation, load_questions
from analysis.choices import CHOICE_COLUMNS
from analysis.drift import COLUMNS as DRIFT_COLUMNS
from analysis.items import ITEM_VALUES, QUESTION_COLUMNS, TRIAL_KEYS
from analysis.opened import open_sweep
from analysis.probed import DURING_COLUMNS, INTERPOLATION_COLUMNS
from analysis.sampled import SAMPLED_COLUMNS
from harness.evals import interpolation
from harness.evals.during import COLUMNS as WRITTEN_DURING
from harness.evals.pass_at_k import SampledRow
from harness.evals.table import SCHEMA, ItemRow
from harness.records.schema import ROW_COLUMNS
from harness.records.store import Store
from tests.analysis.synthetic import Plan, build

LOADERS = {
    "load_sweep": ("trial_id", "state", "delta/learned", "missing"),
    "load_items": ("item_id", *ITEM_VALUES),
    "load_samples": ("step", "phase", "prompt", "answer"),
    "load_metrics": ("step",),
    "load_rows": ROW_COLUMNS,
    "load_questions": QUESTION_COLUMNS,
    "load_choices": tuple(CHOICE_COLUMNS),
    "load_during": tuple(DURING_COLUMNS),
    "load_interpolation": tuple(INTERPOLATION_COLUMNS),
    "load_drift": DRIFT_COLUMNS,
    "load_sampled": tuple(SAMPLED_COLUMNS),
}
ROW = {"suite": "people", "task": "cloze", "item_id": "cloze-0001", "cluster": "person-0", "metric": "acc"}


@pytest.mark.parametrize("name", LOADERS)
def test_loaders_of_a_sweep_without_results_give_the_columns(name: str, tmp_path: Path) -> None:
    arm = "equal_epochs"
    pending = {(arm, 25, seed): "PENDING" for seed in (0, 1)}
    store, _ = build(tmp_path, Plan(values=(25,), arms=(arm,), seeds=(0, 1), outcomes=pending, scale=0.1))
    frame = getattr(analysis, name)("lima_size", out=store.root)
    assert set(LOADERS[name]) <= set(frame.columns)
    assert len(frame) == (2 if name == "load_sweep" else 0)


def test_loaders_name_the_columns_that_are_written() -> None:
    assert list(DURING_COLUMNS) == list(WRITTEN_DURING)
    assert set(INTERPOLATION_COLUMNS) == {"weight", *SCHEMA.names}
    assert set(SAMPLED_COLUMNS) == {"phase", *SampledRow._fields}


def test_load_during_has_the_rows_of_the_trials_that_left_some(small: tuple[Store, str]) -> None:
    store, folder = small
    trials = open_sweep(store, folder).trials
    rows = [ROW | {"step": step, "value": step / 10, "chance": 0.25, "reason": None} for step in (0, 5)]
    pd.DataFrame(rows).to_parquet(trials[1].folder / "during.parquet")
    (trials[2].folder / "during.parquet").write_bytes(b"torn")
    frame = load_during("lima_size", out=store.root)
    assert frame["trial_id"].tolist() == [trials[1].planned.trial_id] * 2
    assert frame["step"].tolist() == [0, 5]
    assert frame["value"].tolist() == [0.0, 0.5]
    assert frame["reason"].isna().all()
    assert list(frame.columns) == [*TRIAL_KEYS, *DURING_COLUMNS]


def test_load_interpolation_reads_what_the_probe_writes(small: tuple[Store, str]) -> None:
    store, folder = small
    trial = open_sweep(store, folder).trials[0]
    item = ItemRow(**ROW, split="test", value=0.5, output=None, reason=None, chance=0.25)
    interpolation.write_rows(trial.folder / interpolation.TABLE, [(0.0, item), (1.0, item._replace(value=1.0))])
    frame = load_interpolation("lima_size", out=store.root)
    assert frame[["weight", "value"]].to_numpy().tolist() == [[0.0, 0.5], [1.0, 1.0]]
    assert set(frame["condition"]) == {trial.condition}


def test_load_questions_has_each_item_once(tmp_path: Path) -> None:
    plan = Plan(values=(25, 400), arms=("equal_epochs",), seeds=(0,), scale=0.1, questions=True)
    frame = load_questions("lima_size", out=build(tmp_path, plan)[0].root)
    assert not frame.duplicated(["suite", "task", "item_id"]).any()
    assert list(frame.columns) == QUESTION_COLUMNS
