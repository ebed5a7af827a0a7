from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness.errors import ModelError
from harness.models import describe_folder, files, inspect_folder
from harness.models.files import cached_sha256, verify_folder
from harness.records.store import file_sha256, write_manifest
from tests.models.tiny import llama, tokenizer, write_folder


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folder_whole_gives_hashes_context_and_vocabulary(folder: Path) -> None:
    files = inspect_folder(folder)
    weights = hashlib.sha256(file_sha256(folder / "model.safetensors").encode()).hexdigest()
    assert files.weights_sha256 == weights
    assert (files.context, files.vocab_size, files.has_chat_template) == (64, 300, False)


def test_folder_moved_keeps_its_hashes(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    first, second = describe_folder(folder), describe_folder(moved)
    assert first.content_sha256 == second.content_sha256
    assert first.path != second.path


def test_folder_with_a_readme_hashes_as_without(folder: Path) -> None:
    before = describe_folder(folder).content_sha256
    (folder / "README.md").write_text("hello")
    assert describe_folder(folder).content_sha256 == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_folder_with_other_settings_hashes_otherwise(folder: Path, name: str) -> None:
    before = describe_folder(folder).content_sha256
    edit_json(folder / name, note=1)
    assert describe_folder(folder).content_sha256 != before


def test_folder_with_other_weights_hashes_otherwise(folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", seed=1)
    first, second = inspect_folder(folder), inspect_folder(other)
    assert first.weights_sha256 != second.weights_sha256
    assert first.tokenizer_sha256 == second.tokenizer_sha256


def test_folder_in_shards_is_whole_until_one_is_missing(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path, max_shard_size="40KB")
    tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    inspect_folder(tmp_path)
    shards[-1].unlink()
    with pytest.raises(ModelError, match=re.escape(f"{shards[-1]} is missing")):
        inspect_folder(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, -1])
def test_folder_with_weights_cut_short_is_refused(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)] if isinstance(kept, float) else content[:kept])
    with pytest.raises(ModelError, match="copy or download it again") as refusal:
        inspect_folder(folder)
    assert "\n" not in str(refusal.value)


def test_folder_with_weights_too_long_is_refused(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelError, match="its header promises"):
        inspect_folder(folder)


def test_folder_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        inspect_folder(tmp_path / "nothing")


def test_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        inspect_folder(folder)


def test_folder_with_half_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(ModelError, match="not readable JSON"):
        inspect_folder(folder)


def test_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        inspect_folder(folder)


def test_folder_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        inspect_folder(folder)


def test_folder_with_pickled_weights_only_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, but must hold safetensors"):
        inspect_folder(folder)


def test_folder_of_an_adapter_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        inspect_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_folder_with_code_of_its_own_is_refused(folder: Path, name: str) -> None:
    edit_json(folder / name, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="auto_map"):
        inspect_folder(folder)


def test_folder_already_quantised_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="quantization_config"):
        inspect_folder(folder)


@pytest.mark.parametrize("form", ["file", "config"])
def test_folder_with_a_chat_template_says_so(folder: Path, form: str) -> None:
    if form == "file":
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    else:
        edit_json(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    assert inspect_folder(folder).has_chat_template


def test_manifest_flipped_byte_is_found_though_safetensors_loads_it(folder: Path) -> None:
    write_manifest(folder)
    verify_folder(folder, remedy="mend it")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    load_file(path)  # no complaint: the trap
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged.*mend it"):
        verify_folder(folder, remedy="mend it")


def test_manifest_missing_file_is_found(folder: Path) -> None:
    write_manifest(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        verify_folder(folder, remedy="mend it")


def test_cached_hash_follows_a_file_rewritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = cached_sha256(path)
    stamp = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size and time of modification
    assert cached_sha256(path) != first
    assert cached_sha256(path) == file_sha256(path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the names of the files whose bytes were hashed, in an empty cache folder."""
    names: list[str] = []
    monkeypatch.setattr(files, "file_sha256", lambda path: (names.append(path.name), file_sha256(path))[1])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return names


def planned_anew(path: Path) -> str:
    """Return what a fresh process would."""
    files._sha256_of_state.cache_clear()
    return files.planned_sha256(path)


def settled(path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 2.5) -> Path:
    """Let a file be so old for the clock that hashing looks at; its time of change cannot be set."""
    changed_ns = max(path.stat().st_ctime_ns, path.stat().st_mtime_ns)
    monkeypatch.setattr(files.time, "time_ns", lambda: changed_ns + int(seconds * 1e9))
    return path


def test_planned_hash_is_read_once_for_all_processes_until_the_file_changes(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    settled(path, monkeypatch)
    assert planned_anew(path) == planned_anew(path) == hashlib.sha256(b"one").hexdigest()
    assert reads == ["x"]
    stamp = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same inode, size and time of modification
    assert planned_anew(path) == hashlib.sha256(b"two").hexdigest()
    # What loads a folder reads the bytes, whatever is remembered.
    assert planned_anew(path) == cached_sha256(path)
    assert reads == ["x"] * 3


def test_planned_hash_of_a_fresh_file_is_not_remembered(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    settled(path, monkeypatch, seconds=1.9)
    assert planned_anew(path) == planned_anew(path)
    assert reads == ["x", "x"]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"null"])
def test_planned_hash_ignores_a_damaged_cache(
    content: bytes, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    settled(path, monkeypatch)
    expected = planned_anew(path)
    (entry,) = (tmp_path / "cache").rglob("*.json")
    for damage in (content, entry.read_bytes().replace(expected.encode(), b"Z" * 64)):
        entry.write_bytes(damage)
        assert planned_anew(path) == expected
    assert reads == ["x"] * 3


def test_planned_hash_needs_no_cache(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    settled(path, monkeypatch)
    (tmp_path / "cache").write_bytes(b"a file is in the way")
    assert planned_anew(path) == planned_anew(path) == hashlib.sha256(b"one").hexdigest()
    assert reads == ["x", "x"]


def test_folder_that_misses_a_tensor_passes_inspection_but_not_loading(folder: Path) -> None:
    from harness.models import load_model

    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(inspect_folder(folder), "float32", "cpu")


def test_description_of_a_folder_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.models import describe_folder; "
        f"describe_folder(Path({str(folder)!r})); "
        "assert not {'torch', 'transformers', 'peft', 'bitsandbytes'} & set(sys.modules), 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
