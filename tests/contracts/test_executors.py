"""What every executor of several processes must do. Another one joins by one line in `MAKES`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from harness.engine.executor import Executor, LocalExecutor, WorkerDiedError
from harness.engine.ray_driver import Need as RayNeed
from harness.engine.ray_executor import RayExecutor
from harness.engine.slurm_executor import SlurmExecutor
from harness.engine.slurm_queue import Need, Slurm
from harness.records.provenance import Clock
from harness.records.store import write_atomic
from harness.spec import Runtime
from tests.engine.test_launch import ROOT, SLOW_SECONDS, alive, until
from tests.presence import extra
from tests.servers import RayNodes, ray_cluster, slurm

Make = Callable[[int], Executor]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_cluster() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def queue() -> Iterator[None]:
    with slurm():
        yield


def _local(request: pytest.FixtureRequest, root: Path) -> Make:
    return partial(LocalExecutor, num_threads=1)


def _ray(request: pytest.FixtureRequest, root: Path) -> Make:
    nodes: RayNodes = request.getfixturevalue("cluster")
    need = RayNeed(num_threads=1, num_cpus=1, num_gpus=0.0, memory_bytes=None)
    return partial(RayExecutor, address=nodes.address, ask=lambda found: need)


def _submitit(request: pytest.FixtureRequest, root: Path) -> Make:
    extra("submitit")
    from tests.engine.submitit_local import LocalScheduler

    return partial(SlurmExecutor, scheduler=LocalScheduler, root=root, poll_seconds=0.1)


def _slurm(request: pytest.FixtureRequest, root: Path) -> Make:
    request.getfixturevalue("queue")
    return partial(SlurmExecutor, scheduler=partial(Slurm, need=Need(1, memory_gb=1.8)), root=root, poll_seconds=0.1)


MAKES = {"local": _local, "ray": _ray, "submitit": _submitit, "slurm": _slurm}
MARKED = [
    pytest.param("local"),
    pytest.param("ray", marks=pytest.mark.ray),
    pytest.param("submitit"),
    pytest.param("slurm", marks=pytest.mark.slurm),
]


@pytest.fixture(params=MARKED)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return MAKES[request.param](request, tmp_path)


def test_executor_slot_survives_a_job_that_kills_its_process(make: Make) -> None:
    executor = make(1)
    try:
        with pytest.raises(WorkerDiedError):
            executor.submit(os._exit, 3).result(timeout=30)
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result(timeout=30) == "1"
    finally:
        executor.stop()


def test_executor_returns_what_a_job_returns_and_raises_what_it_raises(make: Make) -> None:
    executor = make(2)
    try:
        assert executor.submit(divmod, 7, 2).result(timeout=30) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 7, 0).result(timeout=30)
    finally:
        executor.stop()


def _sleep(file: Path) -> None:
    write_atomic(file, str(os.getpid()).encode())
    time.sleep(SLOW_SECONDS)


def test_executor_stop_ends_a_running_job_at_once(make: Make, tmp_path: Path) -> None:
    executor, file = make(1), tmp_path / "pid"
    future = executor.submit(_sleep, file)
    until(file.exists)
    pid = int(file.read_text())
    started = time.monotonic()
    executor.stop()
    assert time.monotonic() - started < 6.0
    until(lambda: not alive(pid), seconds=5.0)  # a scheduler answers before it has ended it
    assert future.done()


BLOCK_BYTES = 64 << 20


def _faults_of_blocks() -> tuple[int, int]:
    """Return the page faults of the first block that is taken and freed, and of the next seven."""
    faults = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(BLOCK_BYTES)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return faults[0], sum(faults[1:])


def test_executor_workers_take_again_what_they_freed(make: Make) -> None:
    executor = make(1)
    try:
        first, others = executor.submit(_faults_of_blocks).result(timeout=30)
        assert executor.submit(os.getenv, "THP_MEM_ALLOC_ENABLE").result(timeout=30) == "1"
    finally:
        executor.stop()
    assert others < first
    # A process of its own, since this one may have been given blocks of this size before.
    code = "from tests.contracts.test_executors import _faults_of_blocks; print(*_faults_of_blocks())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, others = map(int, done.stdout.split())
    assert others > 3 * first


def _peaks_of_trials() -> tuple[int, int]:
    """Return the peak of a trial that frees a gigabyte, and of the next one, which takes nothing."""
    runtime = Runtime(num_threads=1, micro_batch_size=1, eval_batch_size=1, device="cpu")
    peaks = []
    for size in (1 << 30, 1):
        clock = Clock("a command", runtime)
        bytearray(size)
        peaks.append(clock.read(device="cpu", num_tokens=1).peak_memory_bytes or 0)
    return peaks[0], peaks[1]


def test_executor_worker_does_not_count_what_an_earlier_trial_freed(make: Make) -> None:
    executor = make(1)
    try:
        first, second = executor.submit(_peaks_of_trials).result(timeout=60)
    finally:
        executor.stop()
    assert first > 1 << 30
    assert second < first - (1 << 29)


_USES_TQDM = "import time; from tqdm.auto import tqdm; list(tqdm([1], disable=True)); time.sleep({seconds})"
_STOPS = """
import time
from concurrent.futures import wait
from harness.engine.executor import LocalExecutor
executor = LocalExecutor(2, 1)
futures = [executor.submit(exec, job, {{}}) for job in {jobs!r}]
wait(futures, timeout=5.0)
started = time.monotonic()
executor.stop()
print(time.monotonic() - started)
"""


@pytest.mark.parametrize("seconds", [0.0, SLOW_SECONDS], ids=["idle", "busy"])
def test_executor_stop_is_quick_and_prints_nothing(seconds: float) -> None:
    # A program of its own: what was left behind is told when it has ended.
    code = _STOPS.format(jobs=[_USES_TQDM.format(seconds=seconds)] * 2)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert float(done.stdout) < 1.0
