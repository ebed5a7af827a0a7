"""The named points of a commit: where it can be cut short, and where a test puts a fault.

Invariant: passing one does nothing. No setting, file or variable of the environment changes that; only code that runs
in the same process can put another function in the place of `passing`. What does not live here: commits (store.py).
"""

from __future__ import annotations

from pathlib import Path

POINTS = (
    "lock.opened", "lock.held", "lock.freed",
    "temporary.made", "temporary.written", "temporary.synced",
    "replace.renamed", "replace.synced",
    "commit.linked", "commit.unlinked", "commit.synced",
    "append.opened", "append.written",
    "artefact.begun", "artefact.built", "artefact.sealed", "artefact.renamed",
)  # fmt: skip
"""Where a commit can be cut short: the step of this name has just been done."""


def passing(point: str, path: Path) -> None:
    """Stand at a point of `POINTS` on the way to a path. It does nothing; a test's process has another in its place."""
