"""What a model folder must hold, and the hashes of what it holds. No torch here.

Invariant: a folder is either whole - configuration, safetensors weights of the size their headers promise, tokenizer -
or refused in one sentence. Weights in pickled form are refused: they execute on loading. What does not live here: what
its settings may say (scan.py), which folder belongs to a base (locate.py).
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import ModelError, StoreError, shown
from harness.models import remembered
from harness.models.scan import (
    ADAPTER_CONFIG,
    CONFIG,
    MAX_HEADER_BYTES,
    MAX_TOKENIZER_BYTES,
    check_place,
    read_json,
    scan,
)
from harness.records.store import file_sha256, read_manifest
from harness.spec import FolderBase

GENERATION = "generation_config.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# Any one of these makes a tokenizer; the others refine it.
TOKENIZER_MODELS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
TOKENIZER_FILES = (
    *TOKENIZER_MODELS,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True)
class BaseFiles:
    """A base on disk, checked."""

    folder: Path
    """Configuration and weights."""
    tokenizer_folder: Path
    """Usually the same; another one where a trained model was saved without its tokenizer."""
    weights_sha256: str
    """Of the sorted sha256 of the safetensors files: file names do not count."""
    tokenizer_sha256: str
    """Of the tokenizer's files, names included."""
    context: int | None
    """Longest sequence the model was built for, in tokens; None where its configuration does not say."""
    vocab_size: int
    has_chat_template: bool


def inspect_folder(
    folder: Path, *, tokenizer_folder: Path | None = None, sha256_of: Callable[[Path], str] | None = None
) -> BaseFiles:
    """Check a model folder and hash it.

    Args:
        folder: configuration and weights.
        tokenizer_folder: where the tokenizer lies, if elsewhere.
        sha256_of: gives a file's hash; by default its bytes are read, once a process.

    Raises:
        ModelError: something is missing, half-written, or would execute code on loading; the sentence names the file.
    """
    tokenizer_folder = tokenizer_folder or folder
    config = _read_config(folder)
    sha256_of = sha256_of or cached_sha256
    hashes = [sha256_of(path) for path in weight_files(folder)]
    _refuse_adapter(folder)
    scan(tokenizer_folder)
    tokenizers = tokenizer_files(tokenizer_folder)
    return BaseFiles(
        folder=folder,
        tokenizer_folder=tokenizer_folder,
        weights_sha256=_sha256_of_lines(sorted(hashes)),
        tokenizer_sha256=_sha256_of_lines(f"{path.name} {sha256_of(path)}" for path in tokenizers),
        context=next((config[field] for field in CONTEXT_FIELDS if isinstance(config.get(field), int)), None),
        vocab_size=config["vocab_size"],
        has_chat_template=_has_chat_template(tokenizers),
    )


def describe_folder(path: Path) -> FolderBase:
    """Return the reference of a local folder: the hash of every file that bears on results.

    Hashes that an earlier process took will do: whoever loads the folder compares its bytes with the reference.

    Raises:
        ModelError: the folder is missing or not a whole model.
    """
    inspect_folder(path, sha256_of=planned_sha256)
    return FolderBase(content_sha256=content_sha256(path, planned_sha256), path=str(path.resolve()))


def content_sha256(folder: Path, sha256_of: Callable[[Path], str] | None = None) -> str:
    """Return the hash of a folder's configuration, weights and tokenizer files, names included."""
    sha256_of = sha256_of or cached_sha256
    settings = [path for name in (CONFIG, GENERATION) if (path := folder / name).is_file()]
    files = sorted({*settings, *weight_files(folder), *tokenizer_files(folder)})
    return _sha256_of_lines(f"{path.name} {sha256_of(path)}" for path in files)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, each checked to be as long as its header says.

    Raises:
        ModelError: there are none, one is missing, or one is half-written.
    """
    index = folder / WEIGHTS_INDEX
    shards = _weight_map(index).values() if index.is_file() else [SINGLE_WEIGHTS]
    names = sorted({str(name) for name in shards})
    if outside := next((name for name in names if Path(name).name != name), None):
        raise ModelError(f"{index} names {shown(outside)}, but must name files beside it; copy the model again")
    if not names or not (folder / names[0]).is_file():
        raise ModelError(_no_weights(folder))
    paths = [folder / name for name in names]
    for path in paths:
        check_safetensors(path)
    return paths


def _refuse_adapter(folder: Path) -> None:
    """Refuse a model with an adapter beside it: the library would load that as well, though it was not hashed."""
    if (folder / ADAPTER_CONFIG).exists():
        raise ModelError(
            f"{folder} holds a model and {ADAPTER_CONFIG}, but must hold a model alone: the adapter would be loaded "
            "with it; move it away, or merge it and save the whole"
        )


def _weight_map(index: Path) -> dict[str, Any]:
    found = read_json(index).get("weight_map", {})
    if not isinstance(found, dict):
        raise ModelError(f"{index} has weight_map {shown(found)}, but must map tensors to files; copy the model again")
    return found


def _no_weights(folder: Path) -> str:
    if (folder / ADAPTER_CONFIG).is_file():
        return f"{folder} holds an adapter, but must hold a whole model; merge it into its base and save that"
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        return (
            f"{folder} holds its weights as {pickled[0]}, but must hold safetensors (a pickle runs code on loading); "
            "load it where you trust it and save it again with save_pretrained"
        )
    return f"{folder} holds no {SINGLE_WEIGHTS}, but must hold a whole model; copy or download it again"


def check_safetensors(path: Path) -> None:
    """Check that a safetensors file is there and has exactly the length its header promises.

    Raises:
        ModelError: it is missing, cut short, or no safetensors file.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing, but {WEIGHTS_INDEX} names it; copy or download the model again")
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            is_header = header_bytes < min(size, MAX_HEADER_BYTES)
            header = json.loads(stream.read(header_bytes)) if is_header else {}
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} has no readable safetensors header ({error}); copy or download it again") from error
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected or not ends:
        raise ModelError(f"{path} has {size} bytes, but its header promises {expected}; copy or download it again")


def tokenizer_files(folder: Path) -> list[Path]:
    """Return a folder's tokenizer files.

    Raises:
        ModelError: there is no tokenizer.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_MODELS):
        raise ModelError(
            f"{folder} holds no tokenizer, but must hold one of {', '.join(TOKENIZER_MODELS)}; "
            "save the tokenizer beside the weights with save_pretrained"
        )
    named = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    files = sorted([*named, *(folder / "chat_templates").glob("*.jinja")])
    for path in files:
        check_place(path, folder)
        if (size := path.stat().st_size) > MAX_TOKENIZER_BYTES:
            raise ModelError(f"{path} has {size} bytes, but must have at most {MAX_TOKENIZER_BYTES}; copy it again")
    return files


def _has_chat_template(files: list[Path]) -> bool:
    if any(path.name.startswith("chat_template") for path in files):
        return True
    return any(path.name == "tokenizer_config.json" and read_json(path).get("chat_template") for path in files)


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder, but must be one that holds a model; check the path")
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} holds no {CONFIG}, but must hold a whole model; copy or download it again")
    scan(folder)
    config = read_json(folder / CONFIG)
    inner = config.get("text_config")  # multimodal configurations nest the language model's
    config = {**config, **(inner if isinstance(inner, dict) else {})}
    if not isinstance(config.get("vocab_size"), int):
        raise ModelError(f"{folder / CONFIG} has no vocab_size, but must describe a causal language model")
    return config


def verify_folder(folder: Path, *, remedy: str) -> None:
    """Check every file of an artefact against its manifest; files that were checked before and not touched are quick.

    Raises:
        ModelError: the manifest or a file is missing or damaged; the sentence names it and ends with `remedy`.
    """
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        raise ModelError(f"{error}; {remedy}") from error
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path} is missing, but the manifest names it; {remedy}")
        if cached_sha256(path) != expected:
            raise ModelError(f"{path} is damaged: its sha256 is not the one in the manifest; {remedy}")


def cached_sha256(path: Path) -> str:
    """Return a file's sha256, computed once a process for the same size, times and inode."""
    return _cached(path)[0]


def planned_sha256(path: Path) -> str:
    """Return a file's sha256 as `cached_sha256` does, or as an earlier process remembered it."""
    return remembered.sha256_of(path, _cached)


def _cached(path: Path) -> tuple[str, int]:
    state = path.stat()
    return _sha256_of_state(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=4096)
def _sha256_of_state(path: Path, inode: int, size: int, modified_ns: int, changed_ns: int) -> tuple[str, int]:
    """Return the hash and when it was begun, in nanoseconds since 1970."""
    started_ns = time.time_ns()
    return file_sha256(path), started_ns


def _sha256_of_lines(lines: Any) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
