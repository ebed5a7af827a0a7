"""Real but tiny model folders, written once a test session by transformers itself."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.seeding import preserved_rng

TEXT = [
    "Once upon a time there was a little girl who liked to play in the park.",
    "The capital of France is Paris, and 12 plus 7 is 19.",
    "A man and his dog went to the sea to look for shells.",
]
VOCAB = 300
IDS = torch.tensor([[5, 80, 99, 120, 200, 250, 31, 64], [7, 7, 44, 299, 1, 2, 150, 90]])


def config(**changes: object) -> LlamaConfig:
    """Return a Llama of 2 layers x 32 whose inner size, 44, suits no block of a 4-bit kernel."""
    plain = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.2,
    }
    return LlamaConfig(**(plain | changes))


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 300 ids."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|endoftext|>", eos_token="</s>")


def llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """Return a Llama with random weights, the same for a seed whatever ran before."""
    with preserved_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config(**changes)).eval()


def write_folder(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write weights and tokenizer as `save_pretrained` does and return the folder."""
    llama(seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
