"""Rows for tokens that a tokenizer was given: where they begin, and what stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PhiConfig

from harness.models import add_rows, inspect_folder, load_model
from harness.seeding import preserved_rng
from harness.spec import Quantisation
from tests.models.tiny import IDS, VOCAB, llama, tokenizer, write_folder

MARKERS = ["<|user|>", "<|assistant|>", "<|end|>"]
ADDED = (300, 301, 302)


def extended() -> Any:
    tok: Any = tokenizer()
    assert len(tok) == VOCAB
    tok.add_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS], special_tokens=True)
    return tok


def matrices(model: Any) -> list[torch.Tensor]:
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [embedding] if output is embedding else [embedding, output]


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_beyond_the_vocabulary_are_added_as_the_mean_of_all_others(tied: bool, dtype: torch.dtype) -> None:
    model: Any = llama(tie_word_embeddings=tied)
    model = model.to(dtype)
    before, expected = [weight.detach().clone() for weight in matrices(model)], logits(model)
    state = torch.get_rng_state()
    add_rows(model, extended(), ADDED)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(matrices(model)) == len(before) == (1 if tied else 2)
    for weight, old in zip(matrices(model), before, strict=True):
        mean = (old.double().sum(0) / VOCAB).to(dtype)
        assert torch.equal(weight[:VOCAB], old)
        assert torch.equal(weight[VOCAB:], mean.expand(3, -1))
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == VOCAB + 3
    written = logits(model)
    assert written.shape[-1] == VOCAB + 3
    # a product with three more columns may be summed in another order
    torch.testing.assert_close(written[..., :VOCAB], expected)


@pytest.mark.parametrize("tied", [True, False])
def test_unused_rows_of_a_padded_vocabulary_are_taken_and_nothing_grows(tied: bool) -> None:
    model = llama(vocab_size=320, tie_word_embeddings=tied)
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    before = [weight.detach().clone() for weight in matrices(model)]
    add_rows(model, extended(), ADDED)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    assert model.config.vocab_size == 320
    for weight, old in zip(matrices(model), before, strict=True):
        kept = [row for row in range(320) if row not in ADDED]
        assert torch.equal(weight[kept], old[kept])
        # of the 300 tokens, not of the 320 rows
        assert torch.equal(weight[list(ADDED)], (old[:VOCAB].double().sum(0) / VOCAB).float().expand(3, -1))


def test_vocabulary_with_too_few_unused_rows_grows_by_those_that_lack() -> None:
    model = llama(vocab_size=302)
    add_rows(model, extended(), ADDED)
    (weight,) = matrices(model)
    assert len(weight) == model.config.vocab_size == 303
    assert torch.equal(weight[300], weight[302])


def test_without_added_tokens_the_model_is_untouched() -> None:
    model = llama()
    before = {name: (id(one), one.detach().clone()) for name, one in model.named_parameters()}
    add_rows(model, tokenizer(), ())
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_bias_of_an_output_layer_has_a_mean_too() -> None:
    config = PhiConfig(hidden_size=32, intermediate_size=44, num_hidden_layers=1, num_attention_heads=4, vocab_size=300)
    with preserved_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.lm_head.bias.data = torch.arange(300.0)
    add_rows(model, extended(), ADDED)
    assert model.lm_head.bias[298:].tolist() == [298.0, 299.0, 149.5, 149.5, 149.5]


def test_embedding_that_scales_what_it_reads_stays_of_its_kind() -> None:
    config = Gemma3TextConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=44,
        head_dim=8, vocab_size=300,
    )  # fmt: skip
    with preserved_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    kind, expected = type(model.get_input_embeddings()), logits(model)
    assert kind is not nn.Embedding
    add_rows(model, extended(), ADDED)
    assert type(model.get_input_embeddings()) is kind
    torch.testing.assert_close(logits(model)[..., :VOCAB], expected)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("tied", [True, False])
def test_base_in_four_bits_gets_its_rows_in_full_precision(tied: bool, tmp_path: Path) -> None:
    files = inspect_folder(write_folder(tmp_path / "base", tie_word_embeddings=tied))
    model = load_model(files, "float32", "cpu", Quantisation(kind="nf4", double=True))
    expected = logits(model)
    add_rows(model, extended(), ADDED)
    assert {weight.dtype for weight in matrices(model)} == {torch.float32}
    assert len(matrices(model)) == (1 if tied else 2)
    torch.testing.assert_close(logits(model)[..., :VOCAB], expected)
    plain = load_model(files, "float32", "cpu")
    add_rows(plain, extended(), ADDED)
    for weight, other in zip(matrices(model), matrices(plain), strict=True):
        assert torch.equal(weight, other)


def test_model_with_added_rows_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    model = llama()
    add_rows(model, extended(), ADDED)
    model.save_pretrained(tmp_path)
    extended().save_pretrained(tmp_path)
    files = inspect_folder(tmp_path)
    assert files.vocab_size == 303
    assert torch.equal(logits(load_model(files, "float32", "cpu")), logits(model))
