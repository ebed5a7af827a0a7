"""Rows of added tokens under every method: trained, saved, merged, and at step 0 the base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers import AddedToken
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, OPTConfig, PhiConfig

from harness.errors import ModelError
from harness.methods import METHODS, attach, count_parameters, quantisation, save
from harness.models import BaseFiles, add_rows, inspect_folder, load_model, merge
from harness.spec import FullConfig, LoraConfig, MethodConfig, QLoraConfig
from harness.train import losses
from harness.train.batches import micro_batches
from harness.train.head import Head, tried
from tests.models.tiny import VOCAB, tokenizer, write_folder
from tests.train import tiny

ADAPTER = {"rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
CONFIGS: dict[str, MethodConfig] = {
    "full": FullConfig(),
    "lora": LoraConfig(**ADAPTER),
    "qlora": QLoraConfig(**ADAPTER),
}
MARKERS = ["<|user|>", "<|end|>"]
ADDED = (300, 301)
IDS = torch.tensor([[300, 5, 80, 99, 120, 301], [7, 300, 44, 299, 301, 2]])
every_method = pytest.mark.parametrize("kind", METHODS)
every_vocabulary = pytest.mark.parametrize(
    "shape",
    [{}, {"tie_word_embeddings": False}, {"vocab_size": 320}, {"vocab_size": 320, "tie_word_embeddings": False}],
    ids=["tied", "untied", "tied_padded", "untied_padded"],
)


def extended() -> Any:
    tok: Any = tokenizer()
    tok.add_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS], special_tokens=True)
    return tok


def loaded(folder: Path, kind: str, dtype: Any = "float32", **shape: Any) -> tuple[BaseFiles, Any]:
    """Return a base with rows for the added tokens."""
    if not folder.exists():
        write_folder(folder, **shape)
    files = inspect_folder(folder)
    model = load_model(files, dtype, "cpu", quantisation(CONFIGS[kind]))
    add_rows(model, extended(), ADDED)
    return files, model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def step(model: nn.Module) -> None:
    model.zero_grad()
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()


def tables(model: Any) -> list[torch.Tensor]:
    """Return embedding and output layer as the model reads them."""
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    return [layer.weight.detach().clone() for layer in layers]


@every_method
@every_vocabulary
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_method_at_step_0_gives_the_logits_of_the_base_with_rows_exactly(
    kind: str, shape: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    _, model = loaded(tmp_path / "base", kind, dtype, **shape)
    before = logits(model)
    assert torch.equal(logits(attach(model, CONFIGS[kind], seed=3, added=ADDED)), before)


@every_method
@every_vocabulary
def test_method_trains_the_rows_of_added_tokens_in_embedding_and_output_layer(
    kind: str, shape: dict[str, Any], tmp_path: Path
) -> None:
    _, model = loaded(tmp_path / "base", kind, **shape)
    tuned = attach(model, CONFIGS[kind], seed=0, added=ADDED)
    before = tables(tuned)
    step(tuned)
    for old, new in zip(before, tables(tuned), strict=True):
        moved = set((old != new).any(dim=1).nonzero().flatten().tolist())
        assert set(ADDED) <= moved
        assert kind == "full" or moved == set(ADDED)
    tied = "tie_word_embeddings" not in shape
    assert torch.equal(*tables(tuned)) == tied


@every_method
@every_vocabulary
def test_counts_have_the_rows_once_in_the_base_and_once_where_they_are_trained(
    kind: str, shape: dict[str, Any], tmp_path: Path
) -> None:
    _, model = loaded(tmp_path / "base", kind, **shape)
    _, plain = loaded(tmp_path / "base", "full", **shape)
    base = sum(parameter.numel() for parameter in plain.parameters())
    matrices = 2 if "tie_word_embeddings" in shape else 1
    adapters = 2 * 4 * (32 + 32 + 2 * (32 + 16) + 32 + 32 + 3 * (32 + 44))
    trained = base if kind == "full" else adapters + matrices * len(ADDED) * 32
    assert count_parameters(attach(model, CONFIGS[kind], seed=0, added=ADDED)) == (trained, base)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_adapter_starts_the_same_with_added_rows_and_without(kind: str, tmp_path: Path) -> None:
    starts = []
    for added in (ADDED, ()):
        _, model = loaded(tmp_path / "base", kind)
        tuned = attach(model, CONFIGS[kind], seed=5, added=added)
        starts.append({name: one.detach().clone() for name, one in tuned.named_parameters() if "lora_" in name})
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


@every_method
@every_vocabulary
def test_saved_weights_give_plain_libraries_the_same_logits(kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    files, model = loaded(tmp_path / "base", kind, **shape)
    tuned = attach(model, CONFIGS[kind], seed=0, added=ADDED)
    step(tuned)
    step(tuned)
    save(tuned, CONFIGS[kind], tmp_path / "weights", "all", extended(), (301, 1))
    assert GenerationConfig.from_pretrained(tmp_path / "weights").eos_token_id == [301, 1]
    if kind == "full":
        plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
        assert plain.config.vocab_size == shape.get("vocab_size", VOCAB + 2)
        assert plain.generation_config.eos_token_id == [301, 1]
    else:
        base: Any = load_model(files, "float32", "cpu", quantisation(CONFIGS[kind]))
        if len(base.get_input_embeddings().weight) < len(extended()):
            base.resize_token_embeddings(len(extended()))  # as peft's guide has it; the rows are the adapter's
        plain = PeftModel.from_pretrained(base, str(tmp_path / "weights"))
    assert torch.equal(logits(plain), logits(tuned))


@pytest.mark.parametrize("kind", ["lora", "qlora"])
@every_vocabulary
def test_merged_weights_hold_the_trained_rows_and_what_ends_an_answer(
    kind: str, shape: dict[str, Any], tmp_path: Path
) -> None:
    files, model = loaded(tmp_path / "base", kind, **shape)
    tuned = attach(model, CONFIGS[kind], seed=0, added=ADDED)
    step(tuned)
    step(tuned)
    save(tuned, CONFIGS[kind], tmp_path / "weights", "adapter", extended(), (301, 1))
    merge.write_merged(
        files, tmp_path / "weights", quantisation(CONFIGS[kind]), tmp_path / "weights", tmp_path / "merged"
    )
    merged = inspect_folder(tmp_path / "merged")
    assert merged.vocab_size == shape.get("vocab_size", VOCAB + 2)
    model = load_model(merged, "float32", "cpu")
    assert model.generation_config.eos_token_id == [301, 1]
    for table, trained in zip(tables(model), tables(tuned), strict=True):
        assert torch.equal(table[list(ADDED)], trained[list(ADDED)])
    # W + BA in one float32 matrix against two products added: a few units in the last place of logits of size 10
    torch.testing.assert_close(logits(model), logits(tuned), rtol=1e-4, atol=1e-4)


def test_position_embeddings_and_their_like_are_not_taken_for_the_embedding() -> None:
    config = OPTConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=302, ffn_dim=80, word_embed_proj_dim=48,
        max_position_embeddings=32,
    )  # fmt: skip
    tuned = attach(AutoModelForCausalLM.from_config(config), CONFIGS["lora"], seed=0, added=ADDED)
    rows = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad and "lora_" not in name]
    assert rows == ["base_model.model.model.decoder.embed_tokens.token_adapter.trainable_tokens_delta.default"]


def test_output_layer_with_a_bias_is_refused_under_an_adapter_and_trained_in_full() -> None:
    config = PhiConfig(hidden_size=32, intermediate_size=44, num_hidden_layers=1, num_attention_heads=4, vocab_size=302)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=r"data\.markers is 'tokens', but must be .* PhiForCausalLM has a bias") as no:
        attach(model, CONFIGS["lora"], seed=0, added=ADDED)
    assert "\n" not in str(no.value)
    attach(model, CONFIGS["lora"], seed=0)
    attach(model, CONFIGS["full"], seed=0, added=ADDED)


@pytest.mark.parametrize("tied", [True, False])
def test_output_layer_with_trained_rows_is_still_asked_for_loss_tokens_alone(tied: bool, tmp_path: Path) -> None:
    _, model = loaded(tmp_path / "base", "lora", tie_word_embeddings=tied)
    tuned = attach(model, CONFIGS["lora"], seed=0, added=ADDED)
    head = tried(tuned)
    assert head is Head.SELECTED
    rows = tiny.examples(4)
    unscaled = [row.weight_sums * 0.0 + 1.0 for row in rows]
    device = torch.device("cpu")
    (batch,) = micro_batches(rows, unscaled, 4, device, end_to_end=False)
    results = [losses.objective(tuned, batch, way)[0] for way in (head, Head.WHOLE)]
    # the same products over other rows
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
@pytest.mark.parametrize("tied", [True, False])
def test_resumed_training_of_added_rows_gives_the_same_bytes(kind: str, tied: bool, tmp_path: Path) -> None:
    from tests.train.test_resume import ROWS, SAVING, SPEC, interrupted, one_sample, outcome, undisturbed

    def build() -> nn.Module:
        _, model = loaded(tmp_path / "base", kind, tie_word_embeddings=tied)
        return attach(model, CONFIGS[kind], seed=0, added=ADDED)

    expected = undisturbed(build, tmp_path / "control")
    interrupted(build(), tmp_path / "run", SPEC, 8)
    model = build()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected
