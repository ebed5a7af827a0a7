"""What every executor of several processes must do. Another one joins by one line in `EXECUTORS`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest

from harness.engine.executor import LocalExecutor, WorkerDiedError
from harness.records.provenance import Clock
from harness.spec import Runtime
from tests.engine.test_launch import ROOT, SLOW_SECONDS, alive, until

Make = Callable[[int], LocalExecutor]
EXECUTORS = [pytest.param(partial(LocalExecutor, num_threads=1), id="local")]


@pytest.mark.parametrize("make", EXECUTORS)
def test_executor_slot_survives_a_job_that_kills_its_process(make: Make) -> None:
    executor = make(1)
    try:
        with pytest.raises(WorkerDiedError):
            executor.submit(os._exit, 3).result(timeout=30)
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result(timeout=30) == "1"
    finally:
        executor.stop()


@pytest.mark.parametrize("make", EXECUTORS)
def test_executor_returns_what_a_job_returns_and_raises_what_it_raises(make: Make) -> None:
    executor = make(2)
    try:
        assert executor.submit(divmod, 7, 2).result(timeout=30) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 7, 0).result(timeout=30)
    finally:
        executor.stop()


@pytest.mark.parametrize("make", EXECUTORS)
def test_executor_stop_ends_a_running_job_at_once(make: Make) -> None:
    executor = make(1)
    future = executor.submit(time.sleep, SLOW_SECONDS)
    until(lambda: bool(executor.pids()))
    (pid,) = executor.pids()
    started = time.monotonic()
    executor.stop()
    assert time.monotonic() - started < 6.0
    assert not alive(pid)
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


@pytest.mark.parametrize("make", EXECUTORS)
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


@pytest.mark.parametrize("make", EXECUTORS)
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
