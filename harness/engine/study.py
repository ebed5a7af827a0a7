"""Optuna studies by ask and tell: Optuna proposes, the engine runs, the records decide.

Invariants: one ask is one condition run on all seeds, and tell gets the means over the seeds' val items. A proposal
depends only on its number and on the conditions told before it - the sampler is seeded anew for each, and conditions
are told in order, batch by batch - so that a study that was killed, lost its database or ran on another number of
workers proposes the same. The database is a mirror of the records. What does not live here: what a proposal means
(space.py).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from harness.engine import objectives, space, states
from harness.engine.executor import Kept
from harness.engine.launch import Options, Summary, View, launch
from harness.engine.plan import Plan, write_record
from harness.records.schema import PlannedTrial
from harness.records.store import disk_errors, lock
from harness.seeding import derive
from harness.spec import Study

BATCH = 2
"""Conditions proposed at a time after the start-up: fixed, so that the number of workers moves no proposal."""


@dataclass(frozen=True)
class Asked:
    """One condition: Optuna's trial number and what it means here."""

    number: int
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
        BadInputError: base, template or data cannot be used; nothing was trained.
        DiskError: the output folder cannot be written.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as stack:
        stack.enter_context(lock(plan.folder / ".study.lock", wait=False))
        kept = Kept(options.executor, plan.setting.experiment.runtime)
        stack.callback(kept.close)
        options = replace(options, executor=kept)
        mirror = _open(plan, optuna)
        total = Summary("done")
        asked: list[Asked] = []
        while len(asked) < _study(plan).num_conditions and total.why == "done":
            batch = [_ask(plan, mirror, number, optuna) for number in _next_numbers(_study(plan), len(asked))]
            plan = _grown(plan, [*asked, *batch])
            if not asked:
                stack.enter_context(mirrored(plan))
            asked += batch
            _add(total, _launch(plan, batch, options, total.seconds, view_for()))
            if total.why == "done":
                for condition in batch:
                    _tell(plan, mirror, condition, optuna)
    return plan, total


def _launch(plan: Plan, batch: Sequence[Asked], options: Options, spent: float, view: View) -> Summary:
    left = None if options.budget_seconds is None else max(0.0, options.budget_seconds - spent)
    trials = [trial for condition in batch for trial in condition.trials]
    runtime = plan.setting.experiment.runtime
    return launch(plan.store, trials, runtime, replace(options, budget_seconds=left), view)


def _add(total: Summary, batch: Summary) -> None:
    total.outcomes |= batch.outcomes
    total.num_planned += batch.num_planned
    total.seconds += batch.seconds
    total.why, total.message = batch.why, batch.message


def _study(plan: Plan) -> Study:
    study = plan.setting.sweep
    assert isinstance(study, Study)
    return study


def _next_numbers(study: Study, start: int) -> range:
    """Return the numbers of the next batch: the whole random start-up at once, then `BATCH` at a time."""
    end = study.num_startup_conditions if start < study.num_startup_conditions else start + BATCH
    return range(start, min(end, study.num_conditions))


def _grown(plan: Plan, asked: Sequence[Asked]) -> Plan:
    """Return the plan with every condition asked so far, `sweep.json` rewritten."""
    trials = tuple(trial for condition in asked for trial in condition.trials)
    grown = replace(plan, record=plan.record.model_copy(update={"trials": trials}))
    write_record(grown)
    return grown


# -- Optuna -----------------------------------------------------------------------------------------------------------


def _open(plan: Plan, optuna: Any) -> Any:
    """Open the database beside `sweep.json`; a damaged one is set aside and grows again from the records."""
    from sqlalchemy.exc import SQLAlchemyError

    path = plan.folder / "study.db"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _create(plan, optuna, path)
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        if not path.exists():
            raise
        logging.getLogger(__name__).warning("%s cannot be read (%s); it is set aside and rebuilt", path, error)
        path.rename(path.with_suffix(f".damaged-{len(list(path.parent.glob('study.damaged-*'))) + 1}"))
        return _create(plan, optuna, path)


def _create(plan: Plan, optuna: Any, path: Any) -> Any:
    study = _study(plan)
    return optuna.create_study(
        study_name=study.name,
        storage=f"sqlite:///{path.absolute()}",
        directions=[objective.direction for objective in study.objectives],
        load_if_exists=True,
    )


def _ask(plan: Plan, mirror: Any, number: int, optuna: Any) -> Asked:
    """Return a condition: the one that the database holds under this number, else a new proposal."""
    study = _study(plan)
    known = mirror.get_trials(deepcopy=False)
    if number < len(known):
        proposal = {name: known[number].params[name] for name in known[number].params}
        if _complete(plan, proposal):
            return Asked(number, tuple(space.planned(plan.setting, proposal)))
        # Killed between ask and its last dimension: ask the same proposal again.
        trial = optuna.trial.Trial(mirror, known[number]._trial_id)
    else:
        trial = None
    mirror.sampler = _sampler(study, number, optuna)
    trial = trial or mirror.ask()
    proposal: dict[str, Any] = {}
    for dimension in space.method_first(study):
        if space.applies(dimension, str(proposal.get("method", plan.setting.experiment.spec.method.kind))):
            proposal[dimension.field] = _suggest(trial, dimension, plan)
    return Asked(number, tuple(space.planned(plan.setting, proposal)))


def _sampler(study: Study, number: int, optuna: Any) -> Any:
    """Return TPE, jointly over each group of dimensions that exist together, seeded for one proposal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` is marked so
        return optuna.samplers.TPESampler(
            seed=derive(study.sampler_seed, f"study.ask/{number}") % 2**32,
            n_startup_trials=study.num_startup_conditions,
            multivariate=True,
            group=True,
        )


def _complete(plan: Plan, proposal: dict[str, Any]) -> bool:
    method = str(proposal.get("method", plan.setting.experiment.spec.method.kind))
    return all(d.field in proposal for d in _study(plan).space if space.applies(d, method))


def _suggest(trial: Any, dimension: Any, plan: Plan) -> Any:
    if dimension.choices:
        return trial.suggest_categorical(dimension.field, space.choices(dimension, plan.setting))
    if dimension.integer:
        return trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)


def _tell(plan: Plan, mirror: Any, condition: Asked, optuna: Any) -> None:
    """Tell a condition's means, or that it failed where a seed has no number: unknown is never zero."""
    study = _study(plan)
    frozen = mirror.get_trials(deepcopy=False)[condition.number]
    if frozen.state.is_finished():
        return
    results = [states.of_trial(plan.store, trial.trial_id).result for trial in condition.trials]
    values = [objectives.mean([objectives.objective(r, o.measure, o.value) for r in results]) for o in study.objectives]
    trial = optuna.trial.Trial(mirror, frozen._trial_id)
    trial.set_user_attr("condition_id", condition.trials[0].condition_id)
    trial.set_user_attr("trial_ids", [planned.trial_id for planned in condition.trials])
    for constraint in study.constraints:
        excess = objectives.mean([objectives.excess(r, constraint) for r in results])
        if excess is not None:
            trial.set_constraint(constraint.column, excess)
    if any(value is None for value in values):
        mirror.tell(condition.number, state=optuna.trial.TrialState.FAIL)
    else:
        mirror.tell(condition.number, values)
