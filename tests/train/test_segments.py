"""Examples laid end to end: each must get the log-probabilities and gradients that it gets in a row of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from harness.data import Example
from harness.data.packing import joined
from harness.errors import SpecError
from harness.seeding import preserved_rng
from harness.train import batches, segments
from harness.train.batches import Order, collate, laid_end_to_end
from harness.train.losses import logits_at, objective
from tests.train import tiny

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with preserved_rng():
        torch.manual_seed(0)
        return build()


def gemma3() -> nn.Module:
    """Gemma 3: two of three layers read the last four positions alone, fewer than the examples are long."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=4, layer_types=kinds, query_pre_attn_scalar=8)
    return _seeded(lambda: Gemma3ForCausalLM(config))


def mistral() -> nn.Module:
    return _seeded(lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)))


def qwen2() -> nn.Module:
    return _seeded(lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)))


def gpt2() -> nn.Module:
    """GPT-2: positions are learned, so that where they begin moves every number."""
    config = GPT2Config(vocab_size=tiny.VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0)
    return _seeded(lambda: GPT2LMHeadModel(config)).eval()


BASES = [tiny.llama, lambda: tiny.lora(dropout=0.0), gemma3, mistral, qwen2, gpt2]


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("build", BASES, ids=["llama", "lora", "gemma3", "mistral", "qwen2", "gpt2"])
def test_logits_and_gradients_of_packed_examples_equal_those_of_each_alone(build: Callable[[], nn.Module]) -> None:
    model, rows = build(), tiny.examples(5, longest=14)
    alone, packed = [], laid_end_to_end([joined(rows[:3]), *rows[3:]], [np.ones(3), np.ones(1), np.ones(1)], CPU)
    for row in rows:
        batch = collate([row], [np.ones(1)], CPU)
        alone.append(logits_at(model, batch))
        objective(model, batch)[0].backward()
    expected = _gradients(model)
    logits_KV = logits_at(model, packed)
    objective(model, packed)[0].backward()
    # the same products over other numbers of rows: a few units in the last place of float32
    torch.testing.assert_close(logits_KV, torch.cat(alone), rtol=1e-5, atol=1e-5)
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))


def test_an_implementation_that_reads_on_is_far_outside_the_tolerance() -> None:
    rows = tiny.examples(5, longest=14)
    for build in BASES:
        model = build()
        right = logits_at(model, laid_end_to_end(rows, [np.ones(1)] * 5, CPU))
        assert (logits_at(model, collate([joined(rows)], [np.ones(5)], CPU)) - right).abs().max() > 0.01


def test_an_implementation_whose_positions_run_on_is_far_outside_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = gpt2(), laid_end_to_end(tiny.examples(5, longest=14), [np.ones(1)] * 5, CPU)
    right = logits_at(model, batch)
    monkeypatch.setattr(segments, "positions", lambda lengths, device: torch.arange(sum(lengths))[None])
    assert (logits_at(model, batch) - right).abs().max() > 0.01


def test_joined_examples_read_those_before_them() -> None:
    model, (first, second) = tiny.llama(), tiny.examples(2)
    both = joined([first, second])
    other = joined([Example("other", (first.input_ids + 1) % tiny.VOCAB, first.loss_weights), second])
    after = int(np.count_nonzero(second.loss_weights))
    reads_on = [logits_at(model, collate([row], [np.ones(2)], CPU))[-after:] for row in (both, other)]
    isolated = [logits_at(model, laid_end_to_end([row], [np.ones(2)], CPU))[-after:] for row in (both, other)]
    assert (reads_on[0] - reads_on[1]).abs().max() > 1e-3
    assert torch.equal(isolated[0], isolated[1])


def test_no_example_is_predicted_from_the_one_before_it() -> None:
    rows = [Example(str(n), np.array([n, n + 1, n + 2]), np.ones(3, dtype=np.float32)) for n in (1, 11, 21)]
    batch = laid_end_to_end(rows, [np.ones(1)] * 3, CPU)
    assert batch.targets_K.tolist() == [2, 3, 12, 13, 22, 23]
    assert batch.positions_K.tolist() == [0, 1, 3, 4, 6, 7]


def test_attention_of_a_model_is_as_it_was_afterwards() -> None:
    model = tiny.lora()
    before = model.get_base_model().config._attn_implementation
    ids = torch.arange(1, 9)[None]
    expected = model.eval()(input_ids=ids).logits
    with pytest.raises(ZeroDivisionError), segments.alone(model):
        raise ZeroDivisionError
    assert model.get_base_model().config._attn_implementation == before
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_a_model_with_attention_of_its_own_is_refused() -> None:
    model = tiny.llama()
    model._can_set_attn_implementation = lambda: False
    sentence = r"data\.packing lays examples end to end, but must be 'off' or 'joined'"
    with pytest.raises(SpecError, match=sentence), segments.alone(model):
        raise AssertionError


def test_a_model_with_layers_that_pass_something_on_beside_attention_is_refused() -> None:
    layers = ["conv", "full_attention", "conv"]
    config = Lfm2Config(**SMALL, layer_types=layers, conv_L_cache=3)
    with pytest.raises(SpecError, match="for a Lfm2ForCausalLM, whose layers cannot be confined to one example"):
        segments.require(_seeded(lambda: Lfm2ForCausalLM(config)))


def test_models_that_read_attention_alone_pass_and_stay_as_they_were() -> None:
    for build in BASES:
        model = build().train()
        segments.require(model)
        assert all(module.training for module in model.modules())


def _end_to_end(rows: Any, **changes: Any) -> Any:
    return replace(rows, reads_itself_alone=True, **changes)


def test_training_without_padding_takes_the_same_steps(tmp_path: Any) -> None:
    recipe = tiny.recipe(num_steps=6, batch_size=4)
    rows = tiny.prepared(tiny.examples(12), tiny.examples(3, seed=5))
    padded, end_to_end = tiny.llama(), tiny.llama()
    one = tiny.fit(padded, rows, recipe, tmp_path / "padded")
    two = tiny.fit(end_to_end, _end_to_end(rows), recipe, tmp_path / "end_to_end")
    assert one.num_loss_tokens == two.num_loss_tokens
    assert two.val_loss == pytest.approx(one.val_loss, rel=1e-4)
    for mine, theirs in zip(padded.parameters(), end_to_end.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_training_on_isolated_rows_is_training_on_their_examples_and_on_joined_ones_is_not(tmp_path: Any) -> None:
    """The same four examples make up each step, in two packed rows or in four."""
    pairs = [tiny.examples(2, seed=seed) for seed in range(4)]
    packs = [joined(pair) for pair in pairs]
    recipe = tiny.recipe(num_steps=4, batch_size=2)
    found = {}
    for name, rows in {
        "isolated": _end_to_end(tiny.prepared(packs)),
        "joined": tiny.prepared(packs),
    }.items():
        found[name] = tiny.llama()
        tiny.fit(found[name], rows, recipe, tmp_path / name)
    order = tiny.train_order(recipe, 4)
    reference, optimizer_recipe = tiny.llama(), tiny.recipe(num_steps=4, batch_size=4)
    steps = [[example for index in order.indices(step) for example in pairs[index]] for step in range(4)]
    flat = [example for step in steps for example in step]
    _fit_in_order(reference, flat, optimizer_recipe, tmp_path / "reference")
    for mine, theirs in zip(found["isolated"].parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    gaps = zip(found["joined"].parameters(), reference.parameters(), strict=True)
    assert max(float((mine - theirs).detach().abs().max()) for mine, theirs in gaps) > 1e-3


def _fit_in_order(model: nn.Module, rows: list[Example], spec: Any, folder: Any) -> None:
    """Train on rows as they stand, one step after the other."""

    class Straight:
        @staticmethod
        def of(asked: Any, num_examples: int, seed: int) -> Any:
            made = Order.of(asked, num_examples, seed)
            return type(
                "Order", (), {**vars(made), "indices": staticmethod(lambda step: range(step * 4, step * 4 + 4))}
            )()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "Order", Straight)
        tiny.fit(model, tiny.prepared(rows), spec, folder)


def test_training_on_packed_rows_counts_examples_and_rows(tmp_path: Any) -> None:
    examples = tiny.examples(12)
    packs = [joined(examples[start : start + 3]) for start in range(0, 12, 3)]
    rows = _end_to_end(tiny.prepared(examples), train=packs)
    summary = tiny.fit(tiny.llama(), rows, tiny.recipe(num_steps=None, num_epochs=2.0, batch_size=2), tmp_path)
    assert (summary.num_steps, summary.num_examples_seen, summary.num_epochs) == (4, 24, 2.0)
    assert summary.num_tokens == 2 * sum(len(example.input_ids) for example in examples)
