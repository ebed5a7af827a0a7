"""What every executor of several processes must do. Another one joins by one line in `EXECUTORS`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import pytest

from harness.engine.executor import LocalExecutor, WorkerDiedError
from tests.engine.test_launch import SLOW_SECONDS, alive, until

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
