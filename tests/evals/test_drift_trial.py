"""Whole trials with the drift panel on, on a pocket base of a few seconds."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.evals.drift import TEXT_SETS
from harness.identity import base_key
from harness.pocket import pretrain
from harness.records.schema import SCORE_FILES, TrialResult
from harness.records.store import Store
from harness.spec import LoraConfig, PocketBase, QLoraConfig, TrialSpec
from harness.trial import TrialContext, run_trial
from tests.pocket.tiny import tiny_experiment

ADAPTER: dict[str, Any] = {"rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
METHODS = {
    "full": tiny_experiment().spec.method,
    "lora": LoraConfig(**ADAPTER),
    "qlora": QLoraConfig(**ADAPTER),
}
ON = {"probes.drift": "on", "probes.drift_texts": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("drift"))
    spec = tiny_experiment().spec
    assert isinstance(spec.base, PocketBase)
    base = spec.base
    store.ensure_artefact("base", base_key(spec), lambda folder: pretrain.build(base, folder, lambda **_: None))
    return store


def asked(method: str, **changes: Any) -> TrialSpec:
    return tiny_experiment().spec.replace({"method": METHODS[method], "evals.val_share": 0.5} | changes)


def ran(spec: TrialSpec, store: Store) -> TrialResult:
    runtime = tiny_experiment().runtime.replace({"device": "cpu"})
    return run_trial(spec, TrialContext(store, runtime, command="", report=lambda **_: None))


@pytest.mark.parametrize("method", METHODS)
def test_trial_with_drift_records_means_and_rows_and_nothing_else_moves(method: str, store: Store) -> None:
    plain, probed = ran(asked(method), store), ran(asked(method, **ON), store)
    assert plain.drift is None
    assert "drift.parquet" not in plain.files
    assert probed.after == plain.after.model_copy(  # type: ignore[union-attr]
        update={"key": probed.after.key, "items_file": probed.after.items_file}  # type: ignore[union-attr]
    )
    assert probed.train == plain.train
    assert all(probed.files[name] == plain.files[name] for name in SCORE_FILES)
    assert probed.drift is not None
    assert probed.drift.reasons == {}
    for text_set in TEXT_SETS:
        assert (probed.drift.values[f"{text_set}/kl_base_tuned"] or 0) > 0
    rows = pq.read_table(store.trial(probed.trial_id) / "drift.parquet").to_pylist()
    assert probed.files["drift.parquet"]
    items = {row["item_id"] for row in rows if row["text_set"] == "answers"}
    assert len(items) == 8
    assert json.loads(json.dumps(probed.drift.values)) == probed.drift.values
