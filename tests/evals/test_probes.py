"""A whole trial with probes: what it records, and that nothing else moves for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.evals import targets
from harness.evals.copying import TargetIndex
from harness.identity import base_key
from harness.pocket import pretrain
from harness.pocket.world import eval_task
from harness.records import result
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import PocketBase, TrialSpec
from harness.train import loop
from harness.trial import TrialContext, run_trial
from tests.pocket.tiny import TINY_WORLD, tiny_experiment

COPY = "training_copy"
ASKED, OTHER = "question_unasked", "cloze_unasked"
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
PROBES = {"probes.during": [f"pocket/{ASKED}"], "probes.interpolation": [0.0, 0.5, 1.0]}


def trial(**changes: Any) -> TrialSpec:
    """Return a trial on two slices, of which one has the behaviour panel."""
    panels = {ASKED: "behaviour", OTHER: "none"}
    tasks = [
        eval_task(TINY_WORLD, name, 12).replace({"primary": True, "panel": panel}) for name, panel in panels.items()
    ]
    fields = {
        "evals.tasks": [task.model_dump(mode="json") for task in tasks],
        "data.num_examples": 16,
        "train.num_epochs": None,
        "train.num_steps": 4,
        "train.eval_every": 2,
        "evals.val_share": 0.5,
    }
    return tiny_experiment().spec.replace(fields | changes)


def ran(spec: TrialSpec, store: Store, **changes: Any) -> TrialResult:
    base = spec.base
    assert isinstance(base, PocketBase)
    store.ensure_artefact("base", base_key(spec), lambda folder: pretrain.build(base, folder, lambda **_: None))
    runtime = tiny_experiment().runtime.replace(changes)
    return run_trial(spec, TrialContext(store, runtime, command="", report=lambda **_: None))


class Killed(BaseException):
    """Ends an attempt where it stands."""


@pytest.mark.parametrize("at", ["harness.evals.score_before", "harness.records.result.commit"])
def test_trial_killed_after_its_training_is_evaluated_without_training_again(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trial(**PROBES)
    control = ran(spec, Store(tmp_path / "control"), checkpoint_every=3)

    def killed(*_args: Any, **_options: Any) -> Any:
        raise Killed

    store, folder = Store(tmp_path / "run"), Store(tmp_path / "run").trial(control.trial_id)
    with monkeypatch.context() as patch:
        patch.setattr(at, killed)
        with pytest.raises(Killed):
            ran(spec, store, checkpoint_every=3)
    steps: list[int] = []
    own = loop._step
    monkeypatch.setattr(loop, "_step", lambda run: (steps.append(run.state.step), own(run)))
    again = ran(spec, store, checkpoint_every=3)
    assert steps == []
    assert (again.train, again.after) == (control.train, control.after)
    assert again.files.keys() == control.files.keys()
    assert {name for name in again.files if again.files[name] != control.files[name]} == {"metrics.jsonl"}, "its clock"
    assert not (folder / "checkpoints").exists()
    assert not (folder / "during.jsonl").exists()


@pytest.mark.parametrize("method", [{"kind": "full"}, LORA], ids=["full", "lora"])
def test_trial_with_probes_records_them_and_trains_and_scores_the_same(method: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    plain, probed = (ran(trial(method=method, **probes), store) for probes in ({}, PROBES))
    assert probed.after is not None
    assert plain.after is not None
    assert (probed.train, probed.after.test, probed.before) == (plain.train, plain.after.test, plain.before)
    folder = store.trial(probed.trial_id)
    assert {"during.parquet", "interpolation.parquet"} <= set(probed.files)
    assert not {"during.parquet", "interpolation.parquet"} & set(plain.files)
    result.verify(folder, probed)
    during = pd.read_parquet(folder / "during.parquet")
    assert list(during["step"].unique()) == [0, 2, 4]
    assert set(during["task"]) == {ASKED}
    assert not (folder / "during.jsonl").exists()
    copied = during[during["metric"] == COPY]["value"]
    assert len(copied) == 3 * during["item_id"].nunique()
    assert copied.notna().all()
    by_weight = dict(tuple(pd.read_parquet(folder / "interpolation.parquet").groupby("weight")))
    whole, own = tables(store, probed.after.items_file, by_weight[1.0])
    pd.testing.assert_frame_equal(own, whole)
    whole, own = tables(store, probed.before.items_file, by_weight[0.0])
    # The base of a trial has not seen its rows, so nothing is copied from them; at weight 0 it can be compared.
    assert whole[whole["metric"] == COPY]["value"].isna().all()
    assert own[own["metric"] == COPY]["value"].notna().all()
    mine, expected = (table[table["metric"] != COPY] for table in (own, whole))
    pd.testing.assert_frame_equal(mine, expected, check_exact=method["kind"] == "full")


def tables(store: Store, items_file: str, at_weight: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a model's items, and those at a weight in the same columns."""
    return pd.read_parquet(store.root / items_file), at_weight.drop(columns="weight").reset_index(drop=True)


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the targets of every index that is made."""
    made: list[list[str]] = []

    def index(texts: Iterable[str]) -> TargetIndex:
        made.append(list(texts))
        return TargetIndex(made[-1])

    monkeypatch.setattr(targets, "TargetIndex", index)
    return made


def test_targets_of_a_trial_are_indexed_once_for_all_that_compares_with_them(
    tmp_path: Path, indexed: list[list[str]]
) -> None:
    record = ran(trial(**PROBES), Store(tmp_path))
    (texts,) = indexed
    assert len(texts) == record.data.num_train
    assert record.after is not None
    key = f"pocket/{ASKED}/{COPY}"
    assert record.after.test[key].value is not None
    assert record.before.test[key].value is None


def test_targets_are_not_indexed_where_no_panel_asks_or_training_diverged(
    tmp_path: Path, indexed: list[list[str]]
) -> None:
    spec = trial(**{"train.learning_rate": 1e30, "train.max_grad_norm": None})
    assert ran(spec, Store(tmp_path)).state == "DIVERGED"
    plain = [task.model_dump(mode="json") | {"panel": "none"} for task in spec.evals.tasks]
    assert ran(trial(**{"evals.tasks": plain}, **PROBES), Store(tmp_path)).state == "COMPLETE"
    assert indexed == []
