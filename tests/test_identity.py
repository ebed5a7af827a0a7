"""Fingerprints pinned by bytes: a change here orphans every record, so it needs a VERSION and a CHANGELOG line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import versions
from harness.identity import canonical, canonical_json, condition_id, fingerprint, trial_id
from harness.records import result
from harness.records.store import Store
from harness.spec import Model, TrialSpec, parse_json
from tests.specs import HASH, pinned_spec

GOLDEN = Path(__file__).parent / "golden"
CANONICAL = (
    '{"base":{"content_sha256":"' + HASH + '","kind":"folder"},'
    '"data":{"max_length":256,"num_examples":100,"num_validation":10,"packing":"off","prompt_loss_weight":0.0,'
    '"source":{"format":"messages","kind":"file","sha256":"' + HASH + '"},'
    '"template":"tokenizer","too_long":"drop","train_on_end_of_turn":true},'
    '"evals":{"dtype":"float32","items_seed":0,"max_length":256,"tasks":[{"chat":false,"kind":"multiple_choice",'
    '"measure":"retained","name":"arc","num_items":50,"primary":true,"source":{"kind":"file","sha256":"' + HASH + '"},'
    '"suite":"mc"}],"val_share":0.2},'
    '"method":{"alpha":16.0,"kind":"lora","rank":8,"target_modules":"all_linear"},'
    '"seed":1,'
    '"train":{"adam_beta1":0.9,"adam_beta2":0.999,"batch_size":16,"dtype":"float32","learning_rate":0.001,'
    '"loss_limit":20.0,"loss_reduction":"token_mean","max_grad_norm":1.0,"num_epochs":3.0,"schedule":"cosine",'
    '"warmup_ratio":0.1,"weight_decay":0.0}}'
)
FINGERPRINT = "1dc1c582d2e51ae25617ab3c8fea49f41b1bda9ddd2d953389bca2d6830bab4d"
"""sha256 of CANONICAL, a newline and `{}`: without behaviour versions, which move on their own."""


def test_canonical_json_of_the_pinned_spec_is_unchanged() -> None:
    assert canonical_json(pinned_spec()) == CANONICAL


def test_fingerprint_of_the_pinned_spec_is_unchanged() -> None:
    assert fingerprint(pinned_spec()) == FINGERPRINT


def test_fingerprint_is_the_same_in_another_process_and_hash_seed() -> None:
    code = "from tests.specs import pinned_spec; from harness.identity import trial_id; print(trial_id(pinned_spec()))"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == trial_id(pinned_spec())


class _Old(Model):
    """A spec as it was when a record was written."""

    rank: int


class _New(Model):
    """The same spec after a field was added with a neutral default."""

    rank: int
    dropout: float = 0.0
    window: int | None = None


def test_fingerprint_of_a_new_field_at_its_neutral_value_is_the_old_one() -> None:
    assert canonical_json(_New(rank=8)) == canonical_json(_Old(rank=8))
    assert canonical_json(_New(rank=8, dropout=0.0, window=None)) == canonical_json(_Old(rank=8))


def test_fingerprint_of_a_new_field_at_another_value_differs() -> None:
    texts = {canonical_json(_New(rank=8, dropout=d, window=w)) for d in (0.0, 0.1) for w in (None, 0, 4)}
    assert len(texts) == 6


def test_fingerprint_ignores_where_things_lie() -> None:
    moved = pinned_spec().replace({"base.path": "/elsewhere", "data.source.path": "/elsewhere.jsonl"})
    assert trial_id(moved) == trial_id(pinned_spec())


def test_fingerprint_moves_with_every_required_leaf() -> None:
    spec = pinned_spec()
    changes = {
        "base.content_sha256": "f" * 64,
        "data.num_examples": 101,
        "data.prompt_loss_weight": 0.5,
        "data.template": "chatml",
        "method.rank": 9,
        "train.learning_rate": 1.1e-3,
        "train.dtype": "bfloat16_autocast",
        "evals.val_share": 0.25,
        "seed": 2,
    }
    ids = {trial_id(spec.replace({field: value})) for field, value in changes.items()}
    assert len(ids | {trial_id(spec)}) == len(changes) + 1


def test_fingerprint_moves_with_a_behaviour_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = trial_id(pinned_spec())
    monkeypatch.setitem(versions.BEHAVIOURS, "train", versions.BEHAVIOURS["train"] + 1)
    assert trial_id(pinned_spec()) != before
    monkeypatch.undo()
    monkeypatch.setitem(versions.POCKET_BEHAVIOURS, "pocket_world", 99)
    assert trial_id(pinned_spec()) == before  # nothing of this spec comes from a world


def test_condition_is_the_same_for_every_seed() -> None:
    spec = pinned_spec()
    assert condition_id(spec) == condition_id(spec.replace({"seed": 7}))
    assert condition_id(spec) != condition_id(spec.replace({"seed": 7, "method.rank": 4}))


@settings(max_examples=60, deadline=None)
@given(
    learning_rate=st.floats(1e-9, 10.0, exclude_min=True),
    weight=st.floats(0.0, 1.0),
    num_examples=st.none() | st.integers(1, 10**6),
    seed=st.integers(0, 2**31),
)
def test_fingerprint_survives_the_round_trip_through_json(
    learning_rate: float, weight: float, num_examples: int | None, seed: int
) -> None:
    changes = {"train.learning_rate": learning_rate, "data.prompt_loss_weight": weight, "seed": seed}
    spec = pinned_spec().replace(changes | {"data.num_examples": num_examples})
    again = parse_json(TrialSpec, spec.model_dump_json())
    assert trial_id(again) == trial_id(spec)
    assert json.loads(canonical_json(spec)) == canonical(spec)


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("record_v*/trials/*")), ids=lambda path: path.parents[1].name)
def test_golden_record_of_each_schema_version_is_still_read(folder: Path) -> None:
    record = result.read(folder)
    assert record is not None
    assert record.trial_id == folder.name
    assert record.spec == Store(folder.parents[1]).read(folder / "spec.json", TrialSpec)
    result.verify(folder, record)


def test_golden_record_of_the_current_schema_version_is_there() -> None:
    """Made by `python -m tests.golden` when the schema version rises; never changed afterwards."""
    assert list(GOLDEN.glob(f"record_v{versions.RECORD_SCHEMA}/trials/*/result.json"))


def test_golden_record_that_was_touched_is_noticed(tmp_path: Path) -> None:
    import shutil

    from harness.errors import StoreError

    source = next(GOLDEN.glob(f"record_v{versions.RECORD_SCHEMA}/trials/*"))
    folder = tmp_path / "trials" / source.name
    shutil.copytree(source, folder)
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().replace(b"1", b"2", 1))
    record = result.read(folder)
    assert record is not None
    with pytest.raises(StoreError, match=r"metrics\.jsonl is damaged"):
        result.verify(folder, record)
