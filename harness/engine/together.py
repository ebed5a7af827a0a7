"""One trial in several processes: they are started together and end together.

Invariant: a process that dies or fails ends all of them, and the trial with what ended the first; the main process
runs the trial and commits it, the others only train along. What does not live here: how they train as one
(harness/train/processes.py).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from harness.engine.executor import WorkerDiedError, environment, start_worker
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import Runtime, TrialSpec

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Member:
    """One of the processes: what it needs to find the others."""

    rank: int
    count: int
    port: int

    def variables(self) -> dict[str, str]:
        """Return what torch and accelerate read."""
        numbers = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": self.count, "MASTER_PORT": self.port}
        numbers |= {"LOCAL_WORLD_SIZE": self.count}
        return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": LOOPBACK}


def run_trial(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """Run a trial in `runtime.num_processes` new processes and return what it committed.

    Raises:
        WorkerDiedError: one of them was killed.
        HarnessError: what any of them raised first.
    """
    count, port = runtime.num_processes, _free_port()
    members = [Member(rank, count, port) for rank in range(count)]
    pool = ProcessPoolExecutor(
        max_workers=len(members),
        mp_context=get_context("spawn"),
        initializer=start_worker,
        initargs=(os.getpid(), environment(runtime.num_threads)),
    )
    try:
        # Each waits for the others before it does anything, so that each gets a process of its own.
        futures = [pool.submit(_take_part, member, spec, store, runtime, command, report) for member in members]
        return _outcome(futures)
    finally:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(futures: list[Future[TrialResult | None]]) -> TrialResult:
    """Return the main process's result as soon as it is there, or raise what went wrong first."""
    waiting = set(futures)
    while not futures[0].done():
        done, waiting = wait(waiting, return_when=FIRST_EXCEPTION)
        for future in done:
            if isinstance(future.exception(), BrokenProcessPool):
                raise WorkerDiedError("one of the trial's processes died; it was killed or crashed outside Python")
            future.result()
    finished = futures[0].result()
    assert finished is not None
    return finished


def _take_part(
    member: Member, spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult | None:
    """Run the trial in the main process, train along in any other."""
    os.environ.update(member.variables())
    from harness import trial
    from harness.engine.worker import set_threads
    from harness.train.processes import Together

    set_threads(runtime.num_threads)
    together = Together()
    try:
        if together.is_main:
            return trial.run_trial(spec, trial.TrialContext(store, runtime, command, report, together))
        trial.train_along(spec, trial.TrialContext(store, runtime, command, _silent, together))
        return None
    finally:
        together.close()


def _silent(**progress: Any) -> None:
    """The main process reports."""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]
