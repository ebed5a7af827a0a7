"""What a model folder may say and hold, looked at before any library reads it. No torch here.

Invariant: from a folder that passed, no library runs code, loads a pickle, fetches a kernel or reads other files than
those that were hashed. What does not live here: that a folder is whole (files.py), what chat templates may do (they are
rendered in a sandbox; harness/data/bounds.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ModelError, shown

CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SETTINGS = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    ADAPTER_CONFIG,
)
_FETCHED = "compiled code that would be fetched from a hub, but must have none; remove it"
FORBIDDEN: Mapping[str, str] = {
    "auto_map": "code that would run on loading, but must have none; use an architecture that transformers knows",
    "megatron_config": "a module that would be imported on loading, but must have none; remove it",
    "custom_generate": "code that would run when it answers, but must have none; remove it",
    "transformers_weights": "other weights than those that are checked, but must not; name them model.safetensors",
    "quantization_config": "but a base must hold its full weights; dequantise and save it first (method qlora "
    "quantises by itself)",
    "use_kernels": _FETCHED,
    "kernel_config": _FETCHED,
}
"""Fields of a configuration, inner ones included, and what each would do."""
KERNELS = ("attn_implementation", "experts_implementation")
"""Fields, perhaps with a leading _, that name a piece of code: one of a hub has a / in its name."""
MAX_SETTINGS_BYTES = 64 * 2**20
MAX_TOKENIZER_BYTES = 512 * 2**20
MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file: the limit of its own library."""


def scan(folder: Path) -> None:
    """Refuse a folder with a setting that would run code or read from elsewhere.

    Raises:
        ModelError: it has one; the sentence names file and field.
    """
    for path in (folder / name for name in SETTINGS):
        if path.is_file():
            check_place(path, folder)
            _check_settings(path, read_json(path))


def scan_adapter(folder: Path) -> None:
    """Refuse an adapter with such a setting, or whose weights are not safetensors.

    Raises:
        ModelError: it is one.
    """
    scan(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no {ADAPTER_WEIGHTS}, but must: another form may run code on loading")


def _check_settings(path: Path, tree: dict[str, Any]) -> None:
    for name, value in _fields(tree):
        if name in FORBIDDEN and value:
            raise ModelError(f"{path} has {name}, {FORBIDDEN[name]}")
        if name.lstrip("_") in KERNELS and "/" in str(value):
            raise ModelError(f"{path} has {name} {shown(value)}, {_FETCHED}")


def _fields(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every field of a tree of objects with its value, however deep."""
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield from node.items()
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def check_place(path: Path, folder: Path) -> None:
    """Refuse a link that leaves its folder: what it reads ends in records. The hub's own cache is such links.

    Raises:
        ModelError: it is one.
    """
    if not path.is_symlink() and not path.parent.is_symlink():
        return
    home, target = folder.resolve(), path.resolve()
    allowed = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    if not any(target.is_relative_to(root) for root in allowed):
        raise ModelError(f"{path} is a link that leaves its folder, but must be a file in it; copy the file there")


def read_json(path: Path, max_bytes: int = MAX_SETTINGS_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ModelError: it is none, or larger than any model's.
    """
    if (size := path.stat().st_size) > max_bytes:
        raise ModelError(f"{path} has {size} bytes, but must have at most {max_bytes}; copy the model again")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); copy or download the model again") from error
    if not isinstance(tree, dict):
        raise ModelError(f"{path} holds {type(tree).__name__}, but must hold a JSON object; copy the model again")
    return tree
