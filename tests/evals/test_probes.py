"""A whole trial with probes: what it records, and that nothing else moves for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.identity import base_key
from harness.pocket import pretrain
from harness.pocket.world import eval_task
from harness.records import result
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import PocketBase, TrialSpec
from harness.trial import TrialContext, run_trial
from tests.evals import checkers
from tests.pocket.tiny import TINY_WORLD, tiny_experiment

ASKED, OTHER = "question_unasked", "cloze_unasked"
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
PROBES = {"probes.during": [f"pocket/{ASKED}"], "probes.interpolation": [0.0, 0.5, 1.0]}


def trial(**changes: Any) -> TrialSpec:
    tasks = [eval_task(TINY_WORLD, name, 12).replace({"primary": True}) for name in (ASKED, OTHER)]
    fields = {
        "evals.tasks": [task.model_dump(mode="json") for task in tasks],
        "data.num_examples": 16,
        "train.num_epochs": None,
        "train.num_steps": 4,
        "train.eval_every": 2,
        "evals.val_share": 0.5,
    }
    return tiny_experiment().spec.replace(fields | changes)


def ran(spec: TrialSpec, store: Store) -> TrialResult:
    base = spec.base
    assert isinstance(base, PocketBase)
    store.ensure_artefact("base", base_key(spec), lambda folder: pretrain.build(base, folder, lambda **_: None))
    return run_trial(spec, TrialContext(store, tiny_experiment().runtime, command="", report=lambda **_: None))


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
    by_weight = dict(tuple(pd.read_parquet(folder / "interpolation.parquet").groupby("weight")))
    for weight, items in ((0.0, probed.before.items_file), (1.0, probed.after.items_file)):
        whole = pd.read_parquet(store.root / items)
        own = by_weight[weight].drop(columns="weight").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, whole, check_exact=method["kind"] == "full" or weight == 1.0)


def test_trial_with_a_panel_compares_answers_with_its_own_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkers.install(monkeypatch)
    checkers.CALLS.clear()
    spec = trial()
    tasks = [task.model_dump(mode="json") | {"panel": "behaviour"} for task in spec.evals.tasks if task.name == ASKED]
    record = ran(spec.replace({"evals.tasks": tasks}), Store(tmp_path))
    assert record.after is not None
    key = f"pocket/{ASKED}/training_copy"
    assert record.after.test[key].value == 0.125
    assert record.before.test[key].value is None
    index = next(call["targets"] for call in checkers.CALLS if call["targets"] is not None)
    assert len(index.texts) == record.data.num_train
