"""From a spec to its fingerprint.

Canonical JSON: keys sorted, no spaces, every field that is not at its neutral default, `kind` always (two methods with
equal fields must not hash alike), fields marked `NotIdentity` never, -0.0 written as 0.0, floats by shortest repr.
Invariant: what cannot be written exactly is refused, never approximated. What does not live here: file hashes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from enum import Enum
from functools import cache
from typing import Any, cast

import pydantic

from harness import versions
from harness.spec import BaseRef, EvalSpec, PocketBase, PocketData, PocketItems, PocketText, TrialSpec
from harness.spec.model import NotIdentity


def canonical(value: Any) -> Any:
    """Return the JSON tree of a spec value, reduced to what is identity.

    Raises:
        TypeError: the value holds something that JSON cannot carry exactly.
    """
    if isinstance(value, pydantic.BaseModel):
        return _canonical_model(value)
    if isinstance(value, tuple | list):
        return [canonical(item) for item in cast("tuple[Any, ...]", value)]
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value!r} has no exact JSON form")
        return value + 0.0  # -0.0 + 0.0 is 0.0
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} {value!r} cannot enter a fingerprint")


def _canonical_model(value: pydantic.BaseModel) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, has_neutral, neutral in _identity_fields(type(value)):
        held = getattr(value, name)
        if not (has_neutral and held == neutral):
            tree[name] = canonical(held)
    return tree


@cache
def _identity_fields(model: type[pydantic.BaseModel]) -> tuple[tuple[str, bool, Any], ...]:
    """Return the fields that are identity: name, whether it has a neutral value, and that value."""
    return tuple(
        (name, not field.is_required() and name != "kind", field.default)
        for name, field in model.model_fields.items()
        if not any(isinstance(mark, NotIdentity) for mark in field.metadata)
    )


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a spec value."""
    return _to_json(canonical(value))


def _to_json(tree: Any) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any, behaviours: dict[str, int] | None = None) -> str:
    """Return the sha256 hex digest of a value's canonical JSON and the behaviour versions that bear on it."""
    return _digest(canonical(value), behaviours or {})


def _digest(tree: Any, behaviours: dict[str, int]) -> str:
    text = _to_json(tree) + "\n" + json.dumps(behaviours, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def trial_id(spec: TrialSpec) -> str:
    """Return a trial's id: known from the recipe alone, before any artefact exists."""
    return fingerprint(spec, behaviours_of(spec))


def replicate_ids(spec: TrialSpec, seeds: Iterable[int]) -> tuple[str, dict[int, str]]:
    """Return a spec's condition id and the trial id at each seed, at the price of one."""
    tree, behaviours = canonical(spec), behaviours_of(spec)
    ids = {seed: _digest(tree | {"seed": seed}, behaviours) for seed in (0, *seeds)}
    return ids[0], ids


def condition_id(spec: TrialSpec) -> str:
    """Return the id of the spec without its seed: equal for replicates."""
    return trial_id(spec.model_copy(update={"seed": 0}))


def behaviours_of(spec: TrialSpec) -> dict[str, int]:
    """Return the behaviour versions that a spec's numbers depend on."""
    parts = (spec.base, spec.data.source, *spec.data.other_sources, *(task.source for task in spec.evals.tasks))
    uses_pocket = any(isinstance(part, PocketBase | PocketData | PocketText | PocketItems) for part in parts)
    return (
        versions.BEHAVIOURS
        | (versions.POCKET_BEHAVIOURS if uses_pocket else {})
        | evaluation_behaviours(spec.evals)
        | _probe_behaviours(spec)
    )


def evaluation_behaviours(evals: EvalSpec) -> dict[str, int]:
    """Return the versions of catalogue suites, panels, layouts and samples that an evaluation uses, if any.

    A task of a suite that this code no longer knows keeps the version that it was written with.
    """
    suites = {task.suite: versions.SUITES.get(task.suite, task.version) for task in evals.tasks if task.version}
    panels = {task.panel: versions.PROBES[task.panel] for task in evals.tasks if task.panel != "none"}
    is_sampled = any(task.num_samples for task in evals.tasks)
    layouts = {"layouts": versions.PROBES["layouts"]} if any(task.layout != "as_is" for task in evals.tasks) else {}
    return (
        {f"suite.{name}": version for name, version in suites.items()}
        | {f"panel.{name}": version for name, version in panels.items()}
        | layouts
        | ({"sampled": versions.PROBES["sampled"]} if is_sampled else {})
    )


def _probe_behaviours(spec: TrialSpec) -> dict[str, int]:
    probes = spec.probes
    used = {"during": bool(probes.during), "drift": probes.drift == "on", "interpolation": bool(probes.interpolation)}
    return {f"probe.{name}": versions.PROBES[name] for name, is_used in used.items() if is_used}


def base_key(spec: TrialSpec) -> str:
    """Return the store key of a trial's base artefact."""
    return base_ref_key(spec.base)


def base_ref_key(base: BaseRef) -> str:
    """Return the store key of a base: a pocket base depends on how it is built, any other on its reference alone."""
    return fingerprint(base, versions.POCKET_BEHAVIOURS if isinstance(base, PocketBase) else None)
