"""A GGUF file turned into a plain model folder.

Invariant: every weight is the float32 number that the file's blocks stand for, and text is cut into the ids the model
was trained on. What does not live here: where the file comes from (harness/engine/fetch.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAITHFUL_SPLITS = frozenset({"gpt-2", "default"})
"""Values of `tokenizer.ggml.pre` whose word splitting transformers rebuilds faithfully."""


def write_dequantised(gguf: Path, folder: Path) -> None:
    """Write weights and tokenizer of a GGUF file as a float32 safetensors folder.

    Raises:
        ModelError: transformers does not read this file, or its tokenizer would be rebuilt wrongly.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        load_gguf_tokenizer(gguf).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            # otherwise the model counts as quantised, and refuses training and saving
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
        )
        model.save_pretrained(folder)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{gguf.name} cannot be read ({str(error).splitlines()[0][:200]})") from error


def load_gguf_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """Return a GGUF file's tokenizer, with the word splitting that the file names.

    transformers 5.23 ignores `tokenizer.ggml.pre`. For SmolLM2 that would leave out the splitting at digits: a line
    break pair before a digit, as in numbered lists, would become two tokens that the model never saw there.

    Raises:
        ModelError: the file names a splitting that is not known here.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    split = _split_name(gguf)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    if split == "smollm":
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    elif split not in FAITHFUL_SPLITS:
        known = ", ".join(sorted({*FAITHFUL_SPLITS, "smollm"}))
        raise ModelError(f"tokenizer.ggml.pre of {gguf.name} is {split!r}, but must be one of {known}; use safetensors")
    return tokenizer


def _split_name(gguf: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    return "default" if field is None else str(field.contents())
