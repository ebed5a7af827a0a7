"""Studies with the stub trial: what is proposed, what is told, and that a disturbance changes neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine import catalog, objectives, plan, states, study
from harness.engine.launch import Options, View
from harness.engine.plan import Plan, Request
from harness.records.store import read_lines
from harness.spec import Study
from tests.engine.inline import inline
from tests.engine.stub import behave, run_stub
from tests.engine.test_plan import with_qlora
from tests.pocket.tiny import tiny_experiment

optuna = pytest.importorskip("optuna")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Return a function that runs the shipped study, shortened, in a folder."""
    tree = json.loads(catalog.load_sweep("tune").model_dump_json())
    tree |= {"num_conditions": 5, "num_startup_conditions": 3}
    short = Study.model_validate_json(json.dumps(tree))
    experiment = with_qlora(tiny_experiment())
    monkeypatch.setattr(catalog, "load_sweep", lambda name: short)
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)

    def go(root: Path, **options: Any) -> Plan:
        made = plan.make_plan(Request(name="tune", base="tiny", out=root))
        how = Options(1, run=run_stub, prepare=False, executor=inline, **options)
        return study.run(made, how, View)[0]

    return go


def database(made: Plan) -> Any:
    """Return the study as Optuna reads it."""
    return optuna.load_study(study_name="tune", storage=f"sqlite:///{made.folder / 'study.db'}")


def proposals(made: Plan) -> list[dict[str, Any]]:
    """Return each condition's axes, in order."""
    return [dict(trial.axes) for trial in made.record.trials if trial.seed == 0]


def test_study_runs_each_condition_on_every_seed_and_tells_the_means(tmp_path: Path, run: Callable[..., Plan]) -> None:
    made = run(tmp_path)
    told = database(made).get_trials()
    assert [trial.state.name for trial in told] == ["COMPLETE"] * 5
    assert len(made.record.trials) == 15
    for trial in told:
        rate = next(
            t.axes["train.learning_rate"]
            for t in made.record.trials
            if t.condition_id == trial.user_attrs["condition_id"]
        )
        # The stub scores learning rate + seed: the mean over seeds 0, 1, 2 is rate + 1, and before equals after.
        assert trial.values == [pytest.approx(rate + 1.0), 0.0]
        assert trial.constraints == {"delta/fluency": pytest.approx(-0.3)}


def test_study_rank_exists_for_adapters_only(tmp_path: Path, run: Callable[..., Plan]) -> None:
    made = run(tmp_path)
    assert {axes["method"] for axes in proposals(made)} >= {"full"}
    for axes in proposals(made):
        assert ("method.rank" in axes) == (axes["method"] != "full")


def test_study_rate_is_relative_to_the_method(tmp_path: Path, run: Callable[..., Plan]) -> None:
    for axes in proposals(run(tmp_path)):
        reference = 1e-3 if axes["method"] == "full" else 1e-2
        assert 0.1 * reference <= axes["train.learning_rate"] <= 10 * reference


def test_study_that_lost_its_database_proposes_the_same_and_runs_nothing(
    tmp_path: Path, run: Callable[..., Plan]
) -> None:
    first = run(tmp_path)
    (first.folder / "study.db").unlink()
    second = run(tmp_path)
    assert second.record == first.record
    assert len(read_lines(tmp_path / "runs.jsonl")) == 15
    assert len(database(second).get_trials()) == 5


def test_study_with_a_damaged_database_sets_it_aside(tmp_path: Path, run: Callable[..., Plan]) -> None:
    first = run(tmp_path)
    (first.folder / "study.db").write_bytes(b"no database at all" * 100)
    assert run(tmp_path).record == first.record
    assert (first.folder / "study.damaged-1").exists()


def test_study_stopped_on_the_way_ends_like_an_undisturbed_one(tmp_path: Path, run: Callable[..., Plan]) -> None:
    control = run(tmp_path / "control")
    behave(tmp_path / "stopped", "all", sleep=0.05)
    part = run(tmp_path / "stopped", budget_seconds=0.6)
    assert 0 < len(list((tmp_path / "stopped/trials").glob("*/result.json"))) < 15
    assert len(part.record.trials) <= 15
    behave(tmp_path / "stopped", "all")
    assert proposals(run(tmp_path / "stopped")) == proposals(control)


def test_study_condition_with_a_failed_seed_is_told_as_failed(tmp_path: Path, run: Callable[..., Plan]) -> None:
    behave(tmp_path, 1, raises="ValueError", times=1)
    made = run(tmp_path)
    assert {trial.state.name for trial in database(made).get_trials()} == {"FAIL"}


def test_objective_of_a_measure_that_mixes_directions_is_unknown(tmp_path: Path, run: Callable[..., Plan]) -> None:
    made = run(tmp_path)
    result = states.of_trial(made.store, made.record.trials[0].trial_id).result
    assert result is not None
    assert objectives.objective(result, "fluency", "after") == pytest.approx(result.spec.train.learning_rate)
    tasks = [json.loads(task.model_dump_json()) for task in result.spec.evals.tasks]
    for task in tasks:
        task["measure"] = "fluency"
    mixed = result.model_copy(update={"spec": result.spec.replace({"evals.tasks": tasks})})
    # Bits per byte and accuracies have no mean.
    assert objectives.objective(mixed, "fluency", "after") is None
