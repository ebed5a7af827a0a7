"""Running the shipped study with the stub trial, shortened: what the tests of studies share."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from harness.engine import catalog, plan, study, worker
from harness.engine.launch import Options, Summary, View
from harness.engine.plan import Plan, Request
from harness.records.schema import CONFIRM_ARM
from harness.spec import Study
from tests.engine.inline import inline
from tests.engine.stub import run_stub
from tests.pocket.tiny import tiny_experiment, with_qlora

SHORT: dict[str, Any] = {"num_conditions": 5, "num_startup_conditions": 3, "confirm_seeds": []}
ONE_OBJECTIVE: dict[str, Any] = {"objectives": [{"measure": "learned", "value": "after", "direction": "maximize"}]}


class Runner:
    """Runs the shipped study in a folder; `changes` are of the study's own fields."""

    summary: Summary

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        experiment = with_qlora(tiny_experiment())
        patch.setattr(catalog, "load_experiment", lambda name: experiment)
        # Stub trials leave no cycles, and with torch in this process a collection takes longer than all the rest.
        patch.setattr(worker, "gc", SimpleNamespace(collect=lambda: 0))
        self.patch = patch
        self.shipped = json.loads(catalog.load_sweep("tune").model_dump_json())

    def plan(self, root: Path, changes: dict[str, Any] | None = None, request: dict[str, Any] | None = None) -> Plan:
        """Return its plan."""
        text = json.dumps(self.shipped | SHORT | (changes or {}))
        self.patch.setattr(catalog, "load_sweep", lambda name: Study.model_validate_json(text))
        return plan.make_plan(Request(name="tune", base="tiny", out=root, **(request or {})))

    def __call__(
        self, root: Path, changes: dict[str, Any] | None = None, request: dict[str, Any] | None = None, **how: Any
    ) -> Plan:
        """Return its plan as it grew; `summary` is how it ended."""
        made = self.plan(root, changes, request)
        options = Options(**{"num_workers": 1, "run": run_stub, "prepare": False, "executor": inline} | how)
        grown, self.summary = study.run(made, options, View)
        return grown


def database(made: Plan) -> Any:
    """Return the study as Optuna reads it."""
    return optuna.load_study(study_name="tune", storage=f"sqlite:///{made.folder / 'study.db'}")


def content_of(told: Any) -> list[Any]:
    """Return all that a study of Optuna's says of each condition, in order."""
    return [
        (t.number, t.state.name, t.values, t.intermediate_values, t.params, t.constraints, t.user_attrs)
        for t in told.get_trials()
    ]


def fresh(made: Plan) -> list[tuple[str, int]]:
    """Return condition and seed of each trial that confirms, in order."""
    return [(trial.condition_id, trial.seed) for trial in made.record.trials if trial.arm == CONFIRM_ARM]
