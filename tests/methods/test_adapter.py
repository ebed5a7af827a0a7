from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
)

from harness.errors import ModelError
from harness.methods import attach, count_parameters
from harness.methods.adapter import target_layers, target_names
from harness.spec import FullConfig, LoraConfig, QLoraConfig
from tests.models.tiny import IDS, config, llama

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
LLAMA_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
LLAMA_MLP = {"gate_proj", "up_proj", "down_proj"}
ARCHITECTURES = {
    "llama": (config(), LLAMA_ATTENTION, LLAMA_MLP),
    "qwen2": (Qwen2Config(**SMALL, num_key_value_heads=2, intermediate_size=80), LLAMA_ATTENTION, LLAMA_MLP),
    "gemma3": (
        Gemma3TextConfig(**SMALL, num_key_value_heads=2, intermediate_size=80, head_dim=16),
        LLAMA_ATTENTION,
        LLAMA_MLP,
    ),
    "opt": (
        OPTConfig(**SMALL, ffn_dim=80, word_embed_proj_dim=48, max_position_embeddings=32),
        {"q_proj", "k_proj", "v_proj", "out_proj"},
        {"fc1", "fc2"},
    ),
    "gpt_neox": (
        GPTNeoXConfig(**SMALL, intermediate_size=80),
        {"query_key_value", "dense"},
        {"dense_h_to_4h", "dense_4h_to_h"},
    ),
    # Here both blocks have a layer called c_proj, so that last parts do not tell them apart.
    "gpt2": (GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=100), {"c_attn", "c_proj"}, {"c_fc", "c_proj"}),
}


def on_meta(configuration: PretrainedConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(configuration)


def lora(**changes: object) -> LoraConfig:
    return LoraConfig(**({"rank": 4, "alpha": 8.0, "target_modules": "all_linear"} | changes))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["attention", "mlp", "all_linear"])
def test_targets_of_each_architecture_are_the_layers_of_their_block(name: str, targets: str) -> None:
    configuration, attention, mlp = ARCHITECTURES[name]
    expected = {"attention": attention, "mlp": mlp, "all_linear": attention | mlp}[targets]
    model = on_meta(configuration)
    layers = target_layers(model, targets)
    assert {layer.rsplit(".", 1)[-1] for layer in layers} == expected
    tuned = attach(model, lora(target_modules=targets), seed=0)
    adapted = {layer.removeprefix("base_model.model.") for layer, m in tuned.named_modules() if hasattr(m, "lora_A")}
    assert adapted == set(layers)


def test_targets_are_named_by_their_last_part_where_that_suffices() -> None:
    model = on_meta(config())
    assert target_names(model, target_layers(model, "attention")) == sorted(LLAMA_ATTENTION)
    gpt2 = on_meta(ARCHITECTURES["gpt2"][0])
    assert target_names(gpt2, target_layers(gpt2, "mlp")) == [
        f"transformer.h.{layer}.mlp.{name}" for layer in (0, 1) for name in ("c_fc", "c_proj")
    ]


def test_targets_that_match_no_layer_are_refused() -> None:
    model = llama()
    for layer in model.model.layers:
        layer.mlp = torch.nn.Identity()
    with pytest.raises(ModelError, match=r"method\.target_modules is 'mlp', but must match.*k_proj, o_proj") as refusal:
        attach(model, lora(target_modules="mlp"), seed=0)
    assert "\n" not in str(refusal.value)


def test_rank_of_the_shortest_side_is_allowed_and_one_more_is_refused() -> None:
    attach(llama(), lora(rank=16), seed=0)  # k_proj has 2 heads x 8 outputs
    with pytest.raises(ModelError, match=r"method\.rank is 17, but must be at most 16, the shorter side of .*k_proj"):
        attach(llama(), lora(rank=17), seed=0)
    attach(llama(), lora(rank=17, target_modules="mlp"), seed=0)


@pytest.mark.parametrize(("scaling", "scale"), [("alpha_over_rank", 2.0), ("alpha_over_sqrt_rank", 8.0)])
def test_scale_of_the_adapter_is_what_is_added_to_the_output(scaling: str, scale: float) -> None:
    model = llama()
    tuned = attach(model, lora(rank=16, alpha=32.0, rank_scaling=scaling), seed=0)
    layer = tuned.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(second)
    inputs = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    added = layer(inputs) - layer.base_layer(inputs)
    # A sum of a few float32 numbers of size 10 in another order.
    torch.testing.assert_close(added, scale * (inputs @ first.T @ second.T), rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    tuned = attach(llama(), lora(dropout=0.5), seed=0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tuned.train()
    assert not torch.equal(tuned(IDS).logits, tuned(IDS).logits)
    tuned.eval()
    assert torch.equal(tuned(IDS).logits, tuned(IDS).logits)


def test_adapter_has_a_random_first_and_a_zero_second_matrix() -> None:
    tuned = attach(llama(), lora(), seed=0)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            assert bool(parameter.any()) == ("lora_A" in name)


def test_adapter_of_a_bfloat16_base_is_float32() -> None:
    tuned = attach(llama().to(torch.bfloat16), lora(), seed=0)
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in tuned.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_counts_leave_adapters_out_of_the_base_and_count_tied_weights_once() -> None:
    tied, untied = llama(), llama(tie_word_embeddings=False)
    base = count_parameters(attach(tied, FullConfig(), seed=0))
    assert base[0] == base[1] == sum(p.numel() for p in tied.parameters())
    assert count_parameters(untied)[1] == base[1] + 300 * 32
    trained = 2 * 4 * (32 + 32 + 2 * (32 + 16) + 32 + 32 + 3 * (32 + 44))
    assert count_parameters(attach(llama(), lora(), seed=0)) == (trained, base[1])


def test_qlora_on_a_full_precision_base_is_refused() -> None:
    with pytest.raises(ModelError, match="method is 'qlora', but the base is in full precision"):
        attach(llama(), QLoraConfig(rank=4, alpha=8.0, target_modules="all_linear"), seed=0)
