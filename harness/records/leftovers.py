"""What processes that are gone left half written: temporary files that nothing will ever rename.

Invariant: only files of processes of this host that no longer exist are removed, so that it is safe at any time and
needs no lock. What does not live here: writing (store.py), half-built folders, which their builders replace.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.records.attempts import process_exists

_OWNER = re.compile(r"\.(\d+)@(.+)\.[^.]+\.tmp$")


def sweep(folder: Path) -> int:
    """Remove temporary files without a writer from a folder, not from those below it, and return their number."""
    if not folder.is_dir():
        return 0
    found = [path for path in folder.glob(".*.tmp") if _is_left(path)]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _is_left(path: Path) -> bool:
    owner = _OWNER.search(path.name)
    return owner is not None and owner[2] == os.uname().nodename and not process_exists(int(owner[1]))


def sweep_store(root: Path) -> int:
    """Remove them from the folders of a store that belong to no single trial."""
    shared = [root, root / "claims", root / "probes", *root.glob("artefacts/*"), *root.glob("sweeps/*")]
    return sum(sweep(folder) for folder in shared)
