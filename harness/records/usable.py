"""Whether an output folder can hold records at all: asked before anything is computed.

Invariant: it leaves nothing behind; after a kill the next start removes it (leftovers.py). What does not live here:
writing, committing and locking (store.py).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.errors import DiskError
from harness.records.attempts import namespace
from harness.records.store import commit_once, lock


def check(root: Path) -> None:
    """Refuse an output folder in which nothing could be written, locked or committed.

    Raises:
        DiskError: it cannot be made or written, is full, or its file system lacks hard links or locks.
    """
    prefix = f".check.{os.getpid()}@{namespace()}."  # by which leftovers.py knows whose it is
    try:
        root.mkdir(parents=True, exist_ok=True)
        for place in (root, *root.glob("trials")):
            with tempfile.TemporaryDirectory(".tmp", prefix, place, ignore_cleanup_errors=True) as folder:
                commit_once(Path(folder) / "result.json", b"{}")
                with lock(Path(folder) / ".lock", wait=False):
                    pass
    except OSError as error:
        raise DiskError(
            f"OUT is {str(root)!r}, but must be a folder that can be written and locked ({error.strerror})."
        ) from error
