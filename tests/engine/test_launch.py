"""The engine with a torch-free stub trial, real processes and real signals."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import popen_spawn_posix, resource_tracker
from pathlib import Path
from typing import Any

import pytest

from harness.engine import doubt, forecast, launch, measurement, states, worker
from harness.engine.view import LineView
from harness.engine.worker import Outcome
from harness.errors import DiskError
from harness.records import result
from harness.records.schema import PlannedTrial, TrialResult
from harness.records.store import Store, lock, read_lines
from harness.spec import TrialSpec
from tests.engine.inline import inline
from tests.engine.stub import behave, run_stub
from tests.engine.stub_launch import RUNTIME
from tests.engine.trials import child_of, of_spec, planned

ROOT = Path(__file__).parents[2]
SLOW_SECONDS = 30.0
RANDOM = random.Random(0).randbytes(300)


def run(root: Path, count: int = 4, workers: int = 2, **options: object) -> launch.Summary:
    """Launch stub trials in this process."""
    how = launch.Options(workers, run=run_stub, prepare=False, **options)  # type: ignore[arg-type]
    return launch.launch(Store(root), planned(count), RUNTIME, how)


def cells(*decays: float, seed: int = 0) -> list[PlannedTrial]:
    """Return three trials of each of several conditions; no two share a seed, so that each can be told to fail."""
    spec = planned(1)[0].spec
    return [
        of_spec(spec.replace({"train.weight_decay": decay, "seed": seed + 3 * index + number}))
        for index, decay in enumerate(decays)
        for number in range(3)
    ]


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    """Launch stub trials in a process group of their own."""
    command = [sys.executable, "-m", "tests.engine.stub_launch", str(root), *words]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def numbers(root: Path) -> dict[str, str]:
    """Return every result without its provenance, by trial."""
    found = {}
    for path in sorted(root.glob("trials/*/result.json")):
        tree = json.loads(path.read_text())
        del tree["sha256"], tree["provenance"], tree["files"]["spec.json"]
        found[path.parent.name] = json.dumps(tree, sort_keys=True)
    return found


def runs(root: Path) -> Counter[str]:
    """Return how often each trial was run."""
    return Counter(str(row["trial_id"]) for row in read_lines(root / "runs.jsonl"))


def alive(pid: int) -> bool:
    """Return whether a process is running (a zombie is not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the results of six trials that nothing disturbed."""
    root = tmp_path_factory.mktemp("control")
    assert run(root, count=6).exit_code == 0
    return numbers(root)


def test_launch_second_call_runs_nothing(tmp_path: Path) -> None:
    assert run(tmp_path).num_ran == 4
    again = run(tmp_path)
    assert (again.num_ran, again.exit_code, len(again.outcomes)) == (0, 0, 4)
    assert set(runs(tmp_path).values()) == {1}


def test_launch_number_of_workers_moves_no_number(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    run(tmp_path, count=6, workers=1)
    assert numbers(tmp_path) == undisturbed


def test_launch_worker_killed_once_is_replaced_and_the_trial_tried_again(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    behave(tmp_path, 2, dies=True, times=1)
    summary = run(tmp_path, count=6)
    assert summary.exit_code == 0
    assert numbers(tmp_path) == undisturbed
    assert sorted(runs(tmp_path).values()) == [1, 1, 1, 1, 1, 2]


def test_launch_worker_killed_every_time_ends_as_a_failed_row(tmp_path: Path) -> None:
    behave(tmp_path, 1, dies=True)
    summary = run(tmp_path)
    (failed,) = summary.failed
    assert (failed.cause, summary.exit_code, len(summary.outcomes)) == ("killed", 1, 4)
    assert runs(tmp_path)[failed.trial_id] == launch.MAX_ATTEMPTS
    failure = result.read_failure(tmp_path / "trials" / failed.trial_id)
    assert failure is not None
    assert failure.attempt == launch.MAX_ATTEMPTS
    behave(tmp_path, 1)
    assert run(tmp_path).exit_code == 0  # a kill is no fault of the recipe: it runs again by itself


def test_launch_worker_killed_from_outside_loses_nothing(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    behave(tmp_path, 0, sleep=SLOW_SECONDS, times=1)
    launcher = start(tmp_path)
    slow = planned(1)[0].trial_id
    until(lambda: slow in runs(tmp_path))
    pid = next(int(str(row["pid"])) for row in read_lines(tmp_path / "runs.jsonl") if row["trial_id"] == slow)
    behave(tmp_path, 0)
    os.kill(pid, signal.SIGKILL)
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 0, output
    assert numbers(tmp_path) == undisturbed
    assert runs(tmp_path)[slow] == 2


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_launch_killed_group_is_continued_by_the_same_command(
    tmp_path: Path, undisturbed: dict[str, str], name: str
) -> None:
    behave(tmp_path, 3, sleep=SLOW_SECONDS)
    launcher = start(tmp_path)
    until(lambda: len(numbers(tmp_path)) >= 3)
    pids = {int(str(row["pid"])) for row in read_lines(tmp_path / "runs.jsonl")}
    finished = numbers(tmp_path)
    os.killpg(launcher.pid, signal.Signals[name])
    launcher.communicate(timeout=30)
    assert launcher.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130)
    until(lambda: not any(alive(pid) for pid in pids))
    behave(tmp_path, 3)
    summary = run(tmp_path, count=6)
    assert summary.exit_code == 0
    assert numbers(tmp_path) == undisturbed
    assert all(runs(tmp_path)[key] == 1 for key in finished)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_launch_workers_end_with_their_launcher(tmp_path: Path, name: str) -> None:
    behave(tmp_path, "all", sleep=SLOW_SECONDS)
    launcher = start(tmp_path)
    until(lambda: len(runs(tmp_path)) >= 2)
    pids = {int(str(row["pid"])) for row in read_lines(tmp_path / "runs.jsonl")}
    os.kill(launcher.pid, signal.Signals[name])
    launcher.communicate(timeout=30)
    until(lambda: not any(alive(pid) for pid in pids), seconds=8.0)


def test_launch_two_launchers_on_one_store_run_no_trial_twice(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    behave(tmp_path, "all", sleep=0.2)
    launchers = [start(tmp_path) for _ in range(2)]
    for launcher in launchers:
        output, errors = launcher.communicate(timeout=60)
        assert launcher.returncode == 0, errors
        assert len(json.loads(output)["states"]) == 6
    assert numbers(tmp_path) == undisturbed
    assert set(runs(tmp_path).values()) == {1}


def test_launch_trial_held_by_another_process_is_waited_for(tmp_path: Path) -> None:
    held = planned(2)[0].trial_id
    launcher: subprocess.Popen[str]
    with lock(tmp_path / "trials" / held / ".lock", wait=True):
        launcher = start(tmp_path, "--trials", "2")
        until(lambda: len(numbers(tmp_path)) == 1)
        time.sleep(1.0)
        assert launcher.poll() is None
        assert held not in runs(tmp_path)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 0
    assert len(numbers(tmp_path)) == 2


def test_launch_failed_trial_is_a_row_and_stops_no_other(tmp_path: Path) -> None:
    behave(tmp_path, 1, raises="ValueError")
    summary = run(tmp_path)
    (failed,) = summary.failed
    assert (summary.exit_code, failed.cause, failed.message) == (1, "bug", "ValueError: ValueError as asked")
    assert len(numbers(tmp_path)) == 3
    failure = result.read_failure(tmp_path / "trials" / failed.trial_id)
    assert failure is not None
    assert failure.command == f"python -m harness run-trial {failed.trial_id} --out {tmp_path}"
    assert "stub seed 1" in failure.log_tail  # what the trial printed
    assert "Traceback" in failure.log_tail


@pytest.mark.parametrize(("raises", "cause"), [("ValueError", "bug"), ("DataError", "data")])
def test_launch_failure_of_the_recipe_runs_again_on_request_only(tmp_path: Path, raises: str, cause: str) -> None:
    behave(tmp_path, 1, raises=raises, times=1)
    assert run(tmp_path).failed[0].cause == cause
    assert run(tmp_path).num_ran == 0
    assert run(tmp_path).exit_code == 1
    assert run(tmp_path, retry_failed=True).exit_code == 0
    assert not (tmp_path / "trials" / planned(2)[1].trial_id / result.FAILURE).exists()


def test_launch_out_of_memory_runs_again_by_itself(tmp_path: Path) -> None:
    behave(tmp_path, 1, raises="MemoryError", times=1)
    assert run(tmp_path).failed[0].cause == "oom"
    assert run(tmp_path).exit_code == 0


def test_launch_full_disk_stops_with_75_and_is_continued(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    behave(tmp_path, 0, raises="DiskError", times=1)
    summary = run(tmp_path, count=6, workers=1)
    assert (summary.why, summary.exit_code) == ("disk", 75)
    assert run(tmp_path, count=6).exit_code == 0
    assert numbers(tmp_path) == undisturbed


def run_all(root: Path, trials: list[PlannedTrial], **options: object) -> launch.Summary:
    """Launch given trials one at a time."""
    how = launch.Options(1, run=run_stub, prepare=False, **options)  # type: ignore[arg-type]
    return launch.launch(Store(root), trials, RUNTIME, how)


@pytest.mark.parametrize(
    ("raises", "advice"), [("ValueError", "with --retry-failed"), ("MemoryError", "tries them again by itself")]
)
def test_launch_failure_of_every_condition_stops_it(tmp_path: Path, raises: str, advice: str) -> None:
    behave(tmp_path, "all", raises=raises)
    summary = run_all(tmp_path, cells(0.0, 0.1, 0.2))
    assert (summary.why, summary.exit_code) == ("equal_failures", 1)
    assert sum(runs(tmp_path).values()) == doubt.EQUAL_FAILURES + 1  # the last cell was tried as well
    assert f"stopped after {doubt.EQUAL_FAILURES + 1} equal failures with 5 trials left" in summary.message
    assert advice in summary.message
    assert ("--retry-failed" in summary.message) == (raises == "ValueError")


def test_launch_memory_that_runs_out_everywhere_stops_it_whatever_size_was_asked_for(tmp_path: Path) -> None:
    def hungry(spec: TrialSpec, *_args: object) -> TrialResult:
        raise MemoryError(f"tried to allocate {spec.seed + 1}.25 GiB")

    how = launch.Options(1, run=hungry, prepare=False, executor=inline)
    summary = launch.launch(Store(tmp_path), cells(0.0, 0.1, 0.2), RUNTIME, how)
    assert (summary.why, len(summary.failed)) == ("equal_failures", doubt.EQUAL_FAILURES + 1)


@pytest.mark.parametrize("num_failing", [3, 4, 7])
def test_launch_failure_of_the_first_cells_alone_stops_no_other(tmp_path: Path, num_failing: int) -> None:
    for seed in range(num_failing):
        behave(tmp_path, seed, raises="MemoryError")
    summary = run_all(tmp_path, cells(0.0, 0.1, 0.2))
    assert (summary.why, len(summary.failed), len(numbers(tmp_path))) == ("done", num_failing, 9 - num_failing)


def test_launch_failure_of_a_method_that_comes_first_lets_the_other_run(tmp_path: Path) -> None:
    trials = cells(0.0, 0.1, 0.2)
    other = of_spec(trials[-1].spec.replace({"method": {"kind": "full"}, "seed": 9}))
    for seed in range(9):
        behave(tmp_path, seed, raises="ValueError")
    summary = run_all(tmp_path, [*trials[:6], other, *trials[6:]])
    assert (summary.why, summary.outcomes[other.trial_id].state) == ("done", "COMPLETE")


def test_launch_trial_that_failed_before_runs_after_those_that_never_ran(tmp_path: Path) -> None:
    trials = cells(0.0, 0.1)
    for seed in range(3):
        behave(tmp_path, seed, raises="MemoryError")
    run_all(tmp_path, trials[:3])
    (tmp_path / "runs.jsonl").unlink()
    assert run_all(tmp_path, trials).why == "done"
    order = [str(row["trial_id"]) for row in read_lines(tmp_path / "runs.jsonl")]
    assert order == [trial.trial_id for trial in [*trials[3:], *trials[:3]]]


def test_launch_budget_stops_cleanly_and_is_continued(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    behave(tmp_path, 3, sleep=SLOW_SECONDS)
    summary = run(tmp_path, count=6, workers=1, budget_seconds=6.0)  # a worker's start is in it
    assert (summary.why, summary.exit_code) == ("budget", 130)
    assert 0 < len(numbers(tmp_path)) < 6
    behave(tmp_path, 3)
    assert run(tmp_path, count=6).exit_code == 0
    assert numbers(tmp_path) == undisturbed


@pytest.mark.parametrize("damage", [b"{", RANDOM], ids=["torn", "random"])
def test_launch_damaged_result_is_set_aside_and_made_again(
    tmp_path: Path, undisturbed: dict[str, str], damage: bytes
) -> None:
    run(tmp_path, count=6)
    path = tmp_path / "trials" / planned(1)[0].trial_id / "result.json"
    path.write_bytes(damage)
    assert states.of_trial(Store(tmp_path), planned(1)[0].trial_id).state == "DAMAGED"
    assert run(tmp_path, count=6).num_ran == 1
    assert numbers(tmp_path) == undisturbed
    assert (path.parent / "result.damaged-1.json").exists()


@pytest.mark.parametrize("damage", [b"{\n", b"5\n", RANDOM + b"\n"], ids=["torn", "5", "random"])
@pytest.mark.parametrize("name", ["failure.json", "attempts.jsonl"])
def test_launch_damaged_file_of_one_trial_is_set_aside_and_stops_no_other(
    tmp_path: Path, undisturbed: dict[str, str], name: str, damage: bytes
) -> None:
    behave(tmp_path, 0, raises="MemoryError", times=1)
    run(tmp_path, count=1)
    path = tmp_path / "trials" / planned(1)[0].trial_id / name
    path.write_bytes(damage)
    summary = run(tmp_path, count=6)
    # The stub counts its attempts in the rows: without them it fails once more.
    assert (summary.why, len(numbers(tmp_path))) == ("done", 6 if name == "failure.json" else 5)
    assert path.with_name(f"{path.stem}.damaged-1{path.suffix}").read_bytes() == damage
    assert (path.parent / "attempts/2.log").exists()  # attempts are numbered on
    assert run(tmp_path, count=6).exit_code == 0
    assert numbers(tmp_path) == undisturbed


def test_launch_damaged_attempts_of_a_trial_that_kills_its_worker_stop_no_other(tmp_path: Path) -> None:
    behave(tmp_path, 1, dies=True, writes="5\n")
    (failed,) = run(tmp_path).failed
    assert failed.cause == "killed"
    failure = result.read_failure(tmp_path / "trials" / failed.trial_id)
    assert failure is not None
    assert failure.attempt == launch.MAX_ATTEMPTS
    assert len(numbers(tmp_path)) == 3


def test_launch_folder_that_no_attempt_can_use_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "trials" / planned(1)[0].trial_id / ".lock").mkdir(parents=True)
    summary = run(tmp_path)
    assert (summary.why, summary.exit_code, len(numbers(tmp_path))) == ("done", 1, 3)
    assert [(failed.cause, failed.trial_id) for failed in summary.failed] == [("disk", planned(1)[0].trial_id)]


def test_launch_damaged_record_that_a_trial_reads_is_no_full_disk(tmp_path: Path) -> None:
    behave(tmp_path, 1, raises="StoreError")
    summary = run(tmp_path)
    assert (summary.why, summary.exit_code, len(numbers(tmp_path))) == ("done", 1, 3)
    assert [failed.cause for failed in summary.failed] == ["disk"]


def test_launch_trial_that_starts_from_another_runs_after_it(tmp_path: Path) -> None:
    parent = planned(1)[0]
    child = child_of(parent)
    order: list[str] = []

    class Recording(launch.View):
        def finished(self, trial: PlannedTrial, outcome: Outcome) -> None:
            order.append(trial.trial_id)

    how = launch.Options(2, run=run_stub, prepare=False)
    launch.launch(Store(tmp_path), [child, parent], RUNTIME, how, Recording())
    assert order == [parent.trial_id, child.trial_id]


def test_launch_leaves_an_attempt_log_and_no_progress_file(tmp_path: Path) -> None:
    run(tmp_path, count=1)
    folder = tmp_path / "trials" / planned(1)[0].trial_id
    assert (folder / "attempts/1.log").read_text() == "stub seed 0\n"
    assert not (folder / "progress.json").exists()
    events = [(row["event"], row["attempt"]) for row in read_lines(folder / "attempts.jsonl")]
    assert events == [("start", 1), ("end", 1)]


def test_launch_progress_of_a_running_trial_is_read_without_locking(tmp_path: Path) -> None:
    behave(tmp_path, 0, sleep=SLOW_SECONDS)
    launcher = start(tmp_path, "--trials", "1")
    key = planned(1)[0].trial_id
    until(lambda: states.of_trial(Store(tmp_path), key).state == "RUNNING")
    progress = states.of_trial(Store(tmp_path), key).progress
    assert progress is not None
    assert progress.num_steps in (0, 2)
    os.killpg(launcher.pid, signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert states.of_trial(Store(tmp_path), key).state == "PENDING"


def test_worker_output_of_a_job_goes_to_its_log_from_below_python_as_well(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from harness.engine.worker import output_to\n"
        "with output_to(pathlib.Path(sys.argv[1])):\n    print('from python'); os.write(2, b'from below\\n')\n"
        "print('back')"
    )
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", code, str(log)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(log.read_text().splitlines()) == ["from below", "from python"]
    assert (done.stdout, done.stderr) == ("back\n", "")


def test_worker_rerun_command_quotes_its_folder() -> None:
    words = shlex.split(worker.rerun_command("abc", Path("/data/my runs/$x")))
    assert words == ["python", "-m", "harness", "run-trial", "abc", "--out", "/data/my runs/$x"]


def test_launch_failure_is_shown_at_once_with_its_log_and_command(tmp_path: Path) -> None:
    behave(tmp_path, 0, raises="ValueError")
    shown = io.StringIO()
    how = launch.Options(1, run=run_stub, prepare=False)
    launch.launch(Store(tmp_path), planned(2), RUNTIME, how, LineView(Store(tmp_path), shown))
    key = planned(1)[0].trial_id
    assert "bug: ValueError: ValueError as asked" in shown.getvalue()
    assert "  | ValueError: ValueError as asked" in shown.getvalue()
    assert f"again: python -m harness run-trial {key} --out {tmp_path}" in shown.getvalue()
    assert shown.getvalue().rstrip().endswith("COMPLETE; left: 0 s")


@pytest.mark.parametrize("count", [1, 5])
def test_launch_loads_the_report_once_when_the_last_trials_run(count: int, tmp_path: Path) -> None:
    done: list[int] = []
    summary = run(tmp_path, count, at_last=lambda: done.append(len(list(tmp_path.glob("trials/*/result.json")))))
    assert summary.num_ran == count
    assert len(done) == 1
    assert max(0, count - 2) <= done[0] <= count
    assert run(tmp_path, count, at_last=lambda: done.append(0)).num_ran == 0
    assert len(done) == 1


def test_worker_leaves_a_result_that_cannot_be_read_just_now_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, 1)
    (path,) = tmp_path.glob("trials/*/result.json")
    whole, read = path.read_bytes(), Path.read_bytes

    def busy(self: Path) -> bytes:
        if self == path:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", busy)
    job = worker.TrialJob(planned(1)[0].spec, tmp_path, RUNTIME, run_stub)
    outcome = worker.attempt(job)
    assert (outcome.state, outcome.cause) == ("FAILED", "disk")
    assert "Too many open files" in outcome.message
    monkeypatch.undo()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["metrics.jsonl", "spec.json"])
def test_launch_damaged_file_of_a_committed_trial_is_set_aside_and_made_again(
    tmp_path: Path, undisturbed: dict[str, str], name: str
) -> None:
    run(tmp_path, count=6)
    path = tmp_path / "trials" / planned(1)[0].trial_id / name
    damaged = path.read_bytes().replace(b"1", b"2", 1)
    path.write_bytes(damaged)
    assert run(tmp_path, count=6).num_ran == 1
    assert numbers(tmp_path) == undisturbed
    assert path.with_name(f"{path.stem}.damaged-1{path.suffix}").read_bytes() == damaged
    assert run(tmp_path, count=6).num_ran == 0


def test_launch_file_of_a_committed_trial_that_was_deleted_is_no_damage(tmp_path: Path) -> None:
    run(tmp_path, count=1)
    (tmp_path / "trials" / planned(1)[0].trial_id / "metrics.jsonl").unlink()
    assert run(tmp_path, count=1).num_ran == 0


def test_launch_stopped_by_a_closed_terminal_ends_in_order(tmp_path: Path) -> None:
    behave(tmp_path, "all", sleep=SLOW_SECONDS)
    launcher = start(tmp_path)
    until(lambda: len(runs(tmp_path)) >= 2)
    os.kill(launcher.pid, signal.SIGHUP)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 130
    assert json.loads(output)["why"] == "interrupted"


def test_launch_damaged_measurements_are_set_aside_and_stop_nothing(tmp_path: Path) -> None:
    run(tmp_path, count=1)
    (path,) = tmp_path.glob("probes/*.jsonl")
    path.write_text('{"num_steps": "two"}\n')
    cost = forecast.Forecast(Store(tmp_path)).of(planned(1)[0].spec)
    assert cost.seconds is None
    assert run(tmp_path, count=2).exit_code == 0
    assert path.with_name(f"{path.stem}.damaged-1.jsonl").exists()
    assert len(read_lines(path)) == 1


def test_launch_folders_in_place_of_its_logs_are_set_aside_and_stop_nothing(tmp_path: Path) -> None:
    run(tmp_path, count=1)
    folder = tmp_path / "trials" / planned(1)[0].trial_id
    (folder / "result.json").unlink()
    (measured,) = tmp_path.glob("probes/*.jsonl")
    for path in (measured, folder / "attempts.jsonl"):
        path.unlink()
        path.mkdir()
    assert run(tmp_path, count=2).exit_code == 0
    for path in (measured, folder / "attempts.jsonl"):
        assert path.with_name(f"{path.name}.damaged-1").is_dir()
        assert path.is_file()


def test_launch_measurement_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an output folder of several users, where the file is another's."""

    def refuse(*_args: object) -> None:
        raise DiskError("probes cannot be written (Permission denied); set OUT= to a writable folder")

    monkeypatch.setattr(measurement, "remember", refuse)
    summary = run(tmp_path, executor=inline)
    assert (summary.why, summary.exit_code) == ("done", 0)
    assert len(numbers(tmp_path)) == len(planned(len(summary.outcomes)))


def test_launch_leaves_no_checkpoint_of_a_committed_trial(tmp_path: Path) -> None:
    """A kill between a commit and the removal of what only the attempt needed must not keep the disk full."""
    run(tmp_path, count=1)
    folder = tmp_path / "trials" / planned(1)[0].trial_id
    (folder / "checkpoints" / "step_00000002").mkdir(parents=True)
    (folder / "during.jsonl").touch()
    unfinished = tmp_path / "trials" / ("0" * 64) / "checkpoints"
    unfinished.mkdir(parents=True)
    assert run(tmp_path, count=1).num_ran == 0
    assert not (folder / "checkpoints").exists()
    assert not (folder / "during.jsonl").exists()
    assert unfinished.exists()


def test_launch_trial_held_for_long_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "BUSY_NAMED_SECONDS", 0.6)
    said: list[str] = []
    trial = planned(1)[0]
    code = (
        "import sys; from pathlib import Path; from harness.records.store import lock\n"
        "with lock(Path(sys.argv[1]), wait=True):\n    print(1, flush=True); sys.stdin.read()"
    )
    path = tmp_path / "trials" / trial.trial_id / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()

    class Recording(launch.View):
        def phase(self, text: str, progress: Path | None = None) -> None:
            said.append(text)
            holder.communicate()

    how = launch.Options(1, run=run_stub, prepare=False)
    assert launch.launch(Store(tmp_path), [trial], RUNTIME, how, Recording()).exit_code == 0
    assert said == [f"trial {trial.trial_id[:12]} is held by process {holder.pid}; it runs here once that has ended"]


def test_worker_fault_after_the_commit_is_no_failure_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(worker.measurement, "remember", refuse)
    outcome = worker.attempt(worker.TrialJob(planned(1)[0].spec, tmp_path, RUNTIME, run_stub))
    assert (outcome.state, outcome.ran, outcome.no_disk) == ("COMPLETE", True, False)


def test_worker_disk_that_fails_is_a_failure_of_the_machine() -> None:
    assert worker.cause_of(OSError(errno.EIO, "Input/output error")) == "disk"
    assert worker.cause_of(FileNotFoundError(errno.ENOENT, "No such file")) == "bug"


def test_launch_worker_killed_before_it_read_its_job_is_replaced(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, failed = popen_spawn_posix.Popen._launch, []

    def start_worker(self: Any, process: Any) -> None:
        if not failed:
            failed.append(process)
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # what writing to a child that is gone raises
        plain(self, process)

    monkeypatch.setattr(popen_spawn_posix.Popen, "_launch", start_worker)
    assert run(tmp_path, count=6).exit_code == 0
    assert len(failed) == 1
    assert numbers(tmp_path) == undisturbed


def test_launch_goes_on_where_what_counts_semaphores_was_killed(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, failed = resource_tracker.register, []

    def register(name: str, kind: str) -> None:
        if not failed:
            failed.append(name)
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # the tracker was killed between the look at it and this
        plain(name, kind)

    monkeypatch.setattr(resource_tracker, "register", register)
    assert run(tmp_path, count=6).exit_code == 0
    assert len(failed) == 1
    assert numbers(tmp_path) == undisturbed
