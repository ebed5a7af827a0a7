"""What state each planned trial is in, from its files alone.

Invariant: reads, never locks and never writes; a damaged result is reported, not raised. What does not live here:
deciding what to run (launch.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import StoreError
from harness.records import result
from harness.records.attempts import is_running
from harness.records.schema import Failure, PlannedTrial, Progress, SweepRecord, TrialResult
from harness.records.store import Store

State = Literal["COMPLETE", "DIVERGED", "FAILED", "RUNNING", "PENDING", "DAMAGED", "PRUNED"]
FINAL = ("COMPLETE", "DIVERGED")
SETTLED = (*FINAL, "PRUNED")
"""States that the next launch leaves as they are, those that failed apart."""


@dataclass(frozen=True)
class TrialState:
    """A trial's state and whatever tells about it."""

    state: State
    result: TrialResult | None = None
    failure: Failure | None = None
    progress: Progress | None = None
    problem: str | None = None
    """Which file is damaged."""


def of_trial(store: Store, trial_id: str) -> TrialState:
    """Return a trial's state."""
    folder = store.trial(trial_id)
    try:
        standing = result.read(folder)
        if standing is not None:
            return TrialState(standing.state, result=standing)
        failure, progress = result.read_failure(folder), read_progress(folder)
    except StoreError as error:
        return TrialState("DAMAGED", problem=str(error))
    if is_running(progress, failure):
        return TrialState("RUNNING", failure=failure, progress=progress)
    return TrialState("FAILED" if failure else "PENDING", failure=failure)


def of_trials(store: Store, trials: Iterable[PlannedTrial]) -> dict[str, TrialState]:
    """Return the state of each distinct trial, by id, in the order of the plan."""
    there = begun(store)
    ids = dict.fromkeys(trial.trial_id for trial in trials)
    return {key: of_trial(store, key) if there is None or key in there else TrialState("PENDING") for key in ids}


def begun(store: Store) -> set[str] | None:
    """Return the ids of the trials that have a folder; None where the store's own folder cannot be looked into."""
    try:
        return {entry.name for entry in os.scandir(store.root / "trials")}
    except FileNotFoundError:
        return set()
    except OSError:
        return None


def of_record(store: Store, record: SweepRecord) -> dict[str, TrialState]:
    """Return the state of each distinct trial of a plan; one that a study gave up before it started is PRUNED."""
    return {
        trial_id: TrialState("PRUNED") if seen.state == "PENDING" and trial_id in record.pruned else seen
        for trial_id, seen in of_trials(store, record.trials).items()
    }


def read_progress(folder: Path) -> Progress | None:
    """Return where a running attempt is, or None."""
    return Store(folder.parents[1]).read(folder / "progress.json", Progress)
