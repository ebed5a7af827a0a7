"""Model folders that would run code or read from elsewhere: refused by one sentence, and nothing of them ran.

Each attack leaves a canary file where it succeeds. The same attack on a loader that trusts the folder must leave it:
otherwise its absence would show nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoTokenizer

from harness.errors import ModelError
from harness.models import files, inspect_folder, load_model, load_tokenizer, scan
from harness.models.merge import write_merged

EVIL = "from pathlib import Path\nPath({canary!r}).touch()\nfrom transformers import LlamaConfig, LlamaTokenizer\n"
CLASSES = "class EvilConfig(LlamaConfig):\n    model_type = 'evil'\nclass EvilTokenizer(LlamaTokenizer):\n    pass\n"


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "canary"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def load_all(folder: Path) -> None:
    """Load a folder as a trial does."""
    found = inspect_folder(folder)
    load_tokenizer(found)
    load_model(found, "float32", "cpu")


def with_code(folder: Path, canary: Path, name: str) -> None:
    (folder / "evil.py").write_text(EVIL.format(canary=str(canary)) + CLASSES)
    if name == "config.json":
        edit_json(folder / name, auto_map={"AutoConfig": "evil.EvilConfig"}, model_type="evil")
    else:
        edit_json(folder / name, auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]}, tokenizer_class="Evil")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_scan_refuses_code_before_it_runs(name: str, folder: Path, canary: Path) -> None:
    with_code(folder, canary, name)
    with pytest.raises(ModelError, match=r"has auto_map, code that would run on loading") as refusal:
        load_all(folder)
    assert "\n" not in str(refusal.value)
    assert not canary.exists()
    # The attack itself works where the folder is trusted.
    trusting = AutoConfig if name == "config.json" else AutoTokenizer
    trusting.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
    assert canary.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_scan_switched_off_leaves_loading_that_still_trusts_no_code(
    name: str, folder: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_code(folder, canary, name)
    monkeypatch.setattr(files, "scan", lambda folder: None)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_all(folder)
    assert not canary.exists()


def test_scan_of_pickles_reads_none(folder: Path, canary: Path) -> None:
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin"):
        torch.save({"weights": Touch(str(canary))}, folder / name)
    load_all(folder)  # they lie beside, and nothing reads them
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="a pickle runs code on loading"):
        load_all(folder)
    assert not canary.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert canary.exists()


def test_scan_of_an_adapter_reads_no_pickle(folder: Path, canary: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    torch.save({"weights": Touch(str(canary))}, adapter / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    edit_json(adapter / "adapter_config.json", **config)
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors"):
        write_merged(inspect_folder(folder), adapter, None, folder, tmp_path / "merged")
    edit_json(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil")
    with pytest.raises(ModelError, match="megatron_config, a module that would be imported"):
        write_merged(inspect_folder(folder), adapter, None, folder, tmp_path / "merged")
    assert not canary.exists()


def test_scan_refuses_an_adapter_beside_a_model_that_would_be_loaded_with_it(folder: Path, tmp_path: Path) -> None:
    found = inspect_folder(folder)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load_model(found, "float32", "cpu"), config).save_pretrained(tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, folder)
    with pytest.raises(ModelError, match=r"holds a model and adapter_config\.json"):
        inspect_folder(folder)
    # The library loads what was not hashed where the folder was not looked at again.
    assert any("lora_" in name for name, _ in load_model(found, "float32", "cpu").named_parameters())


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "evil.EvilConfig"}}}, "auto_map"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "other weights than those that are checked"),
        ("config.json", {"transformers_weights": "other.safetensors"}, "other weights than those that are checked"),
        ("config.json", {"text_config": {"quantization_config": {"quant_method": "gptq"}}}, "quantization_config"),
        ("config.json", {"_attn_implementation": "evil/kernels"}, "fetched from a hub"),
        ("config.json", {"attn_implementation": {"text_config": "evil/kernels"}}, "fetched from a hub"),
        ("config.json", {"use_kernels": True}, "fetched from a hub"),
        ("generation_config.json", {"custom_generate": "evil/generate"}, "code that would run when it answers"),
        ("tokenizer_config.json", {"inner": [{"auto_map": {"AutoTokenizer": "evil.Evil"}}]}, "auto_map"),
        ("special_tokens_map.json", {"auto_map": {"AutoTokenizer": "evil.Evil"}}, "auto_map"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../model.safetensors"}}, "must name files beside it"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/etc/passwd"}}, "must name files beside it"),
        ("model.safetensors.index.json", {"weight_map": ["a"]}, "must map tensors to files"),
    ],
)
def test_scan_refuses_settings_that_reach_out(
    name: str, changes: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "model.safetensors", tmp_path / "model.safetensors")
    edit_json(folder / name, **changes)
    with pytest.raises(ModelError, match=sentence) as refusal:
        inspect_folder(folder)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_scan_passes_ordinary_settings(folder: Path) -> None:
    edit_json(folder / "config.json", _attn_implementation="sdpa", auto_map={}, quantization_config=None)
    load_all(folder)


@pytest.mark.parametrize("changes", [{"auto_map": None}, {"hidden_size": "x"}, {"layer_types": 3}, {"rope_scaling": 1}])
def test_scan_leaves_senseless_settings_to_one_sentence_of_the_loader(changes: dict[str, Any], folder: Path) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=r"the (model|tokenizer) in .* cannot be loaded") as refusal:
        load_all(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"])
def test_scan_refuses_a_link_that_leaves_the_folder(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text((folder / name).read_text() if (folder / name).exists() else "{{ messages }}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="is a link that leaves its folder"):
        inspect_folder(folder)


def test_scan_passes_links_inside_a_folder_and_of_the_hub_cache(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").rename(folder / "kept.json")
    (folder / "config.json").symlink_to("kept.json")
    inspect_folder(folder)
    snapshot, blobs = tmp_path / "models--a--b/snapshots" / ("0" * 40), tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(path for path in folder.iterdir() if not path.is_symlink()):
        target = Path(shutil.move(path, blobs / str(number)))
        name = "config.json" if path.name == "kept.json" else path.name
        (snapshot / name).symlink_to(Path("../..") / "blobs" / target.name)
    inspect_folder(snapshot)
    inspect_folder(Path(shutil.copytree(snapshot, tmp_path / "copied")))


def test_scan_refuses_settings_too_large_or_too_deep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ModelError, match="is not readable JSON"):
        inspect_folder(folder)
    with (folder / "config.json").open("w") as stream:
        stream.truncate(scan.MAX_SETTINGS_BYTES + 1)
    with pytest.raises(ModelError, match="but must have at most"):
        inspect_folder(folder)
    (folder / "config.json").write_text(whole)
    monkeypatch.setattr(files, "MAX_TOKENIZER_BYTES", 10)
    with pytest.raises(ModelError, match="but must have at most 10"):
        inspect_folder(folder)
