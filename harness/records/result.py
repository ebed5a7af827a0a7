"""Committing a trial: the one place that writes `result.json`.

Invariant: every file the result names was fsynced and hashed before the result appears; the first commit of a trial
wins and a later one changes nothing. What does not live here: computing anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import StoreError
from harness.records.schema import RESULT_FILES, Failure, TrialResult
from harness.records.seal import sealed
from harness.records.store import Store, commit_once, file_sha256, set_aside

RESULT = "result.json"
FAILURE = "failure.json"
LARGE_BYTES = 16 * 2**20
"""Files above are checked where they are read, not at every launch."""


def commit(folder: Path, result: TrialResult) -> TrialResult:
    """Commit a trial's result and return the one that stands.

    Args:
        folder: the trial's folder, holding the files named in `RESULT_FILES` that exist.
        result: the result without `files`, which are hashed here.

    Raises:
        DiskError: the disk is full or read-only.
        StoreError: a result committed earlier is damaged.
    """
    complete = result.model_copy(update={"files": _hash_files(folder)})
    if commit_once(folder / RESULT, sealed(complete)):
        (folder / FAILURE).unlink(missing_ok=True)
        return complete
    standing = read(folder)
    if standing is None:
        raise StoreError(f"{folder / RESULT} vanished while it was committed; run the same command again")
    return standing


def read(folder: Path) -> TrialResult | None:
    """Return a trial's committed result, or None where there is none.

    Raises:
        StoreError: it is damaged, or another trial's.
    """
    found = Store(folder.parents[1]).read(folder / RESULT, TrialResult)
    if found is not None and found.trial_id != folder.name:
        raise StoreError(f"{folder / RESULT} is damaged: it is the result of trial {found.trial_id[:12]}")
    return found


def read_failure(folder: Path) -> Failure | None:
    """Return the latest failure of a trial without a result, or None."""
    return Store(folder.parents[1]).read(folder / FAILURE, Failure)


def verify(folder: Path, result: TrialResult) -> None:
    """Check that every file a result names is there unchanged.

    Raises:
        StoreError: a file is missing or damaged; the sentence names it.
    """
    for name in result.files:
        if not (folder / name).is_file():
            raise StoreError(f"{folder / name} is missing though {RESULT} names it")
    if changed := _changed(folder, result, list(result.files)):
        raise _damaged(changed[0])


def verify_small(folder: Path, result: TrialResult) -> None:
    """Check the files of up to `LARGE_BYTES` that a result names, as far as they are still there.

    Weights may be deleted to free the disk; what is left must be what was committed.

    Raises:
        StoreError: a file is damaged; the sentence names it.
    """
    if changed := _changed(folder, result, _small(folder, result)):
        raise _damaged(changed[0])


def set_damaged_aside(folder: Path, result: TrialResult) -> None:
    """Rename what holds the small files of a trial that are not as committed, so that it can be run again."""
    changed = _changed(folder, result, _small(folder, result))
    for name in sorted({path.relative_to(folder).parts[0] for path in changed}):  # `weights` as a whole
        set_aside(folder / name)


def _small(folder: Path, result: TrialResult) -> list[str]:
    return [name for name in result.files if (path := folder / name).is_file() and path.stat().st_size <= LARGE_BYTES]


def _changed(folder: Path, result: TrialResult, names: list[str]) -> list[Path]:
    return [folder / name for name in names if file_sha256(folder / name) != result.files[name]]


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is damaged: its sha256 is not the one in {RESULT}")


def _hash_files(folder: Path) -> dict[str, str]:
    named = [folder / name for name in RESULT_FILES if (folder / name).is_file()]
    weights = sorted(path for path in (folder / "weights").rglob("*") if path.is_file())
    hashes: dict[str, str] = {}
    for path in named + weights:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        hashes[str(path.relative_to(folder))] = file_sha256(path)
    return hashes
