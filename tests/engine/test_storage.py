"""The mirror of a study: on a real PostgreSQL server, out of reach, damaged, and with what a dead launcher left."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

from harness.engine import proposals, study
from harness.engine import storage as storages
from harness.engine.plan import Plan
from harness.errors import SpecError
from harness.records.store import read_lines
from tests.engine.postgres import PASSWORD, Server
from tests.engine.study_runs import Runner, content_of, database

ROOT = Path(__file__).parents[2]


def name_of(made: Plan, number: int = 1) -> str:
    """Return what a study is called on a server."""
    stem = f"{made.folder.name}-{proposals.definition(made)[:8]}"
    return stem if number == 1 else f"{stem}-{number}"


def there(made: Plan, postgres: Server, number: int = 1) -> Any:
    """Return the study as Optuna reads it from the server."""
    return optuna.load_study(study_name=name_of(made, number), storage=storages.checked(postgres.url))


# -- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_server_is_told_what_the_file_would_be(tmp_path: Path, run: Runner, postgres: Server) -> None:
    control = run(tmp_path / "file")
    made = run(tmp_path / "server", storage=postgres.url)
    assert content_of(there(made, postgres)) == content_of(database(control))
    assert not (made.folder / "study.db").exists()
    assert made.record.trials == control.record.trials


@pytest.mark.postgres
def test_server_that_lost_a_study_is_told_it_again(tmp_path: Path, run: Runner, postgres: Server) -> None:
    changes = {"sampler_seed": 1}
    made = run(tmp_path, changes, storage=postgres.url)
    before = content_of(there(made, postgres))
    optuna.delete_study(study_name=name_of(made), storage=storages.checked(postgres.url))
    assert run(tmp_path, changes, storage=postgres.url).record == made.record
    assert content_of(there(made, postgres)) == before
    assert len(read_lines(tmp_path / "runs.jsonl")) == 15


@pytest.mark.postgres
def test_server_with_another_story_keeps_it_and_the_study_goes_on_beside_it(
    tmp_path: Path, run: Runner, postgres: Server
) -> None:
    changes = {"sampler_seed": 2}
    made = run.plan(tmp_path, changes)
    url = storages.checked(postgres.url)
    foreign = optuna.create_study(study_name=name_of(made), storage=url, directions=["maximize", "maximize"])
    foreign.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    made = run(tmp_path, changes, storage=postgres.url)
    assert [trial.values for trial in there(made, postgres).get_trials()] == [[1.0, 2.0]]
    assert len(content_of(there(made, postgres, 2))) == 5
    run(tmp_path, changes, storage=postgres.url)  # goes on under the number it has
    assert name_of(made, 3) not in optuna.get_all_study_names(url)


@pytest.mark.postgres
def test_server_out_of_reach_is_one_sentence_and_the_study_goes_on(
    tmp_path: Path, run: Runner, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"sampler_seed": 3}
    postgres.stop()
    try:
        made = run(tmp_path, changes, storage=postgres.url)
    finally:
        postgres.start()
    assert (run.summary.why, run.summary.exit_code, len(run.summary.outcomes)) == ("done", 0, 15)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert "the study goes on, and the next call rebuilds it from the records" in said[0]
    assert "\n" not in said[0]
    run(tmp_path, changes, storage=postgres.url)
    assert len(content_of(there(made, postgres))) == 5


@pytest.mark.postgres
def test_server_that_falls_and_rises_within_a_call_is_told_what_it_missed(
    tmp_path: Path, run: Runner, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"sampler_seed": 4, "num_conditions": 9}
    control = run(tmp_path / "control", changes)
    shown = storages.Mirror.show
    calls: list[int] = []

    def falling(mirror: Any, *given: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            postgres.stop()
        if len(calls) == 6:
            postgres.start()
        shown(mirror, *given)

    monkeypatch.setattr(storages.Mirror, "show", falling)
    made = run(tmp_path / "falling", changes, storage=postgres.url)
    assert len(calls) > 6
    assert content_of(there(made, postgres)) == content_of(database(control))


@pytest.mark.postgres
def test_two_studies_that_begin_at_once_share_a_server(tmp_path: Path, run: Runner, postgres: Server) -> None:
    plans = [run.plan(tmp_path / name, {"sampler_seed": seed}) for seed, name in ((5, "one"), (6, "two"))]
    made = [storages.Mirror(plan, postgres.url, optuna) for plan in plans]
    told = [optuna.trial.create_trial(values=[1.0, 2.0])]
    threads = [threading.Thread(target=mirror.show, args=(told,)) for mirror in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(there(plan, postgres).get_trials()) for plan in plans] == [1, 1]


@pytest.mark.postgres
def test_password_of_a_server_is_nowhere_but_in_the_environment(tmp_path: Path, postgres: Server) -> None:
    words = [sys.executable, "-m", "tests.engine.study_process", str(tmp_path / "out"), "--storage", postgres.url]
    environment = os.environ | {"PGPASSWORD": PASSWORD}
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        seen = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert PASSWORD not in said
    assert PASSWORD.encode() not in seen
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]


@pytest.mark.postgres
def test_wrong_password_is_one_sentence_without_it(
    tmp_path: Path, run: Runner, postgres: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong-" + PASSWORD)
    run(tmp_path, storage=postgres.url)
    assert run.summary.why == "done"
    assert "password authentication failed" in caplog.text
    assert PASSWORD not in caplog.text


# -- what may be given ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@db/lab",
        "postgresql://me@db/lab?password=s3cret",
        "postgresql://me@db/lab?sslpassword=s3cret",
        "mysql://me:s3cret@db/lab",
        "postgresql://me:s3cret@db:port/lab",
    ],
)
def test_storage_with_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(
        SpecError, match="give the password in the environment, as PGPASSWORD or in the file"
    ) as refused:
        storages.checked(url)
    assert "s3cret" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://me@db/lab", "postgresql://me@db", "a server", ""])
def test_storage_that_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="but must be postgresql://user@host:port/database without a password"):
        storages.checked(url)


def test_storage_keeps_what_else_a_url_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages.importlib.util, "find_spec", lambda name: object())
    asked = "postgresql://me@db:5432/lab?sslmode=require"
    assert storages.checked(asked) == "postgresql+psycopg://me@db:5432/lab?sslmode=require"
    monkeypatch.setattr(storages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match="STORAGE needs psycopg"):
        storages.checked(asked)


# -- what a dead launcher leaves --------------------------------------------------------------------------------------


def test_running_conditions_are_in_the_database_and_told_by_the_next_start(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    part = run(tmp_path / "dead", budget_seconds=1e-9)
    left = database(part).get_trials()
    assert [trial.state.name for trial in left] == ["RUNNING"] * 3
    ended = run(tmp_path / "dead")
    assert content_of(database(ended)) == content_of(database(control))
    assert not list(ended.folder.glob("*set-aside*"))  # told, not replaced
    assert [trial.datetime_start for trial in database(ended).get_trials()[:3]] == [t.datetime_start for t in left]


def test_running_condition_that_was_half_told_is_told_whole(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    part = run(tmp_path / "dead", budget_seconds=1e-9)
    opened = database(part)
    half = optuna.trial.Trial(opened, opened.get_trials()[0]._trial_id)
    half.set_constraint("delta/fluency", control_excess(control))
    ended = run(tmp_path / "dead")
    assert content_of(database(ended)) == content_of(database(control))


def control_excess(control: Plan) -> float:
    return database(control).get_trials()[0].constraints["delta/fluency"]


def test_running_condition_beyond_the_study_is_freed(tmp_path: Path, run: Runner) -> None:
    longer = run(tmp_path, {"num_conditions": 5, "num_startup_conditions": 5}, budget_seconds=1e-9)
    assert len(database(longer).get_trials()) == 5
    ended = run(tmp_path, {"num_conditions": 3, "num_startup_conditions": 5})
    assert [t.state.name for t in database(ended).get_trials()] == ["COMPLETE"] * 3 + ["FAIL"] * 2
    # Longer again, they are what they always were: nothing is asked twice, and the file says so.
    again = run(tmp_path, {"num_conditions": 5, "num_startup_conditions": 5})
    assert again.record.trials == longer.record.trials
    assert [t.state.name for t in database(again).get_trials()] == ["COMPLETE"] * 5


def test_running_condition_that_nobody_proposed_sets_the_database_aside(tmp_path: Path, run: Runner) -> None:
    part = run(tmp_path, {"num_conditions": 3})
    database(part).add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING))
    ended = run(tmp_path)
    assert len(list(ended.folder.glob("study.set-aside-1.db"))) == 1
    assert [t.state.name for t in database(ended).get_trials()] == ["COMPLETE"] * 5


def test_study_asks_nothing_of_its_database(tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    control = run(tmp_path / "control")
    monkeypatch.setattr(study.Mirror, "show", lambda *given: None)
    assert run(tmp_path / "none").record.trials == control.record.trials
