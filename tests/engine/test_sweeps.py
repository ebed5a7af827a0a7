"""Every shipped sweep and study, for real: two steps a trial on a tiny world, one seed, all in one process.

What it shows: the trials that the plan makes can be run, scored, recorded and told to Optuna. What the sweeps find is
not shown at this size.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.engine import catalog, launch, plan, study
from harness.engine.launch import Options, View
from harness.engine.plan import Plan, Request
from harness.records import result
from harness.records.schema import SweepRecord, TrialResult
from harness.spec import Study
from tests.engine.inline import inline
from tests.engine.test_plan import with_qlora
from tests.pocket.tiny import tiny_experiment

TWO_STEPS = {"seed": [0], "train.num_steps": 2, "train.batch_size": 4, "evals.num_items": 6}
ONE_WORLD = {"world.seed": [0]}
SHORT = {"seed": [0], "train.num_epochs": [0.5, 1], "data.num_examples": 8, "evals.num_items": 6}
UNKNOWN = {
    "seed": [0],
    "train.num_epochs": [0.01, 0.02],
    "evals.num_items": 6,
    "world.people_per_tier": 60,
    "world.num_unknown_people": 120,
    "base.model.num_steps": None,
}
"""The arms state hundreds of rows, about more people than the tiny world has."""
SIZES = {"seed": [0], "train.num_epochs": 1, "data.num_examples": [8, 16], "evals.num_items": 6}
# The axis of these is the duration, an arm sets it, or there are more levels than a test needs.
SETS = {
    "epochs": SHORT,
    "lima_size": SIZES,
    "learning_rate": TWO_STEPS | {"train.learning_rate": [0.001, 0.01]},
    "method": TWO_STEPS | {"train.learning_rate": [0.001, 0.01]},
    "lora_rank": TWO_STEPS | {"method.rank": [1, 4]},
    "aa_control": TWO_STEPS | ONE_WORLD,
    "packing": {"seed": [0], "train.num_epochs": 1, "data.num_examples": 4, "evals.num_items": 6},
    "planted_effect": TWO_STEPS | ONE_WORLD,
    "claim_a1_mask": SIZES | ONE_WORLD,
    "claim_a4_end_of_turn": TWO_STEPS | ONE_WORLD,
    "claim_b15_unknown": UNKNOWN | ONE_WORLD,
    "claim_b4_size": SIZES | ONE_WORLD,
    "claim_c1_epochs": SHORT | ONE_WORLD,
    "claim_c4_rate": TWO_STEPS | ONE_WORLD | {"train.learning_rate": [0.001, 0.01]},
    "claim_c9_size": TWO_STEPS | ONE_WORLD | {"base.model.hidden_size": [16, 32]},
    "claim_e2_replay": TWO_STEPS | ONE_WORLD | {"data.replay_share": [0.0, 0.5]},
    "drift": TWO_STEPS | {"train.learning_rate": [0.001, 0.01], "probes.drift_texts": 4},
    "tune": {"seed": [0], "train.batch_size": 4, "evals.num_items": 6, "data.num_examples": 8},
}

OWN_TESTS = ("tune", "pocket_bands")
SLOW = ("template_mismatch", "packing", *(name for name in catalog.sweep_names() if name.startswith("claim_")))
"""A study is run below; an arm of `pocket_bands` states its length, so test_laboratory.py runs it."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one store for the whole module, so that the base is made once."""
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every base mean the tiny experiment with QLoRA."""
    experiment = with_qlora(tiny_experiment())
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)


def planned(name: str, root: Path) -> Plan:
    """Return a plan at two steps a trial."""
    return plan.make_plan(Request(name=name, base="tiny", set=json.dumps(SETS.get(name, TWO_STEPS)), out=root))


def results(made: Plan) -> list[TrialResult]:
    """Return the results of a plan, all of which must be there."""
    found = [result.read(made.store.trial(key)) for key in made.trials]
    assert None not in found
    return [one for one in found if one is not None]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in catalog.sweep_names()
        if name not in OWN_TESTS
    ],
)
def test_sweep_that_ships_runs_at_two_steps(name: str, root: Path) -> None:
    made = planned(name, root)
    runtime = made.setting.experiment.runtime
    summary = launch.launch(made.store, made.record.trials, runtime, Options(1, executor=inline))
    assert [(outcome.cause, outcome.message) for outcome in summary.failed] == []
    for one in results(made):
        assert one.state == "COMPLETE"
        assert one.train.num_steps <= 2
        assert one.after is not None
        assert {key.rsplit("/", 1)[0] for key in one.after.test} == {task.key for task in one.spec.evals.tasks}
        assert (one.before_full_precision is not None) == (one.spec.method.kind == "qlora")
    again = launch.launch(made.store, made.record.trials, runtime, Options(1, executor=inline))
    assert again.num_ran == 0


@pytest.mark.usefixtures("tiny")
def test_study_that_ships_runs_and_resumes_without_running_anything_twice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = json.loads(catalog.load_sweep("tune").model_dump_json())
    tree |= {"num_conditions": 4, "num_startup_conditions": 2}
    tree["space"][2] |= {"high": 2}
    small = Study.model_validate_json(json.dumps(tree))
    monkeypatch.setattr(catalog, "load_sweep", lambda name: small)
    made = planned("tune", root)
    grown, summary = study.run(made, Options(1, executor=inline), View)
    assert (summary.why, summary.failed, len(grown.record.trials)) == ("done", [], 4)
    for one in results(grown):
        assert ("rank" in type(one.spec.method).model_fields) == (one.spec.method.kind != "full")
    record = made.store.read(made.folder / "sweep.json", SweepRecord)
    assert record is not None
    assert record.model_dump_json() == grown.record.model_dump_json()
    again, second = study.run(made, Options(1, executor=inline), View)
    assert second.num_ran == 0
    assert again.record == grown.record
