"""A store beside the store: trials run there as they would in it, and leave no record in it.

Invariant: it shares the artefacts, and sees of each trial that another one started from its result and its weights,
through links; it writes no file of theirs. What does not live here: what runs there (rerun.py, launch.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.records import result
from harness.records.store import Store, disk_errors
from harness.spec import TrialBase, TrialSpec


def beside(store: Store, root: Path, specs: Iterable[TrialSpec]) -> Store:
    """Return a store for these specs in a folder without one, so that no base and no before-score is made again.

    Raises:
        DiskError: the disk is full or read-only.
        StoreError: the result of a trial that one of them starts from is damaged.
    """
    other = Store(root)
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        (store.root / "artefacts").mkdir(parents=True, exist_ok=True)
        (root / "artefacts").symlink_to((store.root / "artefacts").resolve())
        for trial_id in {trial_id for spec in specs for trial_id in _ancestors(store, spec)}:
            folder = other.trial(trial_id)
            folder.mkdir(parents=True)
            for name in (result.RESULT, "weights"):
                if (store.trial(trial_id) / name).exists():
                    (folder / name).symlink_to((store.trial(trial_id) / name).resolve())
    return other


def _ancestors(store: Store, spec: TrialSpec) -> Iterator[str]:
    """Yield the trials that a spec starts from, the nearest first, as far as they are finished."""
    while isinstance(spec.base, TrialBase):
        finished = result.read(store.trial(spec.base.trial_id))
        if finished is None:
            return
        yield spec.base.trial_id
        spec = finished.spec
