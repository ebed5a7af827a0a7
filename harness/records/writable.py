"""Whether an output folder can be written, asked before anything is computed.

Invariant: what it creates is the folder alone. What does not live here: writing records (store.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.errors import DiskError


def check_writable(root: Path) -> None:
    """Refuse an output folder that cannot be written.

    Raises:
        DiskError: it cannot be made or written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise DiskError(
            f"OUT is {str(root)!r}, but must be a folder that can be written ({error.strerror})."
        ) from error
