"""Where jobs run. The interface is `concurrent.futures`: submit a picklable call, get a `Future`.

Invariant: a job that takes its process down raises `WorkerDiedError` from its future and harms no other slot; no worker
outlives its launcher. What does not live here: what a job does (worker.py), when it is tried again (launch.py).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from harness.engine import devices, heap
from harness.engine.kills import memory_kills
from harness.errors import HarnessError
from harness.redact import protect_output
from harness.spec import Runtime

T = TypeVar("T")
PR_SET_PDEATHSIG = 1
STOP_SECONDS = 5.0
DIED = "the worker process died; it was killed or crashed outside Python"
KILLED_FOR_MEMORY = "the worker process died; the system killed it because memory ran out"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerDiedError(HarnessError):
    """The process that ran a job is gone: killed, or crashed outside Python."""

    cause_class = "killed"


class PreemptedError(WorkerDiedError):
    """The scheduler wanted a worker's place for others: no fault of the trial, so that it does not count against it."""


class KilledForMemoryError(WorkerDiedError):
    """A worker was killed because it took more memory than it may."""

    cause_class = "oom"


class Executor(Protocol):
    """What the engine needs; `concurrent.futures.Executor` with a count of slots and a hard stop."""

    @property
    def num_slots(self) -> int: ...

    @property
    def keeps_workers(self) -> bool:
        """Whether a process that ran a job runs later ones, so that they find imported what it imported."""
        ...

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run a module-level function in some slot."""
        ...

    def stop(self) -> None:
        """End every worker at once; futures that were running never finish."""
        ...


class LocalExecutor:
    """Slots on this machine, each one spawned process that is replaced when it dies."""

    keeps_workers = True

    def __init__(self, num_slots: int, num_threads: int, devices: tuple[str, ...] = ()) -> None:
        """Make slots; a process starts with its first job.

        Args:
            num_slots: jobs at a time.
            num_threads: compute threads of each worker, set before it imports torch.
            devices: GPUs, handed to the slots in turn as CUDA_VISIBLE_DEVICES; empty leaves the variable alone.
        """
        self.num_slots = num_slots
        self._slots = [_Slot(environment(num_threads, devices, index)) for index in range(num_slots)]
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)
        # These threads live as long as the workers: PR_SET_PDEATHSIG fires when the *thread* that spawned ends.
        self._threads = ThreadPoolExecutor(num_slots, thread_name_prefix="slot")

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run a module-level function in the next free slot; its future raises `WorkerDiedError` if that dies."""
        return self._threads.submit(self._run, call, args)

    def _run(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        slot = self._free.get()
        try:
            return slot.run(call, args)
        finally:
            self._free.put(slot)

    def stop(self) -> None:
        """End every worker at once."""
        for slot in self._slots:
            slot.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def pids(self) -> list[int]:
        """Return the process ids of the workers alive now."""
        return [pid for slot in self._slots for pid in slot.pids()]


class Kept:
    """Hands out one executor again and again, so that its workers keep what they imported. `close` ends it."""

    def __init__(self, make: Callable[[int, Runtime], Executor], runtime: Runtime) -> None:
        self._make, self._runtime = make, runtime
        self._held: Executor | None = None

    def __call__(self, num_workers: int, runtime: Runtime) -> Executor:
        """Return the kept executor, whose own `stop` does nothing; for another runtime a fresh one."""
        if runtime != self._runtime:
            return self._make(num_workers, runtime)
        if self._held is None or self._held.num_slots < num_workers:
            self.close()
            self._held = self._make(num_workers, runtime)
        return _Unstopped(self._held)

    def close(self) -> None:
        """End every worker."""
        if self._held is not None:
            self._held.stop()


class _Unstopped:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.num_slots = executor.num_slots
        self.keeps_workers = executor.keeps_workers

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        return self._executor.submit(call, *args)

    def stop(self) -> None:
        """Whoever keeps the executor ends it."""


@dataclass
class _Slot:
    environment: dict[str, str]
    pool: ProcessPoolExecutor | None = None
    stopped: bool = False

    def run(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        if self.stopped:
            raise WorkerDiedError("the launcher is stopping")
        kills = memory_kills()
        try:
            if self.pool is None:
                self.pool = self._started()
            future = self.pool.submit(call, *args)
        except OSError as error:
            # Killed before it read what to do; or Python's own process that keeps count of semaphores was; or the
            # system lets no process start.
            self._drop()
            raise WorkerDiedError(f"no worker process could be started ({error})") from error
        except BrokenProcessPool as error:
            self._drop()
            raise WorkerDiedError(DIED) from error
        processes = list((self.pool._processes or {}).values())
        try:
            return future.result()
        except BrokenProcessPool as error:
            for_memory = killed_for_memory(processes, kills)
            self._drop()
            raise (KilledForMemoryError(KILLED_FOR_MEMORY) if for_memory else WorkerDiedError(DIED)) from error

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=start_worker,
            initargs=(os.getpid(), self.environment),
        )

    def _drop(self) -> None:
        if not self.stopped and self.pool is not None:
            self.pool.shutdown(wait=True)
            self.pool = None

    def pids(self) -> list[int]:
        # The standard library has no public list of a pool's processes.
        return list(self.pool._processes or {}) if self.pool is not None else []

    def stop(self) -> None:
        self.stopped = True
        pool = self.pool  # `run` drops it when it sees that the worker died, perhaps while this waits
        if pool is None:
            return
        # An idle worker holds nothing: by a signal it is gone at once, by itself it unloads its libraries for seconds.
        processes = list((pool._processes or {}).values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def killed_for_memory(processes: list[Any], kills_before: int | None) -> bool:
    """Return whether a worker ended by SIGKILL while the kernel killed for memory: it does not say whom."""
    kills = memory_kills()
    if kills is None or kills_before is None or kills <= kills_before:
        return False
    for process in processes:
        process.join(STOP_SECONDS)
    return any(process.exitcode == -signal.SIGKILL for process in processes)


def start_worker(parent: int, environment: dict[str, str]) -> None:
    """Prepare a fresh worker: die with the launcher, leave Ctrl-C to it, settle what torch reads at import."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the launcher died before the line above
        os._exit(1)
    os.environ.update(environment)
    heap.keep_freed(os.environ)
    protect_output()
    from tqdm import tqdm

    # tqdm's own lock is a named semaphore, which a worker ended by a signal leaves behind with a warning.
    tqdm.set_lock(threading.RLock())


def environment(num_threads: int, devices: tuple[str, ...] = (), index: int = 0) -> dict[str, str]:
    """Return the environment variables of the worker in a slot, by its index; the GPUs go to the slots in turn."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(num_threads))
    variables |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    variables |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    return variables | ({"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if devices else {})


def default_workers(runtime: Runtime) -> int:
    """Return how many trials run at a time: as many as the GPUs hold, else as fill the cores at the trial's threads.

    Raises:
        SpecError: trials declare more memory than any GPU has, or train in more processes than there are GPUs.
    """
    if (runtime.device == "cuda" and runtime.num_processes > 1) or (runtime.device != "cpu" and devices.gpus()):
        return len(_gpu_slots(runtime))
    return max(1, len(os.sched_getaffinity(0)) // runtime.num_cores)


def local(num_workers: int, runtime: Runtime) -> LocalExecutor:
    """Return the executor for trials on this machine; what they declare of a GPU's memory limits their number.

    Raises:
        SpecError: trials declare more memory than any GPU has, or train in more processes than there are GPUs.
    """
    slots = () if runtime.device == "cpu" else _gpu_slots(runtime)
    if slots and (runtime.gpu_memory_gb is not None or runtime.num_processes > 1):
        num_workers = min(num_workers, len(slots))
    return LocalExecutor(num_workers, runtime.num_threads, slots)


def _gpu_slots(runtime: Runtime) -> tuple[str, ...]:
    if runtime.num_processes > 1:
        return devices.grouped(devices.gpus(), runtime.num_processes)
    if runtime.gpu_memory_gb is None:
        return devices.gpus()
    return devices.slots(devices.inventory(), runtime.gpu_memory_gb)
