"""Planned trials for the stub: one a seed."""

from __future__ import annotations

from harness.identity import condition_id, trial_id
from harness.records.schema import PlannedTrial
from harness.spec import TrialBase, TrialSpec
from tests.specs import pinned_spec


def planned(count: int) -> list[PlannedTrial]:
    """Return trials of seeds 0, 1, ..."""
    return [of_spec(pinned_spec().replace({"seed": seed})) for seed in range(count)]


def of_spec(spec: TrialSpec) -> PlannedTrial:
    """Return a spec as a planned trial."""
    return PlannedTrial(
        trial_id=trial_id(spec), condition_id=condition_id(spec), arm="a", axes={}, seed=spec.seed, spec=spec
    )


def child_of(parent: PlannedTrial) -> PlannedTrial:
    """Return a trial that starts from another one's weights."""
    return of_spec(parent.spec.replace({"base": TrialBase(trial_id=parent.trial_id)}))
