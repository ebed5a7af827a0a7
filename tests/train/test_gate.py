"""The audit before every trial: what it writes, what it refuses, and that it disturbs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional

from experiments.pocket import SPEC
from harness import train
from harness.data import ChatFormat, PreparedData, describe_file, prepare
from harness.errors import DataError
from harness.records.schema import AUDIT_FILES
from harness.spec import TrialSpec
from harness.train import gate
from tests.data import tiny as texts
from tests.models.tiny import llama

ASKED = {"suite/town": {"1": "In which of the towns by the sea was the old potter born?", "2": "Who is it?"}}


def setting(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> tuple[PreparedData, ChatFormat, TrialSpec]:
    asked = texts.spec(source=describe_file(texts.write_rows(tmp_path / "rows.jsonl", rows)), **changes)
    form = texts.chat()
    return prepare(asked, form, seed=0), form, SPEC.model_copy(update={"data": asked})


def model(form: ChatFormat) -> Any:
    return llama(vocab_size=len(form.tokenizer))


def silent(num: int) -> list[dict[str, Any]]:
    """Return rows whose answers weigh next to nothing in one and nothing in all other turns."""
    rows = texts.pairs(num)
    for row in rows:
        row["messages"] = [
            *row["messages"],
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "No."},
        ]
        row["messages"][-1]["weight"] = 0.0
    return rows


def test_gate_writes_what_it_counted_beside_the_record(tmp_path: Path) -> None:
    rows, form, spec = setting(tmp_path, texts.pairs(12), num_validation=2)
    train.require_sound(model(form), rows, form, spec, asked=ASKED, folder=tmp_path)
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["problems"] == []
    assert found["num_examples"] == 10
    assert found["overlaps"]["suite/town"]["num_overlapping"] == 0
    assert (tmp_path / "audit.html").read_text().count('<div class="row"') == gate.NUM_SHOWN
    assert all((tmp_path / name).is_file() for name in AUDIT_FILES)


def test_base_loss_that_overflowed_is_null_in_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, form, spec = setting(tmp_path, texts.pairs(3))
    monkeypatch.setattr(gate, "base_loss", lambda *_: float("nan"))
    gate.audited(model(form), rows, form, spec, asked={}, folder=tmp_path)
    written = (tmp_path / AUDIT_FILES[0]).read_text()
    assert '"base_loss": null' in written
    assert "NaN" not in written


def test_gate_refuses_rows_that_teach_nothing_and_leaves_the_audit(tmp_path: Path) -> None:
    rows, form, spec = setting(tmp_path, silent(6), trained_turns="last")
    with pytest.raises(DataError, match="no token of the 6 training rows carries loss"):
        train.require_sound(model(form), rows, form, spec, asked={}, folder=tmp_path)
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["base_loss"] is None
    assert len(found["problems"]) == 1
    assert "no token of the 6" in (tmp_path / "audit.html").read_text()


@pytest.mark.parametrize("packing", ["off", "isolated", "joined"])
def test_base_loss_is_the_mean_over_loss_tokens_of_the_base_alone(
    tmp_path: Path, packing: Literal["off", "isolated", "joined"]
) -> None:
    rows, form, _ = setting(tmp_path, texts.pairs(9), packing=packing, max_length=256)
    base = model(form)
    total, count = 0.0, 0
    for row in rows.train if packing == "joined" else rows.examples:
        ids = torch.tensor(row.input_ids)[None]
        logits = base.eval()(input_ids=ids).logits[0]
        trained = torch.tensor(row.loss_weights[1:] > 0)
        total += functional.cross_entropy(logits[:-1][trained], ids[0, 1:][trained], reduction="sum").item()
        count += int(trained.sum())
    assert gate.base_loss(base, rows) == pytest.approx(total / count, rel=1e-5)


def test_gate_changes_neither_weights_nor_modes_nor_generators(tmp_path: Path) -> None:
    rows, form, spec = setting(tmp_path, texts.pairs(6))
    base = model(form).train()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    state = torch.get_rng_state()
    train.require_sound(base, rows, form, spec, asked=ASKED, folder=tmp_path)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    assert all(module.training for module in base.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in base.parameters())


def test_base_reads_at_most_so_many_rows_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, form, _ = setting(tmp_path, texts.pairs(12))
    whole = gate.base_loss(model(form), rows)
    monkeypatch.setattr(gate, "TOKENS_READ_BY_BASE", len(rows.train[0].input_ids) + len(rows.train[1].input_ids))
    two = gate.base_loss(model(form), rows)
    monkeypatch.setattr(gate, "TOKENS_READ_BY_BASE", 1)
    one = gate.base_loss(model(form), rows)
    assert len({whole, two, one}) == 3
