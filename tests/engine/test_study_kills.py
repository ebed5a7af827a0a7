"""Launchers of a study that are killed: whatever the moment, the next ones propose, prune and tell what one would have.

Each launcher is a forked child with its own count of writes, after which the kernel kills it: before or after a file
takes its name or is made durable, between a result and what is told of it. The last one is let through.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from harness.engine import study
from harness.engine.halving import Standing
from harness.engine.plan import Plan
from harness.errors import BusyError
from harness.records.schema import PlannedTrial
from harness.records.store import lock, read_lines
from tests.engine.postgres import Server
from tests.engine.stub import behave
from tests.engine.study_runs import ONE_OBJECTIVE, Runner, content_of, database
from tests.engine.test_storage import there

CALLS = ("replace", "link", "fsync")
CHANGES: dict[str, dict[str, Any]] = {
    "front": {"num_conditions": 5, "confirm_seeds": [10, 11], "max_confirmed": 2},
    "pruned": ONE_OBJECTIVE
    | {"num_conditions": 5, "confirm_seeds": [10, 11], "pruning": {"rungs": [1, 2], "reduction_factor": 2}},
}


def killed_after(num_calls: int, call: Callable[[], object]) -> bool:
    """Run a call in a forked child that is killed at its n-th write; return whether it was."""
    child = os.fork()
    if child == 0:
        _die_at(num_calls)
        _end(call)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _end(call: Callable[[], object]) -> NoReturn:
    try:
        call()
        os._exit(0)
    except BaseException:  # a child must not go on as a second test run
        os._exit(9)


def _die_at(num_calls: int) -> None:
    """Kill this process at its n-th write: before it where n is even, after it where n is odd."""
    left = [num_calls]
    for name in CALLS:
        setattr(os, name, _counting(getattr(os, name), left))


def _counting(real: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def write(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0 and left[0] % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*given, **named)
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return write


def killed_until_done(call: Callable[[], object], draw: random.Random) -> int:
    """Run a call again and again, killed at random writes, until it is through; return how often it was killed."""
    for num_kills in range(200):
        if not killed_after(draw.randint(1, 30), call):
            return num_kills
    raise AssertionError("it never ends")


def no_second_result(root: Path, num_kills: int) -> None:
    """Assert that every trial has one result, and that no more attempts were made than kills explain."""
    runs = Counter(row["trial_id"] for row in read_lines(root / "runs.jsonl"))
    results = {path.parent.name for path in root.glob("trials/*/result.json")}
    assert results == set(runs)
    assert sum(runs.values()) <= len(results) + num_kills


@pytest.mark.parametrize("kind", CHANGES)
def test_study_whose_launchers_are_killed_is_the_undisturbed_one(tmp_path: Path, run: Runner, kind: str) -> None:
    control = run(tmp_path / "control", CHANGES[kind])
    num_kills = killed_until_done(lambda: run(tmp_path / "killed", CHANGES[kind]), random.Random(kind))
    assert num_kills >= 5
    ended = run(tmp_path / "killed", CHANGES[kind])
    assert ended.record.model_dump(exclude={"command"}) == control.record.model_dump(exclude={"command"})
    assert content_of(database(ended)) == content_of(database(control))
    assert (ended.folder / "study.json").read_bytes() == (control.folder / "study.json").read_bytes()
    no_second_result(tmp_path / "killed", num_kills)


@pytest.mark.postgres
def test_study_on_a_server_whose_launchers_are_killed_is_the_undisturbed_one(
    tmp_path: Path, run: Runner, postgres: Server
) -> None:
    control = run(tmp_path / "control", CHANGES["pruned"])
    num_kills = killed_until_done(
        lambda: run(tmp_path / "killed", CHANGES["pruned"], storage=postgres.url), random.Random("server")
    )
    assert num_kills >= 5
    ended = run(tmp_path / "killed", CHANGES["pruned"], storage=postgres.url)
    assert content_of(there(ended, postgres)) == content_of(database(control))


def test_study_killed_while_its_trials_run_frees_what_ran(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control")
    behave(tmp_path / "killed", "all", sleep=0.3)
    child = os.fork()
    if child == 0:
        _end(lambda: run(tmp_path / "killed"))
    until = time.monotonic() + 60
    while not (tmp_path / "killed/runs.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    behave(tmp_path / "killed", "all")
    left = run.plan(tmp_path / "killed")
    assert [trial.state.name for trial in database(left).get_trials()] == ["RUNNING"] * 3
    ended = run(tmp_path / "killed")
    assert content_of(database(ended)) == content_of(database(control))
    assert not list(ended.folder.glob("*set-aside*"))


def forked(call: Callable[[], object]) -> int:
    """Start a call in a forked child and return its process id."""
    child = os.fork()
    if child == 0:
        _end(call)
    return child


def test_two_launchers_share_a_study_and_run_nothing_twice(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control", CHANGES["front"])
    behave(tmp_path / "two", "all", sleep=0.15)
    children = [forked(lambda: run(tmp_path / "two", CHANGES["front"])) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    rows = read_lines(tmp_path / "two/runs.jsonl")
    assert {row["pid"] for row in rows} == set(children)  # both ran trials
    no_second_result(tmp_path / "two", 0)
    ended = run(tmp_path / "two", CHANGES["front"])
    assert ended.record == control.record.model_copy(update={"command": ended.record.command})
    assert content_of(database(ended)) == content_of(database(control))


@pytest.mark.parametrize("kind", CHANGES)
def test_launcher_that_helps_takes_over_when_the_leader_is_killed(tmp_path: Path, run: Runner, kind: str) -> None:
    control = run(tmp_path / "control", CHANGES[kind])
    behave(tmp_path / "two", "all", sleep=0.15)
    leader = forked(lambda: run(tmp_path / "two", CHANGES[kind]))
    until = time.monotonic() + 60
    while not (tmp_path / "two/runs.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.02)
    helper = forked(lambda: run(tmp_path / "two", CHANGES[kind]))
    time.sleep(0.8)
    os.kill(leader, signal.SIGKILL)
    os.waitpid(leader, 0)
    assert os.waitpid(helper, 0)[1] == 0
    no_second_result(tmp_path / "two", 1)
    ended = run(tmp_path / "two", CHANGES[kind])
    assert content_of(database(ended)) == content_of(database(control))
    assert ended.record.winners == control.record.winners


def test_launcher_of_another_definition_is_refused_while_one_leads(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path)
    with lock(made.folder / ".study.lock", wait=False):
        with pytest.raises(BusyError, match="which runs another definition of this study"):
            run(tmp_path, {"sampler_seed": 7})
        part = run(tmp_path, budget_seconds=0.2)
    assert (run.summary.why, run.summary.exit_code) == ("budget", 130)
    assert part.record.trials == made.record.trials


@pytest.mark.parametrize("broken", ["seeded by its process", "counts attempts"])
def test_study_that_depends_on_its_launchers_is_caught(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The detector: in builds whose proposals or pruning are not of the records alone, kills make a difference."""
    if broken == "seeded by its process":
        monkeypatch.setattr(study, "derive", lambda seed, name: os.getpid())
    else:
        monkeypatch.setattr(study, "_standing", _by_attempts(study._standing))
    control = run(tmp_path / "control", CHANGES["pruned"])
    num_kills = killed_until_done(lambda: run(tmp_path / "killed", CHANGES["pruned"]), random.Random("broken"))
    assert num_kills >= 3
    ended = run(tmp_path / "killed", CHANGES["pruned"])
    assert ended.record.trials != control.record.trials or ended.record.pruned != control.record.pruned


def _by_attempts(standing: Callable[..., Standing]) -> Callable[..., Standing]:
    def wrong(plan: Plan, trials: Sequence[PlannedTrial]) -> Standing:
        runs = Counter(row["trial_id"] for row in read_lines(plan.store.root / "runs.jsonl"))
        right = standing(plan, trials)
        return Standing((right.value or 0.0) + 10 * sum(runs[trial.trial_id] for trial in trials), right.excess)

    return wrong
