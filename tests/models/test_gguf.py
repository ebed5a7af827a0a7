from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from harness.errors import ModelError
from harness.models import inspect_folder, load_model, load_tokenizer
from harness.models.gguf import load_gguf_tokenizer, write_dequantised
from harness.spec import Quantisation
from tests.models.tiny import IDS, TEXT, VOCAB, llama, tokenizer
from tests.models.tiny_gguf import write_gguf

LIST = "Buy:\n\n1. ten\n\n2.  20 shells"


def digits_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer trained as SmolLM2's was: digits are cut off before words are, so that no merge crosses one."""
    core = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*TEXT, LIST] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|endoftext|>", eos_token="</s>")


def test_gguf_becomes_the_numbers_its_blocks_stand_for(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    stands_for = write_gguf(gguf, llama(), tokenizer(), "gpt-2")
    write_dequantised(gguf, tmp_path / "model")
    model = load_model(inspect_folder(tmp_path / "model"), "float32", "cpu")
    assert {name for name, _ in model.named_parameters()} == set(stands_for)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, torch.from_numpy(stands_for[name])), name


def test_gguf_model_can_be_trained_saved_and_quantised_again(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf, llama(), tokenizer(), "gpt-2")
    write_dequantised(gguf, tmp_path / "model")
    files = inspect_folder(tmp_path / "model")
    model = load_model(files, "float32", "cpu")
    model(IDS, labels=IDS).loss.backward()
    model.save_pretrained(tmp_path / "again")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, model(IDS).logits)
        load_model(files, "float32", "cpu", Quantisation(kind="nf4", double=True))(IDS)


@pytest.mark.parametrize("text", [*TEXT, LIST])
def test_gguf_tokenizer_cuts_as_the_original_does(tmp_path: Path, text: str) -> None:
    for name, original, split in (("plain", tokenizer(), "gpt-2"), ("digits", digits_tokenizer(), "smollm")):
        gguf = tmp_path / f"{name}.gguf"
        write_gguf(gguf, llama(), original, split)
        assert load_gguf_tokenizer(gguf)(text).input_ids == original(text).input_ids
        write_dequantised(gguf, tmp_path / name)
        assert load_tokenizer(inspect_folder(tmp_path / name))(text).input_ids == original(text).input_ids


def test_gguf_tokenizer_of_transformers_alone_cuts_otherwise(tmp_path: Path) -> None:
    # The trap. When this fails, transformers heeds tokenizer.ggml.pre and load_gguf_tokenizer need not.
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf, llama(), digits_tokenizer(), "smollm")
    bare = AutoTokenizer.from_pretrained(tmp_path, gguf_file=gguf.name)
    assert bare(LIST).input_ids != digits_tokenizer()(LIST).input_ids


def test_gguf_tokenizer_with_an_unknown_split_is_refused(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf, llama(), tokenizer(), "qwen2")
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.pre of tiny\.gguf is 'qwen2', but must be one of"):
        write_dequantised(gguf, tmp_path / "model")
