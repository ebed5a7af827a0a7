"""What a study writes beside its database: `study.json`, its proposals, and `sweep.json`, the trials they mean.

Invariant: proposals and trials are only ever added. A file that is damaged, or belongs to another definition of the
study, is renamed and never deleted. What does not live here: proposing (study.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pydantic

from harness.engine.plan import Plan, write_record
from harness.errors import StoreError
from harness.identity import canonical, condition_id
from harness.records.schema import PlannedTrial, Row, SweepRecord
from harness.records.seal import sealed
from harness.records.store import disk_errors, write_atomic
from harness.spec import Scalar

LOG = logging.getLogger(__name__)
R = TypeVar("R", bound=Row)


class Proposal(Row):
    """What the sampler proposed under a number."""

    number: int
    sampler_seed: int
    params: dict[str, Scalar]
    """Dimension -> value as Optuna knows it: a relative learning rate is a multiple."""
    condition_id: str
    num_waits: int = 0
    """Calls that ended because of failures of the machine in this condition."""


class StudyRecord(Row):
    """`study.json`: every proposal in order."""

    definition: str
    """sha256 of all that proposals and trials depend on, see `definition`."""
    proposals: tuple[Proposal, ...] = ()

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> StudyRecord:
        if [proposal.number for proposal in self.proposals] != list(range(len(self.proposals))):
            raise ValueError("proposals must be numbered from 0 on")
        return self


def restored(plan: Plan) -> tuple[Plan, StudyRecord]:
    """Return the plan with the trials recorded so far, and the proposals; another definition's are set aside."""
    own = definition(plan)
    book = _read(plan, "study.json", StudyRecord)
    if book is not None and book.definition != own:
        # study.json goes last: a kill in between is noticed again.
        for name in ("study.db", "sweep.json", "study.json"):
            set_aside(plan.folder / name, "it belongs to another definition of the study")
        book = None
    recorded = _read(plan, "sweep.json", SweepRecord)
    return _continued(plan, recorded) if recorded else plan, book or StudyRecord(definition=own)


def _continued(plan: Plan, recorded: SweepRecord) -> Plan:
    """Return the plan with what only a run of it finds out."""
    found = {name: getattr(recorded, name) for name in ("trials", "winners", "pruned")}
    return replace(plan, record=plan.record.model_copy(update=found))


def with_recorded(plan: Plan) -> Plan:
    """Return a study's plan with the trials recorded so far; another definition's, or damaged ones, are none.

    It only reads. A sweep's plan has all its trials already.
    """
    if plan.record.kind != "study":
        return plan
    try:
        book = plan.store.read(plan.folder / "study.json", StudyRecord)
        recorded = plan.store.read(plan.folder / "sweep.json", SweepRecord)
    except StoreError:
        return plan
    if book is None or recorded is None or book.definition != definition(plan):
        return plan
    return _continued(plan, recorded)


def definition(plan: Plan) -> str:
    """Return the sha256 of what proposals depend on: the study less its words, its length and its end, the base."""
    setting = plan.setting
    words = (
        "name", "hypothesis", "refuted_if", "source", "measures", "num_conditions", "confirm_seeds", "max_confirmed",
    )  # fmt: skip
    tree = {
        "study": {name: value for name, value in canonical(setting.sweep).items() if name not in words},
        "base": condition_id(setting.experiment.spec),
        "methods": canonical(setting.experiment.methods),
        "fields": setting.fields,
        "axis_values": setting.axis_values,
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _read(plan: Plan, name: str, model: type[R]) -> R | None:
    """Return a file of the study, or None where there is none; a damaged one is set aside."""
    try:
        return plan.store.read(plan.folder / name, model)
    except StoreError as error:
        set_aside(plan.folder / name, str(error))
        return None


def set_aside(path: Path, why: str) -> None:
    """Rename a file to the next free name, with the journal that SQLite may have left beside it."""
    if not path.exists():
        return
    names = (path.with_name(f"{path.stem}.set-aside-{number}{path.suffix}") for number in itertools.count(1))
    target = next(name for name in names if not name.exists())
    LOG.warning("%s is set aside as %s: %s", path, target.name, why)
    with disk_errors(path):
        for ending in ("-journal", "-wal", "-shm", ""):
            part = path.with_name(path.name + ending)
            if part.exists():
                part.rename(target.with_name(target.name + ending))


def written(plan: Plan, book: StudyRecord) -> StudyRecord:
    """Write `study.json` and return it."""
    write_atomic(plan.folder / "study.json", sealed(book))
    return book


def grown(plan: Plan, trials: Iterable[PlannedTrial]) -> Plan:
    """Return the plan with more trials after those recorded before, `sweep.json` written where it grew.

    A condition that is proposed twice has its trials once; one that was not there before opens the choice again.
    """
    distinct = {trial.trial_id: trial for trial in (*plan.record.trials, *trials)}
    winners = plan.record.winners if len(distinct) == len(plan.record.trials) else None
    return changed(plan, trials=tuple(distinct.values()), winners=winners)


def changed(plan: Plan, **changes: object) -> Plan:
    """Return the plan with fields of its record changed, `sweep.json` written where it is not the same."""
    larger = replace(plan, record=plan.record.model_copy(update=changes))
    write_record(larger)
    return larger
