"""Optuna studies by ask and tell: Optuna proposes, the engine runs, the records decide.

Invariants: one ask is one condition run on all seeds, and tell gets the means over the seeds' val items. A proposal
depends only on its number and on what the records say of the batches before its own - the sampler is seeded anew for
each - so that a study that was killed, lost its database, was extended or ran on another number of workers proposes
the same. `study.json` holds the proposals and only grows; nothing is decided from the database. What does not live
here: what a proposal means (space.py), who is given up on the way (halving.py) or confirmed at the end (confirm.py),
the database (storage.py).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from harness.engine import confirm, halving, helping, objectives, proposals, space, states
from harness.engine.executor import Kept
from harness.engine.halving import Ladder, Standing
from harness.engine.helping import add
from harness.engine.launch import Options, Summary, View, launch
from harness.engine.plan import Plan
from harness.engine.proposals import Proposal, StudyRecord
from harness.engine.storage import Mirror
from harness.errors import SpecError, unknown_name
from harness.records.schema import PlannedTrial, TrialResult
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
        BusyError: another process runs another definition of this study.
        BadInputError: a constraint, base, template or data cannot be used; nothing was trained.
        DiskError: the output folder cannot be written.
    """
    import optuna

    _check(plan)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as stack:
        kept = Kept(options.executor, plan.setting.experiment.runtime)
        stack.callback(kept.close)
        options, total = replace(options, executor=kept), Summary("done")
        if not helping.lead(stack, plan, options, view_for, total):
            return proposals.with_recorded(plan), total
        search = _Search(*proposals.restored(plan), options, view_for, total, optuna)
        while len(search.told) < _study(plan).num_conditions and search.total.why == "done":
            search.run_batch(lambda grown: stack.enter_context(mirrored(grown)))
        if search.total.why == "done":
            search.confirm()
    return search.plan, search.total


class _Search:
    """A study under way: its plan as it grew, what was told, and how the call went so far."""

    def __init__(
        self,
        plan: Plan,
        book: StudyRecord,
        options: Options,
        view_for: Callable[[], View],
        total: Summary,
        optuna: Any,
    ) -> None:
        self.plan, self.book = plan, book
        self.options, self.view_for, self.total, self.optuna = options, view_for, total, optuna
        self.study = _study(plan)
        self.ladder = Ladder(self.study, len(space.seeds(plan.setting)))
        self.mirror = Mirror(plan, options.storage, optuna)
        self.told: list[Any] = []

    def run_batch(self, begun: Callable[[Plan], object]) -> None:
        """Propose the next conditions, run them rung by rung and tell them; `begun` gets the plan of the first ones."""
        numbers = _next_numbers(self.study, len(self.told))
        self.book = _proposed(self.plan, self.book, numbers, self.told, self.optuna)
        batch = [_asked(self.plan, self.book.proposals[number]) for number in numbers]
        self.plan = proposals.grown(self.plan, _trials(batch))
        if not self.told:
            begun(self.plan)
        self.mirror.show(self.told, [_running(self.plan, condition, self.optuna) for condition in batch])
        for rung in halving.rungs(self.study, self.ladder.num_seeds):
            going = [asked for asked in batch if asked.proposal.number not in self.ladder.stopped]
            self._run_rung(going, rung)
            if self.total.why != "done":
                return
            self._decide(going, rung)
        self.told += [_told(self.plan, condition, self.ladder, self.optuna) for condition in batch]
        self.mirror.show(self.told)

    def _run_rung(self, going: Sequence[Asked], rung: int) -> None:
        """Run conditions on so many of their seeds, and end the call where the machine failed one of them."""
        part = [Asked(asked.proposal, asked.trials[:rung]) for asked in going]
        add(self.total, self._launch(_trials(part)))
        self._relaunch(lambda: _trials(_held(self.plan, self.book, part)))
        self.book = _wait(self.plan, self.book, _held(self.plan, self.book, part), self.total)

    def _decide(self, going: Sequence[Asked], rung: int) -> None:
        """Give up what is behind at a rung, and record which trials are therefore not run."""
        if rung == self.ladder.num_seeds:
            return
        here = {asked.proposal.number: _standing(self.plan, asked.trials[:rung]) for asked in going}
        self.ladder.climb(rung, here)
        pruned = dict(self.plan.record.pruned)
        for asked in going:
            stopped = self.ladder.stopped.get(asked.proposal.number)
            for trial in asked.trials[rung:]:
                if stopped is None:
                    pruned.pop(trial.trial_id, None)
                else:
                    pruned[trial.trial_id] = stopped[1]
        self.plan = proposals.changed(self.plan, pruned=pruned)

    def confirm(self) -> None:
        """Run what the search chose on fresh seeds; which these are is recorded first."""
        numbers = confirm.chosen(self.study, self.told, self.optuna)
        params = [proposal.params for proposal in self.book.proposals]
        trials, winners = confirm.planned(self.plan.setting, params, numbers)
        self.plan = proposals.changed(proposals.grown(self.plan, trials), winners=winners)
        if trials:
            add(self.total, self._launch(trials))
            self._relaunch(lambda: trials)

    def _launch(self, trials: Sequence[PlannedTrial]) -> Summary:
        options, spent = self.options, self.total.seconds
        left = None if options.budget_seconds is None else max(0.0, options.budget_seconds - spent)
        runtime = self.plan.setting.experiment.runtime
        return launch(self.plan.store, trials, runtime, replace(options, budget_seconds=left), self.view_for())

    def _relaunch(self, of: Callable[[], list[PlannedTrial]]) -> None:
        """Try the trials that their machine failed again: memory that something else held may be free by now."""
        for _ in range(MAX_RELAUNCHES):
            failed = [trial for trial in of() if _machine_failure(self.plan, trial) is not None]
            if self.total.why != "done" or not failed:
                return
            again = self._launch(failed)
            if again.why == "equal_failures":  # only failed ones ran, which says nothing about the others
                again = replace(again, why="done", message="")
            add(self.total, replace(again, num_planned=0))


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


def _standing(plan: Plan, trials: Sequence[PlannedTrial]) -> Standing:
    """Return how a condition with one objective stands on these of its trials."""
    study, results = _study(plan), _results(plan, trials)
    values, excesses = _means(study, results)
    if None in (*values.values(), *excesses.values()):
        return Standing(None)
    return Standing(next(iter(values.values())), sum(max(0.0, excess or 0.0) for excess in excesses.values()))


def _results(plan: Plan, trials: Sequence[PlannedTrial]) -> list[TrialResult | None]:
    return [states.of_trial(plan.store, trial.trial_id).result for trial in trials]


def _means(
    study: Study, results: Sequence[TrialResult | None]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return the mean of each objective and of each constraint's excess over seeds; None where one has no number."""
    values = {
        f"{o.measure}/{o.value}": objectives.mean([objectives.objective(r, o.measure, o.value) for r in results])
        for o in study.objectives
    }
    return values, {c.column: objectives.mean([objectives.excess(r, c) for r in results]) for c in study.constraints}


def _told(plan: Plan, condition: Asked, ladder: Ladder, optuna: Any) -> Any:
    """Return a condition as Optuna is told it: its means, or failed where a seed lacks a number.

    Unknown is never zero, and an unknown constraint is not a feasible one. One that was given up has the means over the
    seeds that it ran on.
    """
    study, number = _study(plan), condition.proposal.number
    stopped = number in ladder.stopped
    num_seeds = ladder.stopped[number][0] if stopped else ladder.num_seeds
    results = _results(plan, condition.trials[:num_seeds])
    values, excesses = _means(study, results)
    unknown = [name for name, value in (*values.items(), *excesses.items()) if value is None]
    if unknown and None not in results:
        LOG.warning("condition %d is told as failed: %s is unknown in one of its trials", number, ", ".join(unknown))
    known = optuna.trial.TrialState.PRUNED if stopped else optuna.trial.TrialState.COMPLETE
    return _trial(
        plan,
        condition,
        optuna,
        state=optuna.trial.TrialState.FAIL if unknown else known,
        values=None if unknown else list(values.values()),
        intermediate_values=_on_the_way(plan, condition, ladder, num_seeds),
        constraints={column: excess for column, excess in excesses.items() if excess is not None},
    )


def _on_the_way(plan: Plan, condition: Asked, ladder: Ladder, num_seeds: int) -> dict[int, float]:
    """Return number of seeds -> value at each rung that a condition reached; none where nothing is pruned."""
    passed = [rung for rung in halving.rungs(ladder.study, ladder.num_seeds)[:-1] if rung <= num_seeds]
    found = {rung: _standing(plan, condition.trials[:rung]).value for rung in passed}
    return {rung: value for rung, value in found.items() if value is not None}


def _running(plan: Plan, condition: Asked, optuna: Any) -> Any:
    """Return a condition as it stands while it runs."""
    return _trial(plan, condition, optuna, state=optuna.trial.TrialState.RUNNING)


def _trial(plan: Plan, condition: Asked, optuna: Any, **known: Any) -> Any:
    """Return a condition as a trial of Optuna's."""
    fixed = optuna.trial.FixedTrial(condition.proposal.params)
    return optuna.trial.create_trial(
        params=_suggested(plan, fixed),
        distributions=fixed.distributions,
        user_attrs={
            "condition_id": condition.proposal.condition_id,
            "trial_ids": [trial.trial_id for trial in condition.trials],
        },
        **known,
    )
