"""Against what others compute from the same weights and rows: the loss of transformers, and a whole run of trl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from harness.data import Example
from harness.train.batches import collate
from harness.train.losses import objective
from tests.presence import package
from tests.train import tiny

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
BASE = REAL / "models" / "stories260K"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not BASE.is_dir(), reason="the real model stories260K does not lie beside the checkout"),
]


def base() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def real_rows(num: int) -> list[Example]:
    """Return short real instructions, trained on the answer."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    made: list[Example] = []
    with (REAL / "sft" / "micro_tasks.train.jsonl").open() as stream:
        for line in stream:
            row = json.loads(line)
            prompt, answer = (
                tokenizer.encode(message["content"], add_special_tokens=False) for message in row["messages"][-2:]
            )
            if len(made) < num and len(prompt) + len(answer) < 120:
                ids = np.array([*prompt, *answer], dtype=np.int64)
                weights = np.array([0.0] * len(prompt) + [1.0] * len(answer), dtype=np.float32)
                made.append(Example(row["id"], ids, weights))
    return made


def labels_of(row: Example) -> torch.Tensor:
    return torch.tensor(np.where(row.loss_weights > 0, row.input_ids, -100))[None]


def test_loss_and_gradients_on_a_real_model_equal_those_of_transformers() -> None:
    rows = real_rows(8)
    mine, theirs = base(), base()
    num_loss_tokens = sum(int(row.loss_weights.sum()) for row in rows)
    loss, _ = objective(mine, collate(rows, [np.full(1, 1 / num_loss_tokens)] * len(rows), torch.device("cpu")))
    loss.backward()
    total = 0.0
    for row in rows:
        labels = labels_of(row)
        ids = torch.tensor(row.input_ids)[None]
        share = theirs(input_ids=ids, labels=labels, num_items_in_batch=num_loss_tokens).loss
        share.backward()
        total += share.item()
    assert loss.item() == pytest.approx(total, rel=1e-5)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        # float32 sums over a few hundred positions in another order.
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5 * float(b.grad.abs().max()))


def test_whole_run_on_a_real_model_equals_trl(tmp_path: Path) -> None:
    rows = real_rows(24)
    spec = tiny.recipe(num_steps=6, learning_rate=1e-3, warmup_ratio=0.3, weight_decay=0.1)
    mine = base()
    tiny.fit(mine, tiny.prepared(rows), spec, tmp_path / "mine", runtime=tiny.runtime(micro_batch_size=4))
    theirs = base()
    logged = run_trl(theirs, rows, spec, tmp_path / "trl")
    for row, reference in zip(tiny.log_of(tmp_path / "mine"), logged, strict=True):
        assert row["train/loss"] == pytest.approx(reference["loss"], rel=1e-5)
        assert row["train/grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-5)
        assert row["train/learning_rate"] == pytest.approx(reference["learning_rate"], rel=1e-9)
    difference = max((a - b).abs().max().item() for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    moved = max((a - b).abs().max().item() for a, b in zip(mine.parameters(), base().parameters(), strict=True))
    # Measured: 7e-5 of the way travelled, rounding of float32 through six steps of Adam.
    assert difference < 1e-3 * moved


def run_trl(model: PreTrainedModel, rows: list[Example], spec: Any, folder: Path) -> list[dict[str, Any]]:
    """Train with trl on rows laid out in our order, in micro-batches of 4, and return its log of each step."""
    trl = package("trl")
    datasets = package("datasets")
    order = tiny.train_order(spec, len(rows))
    laid_out = [rows[index] for step in range(order.num_steps) for index in order.indices(step)]
    columns = {
        "input_ids": [row.input_ids.tolist() for row in laid_out],
        "labels": [labels_of(row)[0].tolist() for row in laid_out],
    }
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=2,  # ceil(0.3 x 6)
        weight_decay=spec.weight_decay,
        adam_beta1=spec.adam_beta1,
        adam_beta2=spec.adam_beta2,
        max_grad_norm=spec.max_grad_norm,
        train_sampling_strategy="sequential",
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        max_length=None,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(BASE),
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]
