"""Packed rows on the real bases that are here: every example gets the log-probabilities it gets alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import data, models
from harness.data import Example
from harness.data.packing import joined
from harness.train import segments
from harness.train.batches import collate, laid_end_to_end
from harness.train.losses import logits_at, token_nll
from tests.data.tiny import REAL, spec

FETCHED = Path(__file__).parents[2] / "out" / "artefacts" / "fetched"
BASES = {
    "stories260K": (REAL / "models" / "stories260K", "plain", (60, 25, 90)),
    "minimind2": (REAL / "models" / "minimind2-small", "tokenizer", (150, 60, 220)),
    "smollm2": (FETCHED / "smollm2_135m_instruct", "tokenizer", (150, 60, 220)),
    # longer than the window of 512 positions that most of its layers read
    "gemma3": (FETCHED / "gemma3_270m", "gemma", (40, 620)),
}
"""Name -> folder, template, lengths of the examples in tokens."""
NUM_ASKED = 24
"""Last tokens of each example whose log-probability is compared."""
ROUNDING = 2e-4
"""Nats: float32 through up to 30 layers, with products of other shapes. Measured on one thread: 0 on each base."""
FAR = 0.05
"""Nats: what an example loses or gains by reading the one before it. Measured: .9 to 4 over these bases."""
CPU = torch.device("cpu")
pytestmark = [pytest.mark.real, pytest.mark.slow]


@cache
def loaded(name: str) -> tuple[Any, list[Example]]:
    """Return a base and real rows cut to its lengths."""
    folder, template, lengths = BASES[name]
    if not folder.is_dir():
        pytest.skip(f"needs the base in {folder}")
    files = models.inspect_folder(folder)
    asked = spec(
        source=data.describe_file(REAL / "sft" / "oasst_threads.jsonl"),
        template=template,
        num_examples=60,
        max_length=4096,
        too_long="truncate_right",
    )
    rows = data.prepare(asked, data.chat_format(models.load_tokenizer(files), asked), seed=0).train
    return models.load_model(files, "float32", "cpu", None), cut(rows, lengths)


def cut(rows: list[Example], lengths: tuple[int, ...]) -> list[Example]:
    """Return the first rows that are long enough for each length, whose last tokens alone carry loss."""
    made: list[Example] = []
    left = list(rows)
    for length in lengths:
        row = next(row for row in left if len(row.input_ids) >= length)
        left.remove(row)
        weights = np.zeros(length, dtype=np.float32)
        weights[-min(NUM_ASKED, length - 1) :] = 1.0
        made.append(Example(row.row_id, row.input_ids[:length], weights))
    return made


def nll(model: Any, batch: Any) -> torch.Tensor:
    """Return the negative log-likelihood in nats of every token that carries loss, [K]."""
    with torch.no_grad():
        return token_nll(logits_at(model, batch), batch.targets_K)


@pytest.mark.parametrize("name", BASES)
def test_packed_examples_of_a_real_base_have_the_log_probabilities_of_each_alone(name: str) -> None:
    model, rows = loaded(name)
    alone = torch.cat([nll(model, collate([row], [np.ones(1)], CPU)) for row in rows])
    packed = nll(model, laid_end_to_end([joined(rows)], [np.ones(len(rows))], CPU))
    read_on = nll(model, collate([joined(rows)], [np.ones(len(rows))], CPU))
    gap, wrong = float((packed - alone).abs().max()), float((read_on - alone).abs().max())
    print(f"{name}: {gap:.2g} nats apart, {wrong:.2g} where examples read on")
    assert gap < ROUNDING
    assert wrong > FAR


def test_packed_examples_of_gemma_read_no_further_back_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = loaded("gemma3")
    window = model.config.sliding_window
    assert max(len(row.input_ids) for row in rows) > window
    alone = torch.cat([nll(model, collate([row], [np.ones(1)], CPU)) for row in rows])
    monkeypatch.setattr(segments, "_window", lambda *_: None)
    broken = nll(model, laid_end_to_end([joined(rows)], [np.ones(len(rows))], CPU))
    gap = float((broken - alone).abs().max())
    print(f"window of {window}: {gap:.2g} nats apart without it")
    assert gap > 10 * ROUNDING
