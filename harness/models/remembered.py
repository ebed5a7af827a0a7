"""Hashes of files that an earlier process read, in the user's cache folder: a plan need not read weights again.

    $XDG_CACHE_HOME or ~/.cache / sft-ablation-harness / sha256 / <hash of the path>.json

Invariant: a remembered hash is used only for the same inode, size and times, and was taken at least 2 s after the last
of these times, so that no write in the same tick of the clock is missed. A plan alone uses it; a trial reads the bytes.
What does not live here: what is hashed (files.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from harness.errors import HarnessError
from harness.records.store import write_atomic

APPLICATION = "sft-ablation-harness"
SETTLED_NS = 2_000_000_000


def sha256_of(path: Path, hashed: Callable[[Path], tuple[str, int]]) -> str:
    """Return a file's sha256, computed only where no earlier process remembered it.

    Args:
        path: the file.
        hashed: gives its sha256, and when that was begun, in nanoseconds since 1970.
    """
    state = _state(path)
    entry = _entry(path)
    if entry is not None and (held := _read(entry, state)) is not None:
        return held
    digest, started_ns = hashed(path)
    settled = started_ns - max(state["modified_ns"], state["changed_ns"]) >= SETTLED_NS
    if entry is not None and settled and _state(path) == state:
        with contextlib.suppress(OSError, HarnessError):
            write_atomic(entry, json.dumps(state | {"sha256": digest}).encode(), durable=False)
    return digest


def _state(path: Path) -> dict[str, int]:
    state = path.stat()
    return {
        "device": state.st_dev,
        "inode": state.st_ino,
        "size": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "changed_ns": state.st_ctime_ns,
    }


def _entry(path: Path) -> Path | None:
    """Return where a file's hash is remembered, or None without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / APPLICATION / "sha256" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"


def _read(entry: Path, state: dict[str, int]) -> str | None:
    """Return the hash remembered for this state of a file; a damaged entry is none."""
    try:
        held = json.loads(entry.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(held, dict) or {name: held.get(name) for name in state} != state:
        return None
    digest = held.get("sha256")
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None
