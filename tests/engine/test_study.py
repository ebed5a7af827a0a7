"""Studies with the stub trial: what is proposed, what is told, and that a disturbance changes neither."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.engine import catalog, commands, objectives, plan, show, states, storage, study
from harness.engine.launch import Options, Summary, View
from harness.engine.plan import Plan, Request
from harness.errors import SpecError
from harness.records.store import read_lines
from tests.engine.stub import behave, run_stub
from tests.engine.study_runs import Runner, content_of, database


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Return what runs the shipped study in a folder, shortened; `changes` are of the study's own fields."""
    return Runner(monkeypatch)


def proposals(made: Plan) -> list[dict[str, Any]]:
    """Return each condition's axes, in order."""
    return [dict(trial.axes) for trial in made.record.trials if trial.seed == 0]


def ids(made: Plan) -> list[tuple[str, str]]:
    """Return each planned trial's ids, in order."""
    return [(trial.condition_id, trial.trial_id) for trial in made.record.trials]


def content(made: Plan) -> list[Any]:
    """Return all that the database says of each condition, in order."""
    return content_of(database(made))


def raising(error: BaseException) -> Callable[..., None]:
    """Return a function that raises, whatever it is given."""

    def fail(*_: Any) -> None:
        raise error

    return fail


def waits(made: Plan) -> list[int]:
    """Return how many calls ended for each condition."""
    return [row["num_waits"] for row in json.loads((made.folder / "study.json").read_text())["proposals"]]


def test_study_runs_each_condition_on_every_seed_and_tells_the_means(tmp_path: Path, run: Runner) -> None:
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


def test_study_rank_exists_for_adapters_only(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path)
    assert {axes["method"] for axes in proposals(made)} >= {"full"}
    for axes in proposals(made):
        assert ("method.rank" in axes) == (axes["method"] != "full")


def test_study_rate_is_relative_to_the_method(tmp_path: Path, run: Runner) -> None:
    for axes in proposals(run(tmp_path)):
        reference = 1e-3 if axes["method"] == "full" else 1e-2
        assert 0.1 * reference <= axes["train.learning_rate"] <= 10 * reference


def test_study_that_lost_its_database_proposes_the_same_and_runs_nothing(tmp_path: Path, run: Runner) -> None:
    first = run(tmp_path)
    (first.folder / "study.db").unlink()
    second = run(tmp_path)
    assert second.record == first.record
    assert len(read_lines(tmp_path / "runs.jsonl")) == 15
    assert len(database(second).get_trials()) == 5


def test_study_with_a_damaged_database_sets_it_aside(tmp_path: Path, run: Runner) -> None:
    first = run(tmp_path)
    (first.folder / "study.db").write_bytes(b"no database at all" * 100)
    assert run(tmp_path).record == first.record
    assert (first.folder / "study.set-aside-1.db").exists()
    assert len(database(first).get_trials()) == 5


def test_study_whose_database_another_process_locks_goes_on_and_tells_it_later(
    tmp_path: Path, run: Runner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: plain(*args, **(named | {"timeout": 0.01})))
    made = run(tmp_path)
    with closing(plain(made.folder / "study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert len(run(tmp_path, {"num_conditions": 6}).record.trials) == 18
        assert "goes on" in caplog.text
    assert [path.name for path in made.folder.glob("study.*db")] == ["study.db"], "nothing is wrong with the file"
    run(tmp_path, {"num_conditions": 6})
    assert len(content_of(database(made))) == 6


def test_study_stopped_on_the_way_ends_like_an_undisturbed_one(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    behave(tmp_path / "stopped", "all", sleep=0.05)
    part = run(tmp_path / "stopped", budget_seconds=0.6)
    assert 0 < len(list((tmp_path / "stopped/trials").glob("*/result.json"))) < 15
    assert len(part.record.trials) <= 15
    behave(tmp_path / "stopped", "all")
    assert proposals(run(tmp_path / "stopped")) == proposals(control)


def test_study_condition_with_a_failed_seed_is_told_as_failed(tmp_path: Path, run: Runner) -> None:
    behave(tmp_path, 1, raises="ValueError", times=1)
    made = run(tmp_path)
    assert {trial.state.name for trial in database(made).get_trials()} == {"FAIL"}


def test_study_interrupted_in_its_first_batch_keeps_every_recorded_trial(tmp_path: Path, run: Runner) -> None:
    first = run(tmp_path)
    content = (first.folder / "sweep.json").read_bytes()
    shutil.rmtree(tmp_path / "trials" / first.record.trials[0].trial_id)
    again = run(tmp_path, budget_seconds=1e-9)
    assert run.summary.why == "budget"
    assert again.record == first.record
    assert (first.folder / "sweep.json").read_bytes() == content


@pytest.mark.parametrize(
    ("num_done", "lost"),
    [
        (1, ("study.db",)),
        (4, ("study.db",)),
        (4, ("study.json",)),
        (4, ("study.db", "study.json")),
        (7, ("study.db", "sweep.json")),
        (7, ()),
    ],
)
def test_study_continued_after_a_loss_is_the_undisturbed_one(
    tmp_path: Path, run: Runner, num_done: int, lost: tuple[str, ...]
) -> None:
    whole = {"num_conditions": 9}
    control = run(tmp_path / "control", whole)
    part = run(tmp_path / "stopped", {"num_conditions": num_done})
    assert len(database(part).get_trials()) == num_done
    for name in lost:
        (part.folder / name).unlink()
    continued = run(tmp_path / "stopped", whole)
    assert ids(continued) == ids(control)
    assert content(continued) == content(control)
    assert (continued.folder / "study.json").read_bytes() == (control.folder / "study.json").read_bytes()
    assert len(read_lines(tmp_path / "stopped/runs.jsonl")) == 27


def test_study_proposals_depend_on_what_was_told(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    learned = json.loads(catalog.load_sweep("tune").model_dump_json())["objectives"][0]
    other = run(tmp_path / "other", {"objectives": [learned | {"direction": "minimize"}]})
    assert proposals(other)[:3] == proposals(control)[:3]
    assert proposals(other)[3:] != proposals(control)[3:]


def test_study_killed_between_proposal_and_launch_goes_on_with_that_proposal(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = run(tmp_path / "control")
    with monkeypatch.context() as patch:
        patch.setattr(study.proposals, "write_record", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    assert ids(run(tmp_path / "killed")) == ids(control)


def test_study_tries_what_its_machine_failed_again_in_the_same_call(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    behave(tmp_path / "oom", 1, raises="MemoryError", times=study.MAX_RELAUNCHES)
    made = run(tmp_path / "oom")
    assert (run.summary.why, run.summary.exit_code, run.summary.num_planned) == ("done", 0, 15)
    assert content(made) == content(control)
    assert waits(made) == [0] * 5


def test_study_waits_for_a_condition_that_its_machine_failed(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    behave(tmp_path / "oom", 1, raises="MemoryError", times=study.MAX_RELAUNCHES + 1)
    first = run(tmp_path / "oom")
    assert (run.summary.why, run.summary.exit_code) == ("machine", 130)
    assert "condition 0 has a trial that failed by its machine (oom)" in run.summary.message
    assert [state for _, state, *_ in content(first)] == ["RUNNING"] * 3
    run(tmp_path / "oom")  # the first batch is told, and now the second one has the failure
    last = run(tmp_path / "oom")
    assert run.summary.why == "done"
    assert ids(last) == ids(control)
    assert content(last) == content(control)
    assert waits(last) == [1] * 5


def test_study_many_equal_failures_of_the_machine_are_waited_for_as_well(tmp_path: Path, run: Runner) -> None:
    behave(tmp_path, 1, raises="MemoryError")
    made = run(tmp_path, {"num_conditions": 6, "num_startup_conditions": 6})
    assert (run.summary.why, len(run.summary.failed)) == ("machine", 6)
    assert waits(made) == [1] * 6


@pytest.mark.parametrize(("why", "is_written"), [("machine", True), ("budget", True), ("interrupted", False)])
def test_study_that_waits_for_its_machine_leaves_a_report(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, why: Any, is_written: bool
) -> None:
    run(tmp_path)
    monkeypatch.setattr(commands.study, "run", lambda made, *_: (made, Summary(why)))
    monkeypatch.setattr(commands.hooks, "write_report", lambda made: "written")
    request = Request(name="tune", base="tiny", out=tmp_path)
    done = commands.sweep(request, workers=1, retry_failed=False, budget=None, as_json=True)
    assert (done.report == "written") is is_written
    assert done.exit_code == 130


def test_study_counts_a_trial_without_any_record_as_a_failure_of_the_machine(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path)
    first, second = made.record.trials[:2]
    (made.store.trial(first.trial_id) / "result.json").unlink()
    assert study._machine_failure(made, first) == "disk"
    assert study._machine_failure(made, second) is None


def test_study_does_not_wait_for_ever(tmp_path: Path, run: Runner) -> None:
    behave(tmp_path, 1, raises="MemoryError")
    for _ in range(2 * study.MAX_WAITS):
        run(tmp_path)
        assert run.summary.why == "machine"
    made = run(tmp_path)
    assert (run.summary.why, run.summary.exit_code) == ("done", 1)
    assert {state for _, state, *_ in content(made)} == {"FAIL"}
    behave(tmp_path, 1)
    assert {state for _, state, *_ in content(run(tmp_path))} == {"COMPLETE"}


def test_study_condition_told_as_failed_is_told_its_later_result(tmp_path: Path, run: Runner) -> None:
    behave(tmp_path, 1, raises="ValueError", times=1)
    first = run(tmp_path)
    assert {state for _, state, *_ in content(first)} == {"FAIL"}
    second = run(tmp_path, retry_failed=True)
    assert [state for _, state, *_ in content(second)] == ["COMPLETE"] * 5
    assert ids(second) == ids(first)
    assert (first.folder / "study.set-aside-1.db").exists()
    run(tmp_path)
    assert len(list(first.folder.glob("*set-aside*"))) == 1


def test_study_whose_database_cannot_be_written_goes_on(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(storage.Mirror, "_bring", raising(RuntimeError("no database")))
        made = run(tmp_path)
    assert (run.summary.why, len(made.record.trials)) == ("done", 15)
    assert len(content(run(tmp_path))) == 5


@pytest.mark.parametrize("changes", [{"sampler_seed": 1}, {"num_startup_conditions": 2}, {"seeds": [0, 1]}])
def test_study_of_another_definition_starts_anew(tmp_path: Path, run: Runner, changes: dict[str, Any]) -> None:
    control = run(tmp_path / "control", changes)
    first = run(tmp_path / "changed")
    (first.folder / "study.db-journal").write_bytes(b"half a page")
    again = run(tmp_path / "changed", changes)
    assert ids(again) == ids(control)
    assert content(again) == content(control)
    for name in ("study.set-aside-1.db", "study.set-aside-1.json", "sweep.set-aside-1.json"):
        assert (first.folder / name).exists()
    # The journal goes with its database: SQLite would roll the new one back by it.
    assert (first.folder / "study.set-aside-1.db-journal").read_bytes() == b"half a page"


def test_study_of_other_words_is_the_same(tmp_path: Path, run: Runner) -> None:
    first = run(tmp_path)
    again = run(tmp_path, {"hypothesis": "Another one.", "num_conditions": 4})
    assert ids(again) == ids(first)
    assert again.record.hypothesis == "Another one."
    assert not list(first.folder.glob("*set-aside*"))


@pytest.mark.parametrize("name", ["study.json", "sweep.json"])
def test_study_with_a_damaged_file_sets_it_aside_and_proposes_the_same(tmp_path: Path, run: Runner, name: str) -> None:
    first = run(tmp_path)
    whole = (first.folder / name).read_bytes()
    (first.folder / name).write_bytes(whole[: len(whole) // 2])
    assert ids(run(tmp_path)) == ids(first)
    assert (first.folder / name).read_bytes() == whole
    assert len(list(first.folder.glob("*set-aside-1.json"))) == 1


def test_study_that_proposes_a_condition_twice_plans_it_once(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path, {"space": [{"field": "method", "choices": ["full", "lora"]}]})
    assert len(database(made).get_trials()) == 5
    assert len(ids(made)) == len(set(ids(made))) == 6


def test_study_condition_with_an_unknown_constraint_is_told_as_failed(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "column", lambda result, name: None)
    assert {state for _, state, *_ in content(run(tmp_path))} == {"FAIL"}


def test_study_with_a_constraint_that_has_no_slice_here_is_refused(tmp_path: Path, run: Runner) -> None:
    with pytest.raises(SpecError, match="constraint on base 'tiny' is 'fluency', but must be one of learned, retained"):
        run(tmp_path, {"measures": ["learned", "retained"]})
    assert not (tmp_path / "sweeps").exists()


def test_study_with_another_number_of_workers_is_the_same(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    made = plan.make_plan(Request(name="tune", base="tiny", out=tmp_path / "two"))
    two, _ = study.run(made, Options(2, run=run_stub, prepare=False), View)
    assert ids(two) == ids(control)
    assert content(two) == content(control)


def test_objective_of_a_measure_that_mixes_directions_is_unknown(tmp_path: Path, run: Runner) -> None:
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


def test_study_plan_shows_what_was_proposed_and_is_done(
    run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    asked = {"workers": 1, "probe": False, "budget": None, "as_json": False}
    planned = commands.plan(made.request, **asked)
    assert ids(planned.plan) == ids(made)
    assert planned.outlook.num_done == len(made.trials) > 0
    show.show(planned, Console(width=200))
    assert f"5 conditions are proposed while it runs, {len(proposals(made))} so far" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    (made.folder / "study.json").write_text("{")
    assert commands.plan(made.request, **asked).plan.record.trials == ()
