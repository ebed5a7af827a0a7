"""What processes that are gone left half written: files and artefacts that nothing will ever rename.

Invariant: only files of processes of this host that no longer exist are removed, only half-built artefacts whose lock
is free, and of a trial only what its attempts needed until its result was committed, so that it is safe at any time.
What does not live here: writing (store.py), what a trial left half built, which its next attempt replaces.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

from harness.errors import BusyError, DiskError
from harness.records.attempts import namespace, process_exists
from harness.records.result import RESULT
from harness.records.store import lock

_OWNER = re.compile(r"\.(\d+)@(.+)\.[^.]+\.tmp$")


def sweep(folder: Path) -> int:
    """Remove temporary files and folders without a writer from a folder, not from those below it; return how many."""
    if not folder.is_dir():
        return 0
    found = [path for path in folder.glob(".*.tmp") if _is_left(path)]
    with suppress(OSError):  # whoever has to write here will say what is wrong with the disk
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return len(found)


def _is_left(path: Path) -> bool:
    owner = _OWNER.search(path.name)
    return owner is not None and owner[2] == namespace() and not process_exists(int(owner[1]))


def sweep_finished(folder: Path) -> None:
    """Remove what a trial needed until its result was committed: checkpoints, and rows that stand in its tables."""
    if not (folder / RESULT).is_file():
        return
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    with suppress(OSError):
        (folder / "during.jsonl").unlink(missing_ok=True)


def sweep_store(root: Path) -> int:
    """Remove them from the folders of a store that belong to no single trial, with the half-built artefacts."""
    shared = [
        root,
        root / "trials",
        root / "claims",
        root / "probes",
        *root.glob("artefacts/*"),
        *root.glob("sweeps/*"),
    ]
    return sum(sweep(folder) for folder in shared) + sum(map(_sweep_building, root.glob("artefacts/*/.*.building")))


def _sweep_building(folder: Path) -> bool:
    """Remove a half-built artefact, unless its builder is at it."""
    with suppress(BusyError, DiskError), lock(folder.with_suffix(".lock"), wait=False):
        shutil.rmtree(folder, ignore_errors=True)
        return True
    return False
