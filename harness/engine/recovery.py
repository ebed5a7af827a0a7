"""The recovery test: is what a trial forgot gone, or only out of reach?

From each trained model of a finished sweep a follow-up trial relearns, in plain text and one epoch, one half of the
people; the other half, which it is told nothing about, is scored. A control does the same from the base itself. The
result is an ordinary sweep, `recovery-<name>`, with two arms.

Invariant: within a replicate every follow-up trial trains on the same rows with the same recipe and differs in what it
starts from alone; conditions that were followed up before stay in the record, and its command means them all. What does
not live here: the recovered share (analysis/recovery.py), running a plan (launch.py).

Source: Zheng et al., arXiv:2501.13453, section 3: performance on a forgotten task comes back from training on half of
it.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator

from harness.engine import states
from harness.engine.plan import Plan, command_of, folder_name
from harness.errors import BadInputError, ModelError, SpecError
from harness.identity import condition_id, trial_id
from harness.pocket.world import build
from harness.records.schema import PlannedTrial, SweepRecord
from harness.records.store import MANIFEST
from harness.spec import (
    DataSpec,
    EvalTask,
    FullConfig,
    PocketBase,
    PocketItems,
    PocketText,
    Sweep,
    TrainSpec,
    TrialBase,
    TrialSpec,
)
from harness.spec.recovery import FROM_BASE, FROM_TUNED

TRAINED_HALF = "first_half"
KINDS = ("biographies", "records")
"""Documents that tell of one person."""
NUM_DOCUMENTS = 1000
PREFIX = "recovery-"
LEARNING_RATE = 3e-4
"""Of the follow-up: the pocket reference for full fine-tuning."""
ARM = "arm"
"""Stands for the arm of the first sweep among the axes, where it has several."""


def plan_recovery(plan: Plan, conditions: Collection[str] = ()) -> Plan:
    """Return the follow-up trials of a finished sweep as a plan of their own.

    Args:
        plan: of a sweep on pocket worlds whose trials kept their weights (`runtime.keep`).
        conditions: ids of conditions to follow up beside those that were before; empty is all.

    Raises:
        SpecError: it is a study, an unknown condition, or nothing on this base is known of people.
        BadInputError: trials of it have no result yet.
        ModelError: trials of it that are not followed up yet kept no weights.
        StoreError: the record of the conditions that were followed up before is damaged.
    """
    record = plan.record
    if not isinstance(plan.setting.sweep, Sweep):
        raise SpecError(f"{record.name!r} is a study, but must be a sweep: follow-ups need conditions with replicates.")
    chosen = _with_recorded(plan, conditions)
    parents = _parents(plan, chosen)
    tasks = _knowledge(parents)
    followed = list(_followed(parents, tasks))
    _require_weights(plan, parents, followed)
    record = _record(plan, [*followed, *_controls(parents, tasks)], tasks, chosen)
    return Plan(plan.request, plan.setting, record, plan.store)


def _with_recorded(plan: Plan, conditions: Collection[str]) -> tuple[str, ...]:
    """Return the conditions to follow up and those that were before, in the sweep's order; none where it is all."""
    known = dict.fromkeys(trial.condition_id for trial in plan.record.trials)
    if unknown := sorted(set(conditions) - set(known)):
        raise SpecError(f"conditions holds {unknown[0]!r}, but must hold condition ids of {plan.record.name!r}.")
    standing = plan.store.read(plan.store.sweep(PREFIX + folder_name(plan.record)) / "sweep.json", SweepRecord)
    bases = [trial.spec.base for trial in standing.trials] if standing is not None and conditions else []
    before = {base.trial_id for base in bases if isinstance(base, TrialBase)}
    wanted = {*conditions, *(trial.condition_id for trial in plan.record.trials if trial.trial_id in before)}
    return () if wanted == set(known) else tuple(condition for condition in known if condition in wanted)


def _parents(plan: Plan, conditions: Collection[str]) -> list[PlannedTrial]:
    """Return the trained models to start from, one row a trial; those that DIVERGED have none."""
    distinct = {t.trial_id: t for t in plan.record.trials if not conditions or t.condition_id in conditions}
    seen = states.of_trials(plan.store, tuple(distinct.values()))
    if missing := [key for key, state in seen.items() if state.result is None]:
        raise BadInputError(
            f"{len(missing)} of {len(distinct)} trials of {plan.record.name!r} have no result, but must before what "
            f"they forgot can be recovered; run: {plan.record.command}"
        )
    return [trial for key, trial in distinct.items() if seen[key].state == "COMPLETE"]


def _require_weights(plan: Plan, parents: Collection[PlannedTrial], followed: Collection[PlannedTrial]) -> None:
    """Refuse parents without weights, but for those whose follow-up has its result and needs none."""
    seen = states.of_trials(plan.store, followed)
    lacking = [
        parent.trial_id
        for parent, child in zip(parents, followed, strict=True)
        if seen[child.trial_id].result is None
        and not (plan.store.trial(parent.trial_id) / "weights" / MANIFEST).is_file()
    ]
    if lacking:
        command = shlex.join(
            ["python", "-m", "harness", "run-trial", lacking[0], "--keep", "all", "--out", str(plan.store.root)]
        )
        raise ModelError(
            f"{len(lacking)} of {len(parents)} trials of {plan.record.name!r} kept no weights, but must have to be a "
            f'base; run the sweep with SET=\'{{"runtime.keep": "all"}}\', or for each: {command}'
        )


def _knowledge(parents: Collection[PlannedTrial]) -> tuple[EvalTask, ...]:
    """Return the primary slices of what was retained whose every item is about one person."""
    if not parents:
        raise BadInputError("no trial is COMPLETE, but one must be before what it forgot can be recovered")
    spec = next(iter(parents)).spec
    tasks = [task for task in spec.evals.tasks if task.measure == "retained" and task.primary and _about_people(task)]
    if not isinstance(spec.base, PocketBase) or not tasks:
        raise SpecError(
            f"base is of kind {spec.base.kind!r}, but must be a pocket base with primary slices about people: "
            "elsewhere nothing tells which rows hold the knowledge that an item asks for"
        )
    return tuple(tasks)


def _about_people(task: EvalTask) -> bool:
    if not isinstance(task.source, PocketItems):
        return False
    world = build(task.source.world)
    people = {person.cluster for person in world.people}
    return all(item["cluster"] in people for item in world.items(task.source.slice, task.source.max_items))


def _followed(parents: Collection[PlannedTrial], tasks: tuple[EvalTask, ...]) -> Iterator[PlannedTrial]:
    several = len({trial.arm for trial in parents}) > 1
    for parent in parents:
        spec = _child(parent.spec, tasks).replace({"base": TrialBase(trial_id=parent.trial_id)})
        of_condition = spec.replace({"base": TrialBase(trial_id=parent.condition_id), "seed": 0})
        yield PlannedTrial(
            trial_id=trial_id(spec),
            condition_id=condition_id(of_condition),
            arm=FROM_TUNED,
            axes=parent.axes | ({ARM: parent.arm} if several else {}),
            seed=parent.seed,
            spec=spec,
            world=parent.world,
        )


def _controls(parents: Collection[PlannedTrial], tasks: tuple[EvalTask, ...]) -> Iterator[PlannedTrial]:
    """Yield the same trial from the base itself, once a replicate."""
    replicates = {(trial.world, trial.seed): trial for trial in reversed(list(parents))}
    axes = dict.fromkeys(next(iter(parents)).axes)
    first: str | None = None
    for (world, seed), parent in sorted(replicates.items(), key=lambda item: (item[0][0] or 0, item[0][1])):
        spec = _child(parent.spec, tasks)
        first = first or condition_id(spec)
        yield PlannedTrial(
            trial_id=trial_id(spec),
            condition_id=first,
            arm=FROM_BASE,
            axes=axes,
            seed=seed,
            spec=spec,
            world=world,
        )


def _child(spec: TrialSpec, tasks: tuple[EvalTask, ...]) -> TrialSpec:
    """Return one epoch of full fine-tuning on documents about one half of the people, scored on knowledge alone.

    Everything that a sweep may vary is as the recipe says, so that only seed, world and base are the trial's own.
    """
    first = tasks[0].source
    assert isinstance(first, PocketItems)
    kinds = tuple(kind for kind in KINDS if kind in build(first.world).kinds)
    source = PocketText(world=first.world, kinds=kinds, num_rows=NUM_DOCUMENTS, people=TRAINED_HALF)
    data = DataSpec(
        source=source,
        num_examples=NUM_DOCUMENTS,
        num_validation=0,
        template=spec.data.template,
        max_length=spec.data.max_length,
        too_long="raise",
        prompt_loss_weight=0.0,
        train_on_end_of_turn=True,
        packing="off",
    )
    train = TrainSpec(
        num_epochs=1.0,
        batch_size=8,
        learning_rate=LEARNING_RATE,
        schedule="cosine",
        warmup_ratio=0.1,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        dtype="float32",
        loss_reduction="token_mean",
        loss_limit=20.0,
    )
    evals = spec.evals.model_copy(update={"tasks": tasks})
    return TrialSpec(base=spec.base, data=data, method=FullConfig(), train=train, evals=evals, seed=spec.seed)


def _record(
    plan: Plan, trials: list[PlannedTrial], tasks: tuple[EvalTask, ...], conditions: tuple[str, ...]
) -> SweepRecord:
    old = plan.record
    several = any(ARM in trial.axes for trial in trials)
    chosen = [word for condition in conditions for word in ("--condition", condition)]
    return SweepRecord(
        name=PREFIX + old.name,
        base=old.base,
        kind="sweep",
        set_hash=old.set_hash,
        hypothesis=(
            "What was forgotten comes back, for people too who are not told of again: it was out of reach, not gone."
        ),
        refuted_if="Scores of the other half stay where fine-tuning left them.",
        source="Zheng et al., arXiv:2501.13453",
        command=" ".join([command_of(plan.request, "recovery"), *chosen]),
        measures={"retained": tuple(task.key for task in tasks)},
        axis_fields=(*old.axis_fields, *((ARM,) if several else ())),
        selection=None,
        trials=tuple(trials),
    )
