"""Published defects of packed rows and of averages over them: each test holds ours to the right numbers, and shows that
the defect, built again beside it, gives others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from harness.data import Example
from harness.data.packing import joined
from harness.seeding import preserved_rng
from harness.train import segments
from harness.train.batches import Order, laid_end_to_end, micro_batches
from harness.train.losses import example_scales, logits_at, objective
from tests.data.tiny import audited, pairs, prepared, write_rows
from tests.train import tiny

CPU = torch.device("cpu")
ROUNDING = 1e-5
"""The same products in another order: some units in the last place of float32."""
FAR = 0.01
"""No rounding of such small models is that large."""


def apart(model: nn.Module, rows: Sequence[Example]) -> torch.Tensor:
    """Return the logits of every position of rows that are read one by one, [T, V]."""
    with torch.no_grad():
        return torch.cat(
            [model(input_ids=torch.tensor(row.input_ids)[None], use_cache=False).logits[0] for row in rows]
        )


def by_transformers(model: nn.Module, rows: Sequence[Example], **changes: Any) -> torch.Tensor:
    """Return the logits of rows laid end to end, as transformers keeps them apart: by positions that begin anew."""
    ids = torch.tensor(np.concatenate([row.input_ids for row in rows]))[None]
    positions = torch.cat([torch.arange(len(row.input_ids)) for row in rows])[None]
    asked: dict[str, Any] = {"position_ids": positions, "attention_mask": None, "use_cache": False} | changes
    with torch.no_grad():
        return model(input_ids=ids, **asked).logits[0]


def by_us(model: nn.Module, rows: Sequence[Example]) -> torch.Tensor:
    """Return the logits at every position of rows laid end to end that predicts one of its own example."""
    whole = [Example(row.row_id, row.input_ids, np.ones(len(row.input_ids), dtype=np.float32)) for row in rows]
    with torch.no_grad():
        return logits_at(model, laid_end_to_end(whole, [np.ones(1)] * len(rows), CPU))


def inner(rows: Sequence[Example]) -> torch.Tensor:
    """Return which positions of rows laid end to end are not the last of their example."""
    return torch.cat([torch.arange(len(row.input_ids)) < len(row.input_ids) - 1 for row in rows])


# -- who reads whom ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["attention_mask", "use_cache", "position_ids"])
def test_packed_rows_are_read_alone_where_transformers_isolates_them_under_three_conditions_only(broken: str) -> None:
    model, rows = tiny.llama().eval(), tiny.examples(4)
    expected, places = apart(model, rows), inner(rows)
    torch.testing.assert_close(by_transformers(model, rows), expected, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(by_us(model, rows), expected[places], rtol=ROUNDING, atol=ROUNDING)
    num_tokens = len(places)
    changed: dict[str, Any] = {
        "attention_mask": torch.ones(1, num_tokens, dtype=torch.long),
        "use_cache": True,
        "position_ids": torch.arange(num_tokens)[None],
    }
    wrong = by_transformers(model, rows, **{broken: changed[broken]})
    assert (wrong[places] - expected[places]).abs().max() > FAR


def gemma3() -> nn.Module:
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=4,
        layer_types=kinds,
    )
    with preserved_rng():
        torch.manual_seed(0)
        return Gemma3ForCausalLM(config).eval()


def test_example_longer_than_a_sliding_window_reads_no_further_back_where_plain_causal_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, rows = gemma3(), tiny.examples(3, longest=14)
    assert max(len(row.input_ids) for row in rows) > 4
    expected = apart(model, rows)[inner(rows)]
    torch.testing.assert_close(by_us(model, rows), expected, rtol=ROUNDING, atol=ROUNDING)
    monkeypatch.setattr(segments, "_window", lambda *_: None)
    assert (by_us(model, rows) - expected).abs().max() > FAR


def test_first_token_of_an_example_is_no_target_where_a_shift_of_the_row_makes_it_one() -> None:
    rows = [Example(str(n), np.array([n, n + 1, n + 2]), np.ones(3, dtype=np.float32)) for n in (10, 20, 30)]
    packed = joined(rows)
    batch = laid_end_to_end([packed], [np.ones(3)], CPU)
    shifted = packed.input_ids[1:][packed.loss_weights[1:] > 0].tolist()
    assert batch.targets_K.tolist() == [11, 12, 21, 22, 31, 32]
    assert sorted(set(shifted) - set(batch.targets_K.tolist())) == [20, 30]


# -- what a step holds ------------------------------------------------------------------------------------------------


def test_packing_at_equal_epochs_cuts_the_steps_and_a_count_of_rows_hides_it(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", pairs(40))
    alone, together = (prepared(path, packing=how) for how in ("padding_free", "isolated"))
    epochs, steps = tiny.recipe(num_steps=None, num_epochs=1.0, batch_size=4), tiny.recipe(num_steps=10, batch_size=4)
    by_epochs = [Order.of(epochs, len(rows.train), 0).num_steps for rows in (alone, together)]
    assert by_epochs[0] == 10
    assert by_epochs[1] < by_epochs[0]
    assert [Order.of(steps, len(rows.train), 0).num_steps for rows in (alone, together)] == [10, 10]
    audits = [audited(rows, 4) for rows in (alone, together)]
    assert [found.num_examples for found in audits] == [40, 40]
    assert audits[0].examples_per_step == 4
    per_step = min(4, len(together.train))
    assert audits[1].examples_per_step == pytest.approx(per_step * 40 / len(together.train))
    assert audits[1].loss_tokens_per_step > audits[0].loss_tokens_per_step
    assert audits[1].examples_per_step > per_step


def gradient(model: nn.Module, rows: Sequence[Example], scales: Callable[[np.ndarray], np.ndarray], size: int) -> Any:
    """Return the gradient of the embeddings after a step of packed rows in micro-batches of `size`."""
    sums = np.concatenate([row.weight_sums for row in rows])
    factors = np.split(scales(sums), np.cumsum([row.num_examples for row in rows])[:-1])
    model.zero_grad()
    for batch in micro_batches(rows, factors, size, CPU, end_to_end=True):
        objective(model, batch)[0].backward()
    return model.get_input_embeddings().weight.grad.clone()


def test_step_of_packed_rows_weighs_every_token_alike_where_a_mean_of_means_reweights_examples() -> None:
    examples = [*tiny.examples(3, seed=1, longest=6), *tiny.examples(5, seed=2, longest=40)]
    rows, model = [joined(examples[:3]), joined(examples[3:])], tiny.llama()
    model.train()

    def token_mean(sums: np.ndarray) -> np.ndarray:
        return example_scales("token_mean", sums, None)

    def mean_of_means(sums: np.ndarray) -> np.ndarray:
        groups = (sums[:3], sums[3:])
        return np.concatenate([np.full(len(group), 1 / (len(groups) * group.sum())) for group in groups])

    whole, split = (gradient(model, rows, token_mean, size) for size in (2, 1))
    alone = gradient(model, examples, token_mean, 1)
    scale = float(alone.abs().max())
    for found in (whole, split):
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=ROUNDING * scale)
    assert (gradient(model, rows, mean_of_means, 1) - alone).abs().max() > 0.1 * scale
