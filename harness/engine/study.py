"""Optuna studies by ask and tell: Optuna proposes, the engine runs, the records decide.

Invariants: one ask is one condition run on all seeds, and tell gets the means over the seeds' val items. A proposal
depends only on its number and on what the records say of the batches before its own - the sampler is seeded anew for
each - so that a study that was killed, lost its database, was extended or ran on another number of workers proposes
the same. `study.json` holds the proposals and only grows; `study.db` is a mirror for Optuna's own tools, from which
nothing is decided. What does not live here: what a proposal means (space.py).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness.engine import objectives, proposals, space, states
from harness.engine.executor import Kept
from harness.engine.launch import Options, Summary, View, launch
from harness.engine.plan import Plan
from harness.engine.proposals import Proposal, StudyRecord
from harness.errors import SpecError, unknown_name
from harness.records.schema import PlannedTrial
from harness.records.store import lock
from harness.seeding import derive
from harness.spec import Study

LOG = logging.getLogger(__name__)
BATCH = 2
"""Conditions proposed at a time after the start-up: fixed, so that the number of workers moves no proposal."""
MAX_WAITS = 3
"""Calls that end for a condition with failures of the machine; after them it is told as failed, or one that never fits
would hold the study for ever."""
MAX_RELAUNCHES = 2
"""Launches of trials that failed by their machine, within a call and after the launch of their batch."""


@dataclass(frozen=True)
class Asked:
    """One condition: its proposal and what that means here."""

    proposal: Proposal
    trials: tuple[PlannedTrial, ...]


def run(
    plan: Plan,
    options: Options,
    view_for: Callable[[], View],
    mirrored: Callable[[Plan], AbstractContextManager[None]] = lambda plan: nullcontext(),
) -> tuple[Plan, Summary]:
    """Run a study to its number of conditions and return the plan as it grew, and how it ended.

    Args:
        plan: its plan, without trials yet.
        options: how to run; a budget is for the whole study.
        view_for: makes the view of each batch.
        mirrored: entered once the first conditions are known, left at the end.

    Raises:
        BusyError: another process runs this study.
        BadInputError: a constraint, base, template or data cannot be used; nothing was trained.
        DiskError: the output folder cannot be written.
    """
    import optuna

    _check(plan)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as stack:
        stack.enter_context(lock(plan.folder / ".study.lock", wait=False))
        kept = Kept(options.executor, plan.setting.experiment.runtime)
        stack.callback(kept.close)
        options = replace(options, executor=kept)
        plan, book = proposals.restored(plan)
        mirror = _Mirror(plan, optuna)
        total = Summary("done")
        told: list[Any] = []
        while len(told) < _study(plan).num_conditions and total.why == "done":
            numbers = _next_numbers(_study(plan), len(told))
            book = _proposed(plan, book, numbers, told, optuna)
            batch = [_asked(plan, book.proposals[number]) for number in numbers]
            plan = proposals.grown(plan, _trials(batch))
            if not told:
                stack.enter_context(mirrored(plan))
            _add(total, _launch(plan, _trials(batch), options, total.seconds, view_for()))
            held = partial(_held, plan, book, batch)
            _relaunch(plan, held, options, total, view_for)
            book = _wait(plan, book, held(), total)
            if total.why == "done":
                told += [_told(plan, condition, optuna) for condition in batch]
                mirror.show(told)
    return plan, total


def _check(plan: Plan) -> None:
    """Refuse a constraint without a slice here: unknown for every condition, it would fail them all.

    Raises:
        SpecError: its measure has no primary slice on this base.
    """
    here = {task.measure for task in plan.setting.experiment.spec.evals.tasks if task.primary}
    sides = [constraint.column.partition("/") for constraint in _study(plan).constraints]
    problems = [
        unknown_name(f"constraint on base {plan.record.base!r}", measure, here)
        for _, slash, measure in sides
        if slash and measure not in here
    ]
    if problems:
        raise SpecError(problems)


def _trials(batch: Sequence[Asked]) -> list[PlannedTrial]:
    return [trial for condition in batch for trial in condition.trials]


def _launch(plan: Plan, trials: Sequence[PlannedTrial], options: Options, spent: float, view: View) -> Summary:
    left = None if options.budget_seconds is None else max(0.0, options.budget_seconds - spent)
    runtime = plan.setting.experiment.runtime
    return launch(plan.store, trials, runtime, replace(options, budget_seconds=left), view)


def _relaunch(
    plan: Plan, held: Callable[[], list[Asked]], options: Options, total: Summary, view_for: Callable[[], View]
) -> None:
    """Try the trials that their machine failed again: memory that something else held may be free by now."""
    for _ in range(MAX_RELAUNCHES):
        failed = [trial for trial in _trials(held()) if _machine_failure(plan, trial) is not None]
        if total.why != "done" or not failed:
            return
        again = _launch(plan, failed, options, total.seconds, view_for())
        if again.why == "equal_failures":  # only failed ones ran, which says nothing about the others
            again = replace(again, why="done", message="")
        _add(total, replace(again, num_planned=0))


def _add(total: Summary, batch: Summary) -> None:
    total.outcomes |= batch.outcomes
    total.num_planned += batch.num_planned
    total.seconds += batch.seconds
    total.why, total.message = batch.why, batch.message


def _held(plan: Plan, book: StudyRecord, batch: Sequence[Asked]) -> list[Asked]:
    """Return the conditions with a failure that is tried again by itself, less those that ended too many calls."""
    return [
        asked
        for asked in batch
        if book.proposals[asked.proposal.number].num_waits < MAX_WAITS and _cause(plan, asked) is not None
    ]


def _wait(plan: Plan, book: StudyRecord, held: Sequence[Asked], total: Summary) -> StudyRecord:
    """End the call where a condition has a failure that the next one tries again: its result may still come."""
    if total.why != "done" or not held:
        return book
    numbers = [asked.proposal.number for asked in held]
    total.why = "machine"
    total.message = (
        f"interrupted: condition {numbers[0]} has a trial that failed by its machine ({_cause(plan, held[0])}), and "
        "what is proposed next depends on it; run the same command again to continue"
    )
    counted = [
        proposal.model_copy(update={"num_waits": proposal.num_waits + (proposal.number in numbers)})
        for proposal in book.proposals
    ]
    return proposals.written(plan, book.model_copy(update={"proposals": tuple(counted)}))


def _cause(plan: Plan, condition: Asked) -> str | None:
    """Return the cause of a failure in this condition that is tried again by itself."""
    causes = (_machine_failure(plan, trial) for trial in condition.trials)
    return next((cause for cause in causes if cause is not None), None)


def _machine_failure(plan: Plan, trial: PlannedTrial) -> str | None:
    """Return the cause of a trial's failure, where it is tried again by itself.

    A trial that ended without any record could not write one.
    """
    seen = states.of_trial(plan.store, trial.trial_id)
    if seen.result is None and seen.failure is None:
        return "disk"
    if seen.result is None and seen.failure is not None and seen.failure.reruns_by_itself:
        return seen.failure.cause
    return None


def _study(plan: Plan) -> Study:
    study = plan.setting.sweep
    assert isinstance(study, Study)
    return study


def _next_numbers(study: Study, start: int) -> range:
    """Return the numbers of the next batch: the whole random start-up at once, then `BATCH` at a time."""
    end = study.num_startup_conditions if start < study.num_startup_conditions else start + BATCH
    return range(start, min(end, study.num_conditions))


# -- ask --------------------------------------------------------------------------------------------------------------


def _proposed(plan: Plan, book: StudyRecord, numbers: range, told: Sequence[Any], optuna: Any) -> StudyRecord:
    """Return the proposals up to the end of a batch: those recorded, then new ones, recorded before anything runs."""
    new = [_propose(plan, number, told, optuna) for number in numbers if number >= len(book.proposals)]
    return proposals.written(plan, book.model_copy(update={"proposals": (*book.proposals, *new)})) if new else book


def _propose(plan: Plan, number: int, told: Sequence[Any], optuna: Any) -> Proposal:
    """Return what a fresh sampler proposes after the conditions told, and after these alone."""
    study = _study(plan)
    seed = derive(study.sampler_seed, f"study.ask/{number}") % 2**32
    history = optuna.create_study(directions=_directions(study), sampler=_sampler(study, seed, optuna))
    history.add_trials(told)
    params = _suggested(plan, history.ask())
    condition = space.planned(plan.setting, params)[0].condition_id
    return Proposal(number=number, sampler_seed=seed, params=params, condition_id=condition)


def _asked(plan: Plan, proposal: Proposal) -> Asked:
    return Asked(proposal, tuple(space.planned(plan.setting, proposal.params)))


def _directions(study: Study) -> list[str]:
    return [objective.direction for objective in study.objectives]


def _sampler(study: Study, seed: int, optuna: Any) -> Any:
    """Return TPE, jointly over each group of dimensions that exist together, seeded for one proposal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` is marked so
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=study.num_startup_conditions, multivariate=True, group=True
        )


def _suggested(plan: Plan, trial: Any) -> dict[str, Any]:
    """Return a trial's value of each dimension that its method has."""
    values: dict[str, Any] = {}
    for dimension in space.method_first(_study(plan)):
        if space.applies(dimension, str(values.get("method", plan.setting.experiment.spec.method.kind))):
            values[dimension.field] = _suggest(trial, dimension, plan)
    return values


def _suggest(trial: Any, dimension: Any, plan: Plan) -> Any:
    if dimension.choices:
        return trial.suggest_categorical(dimension.field, space.choices(dimension, plan.setting))
    if dimension.integer:
        return trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)


# -- tell -------------------------------------------------------------------------------------------------------------


def _told(plan: Plan, condition: Asked, optuna: Any) -> Any:
    """Return a condition as Optuna is told it: its means, or failed where a seed lacks a number.

    Unknown is never zero, and an unknown constraint is not a feasible one.
    """
    study, number = _study(plan), condition.proposal.number
    results = [states.of_trial(plan.store, trial.trial_id).result for trial in condition.trials]
    values = {
        f"{o.measure}/{o.value}": objectives.mean([objectives.objective(r, o.measure, o.value) for r in results])
        for o in study.objectives
    }
    excesses = {c.column: objectives.mean([objectives.excess(r, c) for r in results]) for c in study.constraints}
    unknown = [name for name, value in (*values.items(), *excesses.items()) if value is None]
    if unknown and None not in results:
        LOG.warning("condition %d is told as failed: %s is unknown in one of its trials", number, ", ".join(unknown))
    fixed = optuna.trial.FixedTrial(condition.proposal.params)
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL if unknown else optuna.trial.TrialState.COMPLETE,
        values=None if unknown else list(values.values()),
        params=_suggested(plan, fixed),
        distributions=fixed.distributions,
        constraints={column: excess for column, excess in excesses.items() if excess is not None},
        user_attrs={
            "condition_id": condition.proposal.condition_id,
            "trial_ids": [trial.trial_id for trial in condition.trials],
        },
    )


class _Mirror:
    """`study.db`, which Optuna's own tools read. Nothing is decided from it, so that its failure stops no trial."""

    def __init__(self, plan: Plan, optuna: Any) -> None:
        self._path, self._name, self._directions = plan.folder / "study.db", plan.record.name, _directions(_study(plan))
        self._optuna = optuna
        self._is_usable = True
        self._opened: Any = None

    def show(self, told: Sequence[Any]) -> None:
        """Bring the database to what was told; one that is unreadable or says otherwise is set aside and rebuilt."""
        from sqlalchemy.exc import SQLAlchemyError

        # RuntimeError: tables of another version of Optuna. ValueError: a value in them that cannot be decoded.
        errors = (SQLAlchemyError, self._optuna.exceptions.OptunaError, RuntimeError, ValueError)
        if not self._is_usable:
            return
        try:
            self._append(told)
        except errors as first:
            self._opened = None
            proposals.set_aside(self._path, str(first).partition("\n")[0])
            try:
                self._append(told)
            except errors as error:
                self._is_usable = False
                LOG.warning("%s cannot be written (%s); the next call rebuilds it", self._path, error)

    def _append(self, told: Sequence[Any]) -> None:
        study = self._opened = self._opened or self._open()
        held = study.get_trials(deepcopy=False)
        for number, (here, trial) in enumerate(zip(held, told, strict=False)):
            if _content(here) != _content(trial):
                raise ValueError(f"what it was told of condition {number} is not what the records say")
        study.add_trials(told[len(held) :])

    def _open(self) -> Any:
        study = self._optuna.create_study(
            study_name=self._name,
            storage=f"sqlite:///{self._path.absolute()}",
            directions=self._directions,
            load_if_exists=True,
        )
        if [direction.name.lower() for direction in study.directions] != self._directions:
            raise ValueError("its directions are not the study's")
        return study


def _content(trial: Any) -> tuple[Any, ...]:
    return trial.state, trial.values, trial.params, trial.distributions, trial.constraints, trial.user_attrs
