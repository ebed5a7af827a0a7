"""One trial in several processes: they are started together and end together.

Invariant: a process that dies, fails or stands still ends all of them, and the attempt with what ended the first: a
death as if its worker had died, so that the launch tries it again. The main process runs the trial and commits it, the
others only train along. What does not live here: how they train as one (harness/train/processes.py).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine import heap
from harness.engine.devices import too_few
from harness.engine.executor import (
    KilledForMemoryError,
    WorkerDiedError,
    environment,
    killed_for_memory,
    memory_kills,
    start_worker,
)
from harness.engine.standstill import POLL_SECONDS, STILL_SECONDS, Standstill
from harness.errors import DeviceError, is_out_of_memory
from harness.identity import trial_id
from harness.records.schema import Progress, TrialResult
from harness.records.store import Store
from harness.spec import Runtime, TrialSpec

if TYPE_CHECKING:
    from harness.train.processes import Together

LOOPBACK = "127.0.0.1"
PROGRESS, TRAINING = "progress.json", "train"
DIED = "one of the trial's processes died; it was killed or crashed outside Python"
KILLED_FOR_MEMORY = "one of the trial's processes died; the system killed it because memory ran out"
ECHO_SECONDS = 2.0
"""How long the others may take to fail as well, once one has."""
STOOD_STILL = (
    f"the trial's processes stood still for {STILL_SECONDS:.0f} s while training; one of them was stopped or hung"
)


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
        WorkerDiedError: one of them was killed, or they stood still.
        KilledForMemoryError: memory ran out in one of them.
        HarnessError: what any of them raised first.
    """
    count, port, kills = runtime.num_processes, _free_port(), memory_kills()
    processes: list[Any] = []
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
        processes = list((pool._processes or {}).values())  # the standard library has no public list of them
        _await_main(futures, processes, store.trial(trial_id(spec)) / PROGRESS)
    except BrokenProcessPool as error:
        for_memory = killed_for_memory(processes, kills)
        raise (KilledForMemoryError(KILLED_FOR_MEMORY) if for_memory else WorkerDiedError(DIED)) from error
    finally:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
    finished = futures[0].result()
    assert finished is not None
    return finished


def _await_main(futures: list[Future[TrialResult | None]], processes: list[Any], progress: Path) -> None:
    """Return once the main process is done, or raise what went wrong first.

    Raises:
        BrokenProcessPool: a process is dead.
    """
    standstill, pids = Standstill(), [process.pid for process in processes]
    while True:
        wait([future for future in futures if not future.done()], POLL_SECONDS, FIRST_COMPLETED)
        if futures[0].done() and futures[0].exception() is None:
            return
        if _errors(futures):
            wait(futures, ECHO_SECONDS)  # what the others raise may be the cause, and this one's the echo
        if told := [error for error in _errors(futures) if not _is_echo(error)]:
            raise _lost_to_memory(told[0]) if is_out_of_memory(told[0]) else told[0]
        for error in _errors(futures):
            if isinstance(error, BrokenProcessPool):
                raise error
        # A pool may miss the death of a process that it started last.
        if not all(process.is_alive() for process in processes):
            raise BrokenProcessPool(DIED)
        for error in _errors(futures):
            raise WorkerDiedError(f"the trial's processes lost one another ({_first_line(error)})") from error
        if standstill.lasts(pids, training=_phase(progress) == TRAINING):
            raise WorkerDiedError(STOOD_STILL)


def _errors(futures: list[Future[TrialResult | None]]) -> list[BaseException]:
    """Return what processes raised, by rank."""
    return [error for future in futures if future.done() and (error := future.exception()) is not None]


def _is_echo(error: BaseException) -> bool:
    """Return whether an error says no more than that another process is gone."""
    names = {kind.__name__ for kind in type(error).__mro__}
    of_group = isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL"))
    return isinstance(error, BrokenProcessPool) or "DistError" in names or of_group


def _lost_to_memory(error: BaseException) -> KilledForMemoryError:
    """Return what lets the launch halve the micro-batch: within the step the others already wait for this process."""
    return KilledForMemoryError(f"memory ran out in one of the trial's processes ({_first_line(error)})")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _phase(progress: Path) -> str | None:
    """Return what the main process last reported to do; None where that cannot be read."""
    try:
        return Progress.model_validate_json(progress.read_bytes()).phase
    except (OSError, ValueError):
        return None


def _take_part(
    member: Member, spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult | None:
    """Run the trial in the main process, train along in any other."""
    os.environ.update(member.variables())
    from harness import trial
    from harness.engine.worker import import_all, set_threads

    set_threads(runtime.num_threads)
    import_all(spec.method.kind)
    if runtime.sharding == "fsdp":
        heap.give_back_freed()
    _require_gpus(runtime)
    together = _group(runtime)
    try:
        if together.is_main:
            return trial.run_trial(spec, trial.TrialContext(store, runtime, command, report, together))
        trial.train_along(spec, trial.TrialContext(store, runtime, command, _silent, together))
        return None
    finally:
        together.close()


def _group(runtime: Runtime) -> Together:
    from harness.train.processes import Together
    from harness.train.sharding import Sharded

    return (Sharded if runtime.sharding == "fsdp" else Together)(runtime.device)


def _require_gpus(runtime: Runtime) -> None:
    """Refuse fewer GPUs than processes.

    Raises:
        DeviceError: there are fewer.
    """
    import torch

    found = torch.cuda.device_count() if runtime.device == "cuda" else runtime.num_processes
    if found < runtime.num_processes:
        raise DeviceError(too_few(runtime.num_processes, found))


def _silent(**progress: Any) -> None:
    """The main process reports."""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]
