"""Sweeps as jobs: of a real SLURM, and of submitit's local executor, which needs no daemon; real signals in both."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.engine import launch, slurm_executor, slurm_queue
from harness.engine.executor import KilledForMemoryError, PreemptedError, WorkerDiedError
from harness.engine.places import SlurmQueue
from harness.engine.slurm_executor import SlurmExecutor
from harness.engine.slurm_queue import Job, Need
from harness.errors import SpecError, UnreachableError
from harness.records import result
from harness.records.store import Store, lock, read_lines, write_atomic
from harness.spec import Runtime
from tests.engine.canary import CANARY, SECRETS, files_with, variables_and_wait
from tests.engine.queued import POLL_SECONDS, in_queue, run, take, write_and_sleep
from tests.engine.stub import behave
from tests.engine.stub_launch import RUNTIME
from tests.engine.test_cli import run as run_cli
from tests.engine.test_launch import ROOT, alive, numbers, runs, until
from tests.engine.test_launch import run as run_here
from tests.engine.trials import planned
from tests.presence import extra
from tests.servers import Slurm, free_port, slurm


@pytest.fixture(scope="module")
def queue() -> Iterator[Slurm]:
    with slurm() as running:
        yield running


def processes(root: Path) -> list[int]:
    """Return the processes of the attempts so far."""
    return [int(str(row["pid"])) for row in read_lines(root / "runs.jsonl")]


def squeue() -> list[str]:
    """Return the jobs that are not over."""
    done = subprocess.run(["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def attempts(root: Path, seed: int) -> list[dict[str, object]]:
    """Return the starts of a trial's attempts."""
    path = root / "trials" / planned(seed + 1)[seed].trial_id / "attempts.jsonl"
    return [row for row in read_lines(path) if row["event"] == "start"]


# -- a real SLURM -----------------------------------------------------------------------------------------------------


@pytest.mark.slurm
def test_slurm_killed_job_is_tried_again_and_moves_no_number(tmp_path: Path, queue: Slurm) -> None:
    assert run_here(tmp_path / "here", count=4).exit_code == 0
    root = tmp_path / "queue"
    behave(root, 0, dies=True, times=1)
    summary = run(root, 4, 2, in_queue(root))
    assert summary.exit_code == 0
    assert numbers(root) == numbers(tmp_path / "here")
    assert sorted(runs(root).values()) == [1, 1, 1, 2]
    jobs = [str(row["slurm_job"]) for seed in range(4) for row in attempts(root, seed)]
    assert len(set(jobs)) == 5
    assert all(job.isdecimal() for job in jobs)


@pytest.mark.slurm
def test_slurm_preempted_job_goes_back_into_the_queue_and_does_not_count(tmp_path: Path, queue: Slurm) -> None:
    behave(tmp_path, 0, sleep=8.0)

    def preempt() -> None:
        until(lambda: len(processes(tmp_path)) == 1)
        words = ["sbatch", "--partition=high", "--cpus-per-task=2", "--mem=3800M", "--wrap=true", "--output=/dev/null"]
        subprocess.run(words, check=True, capture_output=True)
        until(lambda: len(processes(tmp_path)) == 2)
        behave(tmp_path, 0)

    thread = threading.Thread(target=preempt)
    thread.start()
    make = in_queue(tmp_path, Need(2, partition="low", memory_gb=3.0))
    summary = run(tmp_path, 1, 1, make)
    thread.join()
    assert summary.exit_code == 0
    assert [row["attempt"] for row in attempts(tmp_path, 0)] == [1, 2]


@pytest.mark.slurm
def test_slurm_kill_for_memory_is_told_as_such(tmp_path: Path, queue: Slurm) -> None:
    executor = in_queue(tmp_path, Need(1, memory_gb=0.2))(1)
    try:
        with pytest.raises(KilledForMemoryError, match=r"SLURM job \d+ ended as .*runtime.memory_gb"):
            executor.submit(take, 600).result(timeout=60)
    finally:
        executor.stop()


@pytest.mark.slurm
def test_slurm_writes_no_secret_of_the_launcher_to_disk(
    tmp_path: Path, queue: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HARNESS_HARMLESS", "and sent")
    executor = in_queue(tmp_path)(1)
    try:
        seen = executor.submit(variables_and_wait, (*SECRETS, "HARNESS_HARMLESS"), tmp_path / "go")
        until((tmp_path / "go.awaited").exists)
        assert not files_with(CANARY, queue.folder, tmp_path)
        # As a plain sbatch would: the search finds what is there.
        subprocess.run(["sbatch", "--hold", "--wrap=true", "--output=/dev/null"], check=True, capture_output=True)
        assert [path.name for path in files_with(CANARY, queue.folder, tmp_path)] == ["environment"]
        (tmp_path / "go").touch()
        assert seen.result(timeout=60) == [*[None] * len(SECRETS), "and sent"]
    finally:
        executor.stop()
        subprocess.run(["scancel", "--state=PENDING"], check=True)


@pytest.mark.slurm
def test_slurm_interrupted_launch_leaves_nothing_in_the_queue(tmp_path: Path, queue: Slurm) -> None:
    behave(tmp_path, "all", sleep=60.0)

    def interrupt() -> None:
        until(lambda: len(runs(tmp_path)) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    summary = run(tmp_path, 5, 4, in_queue(tmp_path))  # two run, two wait
    assert (summary.why, summary.exit_code) == ("interrupted", 130)
    until(lambda: not squeue(), seconds=10.0)
    assert not [pid for pid in processes(tmp_path) if alive(pid)]


_LAUNCHES = """
import sys
from pathlib import Path
from tests.engine.stub import behave
from tests.engine.queued import in_queue, run
root = Path(sys.argv[1])
behave(root, "all", sleep=60.0)
run(root, 3, 3, in_queue(root))
"""


@pytest.mark.slurm
def test_slurm_jobs_of_a_killed_launcher_are_cancelled_by_the_next(tmp_path: Path, queue: Slurm) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", _LAUNCHES, str(tmp_path)], cwd=ROOT)
    try:
        until(lambda: len(runs(tmp_path)) == 2)
    finally:
        launcher.kill()
        launcher.wait()
    orphans = squeue()
    assert len(orphans) == 3
    behave(tmp_path, "all")
    summary = run(tmp_path, 3, 3, in_queue(tmp_path))
    assert summary.exit_code == 0
    until(lambda: not set(orphans) & set(squeue()), seconds=10.0)
    assert not list((tmp_path / "slurm").glob("launch-*/.lock"))


@pytest.mark.slurm
def test_slurm_partition_that_is_none_is_refused_and_the_default_taken(tmp_path: Path, queue: Slurm) -> None:
    words = ["sweep", "lima_size", "--out", str(tmp_path), "--executor", "slurm", "--partition"]
    printed = run_cli(*words, "hgih", code=2)
    assert printed == "PARTITION is 'hgih', but must be among high, low.\n"
    assert "but must be names of partitions" in run_cli(*words, "a b", code=2)
    assert not list(tmp_path.iterdir())
    place = SlurmQueue(tmp_path, None)
    assert (place.num_workers(None, RUNTIME), place.num_workers(3, RUNTIME)) == (slurm_executor.DEFAULT_JOBS, 3)
    assert slurm_queue.need(None, RUNTIME).num_gpus == 0  # device `auto` where the partition has none
    assert slurm_queue.need(None, RUNTIME.replace({"device": "cuda"})).num_gpus == 1


@pytest.mark.slurm
def test_slurm_that_takes_no_such_job_stops_the_launch_with_75(tmp_path: Path, queue: Slurm) -> None:
    make = in_queue(tmp_path, Need(1, memory_gb=400.0))
    with pytest.raises(UnreachableError, match="EXECUTOR is 'slurm', but must be a queue that takes"):
        run(tmp_path, 1, 1, make)


@pytest.mark.slurm
def test_slurm_that_does_not_answer_is_one_sentence_and_exit_75(
    tmp_path: Path, queue: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "slurm.conf"
    lines = (queue.folder / "slurm.conf").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("SlurmctldPort")]
    conf.write_text("\n".join([*kept, f"SlurmctldPort={free_port()}", ""]))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    printed = run_cli("sweep", "lima_size", "--out", str(tmp_path / "out"), "--executor", "slurm", code=75)
    assert printed.startswith("EXECUTOR is 'slurm', but must be a SLURM that answers (")
    assert printed.endswith("or continue on this machine with the same command without EXECUTOR.\n")
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slurm
def test_slurm_controller_that_dies_in_the_middle_is_waited_for(
    tmp_path: Path, queue: Slurm, caplog: pytest.LogCaptureFixture
) -> None:
    # The last on this SLURM: the node tells a new controller only some time later that the first job is over.
    behave(tmp_path, "all", waits=str(tmp_path / "go"))

    def restart() -> None:
        until(lambda: len(runs(tmp_path)) == 1)
        queue.end("slurmctld")
        (tmp_path / "go").touch()  # one ends, the next cannot be queued
        until(lambda: "SLURM does not answer" in caplog.text)
        until(lambda: len(numbers(tmp_path)) == 1)
        queue.start_controller()

    thread = threading.Thread(target=restart)
    thread.start()
    summary = run(tmp_path, 2, 1, in_queue(tmp_path))
    thread.join()
    assert (summary.exit_code, len(numbers(tmp_path))) == (0, 2)
    assert set(runs(tmp_path).values()) == {1}
    assert [record.getMessage()[:22] for record in caplog.records] == ["SLURM does not answer;", "SLURM answers again"]


def test_slurm_that_is_not_here_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    printed = run_cli("sweep", "lima_size", "--out", str(tmp_path / "out"), "--executor", "slurm", code=2)
    assert printed.startswith("EXECUTOR is 'slurm', but must be 'local' where there is no sbatch")
    assert not (tmp_path / "out").exists()


# -- submitit alone ---------------------------------------------------------------------------------------------------


def local_jobs(root: Path) -> SlurmExecutor:
    """Return an executor of submitit's local jobs."""
    extra("submitit")
    from tests.engine.submitit_local import LocalScheduler

    return SlurmExecutor(2, LocalScheduler, root, POLL_SECONDS)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGTERM, PreemptedError), (signal.SIGUSR2, WorkerDiedError), (signal.SIGKILL, WorkerDiedError)],
)
def test_submitit_job_that_is_signalled_ends_at_once(tmp_path: Path, number: signal.Signals, kind: type) -> None:
    executor, file = local_jobs(tmp_path), tmp_path / "pid"
    try:
        future = executor.submit(write_and_sleep, file)
        until(file.exists)
        os.kill(int(file.read_text()), number)
        error = future.exception(timeout=30)
    finally:
        executor.stop()
    assert type(error) is kind
    assert ("its time was up" in str(error)) == (number == signal.SIGUSR2)


def test_submitit_trial_that_is_preempted_again_and_again_is_not_failed(tmp_path: Path) -> None:
    behave(tmp_path, 0, sleep=60.0)
    times = launch.MAX_ATTEMPTS + 1

    def preempt() -> None:
        for number in range(1, times + 1):
            until(lambda number=number: len(processes(tmp_path)) == number)
            if number == times:
                behave(tmp_path, 0)
            os.kill(processes(tmp_path)[-1], signal.SIGTERM)

    threading.Thread(target=preempt).start()
    summary = run(tmp_path, 1, 1, lambda num_slots: local_jobs(tmp_path))
    assert summary.exit_code == 0
    assert len(attempts(tmp_path, 0)) == times + 1


def test_submitit_job_that_cannot_run_says_why(tmp_path: Path) -> None:
    executor = local_jobs(tmp_path)
    executor._cwd = tmp_path / "no such folder"
    try:
        error = executor.submit(os.getpid).exception(timeout=30)
    finally:
        executor.stop()
    assert isinstance(error, WorkerDiedError)
    assert "must be a folder that all machines share" in str(error)


# -- without a scheduler ----------------------------------------------------------------------------------------------


class Fake:
    """A scheduler whose jobs never run; it says of them what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told, self.cancelled = folder, {}, []  # type: ignore[var-annotated]
        self.answers = True

    def submit(self, call: Callable[..., object], *args: object) -> Job | None:
        if not self.answers:
            return None
        key = str(len(self.told) + 1)
        self.told[key] = "PENDING"
        return Job(key, self.folder / f"{key}_0_result.pkl", self.folder / f"{key}_0_log.err")

    def states(self, ids: object) -> dict[str, str] | None:
        return dict(self.told) if self.answers else None

    def cancel(self, ids: object) -> bool:
        self.cancelled += list(ids)  # type: ignore[call-overload]
        return True


@pytest.mark.parametrize(
    ("state", "marker", "output", "kind"),
    [
        ("OUT_OF_MEMORY", "", "", KilledForMemoryError),
        ("FAILED", "", "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0", KilledForMemoryError),
        (
            "FAILED",
            "",
            "slurmstepd: error: StepId=2.0 exceeded memory limit (6 > 2), being killed",
            KilledForMemoryError,
        ),
        ("PREEMPTED", "", "", PreemptedError),
        ("FAILED", "preempted", "", PreemptedError),
        ("CANCELLED", "preempted", "", WorkerDiedError),
        ("TIMEOUT", "", "", WorkerDiedError),
        ("NODE_FAIL", "", "", WorkerDiedError),
        ("COMPLETED", "", "", WorkerDiedError),
    ],
)
def test_slurm_job_over_without_a_result_is_classed(
    tmp_path: Path, state: str, marker: str, output: str, kind: type
) -> None:
    extra("submitit")
    executor = SlurmExecutor(1, Fake, tmp_path, 0.02)
    try:
        future = executor.submit(os.getpid)
        fake = executor._scheduler
        assert isinstance(fake, Fake)
        (fake.folder / "1_left.txt").write_text(marker)
        (fake.folder / "1_0_log.err").write_text(output)
        time.sleep(0.5)
        assert not future.done()
        fake.answers = False
        fake.told = {"1": state}
        time.sleep(0.5)
        assert not future.done()  # a SLURM that does not answer just now says nothing of its jobs
        fake.answers = True
        assert type(future.exception(timeout=10)) is kind
    finally:
        executor.stop()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"cno_such_module\nname\n."])
def test_slurm_result_that_cannot_be_read_is_a_lost_attempt(tmp_path: Path, content: bytes) -> None:
    executor = SlurmExecutor(1, Fake, tmp_path, 0.02)
    try:
        future = executor.submit(os.getpid)
        write_atomic(executor.folder / "1_0_result.pkl", content)
        assert "cannot be read" in str(future.exception(timeout=10))
        assert executor.submit(os.getpid).done() is False  # it still watches
        write_atomic(executor.folder / "2_0_result.pkl", pickle.dumps(("success", (7, None))))
        until(lambda: not executor.job_ids())
    finally:
        executor.stop()


def test_slurm_job_that_left_the_queue_long_ago_is_lost(tmp_path: Path) -> None:
    executor = SlurmExecutor(1, Fake, tmp_path, 0.02)
    try:
        future = executor.submit(os.getpid)
        until(lambda: bool(executor.job_ids()))
        executor._scheduler.told.clear()  # type: ignore[attr-defined]
        assert "gone from the queue" in str(future.exception(timeout=10))
    finally:
        executor.stop()


def test_slurm_that_is_silent_for_too_long_is_given_up_with_75(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_executor, "PATIENCE_SECONDS", 1.0)
    executor = SlurmExecutor(1, Fake, tmp_path, 0.02)
    try:
        queued = executor.submit(os.getpid)
        until(lambda: bool(executor.job_ids()))
        executor._scheduler.answers = False  # type: ignore[attr-defined]
        for future in (queued, executor.submit(os.getpid)):
            error = future.exception(timeout=10)
            assert isinstance(error, UnreachableError)
            assert "(it did not for 1 seconds); start it and run the same command again, or continue" in str(error)
    finally:
        executor.stop()


def test_slurm_jobs_that_cannot_be_cancelled_are_left_to_the_next_launch(tmp_path: Path) -> None:
    fakes: list[Fake] = []

    def make(folder: Path) -> Fake:
        fakes.append(Fake(folder))
        return fakes[-1]

    executor = SlurmExecutor(1, make, tmp_path, 0.02)
    future = executor.submit(os.getpid)
    until(lambda: bool(executor.job_ids()))
    fakes[0].answers = False
    until(lambda: executor._silent_since is not None)
    executor.stop()
    assert isinstance(future.exception(), WorkerDiedError)
    assert fakes[0].cancelled == []
    unanswered = Fake(tmp_path)
    unanswered.answers = False
    slurm_executor.cancel_orphans(tmp_path / "slurm", unanswered)
    fakes[0].answers = True
    slurm_executor.cancel_orphans(tmp_path / "slurm", fakes[0])
    assert fakes[0].cancelled == ["1"]
    assert not list((tmp_path / "slurm").glob("launch-*"))


def test_slurm_orphans_of_a_launcher_that_lives_are_left_alone(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.told = {"1": "RUNNING", "2": "PENDING", "3": "RUNNING", "4": "COMPLETED"}
    for name, jobs in (("launch-dead", "14"), ("launch-lives", "23")):
        (tmp_path / name).mkdir()
        rows = (json.dumps({"job": job}) + "\n" for job in jobs)
        (tmp_path / name / "jobs.txt").write_text("".join(rows))
    with lock(tmp_path / "launch-lives" / ".lock", wait=False):
        slurm_executor.cancel_orphans(tmp_path, fake)
    assert fake.cancelled == ["1"]
    assert [path.name for path in tmp_path.glob("launch-*")] == ["launch-lives"]


def test_slurm_parameters_state_threads_for_the_step_as_well() -> None:
    found = slurm_queue._parameters(Need(4, "gpu", 90, 1.5, 1))
    assert (found["cpus_per_task"], found["srun_args"]) == (4, ["--cpus-per-task=4", "--export=ALL"])
    assert (found["partition"], found["time"], found["mem"], found["gpus_per_node"]) == ("gpu", 90, "1536MB", 1)
    assert "export OMP_NUM_THREADS=4" in found["setup"]
    bare = slurm_queue._parameters(Need(1))
    assert bare["time"] is None
    assert not {"partition", "mem", "gpus_per_node"} & set(bare)


def test_launch_deaths_count_only_in_a_row_without_a_new_checkpoint(tmp_path: Path) -> None:
    key = planned(1)[0].trial_id
    reached = iter(["step_00000010", "step_00000020", "step_00000030"])

    class Dying:
        num_slots, keeps_workers = 1, True
        num_deaths = 0

        def submit(self, call: object, /, *args: object) -> object:
            from concurrent.futures import Future

            future: Future[object] = Future()
            self.num_deaths += 1
            name = next(reached, None)
            if name is not None:
                (tmp_path / "trials" / key / "checkpoints" / name).mkdir(parents=True)
            future.set_exception(WorkerDiedError("lost"))
            return future

        def stop(self) -> None: ...

    dying = Dying()
    how = launch.Options(1, prepare=False, executor=lambda num_slots, runtime: dying)  # type: ignore[arg-type,return-value]
    summary = launch.launch(Store(tmp_path), planned(1), RUNTIME, how)
    assert [outcome.cause for outcome in summary.failed] == ["killed"]
    assert dying.num_deaths == 3 + launch.MAX_ATTEMPTS - 1
    assert result.read_failure(tmp_path / "trials" / key) is not None


def test_runtime_time_limit_too_short_for_its_warning_is_refused() -> None:
    with pytest.raises(SpecError, match="time_limit_minutes is 1, but must be"):
        RUNTIME.replace({"time_limit_minutes": 1})
    assert Runtime(num_threads=1, micro_batch_size=1, eval_batch_size=1).time_limit_minutes is None
