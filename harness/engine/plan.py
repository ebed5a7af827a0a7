"""The plan: which trials a command means, which are done, and what the rest costs.

Invariant: torch-free, and making one never writes; the plan of a command is the same whatever ran before. What does
not live here: running anything (launch.py).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import methods, models
from harness.engine import ahead, asked, axes, claimed, extremes, footprint, space, worlds
from harness.engine.ahead import Ahead
from harness.engine.forecast import Cost, Forecast, num_within, total_seconds
from harness.engine.resolve import Request, Setting, resolve
from harness.engine.states import SETTLED, TrialState, of_record
from harness.errors import ModelError, SpecError, StoreError
from harness.identity import canonical_json
from harness.pocket import expectations
from harness.records import result
from harness.records.schema import PlannedTrial, SweepRecord
from harness.records.seal import sealed
from harness.records.store import MANIFEST, Store, set_aside, write_atomic
from harness.spec import (
    ArtefactBase,
    BaseRef,
    FolderBase,
    HubBase,
    PocketBase,
    QLoraConfig,
    Runtime,
    Study,
    Sweep,
    TrialBase,
)


@dataclass(frozen=True)
class Plan:
    """Everything that a launch needs to know."""

    request: Request
    setting: Setting
    record: SweepRecord
    store: Store

    @property
    def folder(self) -> Path:
        """Where `sweep.json` and the reports go."""
        return self.store.sweep(folder_name(self.record))

    @property
    def trials(self) -> dict[str, PlannedTrial]:
        """Distinct trials by id, in order: a trial of two arms runs once."""
        distinct: dict[str, PlannedTrial] = {}
        for trial in self.record.trials:
            distinct.setdefault(trial.trial_id, trial)
        return distinct


def folder_name(record: SweepRecord) -> str:
    """Return `<name>@<base>[-<set hash>]`."""
    return f"{record.name}@{record.base}" + (f"-{record.set_hash}" if record.set_hash else "")


def make_plan(request: Request) -> Plan:
    """Return the plan of a request.

    Raises:
        SpecError: an unknown name or field, or a value that is not allowed; all of them at once.
        ModelError: the base is not usable.
        DataError: the data or evaluation files are not usable.
    """
    setting = resolve(request)
    sweep = setting.sweep
    if isinstance(sweep, Study):
        space.check(setting)
    record = _record(request, setting)
    _check_sharding(setting.experiment.runtime, record)
    worlds.check_generated([setting.experiment.spec, *(trial.spec for trial in record.trials)])
    return Plan(request, setting, record, Store(request.out))


def _record(request: Request, setting: Setting) -> SweepRecord:
    sweep = setting.sweep
    is_sweep = isinstance(sweep, Sweep)
    selection = sweep.selection.model_dump() if isinstance(sweep, Sweep) and sweep.selection else None
    return SweepRecord(
        name=sweep.name,
        base=setting.experiment.name,
        kind="sweep" if is_sweep else "study",
        set_hash=setting.set_hash,
        hypothesis=sweep.hypothesis,
        refuted_if=sweep.refuted_if,
        source=sweep.source,
        command=command_of(request, "sweep" if is_sweep else "study"),
        measures=_measures(setting),
        axis_fields=tuple(axis.field for axis in sweep.axes) if isinstance(sweep, Sweep) else space.fields(sweep),
        objectives=()
        if isinstance(sweep, Sweep)
        else tuple((f"{o.measure}/{o.value}", o.direction) for o in sweep.objectives),
        confirm_seeds=sweep.confirm_seeds if isinstance(sweep, Study) else (),
        selection=selection,
        trials=axes.cells(setting) if is_sweep else (),
        claims=claimed.on_base(setting),
        **extremes.declared(setting.experiment),
    )


def _check_sharding(runtime: Runtime, record: SweepRecord) -> None:
    """Refuse to share out what cannot be; a study's trials are refused when they run."""
    if runtime.sharding != "none" and any(isinstance(trial.spec.method, QLoraConfig) for trial in record.trials):
        raise SpecError(
            f"runtime.sharding is {runtime.sharding!r}, but must be 'none' with method 'qlora', whose 4-bit blocks "
            "cannot be shared out; leave the method out, or let each process hold the whole model."
        )


def _measures(setting: Setting) -> dict[str, tuple[str, ...]]:
    tasks = [task for task in setting.experiment.spec.evals.tasks if task.primary]
    keys = {measure: tuple(t.key for t in tasks if t.measure == measure) for measure in setting.sweep.measures}
    return {measure: names for measure, names in keys.items() if names}


def write_record(plan: Plan) -> None:
    """Write `sweep.json`, unless it is already the same; a damaged one is set aside.

    Raises:
        SpecError: the folder holds the sweep of another base.
        DiskError: the disk is full or read-only.
    """
    path = plan.folder / "sweep.json"
    content = sealed(plan.record)
    if path.is_file() and path.read_bytes() == content:
        return
    _check_same_base(plan, path)
    write_atomic(path, content)


def _check_same_base(plan: Plan, path: Path) -> None:
    try:
        standing = plan.store.read(path, SweepRecord)
    except StoreError as error:
        if isinstance(error.__cause__, ValueError):  # damaged, and written again
            set_aside(path)
        return
    old, new = _bases(standing.trials if standing else ()), _bases(plan.record.trials)
    if old and new and not old & new:
        raise SpecError(
            f"{path} is the plan of another base of the name {plan.record.base!r}, but must be of the one that BASE "
            "means now; give another OUT=, or move that folder away."
        )


def _bases(trials: Iterable[PlannedTrial]) -> set[str]:
    """Return the bases of trials; one that is repeated over worlds is one base."""
    distinct = {(trial.spec.base, trial.world is None) for trial in trials}
    return {
        canonical_json(base if one_world or not isinstance(base, PocketBase) else base.replace({"world.seed": 0}))
        for base, one_world in distinct
    }


def command_of(request: Request, verb: str) -> str:
    """Return the command line that means this request."""
    words = ["python", "-m", "harness", verb, request.name, "--base", request.base]
    for option in ("data", "evals", "suites", "set"):
        value = getattr(request, option)
        words += [f"--{option}", value] if value else []
    words += ["--panel", request.panel] if request.panel != "primary" else []
    return shlex.join([*words, "--out", str(request.out)])


# -- what the base needs ----------------------------------------------------------------------------------------------


def check_base(base: BaseRef, store: Store, name: str) -> None:
    """Refuse a base that is neither there nor can be made here.

    Raises:
        ModelError: it has to be fetched first, or its folder or trial is gone.
    """
    if isinstance(base, ArtefactBase | HubBase):
        key = models.fetched_key(base)
        if not store.has_artefact("fetched", key):
            raise ModelError(
                f"base {name!r} is not in {store.artefact('fetched', key)}, but must be fetched before it is used; "
                f"run: make fetch BASE={name}"
            )
    if isinstance(base, FolderBase) and not Path(base.path).is_dir():
        raise ModelError(f"base.path is {base.path!r}, but must be a folder that exists; give BASE= its new place.")
    if isinstance(base, TrialBase) and not (store.trial(base.trial_id) / "weights" / MANIFEST).is_file():
        raise ModelError(f"base.trial_id is {base.trial_id!r}, but that trial has no weights in {store.root}.")


# -- what is left -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outlook:
    """The state and expected cost of every distinct trial, and the sum of what is left."""

    states: dict[str, TrialState]
    costs: dict[str, Cost]
    num_done: int
    seconds_left: float | None
    disk_left: int | None
    notes: tuple[str, ...]
    num_in_budget: int | None = None
    """Trials of the rest that end within the budget; None without a budget or where a cost is unknown."""
    ahead: Ahead | None = None
    """Of a study, what it has not planned yet; its cost is in `seconds_left` and `disk_left`."""
    memory_left: int | None = None
    """The peak of the rest, in bytes: of the largest trials together, as many as there are workers."""
    memory_here: int | None = None
    """What processes may take on this machine; None where trials run elsewhere, or the system does not tell."""
    warning: str | None = None
    """Where the peak does not fit."""


def outlook(plan: Plan, num_workers: int, budget_seconds: float | None = None, *, runs_here: bool = True) -> Outlook:
    """Return what is done and what the rest is expected to cost on a number of workers, here or on other machines."""
    states = of_record(plan.store, plan.record)
    forecast = Forecast(plan.store, plan.setting.experiment.runtime)
    costs = {trial_id: forecast.of(trial.spec) for trial_id, trial in plan.trials.items()}
    planned = [costs[trial_id] for trial_id, state in states.items() if state.state not in SETTLED]
    to_come = ahead.of_study(plan.setting, plan.record, plan.store) if plan.record.kind == "study" else None
    left = planned + (to_come.costs() if to_come else [])
    disk, peaks = [cost.disk_bytes for cost in left], [cost.memory_bytes for cost in left]
    machine = footprint.machine_bytes() if runs_here else None
    asked_for = None if runs_here else plan.setting.experiment.runtime.memory_gb
    return Outlook(
        states=states,
        costs=costs,
        num_done=len(states) - len(planned),
        seconds_left=total_seconds(left, num_workers),
        disk_left=None if any(value is None for value in disk) else sum(value for value in disk if value is not None),
        notes=_notes(plan),
        num_in_budget=None if budget_seconds is None else num_within(left, num_workers, budget_seconds),
        ahead=to_come,
        memory_left=footprint.peak_together(peaks, num_workers if runs_here else 1),
        memory_here=machine,
        warning=footprint.warning(peaks, num_workers, machine) if runs_here else footprint.too_little(peaks, asked_for),
    )


def _notes(plan: Plan) -> tuple[str, ...]:
    base = plan.setting.experiment.spec.base
    notes = [note] if (note := kept_less(plan)) else []
    notes += _flags(plan)
    notes += asked.samples_of(plan.setting.experiment)
    notes += extremes.of_plan(plan.setting.experiment, plan.record.trials, plan.store)
    try:
        check_base(base, plan.store, plan.record.base)
    except ModelError as error:
        return (str(error), *notes)
    return tuple(notes)


def _flags(plan: Plan) -> list[str]:
    """Return what can be said of the pocket worlds of a plan before anything is trained, once for all their seeds."""
    bases = dict.fromkeys(trial.spec.base for trial in plan.record.trials)
    found = (expectations.flags(base.world, base.model) for base in bases if isinstance(base, PocketBase))
    return sorted({flag for flags in found for flag in flags})


def kept_less(plan: Plan) -> str | None:
    """Return one line where finished trials have not the weights that `runtime.keep` now asks for, else None."""
    keep = plan.setting.experiment.runtime.keep
    lacking = [
        trial_id
        for trial_id, trial in plan.trials.items()
        if keep in methods.METHODS[trial.spec.method.kind].KEPT_BY
        and (plan.store.trial(trial_id) / result.RESULT).is_file()
        and not (plan.store.trial(trial_id) / "weights" / MANIFEST).is_file()
    ]
    if not lacking:
        return None
    return (
        f"runtime.keep is {keep!r}, but {len(lacking)} finished trials were run with less and have no weights; "
        f"run for each: python -m harness run-trial {lacking[0]} --keep {keep} --out "
        f"{shlex.quote(str(plan.store.root))}"
    )
