"""From a setting to cells: axes x arms x seeds, each a complete `TrialSpec`.

Invariants: the method is applied first and brings its own configuration and learning rate; what the sweep and SET fix
comes next, then the arm, then the other axes, then what the arm holds equal. A cell that cannot be is refused, never
left out. What does not live here: who runs a cell (launch.py), what a study proposes (study.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.engine import rows, worlds
from harness.engine.resolve import METHODS, Setting
from harness.errors import SpecError, nearest, unknown_name
from harness.identity import replicate_ids
from harness.records.schema import PlannedTrial
from harness.spec import Arm, Axis, Experiment, MethodReference, Sweep, TrialSpec

MAX_PROBLEMS = 12
RATE = "train.learning_rate"


def cells(setting: Setting) -> tuple[PlannedTrial, ...]:
    """Return every planned trial of a sweep: arm by arm, condition by condition, world by world, seed by seed.

    Two arms may hold the same trial; it then has a row in each and runs once.

    Raises:
        SpecError: an axis, field or value that cannot be; all of them at once, `MAX_PROBLEMS` at most.
    """
    sweep = setting.sweep
    assert isinstance(sweep, Sweep)
    axes = [_resolved_axis(axis, setting) for axis in sweep.axes]
    seeds = setting.axis_values.get("seed", sweep.seeds)
    world_seeds = worlds.of_sweep(setting)
    _check_count(sweep, axes, len(seeds) * max(1, len(world_seeds)))
    methods = next((axis.values for axis in axes if axis.field == "method"), ())
    check_method_fields(setting, methods)
    _check_kinds(methods)
    planned: list[PlannedTrial] = []
    problems: dict[str, None] = {}
    for arm in sweep.arms:
        first: dict[str, Sequence[Any]] = {}
        for values in itertools.product(*(axis.values for axis in axes)):
            try:
                spec, absolute = _condition(setting, arm, axes, values)
            except SpecError as error:
                problems.update(dict.fromkeys(error.problems))
                continue
            trials = replicates(spec, arm, absolute, seeds, world_seeds)
            earlier = first.setdefault(trials[0].condition_id, values)
            if earlier is not values:
                problems[_same_cell(axes, earlier, values)] = None
            planned += trials
    if problems:
        raise SpecError(list(problems)[:MAX_PROBLEMS])
    return tuple(planned)


@dataclass(frozen=True)
class ResolvedAxis:
    """An axis with the values it takes here; `relative` ones are multiples of the method's reference rate."""

    field: str
    values: Sequence[Any]
    relative: bool


def _resolved_axis(axis: Axis, setting: Setting) -> ResolvedAxis:
    if axis.field in setting.axis_values:
        return ResolvedAxis(axis.field, setting.axis_values[axis.field], relative=False)
    if axis.relative_to == "sizes":
        return ResolvedAxis(axis.field, setting.experiment.sizes, relative=False)
    return ResolvedAxis(axis.field, axis.values, relative=axis.relative_to == "reference_learning_rate")


def _check_count(sweep: Sweep, axes: Sequence[ResolvedAxis], num_replicates: int) -> None:
    count = math.prod(len(axis.values) for axis in axes) * len(sweep.arms) * num_replicates
    if count > sweep.max_trials:
        raise SpecError(
            f"sweep {sweep.name!r} has {count} cells, but must have at most {sweep.max_trials}; "
            "shorten an axis with SET."
        )


def _check_kinds(methods: Sequence[Any]) -> None:
    """Refuse two configurations of one kind: tables and choices know a method by its kind."""
    kinds = [method.get("kind") if isinstance(method, dict) else method for method in methods]
    for kind in METHODS:
        if kinds.count(kind) > 1:
            raise SpecError(
                f"SET method holds {kinds.count(kind)} configurations of {kind!r}, but must hold one of each kind; "
                "vary a field of it, such as method.rank, on an axis of its own (sweep lora_rank)."
            )


def _same_cell(axes: Sequence[ResolvedAxis], one: Sequence[Any], other: Sequence[Any]) -> str:
    different = [(axis.field, a, b) for axis, a, b in zip(axes, one, other, strict=True) if repr(a) != repr(b)]
    pairs = "; ".join(f"{field} {a!r} and {b!r}" for field, a, b in different)
    return f"{pairs} are one and the same trial, but must be different ones in an arm; leave one out."


def replicates(
    spec: TrialSpec, arm: Arm, axes: dict[str, Any], seeds: Sequence[int], world_seeds: Sequence[int] = ()
) -> list[PlannedTrial]:
    """Return a condition's trials, one a seed, in each world where there are several."""
    plain, by_world = worlds.replicates(spec, world_seeds)
    condition, plain_ids = replicate_ids(plain, seeds)
    planned: list[PlannedTrial] = []
    for world, there in by_world:
        ids = plain_ids if there is plain else replicate_ids(there, seeds)[1]
        # Not validated again: the spec is valid, and the seeds' own rule was checked with the axis.
        planned += [
            PlannedTrial.model_construct(
                trial_id=ids[seed],
                condition_id=condition,
                arm=arm.name,
                axes=axes,
                seed=seed,
                spec=there.model_copy(update={"seed": seed}),
                world=world,
            )
            for seed in seeds
        ]
    return planned


def _condition(
    setting: Setting, arm: Arm, axes: Sequence[ResolvedAxis], values: Sequence[Any]
) -> tuple[TrialSpec, dict[str, Any]]:
    chosen = {axis.field: value for axis, value in zip(axes, values, strict=True)}
    relative = {axis.field for axis in axes if axis.relative}
    spec, absolute = build(setting, dict(arm.set), chosen, relative)
    return _hold(setting, arm, spec, chosen), absolute


def build(
    setting: Setting, arm_fields: Mapping[str, Any], chosen: Mapping[str, Any], relative: set[str]
) -> tuple[TrialSpec, dict[str, Any]]:
    """Return the spec of one condition, seed 0, and the absolute values of its axes.

    Args:
        setting: sweep or study, and experiment.
        arm_fields: what the arm sets.
        chosen: axis -> value; `relative` ones are multiples of the method's reference learning rate.
        relative: which axes those are.

    Raises:
        SpecError: a field does not exist here or a value is not allowed.
    """
    experiment = setting.experiment
    fixed = dict(setting.fields) | dict(arm_fields)
    named = [fields.pop("method") for fields in (dict(chosen), fixed) if "method" in fields]
    changes: dict[str, Any] = {"seed": 0}
    own = reference(experiment, named[0]) if named else own_reference(experiment)
    if named:
        changes |= {"method": own.method, RATE: own.learning_rate}
    method_is_axis = "method" in chosen
    changes |= {f: v for f, v in fixed.items() if not (method_is_axis and _other_method_has(f, own.method.kind))}
    absolute = {
        name: rounded(value * own.learning_rate) if name in relative else value
        for name, value in chosen.items()
        if name != "method"
    }
    changes |= absolute
    of_world = {name: changes.pop(name) for name in list(changes) if name.startswith(worlds.PREFIX)}
    _check_fields(experiment, changes, own.method.kind)
    spec = worlds.applied(experiment.spec.replace(_one_duration(changes)), of_world)
    worlds.check(spec)
    _check_template(spec)
    rows.check_size(spec, experiment.name)
    shown = {name: own.method.kind if name == "method" else absolute[name] for name in chosen}
    return spec, shown


def rounded(value: float) -> float:
    """Return 3 x 0.01 as 0.03: the last bits of a product are no choice of anybody, yet would be in the fingerprint."""
    return float(f"{value:.12g}")


def reference(experiment: Experiment, method: Any) -> MethodReference:
    """Return a method's configuration and learning rate on this base.

    Args:
        experiment: the base.
        method: a kind, or a whole configuration, which is taken as it is.

    Raises:
        SpecError: no method of that name, or this base states none.
    """
    references = {stated.method.kind: stated for stated in experiment.methods}
    if isinstance(method, dict):
        kind = str(method.get("kind"))
        if kind not in METHODS:
            raise SpecError(unknown_name("method.kind", kind, METHODS))
        config = experiment.spec.replace({"method": method}).method
        rate = references[kind].learning_rate if kind in references else experiment.spec.train.learning_rate
        return MethodReference.model_construct(method=config, learning_rate=rate)
    if not isinstance(method, str) or method not in references:
        raise SpecError(unknown_name(f"method on base {experiment.name!r}", str(method), references))
    return references[method]


def own_reference(experiment: Experiment) -> MethodReference:
    """Return the method that the experiment itself is written with, and its reference where it states one."""
    own = experiment.spec.method
    fallback = MethodReference.model_construct(method=own, learning_rate=experiment.spec.train.learning_rate)
    return next((stated for stated in experiment.methods if stated.method.kind == own.kind), fallback)


def _check_template(spec: TrialSpec) -> None:
    from harness.data.templates import OWN, TEMPLATES

    if spec.data.template not in (OWN, *TEMPLATES):
        raise SpecError(unknown_name("data.template", spec.data.template, (OWN, *TEMPLATES)))


def _other_method_has(field: str, kind: str) -> bool:
    """Whether a field exists for another method but not for this: under a `method` axis it applies only there."""
    name = field.removeprefix("method.")
    if name == field or name in METHODS[kind].model_fields:
        return False
    return any(name in config.model_fields for config in METHODS.values())


def check_method_fields(setting: Setting, methods: Sequence[Any]) -> None:
    """Refuse a fixed field of a method that none of the methods to be varied has: it would move nothing.

    Raises:
        SpecError: there is such a field.
    """
    kinds = [kind for method in methods if (kind := method.get("kind") if isinstance(method, dict) else method)]
    known = [kind for kind in kinds if isinstance(kind, str) and kind in METHODS]
    for field in setting.fields if known else ():
        if all(_other_method_has(field, kind) for kind in known):
            raise SpecError(f"{field} has no meaning for any method varied here ({', '.join(known)}); leave it out.")


def _check_fields(experiment: Experiment, changes: Mapping[str, Any], kind: str) -> None:
    problems = [problem for field in changes if (problem := _field_problem(experiment, field, kind))]
    if problems:
        raise SpecError(problems)


def _field_problem(experiment: Experiment, field: str, kind: str) -> str | None:
    node: Any = experiment.spec
    parts = field.split(".")
    for depth, part in enumerate(parts):
        names = list(METHODS[kind].model_fields) if parts[0] == "method" and depth == 1 else _names(node)
        if part not in names:
            return _no_meaning(experiment, field, ".".join(parts[:depth]), part, names, kind)
        node = getattr(node, part, None)
    return None


def _names(node: Any) -> list[str]:
    return list(getattr(type(node), "model_fields", ()))


def _no_meaning(experiment: Experiment, field: str, parent: str, part: str, names: Sequence[str], kind: str) -> str:
    if parent == "method" and _other_method_has(field, kind):
        having = [name for name, config in METHODS.items() if part in config.model_fields]
        return f"{field} has no meaning for method {kind!r}, but must go with {' or '.join(having)}; set method."
    where = f" in {parent!r}" if parent else ""
    allowed = f"but must be one of {', '.join(sorted(names))}" if names else "which holds no fields"
    sentence = f"{field} has no meaning on base {experiment.name!r}: {part!r} is no field{where}, {allowed}."
    return sentence + nearest(part, names)


def _one_duration(changes: dict[str, Any]) -> dict[str, Any]:
    """Setting one of num_epochs and num_steps clears the other."""
    epochs, steps = "train.num_epochs", "train.num_steps"
    last = next(
        (name for name in reversed(list(changes)) if name in (epochs, steps) and changes[name] is not None), None
    )
    if last is None:
        return changes
    return changes | {steps if last == epochs else epochs: None}


def _hold(setting: Setting, arm: Arm, spec: TrialSpec, chosen: Mapping[str, Any]) -> TrialSpec:
    """Return the spec with as many steps as the experiment's own size takes, where the arm holds steps equal."""
    if arm.hold == "epochs" or spec.train.num_epochs is None:
        return spec
    if setting.experiment.spec.data.is_packed:
        raise SpecError(
            f"arm {arm.name!r} holds steps equal, but the experiment's own data.packing is "
            f"{setting.experiment.spec.data.packing!r} and its steps are unknown before rows are packed; set "
            "train.num_steps, or pack on an axis."
        )
    own = setting.experiment.spec.data.num_examples or rows.available(setting.experiment.spec.data)
    size = spec.data.num_examples or rows.available(spec.data)
    if own is None or size is None:
        raise SpecError(
            f"arm {arm.name!r} holds steps equal, but data.num_examples is None and the number of rows is unknown "
            "before they are read; set data.num_examples."
        )
    num_steps = spec.train.steps(own)
    if spec.train.steps(size) == num_steps and not spec.data.is_packed:
        return spec  # so that it is the same trial as in the arm that holds epochs
    return spec.replace({"train.num_epochs": None, "train.num_steps": num_steps})
