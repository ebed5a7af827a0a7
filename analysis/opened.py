"""Opening a sweep's records: the plan and what each planned trial left on disk, read once.

Invariant: every trial of the plan is here exactly once per cell, whatever became of it; a damaged record is a FAILED
trial with its cause, never an exception and never a missing row. What does not live here: numbers (frames.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from analysis.labels import condition_labels
from harness.errors import BadInputError, StoreError, unknown_name
from harness.records import result as results
from harness.records.attempts import is_running
from harness.records.schema import Failure, PlannedTrial, Progress, SweepRecord, TrialResult
from harness.records.store import Store
from harness.spec import FolderBase

State = Literal["COMPLETE", "DIVERGED", "FAILED", "RUNNING", "PENDING", "PRUNED"]
STATES: tuple[State, ...] = ("COMPLETE", "DIVERGED", "FAILED", "RUNNING", "PENDING", "PRUNED")


@dataclass(frozen=True)
class OpenedTrial:
    """One cell of a sweep and its record."""

    planned: PlannedTrial
    condition: str
    """Readable label, unique per arm and axis values within the sweep."""
    folder: Path
    result: TrialResult | None
    failure: Failure | None
    progress: Progress | None
    damage: str | None
    """Why the record could not be read; None when it could."""
    pruned: str | None = None
    """Why a study gave it up before it started; None when it did not."""

    @cached_property
    def state(self) -> State:
        """What became of the trial."""
        if self.result is not None:
            return self.result.state
        if self.damage is not None:
            return "FAILED"
        if is_running(self.progress, self.failure):
            return "RUNNING"
        if self.failure is not None:
            return "FAILED"
        return "PENDING" if self.pruned is None else "PRUNED"

    @cached_property
    def cause(self) -> str | None:
        """Why there is no complete result, in words; None for COMPLETE."""
        if self.result is not None:
            return self.result.train.divergence
        if self.damage is not None:
            return f"damaged record: {self.damage}"
        if self.state == "FAILED" and self.failure is not None:
            return f"{self.failure.cause}: {self.failure.message}"
        if self.state == "PRUNED":
            return self.pruned
        if self.progress is None:
            return "not started"
        where = f"{self.progress.phase}, step {self.progress.step} of {self.progress.num_steps}"
        return f"at {where}" if self.state == "RUNNING" else f"interrupted at {where}"

    @property
    def command(self) -> str | None:
        """A command that reruns this trial, where its record has one."""
        if self.result is not None:
            return self.result.provenance.command
        return self.failure.command if self.failure is not None else None


@dataclass(frozen=True)
class OpenedSweep:
    """A sweep's plan and the records of its trials."""

    store: Store
    folder: str
    """Name below `sweeps/`."""
    record: SweepRecord
    trials: tuple[OpenedTrial, ...]

    @property
    def finished(self) -> Iterable[tuple[OpenedTrial, TrialResult]]:
        """Every trial with a result, and the result."""
        return ((trial, trial.result) for trial in self.trials if trial.result is not None)


def open_sweep(store: Store, folder: str) -> OpenedSweep:
    """Read a sweep's plan and every trial's record.

    Args:
        store: the output folder.
        folder: the sweep's folder name, `<name>@<base>[-<set hash>]`.

    Raises:
        BadInputError: there is no such sweep in this store.
        StoreError: its plan is damaged.
    """
    record = store.read(store.sweep(folder) / "sweep.json", SweepRecord)
    if record is None:
        raise BadInputError(unknown_name("sweep folder", folder, sweep_folders(store)))
    labels = condition_labels(record)
    opened: dict[str, tuple[TrialResult | None, Failure | None, Progress | None, str | None]] = {}
    for planned in record.trials:
        if planned.trial_id not in opened:
            opened[planned.trial_id] = _read_trial(store, store.trial(planned.trial_id))
    trials = (
        OpenedTrial(
            planned,
            label,
            store.trial(planned.trial_id),
            *opened[planned.trial_id],
            pruned=record.pruned.get(planned.trial_id),
        )
        for planned, label in zip(record.trials, labels, strict=True)
    )
    return OpenedSweep(store, folder, record, tuple(trials))


def open_named(name: str, base: str, out: str | Path, set_hash: str | None) -> OpenedSweep:
    """Return a sweep by its name and base; arguments and errors as `find_sweep`, and as `open_sweep`."""
    store = Store(Path(out))
    return open_sweep(store, find_sweep(store, name, base, set_hash))


def find_sweep(store: Store, name: str, base: str, set_hash: str | None) -> str:
    """Return the folder name of a sweep on a base.

    Args:
        store: the output folder.
        name: the sweep.
        base: the base it ran on: its name, or the path of a local folder.
        set_hash: which overrides; "" is none, None is none where such a sweep is there, else the only one.

    Raises:
        BadInputError: there is none, or several that only `set_hash` tells apart.
    """
    folders = sweep_folders(store)
    if "/" in base or base.startswith((".", "~")):
        base = _name_of_folder(store, folders, name, base)
    if set_hash is not None:
        wanted = f"{name}@{base}" + (f"-{set_hash}" if set_hash else "")
        if wanted not in folders:
            raise BadInputError(unknown_name("sweep folder", wanted, folders))
        return wanted
    matches = [folder for folder, record in _plans(store, folders) if (record.name, record.base) == (name, base)]
    if not matches:
        raise BadInputError(unknown_name("sweep", f"{name}@{base}", folders))
    plain = f"{name}@{base}"
    if plain in matches:
        return plain
    if len(matches) > 1:
        raise BadInputError(
            f"sweep is {plain!r}, but must name one of {', '.join(matches)}; "
            "pass set_hash= with the part after the base"
        )
    return matches[0]


def _name_of_folder(store: Store, folders: list[str], name: str, path: str) -> str:
    """Return the base's name of a sweep that ran on a local folder: the path alone does not say which contents."""
    place = str(Path(path).expanduser().resolve())
    plans = [record for _, record in _plans(store, folders) if record.name == name]
    names = {plan.base for plan in plans if any(_place(trial) == place for trial in plan.trials)}
    if not names:
        raise BadInputError(unknown_name("sweep", f"{name}@{path}", folders))
    if len(names) > 1:
        raise BadInputError(
            f"base is {path!r}, but {name!r} ran on several contents of that folder; pass one of their names as base=: "
            f"{', '.join(sorted(names))}"
        )
    return names.pop()


def _place(trial: PlannedTrial) -> str | None:
    base = trial.spec.base
    return base.path if isinstance(base, FolderBase) else None


def sweep_folders(store: Store) -> list[str]:
    """Return the folder names of all sweeps that have a plan, sorted."""
    return sorted(path.parent.name for path in (store.root / "sweeps").glob("*/sweep.json"))


def _plans(store: Store, folders: list[str]) -> list[tuple[str, SweepRecord]]:
    plans = ((folder, store.read(store.sweep(folder) / "sweep.json", SweepRecord)) for folder in folders)
    return [(folder, plan) for folder, plan in plans if plan is not None]


def _read_trial(store: Store, folder: Path) -> tuple[TrialResult | None, Failure | None, Progress | None, str | None]:
    try:
        result = results.read(folder)
        failure = results.read_failure(folder) if result is None else None
    except StoreError as error:
        return None, None, None, str(error)
    return result, failure, _read_progress(store, folder) if result is None else None, None


def _read_progress(store: Store, folder: Path) -> Progress | None:
    try:
        return store.read(folder / "progress.json", Progress)
    except StoreError:  # only says where an attempt is; a torn one says nothing
        return None
