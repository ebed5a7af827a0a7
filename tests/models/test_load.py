from __future__ import annotations

import json
import random
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.errors import ModelError
from harness.models import BaseFiles, inspect_folder, load_model, load_tokenizer, resolve_device
from tests.models.tiny import IDS, TEXT, llama, tokenizer


@pytest.mark.parametrize(
    ("dtype", "held"),
    [("float32", torch.float32), ("bfloat16_autocast", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_model_holds_its_weights_in_the_dtype_asked_for(tiny_files: BaseFiles, dtype: str, held: torch.dtype) -> None:
    model = load_model(tiny_files, dtype, "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {held}
    assert not model.training


def test_model_of_a_half_precision_checkpoint_is_widened_exactly(tmp_path: Path) -> None:
    saved = llama().to(torch.float16)
    saved.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load_model(inspect_folder(tmp_path), "float32", "cpu")
    for name, parameter in saved.named_parameters():
        assert torch.equal(parameter.float(), model.get_parameter(name))


def test_model_loaded_twice_is_the_same_and_draws_nothing(tiny_files: BaseFiles) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first, second = (load_model(tiny_files, "float32", "cpu") for _ in range(2))
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_model_has_no_cache_in_forward_but_generates_with_one(tiny_files: BaseFiles) -> None:
    model = load_model(tiny_files, "float32", "cpu")
    assert model(IDS).past_key_values is None
    generated = model.generate(IDS, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    assert generated.past_key_values is not None


def test_model_and_tokenizer_load_without_a_network(tiny_files: BaseFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_model(tiny_files, "float32", "cpu")
    assert load_tokenizer(tiny_files).decode(load_tokenizer(tiny_files)(TEXT[0]).input_ids) == TEXT[0]


def test_model_equals_a_plain_transformers_load(tiny_files: BaseFiles) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_files.folder)
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, load_model(tiny_files, "float32", "auto")(IDS).logits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_device_cuda_without_a_gpu_is_refused(tiny_files: BaseFiles) -> None:
    with pytest.raises(ModelError, match=r"runtime\.device is 'cuda', but must be 'cpu' or 'auto'"):
        load_model(tiny_files, "float32", "cuda")


def test_device_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu", "float32") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto", "float32") == "cuda:1"
    assert resolve_device("cpu", "float32") == "cpu"


def test_dtype_that_the_gpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old card")
    with pytest.raises(ModelError, match=r"train\.dtype is 'bfloat16', but must be 'float32' on an old card"):
        resolve_device("auto", "bfloat16")


@pytest.mark.parametrize("kind", ["t5", "no_such_architecture"])
def test_model_that_is_no_causal_language_model_is_refused(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"model_type": kind, "architectures": None}
    config.pop("architectures")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded") as refusal:
        load_model(inspect_folder(folder), "float32", "cpu")
    assert "\n" not in str(refusal.value)


def test_model_of_another_shape_than_its_config_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 48}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cannot be loaded|lack model\.layers"):
        load_model(inspect_folder(folder), "float32", "cpu")


def test_tokenizer_with_more_ids_than_embeddings_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    larger = tokenizer()
    larger.add_tokens(["<new>"])
    larger.save_pretrained(folder)
    with pytest.raises(ModelError, match="has id 300, but must stay below the model's vocab_size of 300"):
        load_tokenizer(inspect_folder(folder))


def test_tokenizer_that_is_damaged_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded"):
        load_tokenizer(inspect_folder(folder))
