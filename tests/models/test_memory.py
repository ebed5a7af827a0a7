from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from harness.methods import attach, count_parameters
from harness.models import memory
from harness.spec import LoraConfig
from tests.models.tiny import config as tiny_config

GB = 1e9
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "llama": tiny_config(),
    "llama_untied": tiny_config(tie_word_embeddings=False),
    "llama_biased": tiny_config(attention_bias=True),
    "qwen2": Qwen2Config(**SMALL, vocab_size=200, intermediate_size=80),
    "qwen3": Qwen3Config(**SMALL, vocab_size=200, intermediate_size=80, head_dim=16),
    "gemma3": Gemma3TextConfig(**SMALL, vocab_size=200, intermediate_size=80, head_dim=16),
}


def on_meta(config: PretrainedConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_lora_of_llama_8b_counts_as_peft_counts_it() -> None:
    model = attach(on_meta(LLAMA_8B), LoraConfig(rank=16, alpha=32.0, target_modules="all_linear"), seed=0)
    trained, base = count_parameters(model)
    assert (trained, base) == (41_943_040, 8_030_261_248)
    assert round(100 * trained / base, 4) == 0.5223
    assert memory.lora_parameters(LLAMA_8B.to_dict(), 16, "all_linear") == trained
    assert memory.num_parameters(LLAMA_8B.to_dict()) == base


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_from_the_config_equal_those_of_the_model(name: str) -> None:
    config = CONFIGS[name]
    model = on_meta(config)
    assert memory.num_parameters(config.to_dict()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("targets", ["all_linear", "attention", "mlp"])
def test_lora_parameters_from_the_config_equal_those_of_peft(name: str, targets: str) -> None:
    config = CONFIGS[name]
    model = attach(on_meta(config), LoraConfig(rank=3, alpha=3.0, target_modules=targets), seed=0)
    assert memory.lora_parameters(config.to_dict(), 3, targets) == count_parameters(model)[0]


def test_parameters_of_an_unknown_architecture_are_unknown() -> None:
    config = {"model_type": "mamba", "hidden_size": 8, "vocab_size": 10}
    assert memory.num_parameters(config) is None
    assert memory.lora_parameters(config, 8, "all_linear") is None
    assert memory.largest_rank(config, "all_linear") is None


def test_largest_rank_is_the_shortest_side() -> None:
    assert memory.largest_rank(tiny_config().to_dict(), "all_linear") == 16  # k_proj: 2 heads of 8
    assert memory.largest_rank(tiny_config().to_dict(), "mlp") == 32


def test_scale_of_adapters() -> None:
    assert memory.lora_scale(32, 16) == 2.0
    assert memory.lora_scale(32, 16, "alpha_over_sqrt_rank") == 8.0


def test_memory_of_7b_weights_and_full_fine_tuning() -> None:
    assert memory.weight_bytes(7e9, 16) == 14 * GB
    assert memory.training_bytes(frozen_bytes=0, trained_parameters=7e9, precision="bfloat16") == 56 * GB
    assert memory.training_bytes(frozen_bytes=0, trained_parameters=70e9, precision="bfloat16") == 560 * GB
    assert memory.training_bytes(frozen_bytes=0, trained_parameters=7e9, precision="mixed") == 112 * GB


def test_memory_of_four_bit_weights() -> None:
    assert round(memory.four_bit_bits(double=True), 3) == 4.127
    assert memory.four_bit_bits(double=False) == 4.5
    assert round(memory.weight_bytes(7e9, memory.four_bit_bits(double=True)) / GB, 2) == 3.61


def test_memory_of_adapters_at_7b_is_about_that_of_the_frozen_base() -> None:
    # Worked example: LoRA and prompt tuning "about 14", QLoRA "about 6" GB. Rank 16 trains 40 M parameters of a Llama
    # 7 B; QLoRA's output layer and embedding, 0.26 B, stay in 16 bits; the rest up to 6 is left to activations.
    adapters = memory.lora_parameters(
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
        },
        16,
        "all_linear",
    )
    assert adapters == 39_976_960
    lora = memory.training_bytes(frozen_bytes=14 * GB, trained_parameters=adapters, precision="float32")
    prompt = memory.training_bytes(frozen_bytes=14 * GB, trained_parameters=20 * 4096, precision="float32")
    four_bit = memory.weight_bytes(6.74e9, memory.four_bit_bits(double=True)) + memory.weight_bytes(0.26e9, 16)
    qlora = memory.training_bytes(frozen_bytes=four_bit, trained_parameters=adapters, precision="float32")
    assert 14 <= lora / GB < 15
    assert round(prompt / GB, 1) == 14.0
    assert 4 < qlora / GB < 6
