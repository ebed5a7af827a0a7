"""The search space of a study, without Optuna: which dimensions a method has, and what a proposal means as a spec.

Invariant: a proposal and the condition it means are one to one; a dimension that a method lacks is not asked for it.
What does not live here: proposing (study.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.engine.axes import build, check_method_fields, replicates
from harness.engine.resolve import Setting
from harness.errors import SpecError, unknown_name
from harness.records.schema import CONFIRM_ARM, PlannedTrial
from harness.spec import Arm, Dimension, Study, TrialSpec
from harness.spec.sweep import stale_seeds

ARM = Arm(name="study", hold="epochs")
CONFIRM = Arm(name=CONFIRM_ARM, hold="epochs")


def fields(study: Study) -> tuple[str, ...]:
    """Return the dotted field of each dimension."""
    return tuple(dimension.field for dimension in study.space)


def method_first(study: Study) -> list[Dimension]:
    """Return the dimensions in the order they are asked: the method decides which others exist."""
    return sorted(study.space, key=lambda dimension: dimension.field != "method")


def applies(dimension: Dimension, method: str) -> bool:
    """Return whether a dimension exists for a method."""
    return not dimension.only_for_methods or method in dimension.only_for_methods


def choices(dimension: Dimension, setting: Setting) -> tuple[Any, ...]:
    """Return a dimension's choices here: methods that the base does not state are left out."""
    if dimension.field != "method":
        return dimension.choices
    known = [reference.method.kind for reference in setting.experiment.methods]
    return tuple(choice for choice in dimension.choices if choice in known)


def condition(setting: Setting, proposal: Mapping[str, Any]) -> tuple[TrialSpec, dict[str, Any]]:
    """Return the spec (seed 0) that a proposal means, and its absolute axis values.

    Raises:
        SpecError: a field or value that cannot be here.
    """
    study = setting.sweep
    assert isinstance(study, Study)
    relative = {d.field for d in study.space if d.relative_to == "reference_learning_rate"}
    return build(setting, {}, proposal, relative)


def planned(setting: Setting, proposal: Mapping[str, Any]) -> list[PlannedTrial]:
    """Return a proposal's trials, one a seed of the search."""
    spec, shown = condition(setting, proposal)
    return replicates(spec, ARM, shown, seeds(setting))


def confirming(setting: Setting, proposal: Mapping[str, Any]) -> list[PlannedTrial]:
    """Return a winner's trials on the fresh seeds; none where the study declares none."""
    study = setting.sweep
    assert isinstance(study, Study)
    spec, shown = condition(setting, proposal)
    return replicates(spec, CONFIRM, shown, study.confirm_seeds) if study.confirm_seeds else []


def seeds(setting: Setting) -> tuple[int, ...]:
    """Return the seeds of the search: SET's, else the study's."""
    study = setting.sweep
    assert isinstance(study, Study)
    return tuple(setting.axis_values.get("seed", study.seeds))


def check(setting: Setting) -> None:
    """Refuse a study that cannot run here: build both ends of the space for every method.

    Raises:
        SpecError: a dimension, objective or constraint without meaning on this base.
    """
    study = setting.sweep
    assert isinstance(study, Study)
    methods = _methods(setting)
    if methods == ():
        raise SpecError(
            f"study {study.name!r} varies method, but base {setting.experiment.name!r} states none of them."
        )
    _check_seeds(study, setting)
    check_method_fields(setting, methods or ())
    for proposal in ends(setting):
        condition(setting, proposal)
    _check_measures(study, setting)


def ends(setting: Setting) -> list[dict[str, Any]]:
    """Return the proposals at both ends of every dimension, for each method."""
    study = setting.sweep
    assert isinstance(study, Study)
    methods = _methods(setting)
    found: list[dict[str, Any]] = []
    for method in methods or (setting.experiment.spec.method.kind,):
        for end in (0, -1):
            proposal = {"method": method} if methods else {}
            for dimension in study.space:
                if dimension.field != "method" and applies(dimension, method):
                    proposal[dimension.field] = _end(dimension, end)
            found.append(proposal)
    return found


def _methods(setting: Setting) -> tuple[Any, ...] | None:
    """Return the methods of the space that are known here; None where it does not vary them."""
    study = setting.sweep
    assert isinstance(study, Study)
    return next((choices(d, setting) for d in study.space if d.field == "method"), None)


def _check_seeds(study: Study, setting: Setting) -> None:
    """Refuse seeds of SET that leave nothing fresh to confirm on, or too few for a rung."""
    own = seeds(setting)
    if problem := stale_seeds(study.confirm_seeds, own):
        raise SpecError(f"{problem} (SET seed is {list(own)}).")
    if study.pruning is not None and study.pruning.rungs[-1] >= len(own):
        raise SpecError(
            f"SET seed is {list(own)}, but must be more seeds than the last of pruning.rungs {study.pruning.rungs!r}."
        )


def _end(dimension: Dimension, end: int) -> Any:
    if dimension.choices:
        return dimension.choices[end]
    value = (dimension.low, dimension.high)[end]
    assert value is not None
    return int(value) if dimension.integer else value


def _check_measures(study: Study, setting: Setting) -> None:
    here = {task.measure for task in setting.experiment.spec.evals.tasks}
    for objective in study.objectives:
        if objective.measure not in here:
            raise SpecError(unknown_name(f"objective on base {setting.experiment.name!r}", objective.measure, here))
    for constraint in study.constraints:
        name = constraint.column
        if name not in COLUMNS and name.split("/")[0] not in ("after", "delta"):
            raise SpecError(unknown_name("constraint column", name, [*COLUMNS, "after/<measure>", "delta/<measure>"]))


COLUMNS = ("trainable_share", "peak_memory_bytes", "seconds_train", "num_steps", "num_loss_tokens", "val_loss")
"""Columns of a trial that a constraint may name, besides after/<measure> and delta/<measure>."""
