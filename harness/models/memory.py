"""Parameters and bytes, from a configuration alone. No torch here.

Shapes: hidden H, intermediate I, query heads Q, key-value heads K, head size D, layers L, vocabulary V. Gigabytes are
10^9 bytes. Invariant: an architecture that is not known here gives None, never a guess. What does not live here:
activations, which depend on batch and length, and seconds (harness/engine).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

Targets = Literal["all_linear", "attention", "mlp"]

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LAYERS = ("gate_proj", "up_proj", "down_proj")
LLAMA_LIKE = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma3_text", "smollm3"})

# Per trained parameter: gradient and two Adam moments; "mixed" keeps a float32 master copy and float32 moments beside
# bfloat16 weights and gradient (Rajbhandari et al., arXiv:1910.02054, section 3.1).
STATE_BYTES = {"bfloat16": 3 * 2, "mixed": 2 + 3 * 4, "float32": 3 * 4}
WEIGHT_BITS = {"bfloat16": 16.0, "mixed": 16.0, "float32": 32.0}


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]] | None:
    """Return (outputs, inputs) of each linear layer of one decoder layer, or None for an unknown architecture."""
    if config.get("model_type") not in LLAMA_LIKE:
        return None
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_size = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_size, (config.get("num_key_value_heads") or heads) * head_size
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }


def linear_parameters(config: Mapping[str, Any]) -> int | None:
    """Return the number of weights in the linear layers of all decoder layers: what 4-bit loading quantises."""
    shapes = linear_shapes(config)
    if shapes is None:
        return None
    return config["num_hidden_layers"] * sum(outputs * inputs for outputs, inputs in shapes.values())


def embedding_parameters(config: Mapping[str, Any]) -> int:
    """Return the number of weights in the embedding and, unless tied to it, the output layer."""
    matrices = 1 if config.get("tie_word_embeddings") else 2
    return matrices * config["vocab_size"] * config["hidden_size"]


def num_parameters(config: Mapping[str, Any]) -> int | None:
    """Return a model's parameters, norms and biases included, or None for an unknown architecture."""
    shapes, linear = linear_shapes(config), linear_parameters(config)
    if shapes is None or linear is None:
        return None
    kind, hidden = config["model_type"], config["hidden_size"]
    head_size = config.get("head_dim") or hidden // config["num_attention_heads"]
    norms = (4 if kind == "gemma3_text" else 2) * hidden + (2 * head_size if kind in ("gemma3_text", "qwen3") else 0)
    has_biases = kind == "qwen2" or config.get("attention_bias")
    biases = sum(shapes[name][0] for name in ATTENTION_LAYERS[: 3 if kind == "qwen2" else 4]) if has_biases else 0
    return linear + embedding_parameters(config) + config["num_hidden_layers"] * (norms + biases) + hidden


def lora_parameters(config: Mapping[str, Any], rank: int, targets: Targets) -> int | None:
    """Return the parameters that low-rank adapters add: rank x (inputs + outputs) for each adapted layer.

    Source: Hu et al., arXiv:2106.09685, section 4.1.
    """
    shapes = linear_shapes(config)
    if shapes is None:
        return None
    names = {"attention": ATTENTION_LAYERS, "mlp": MLP_LAYERS, "all_linear": ATTENTION_LAYERS + MLP_LAYERS}[targets]
    return config["num_hidden_layers"] * rank * sum(sum(shapes[name]) for name in names)


def largest_rank(config: Mapping[str, Any], targets: Targets) -> int | None:
    """Return the highest rank that means something: the shortest side of any adapted layer."""
    shapes = linear_shapes(config)
    if shapes is None:
        return None
    names = {"attention": ATTENTION_LAYERS, "mlp": MLP_LAYERS, "all_linear": ATTENTION_LAYERS + MLP_LAYERS}[targets]
    return min(min(shapes[name]) for name in names)


def lora_scale(
    alpha: float, rank: int, rank_scaling: Literal["alpha_over_rank", "alpha_over_sqrt_rank"] = "alpha_over_rank"
) -> float:
    """Return the factor on the adapter's product.

    Source: Hu et al., arXiv:2106.09685, section 4.1; with the square root Kalajdzievski, arXiv:2312.03732.
    """
    return alpha / (rank if rank_scaling == "alpha_over_rank" else math.sqrt(rank))


def four_bit_bits(*, double: bool, block: int = 64, outer_block: int = 256) -> float:
    """Return the bits a 4-bit weight takes with its share of scales: 4 + 32/64, or 4 + 8/64 + 32/(64 x 256) doubly.

    Source: Dettmers et al., arXiv:2305.14314, section 3.
    """
    return 4 + (8 / block + 32 / (block * outer_block) if double else 32 / block)


def weight_bytes(parameters: float, bits: float) -> float:
    """Return the bytes of weights held at so many bits each."""
    return parameters * bits / 8


def training_bytes(
    *, frozen_bytes: float, trained_parameters: float, precision: Literal["bfloat16", "mixed", "float32"]
) -> float:
    """Return the bytes held while training, activations left out.

    Args:
        frozen_bytes: the weights that are not trained, as they are held.
        trained_parameters: number of weights that are.
        precision: of the trained ones, with their gradient and the optimizer's two moments.
    """
    return frozen_bytes + trained_parameters * (WEIGHT_BITS[precision] / 8 + STATE_BYTES[precision])
