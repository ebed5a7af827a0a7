from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import DiskError
from harness.methods import METHODS, attach, save
from harness.records.store import read_manifest, verify_manifest
from harness.spec import FullConfig, LoraConfig
from tests.models.tiny import IDS, llama, tokenizer

LORA = LoraConfig(rank=4, alpha=8.0, target_modules="attention")


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every trained weight moved off its start."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.01)
    return model.eval()


@pytest.mark.parametrize(
    ("config", "keep", "stays"),
    [
        (FullConfig(), "none", False),
        (FullConfig(), "adapter", False),
        (FullConfig(), "all", True),
        (LORA, "none", False),
        (LORA, "adapter", True),
        (LORA, "all", True),
    ],
)
def test_keep_decides_whether_weights_stay(
    config: FullConfig | LoraConfig, keep: str, stays: bool, tmp_path: Path
) -> None:
    save(attach(llama(), config, seed=0), config, tmp_path / "weights", keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["weights"] if stays else [])


def test_save_removes_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    for name in ("weights", ".weights.building"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stale.safetensors").write_bytes(b"x")
    model = attach(llama(), LORA, seed=0)
    save(model, LORA, tmp_path / "weights", "adapter")
    assert "stale.safetensors" not in verify_manifest(tmp_path / "weights")
    save(model, LORA, tmp_path / "weights", "none")
    assert not list(tmp_path.iterdir())


def test_full_weights_load_with_plain_transformers_and_generate(tmp_path: Path) -> None:
    tuned = moved(attach(llama(), FullConfig(), seed=0))
    tuned.config.use_cache = False
    with_template = tokenizer()
    with_template.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    save(tuned, FullConfig(), tmp_path / "weights", "all", with_template)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, tuned(IDS).logits)
    assert plain.config.use_cache is True
    assert tuned.config.use_cache is False
    assert AutoTokenizer.from_pretrained(tmp_path / "weights").chat_template == with_template.chat_template


def test_adapter_loads_with_plain_peft(tmp_path: Path) -> None:
    tuned = moved(attach(llama(), LORA, seed=0))
    save(tuned, LORA, tmp_path / "weights", "adapter")
    assert set(read_manifest(tmp_path / "weights")) == {"adapter_config.json", "adapter_model.safetensors"}
    plain = PeftModel.from_pretrained(llama(), str(tmp_path / "weights")).eval()
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, tuned(IDS).logits)


def test_adapter_bytes_do_not_depend_on_where_the_base_lay_or_on_the_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.methods import attach, save;"
        "from harness.spec import LoraConfig;"
        "from tests.models.tiny import llama; model = llama(); model.config._name_or_path = sys.argv[1];"
        "config = LoraConfig(rank=4, alpha=8.0, target_modules='all_linear');"
        "save(attach(model, config, seed=0), config, Path(sys.argv[1]), 'adapter')"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "here")],
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONHASHSEED": "1"},  # this process has another one
    )
    model = llama()
    model.config._name_or_path = str(tmp_path / "there")
    config = LoraConfig(rank=4, alpha=8.0, target_modules="all_linear")
    save(attach(model, config, seed=0), config, tmp_path / "there", "adapter")
    assert read_manifest(tmp_path / "here") == read_manifest(tmp_path / "there")
    written = json.loads((tmp_path / "here" / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(written["target_modules"])


def test_save_on_a_full_disk_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: torch.nn.Module, folder: Path) -> None:
        # The text is safetensors' own, from a full tmpfs.
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(METHODS["lora"], "write", full)
    with pytest.raises(DiskError, match="no space left to write"):
        save(attach(llama(), LORA, seed=0), LORA, tmp_path / "weights", "adapter")
    assert not (tmp_path / "weights").exists()
