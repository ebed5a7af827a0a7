"""A GGUF file written from a tiny Llama, as llama.cpp lays it out."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}


def write_gguf(
    path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, split: str
) -> dict[str, np.ndarray]:
    """Write a model whose matrices are in Q4_1, and return the float32 numbers that its blocks stand for."""
    writer = gguf.GGUFWriter(path, "llama")
    _write_settings(writer, model)
    _write_tokenizer(writer, tokenizer, split)
    stands_for = {}
    for name, parameter in model.named_parameters():
        weights = parameter.detach().numpy()
        rotary = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
        heads = [getattr(model.config, count) for part, count in rotary.items() if part in name]
        stored = _interleave(weights, heads[0]) if heads else weights
        quantise = weights.ndim == 2 and weights.shape[1] % 32 == 0
        if quantise:
            blocks = gguf.quants.quantize(stored, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(_name(name), blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
            stored = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(_name(name), stored)
        stands_for[name] = _uninterleave(stored, heads[0]) if heads else stored
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}"


def _interleave(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps the two halves of each head's rotary dimensions interleaved."""
    half = weights.shape[0] // heads // 2
    return np.ascontiguousarray(weights.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weights.shape))


def _uninterleave(weights: np.ndarray, heads: int) -> np.ndarray:
    half = weights.shape[0] // heads // 2
    return np.ascontiguousarray(weights.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weights.shape))


def _write_settings(writer: gguf.GGUFWriter, model: LlamaForCausalLM) -> None:
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, split: str) -> None:
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"] for token in core["added_tokens"]}
    vocabulary = sorted(core["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for _, i in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
