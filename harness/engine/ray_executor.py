"""Jobs as tasks of a Ray cluster that runs already.

Ray chooses the machine by what a job asks for: CPUs, a share of a GPU, memory. Invariants: a job whose worker or
machine is lost raises `WorkerDiedError`, and the launch decides; a lost cluster raises `UnreachableError` from every
job. The store lies in a folder that all machines share. What does not live here: Ray itself, which runs in a process
of its own (ray_driver.py); starting a cluster, and what is tried again (launch.py).
"""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import pickle
import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from harness.engine import devices, ray_driver
from harness.engine.executor import WorkerDiedError
from harness.engine.ray_driver import BEAT, REFUSED, Need, Node, Work
from harness.errors import SpecError, UnreachableError
from harness.spec import Runtime

T = TypeVar("T")
ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<port>\d{1,5})")
CONNECT_SECONDS = 5.0
IMPORT_SECONDS = 120.0
JOIN_SECONDS = 15.0
"""How long a cluster may take to answer at first."""
SILENT_SECONDS = 60.0
"""How long it may be silent later: its head may be started anew in between."""
STOP_SECONDS = 5.0
BYTES_PER_GB = 2**30


class RayExecutor:
    """Slots on a Ray cluster."""

    def __init__(self, num_slots: int, address: str, ask: Callable[[Sequence[Node]], Need]) -> None:
        """Join the cluster.

        Args:
            num_slots: jobs that are handed to Ray at a time; it runs as many of them as there is room for.
            address: `host:port` of the cluster.
            ask: says what each job asks for, from the machines there are.

        Raises:
            SpecError: what `ask` raises.
            UnreachableError: no cluster answers there.
        """
        self.num_slots = num_slots
        self._driver = Driver(address, devices.memories)
        try:
            self._need = ask(self._driver.nodes)
        except SpecError:
            self._driver.stop()
            raise
        # Ray ends the worker after a job with a GPU, to free its memory.
        self.keeps_workers = self._need.num_gpus == 0
        self._folder = Path.cwd()
        self._threads = ThreadPoolExecutor(num_slots, thread_name_prefix="ray")

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run a module-level function somewhere in the cluster."""
        return self._threads.submit(self._run, call, args)

    def _run(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        content = self._driver.run(self._need, self._folder, call, args).result()
        try:
            value, error = pickle.loads(content)
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, TypeError, ValueError) as problem:
            text = f"what the job returned cannot be read ({type(problem).__name__}: {problem})"
            raise WorkerDiedError(text) from problem
        if error is not None:
            raise error
        return value

    def stop(self) -> None:
        """Cancel what runs and what waits, and leave the cluster."""
        self._driver.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)


class Driver:
    """The process that has joined the cluster, as the launcher sees it."""

    def __init__(self, address: str, memories: Callable[[], dict[str, float]] | None = None) -> None:
        """Start it and wait until it has joined.

        Args:
            address: `host:port` of the cluster.
            memories: what to ask every machine with GPUs; None asks nothing.

        Raises:
            UnreachableError: no cluster answers there.
        """
        self._address = address
        context = multiprocessing.get_context("spawn")
        self._channel, its_end = context.Pipe()
        words = os.getpid(), its_end, address, memories
        self._process = context.Process(target=ray_driver.serve, args=words, name="ray", daemon=True)
        self._process.start()
        its_end.close()
        try:
            for seconds in (IMPORT_SECONDS, JOIN_SECONDS):
                self._hear(seconds)
            self.nodes: list[Node] = self._hear(JOIN_SECONDS + ray_driver.MEMORY_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.join()
            raise
        self._numbers, self._guard, self._stopped = itertools.count(), threading.Lock(), False
        self._lost: UnreachableError | None = None
        self._open: dict[int, Future[bytes]] = {}
        self._listener = threading.Thread(target=self._listen, name="ray", daemon=True)
        self._listener.start()

    def _hear(self, seconds: float) -> Any:
        try:
            word, content = self._channel.recv() if self._channel.poll(seconds) else (REFUSED, None)
        except (EOFError, OSError):
            word, content = REFUSED, None
        if word == REFUSED:
            raise _unreachable(self._address, *([content] if content else []))
        return content

    def run(self, need: Need, folder: Path, call: Callable[..., Any], args: tuple[Any, ...]) -> Future[bytes]:
        """Hand over a job; the future holds what it returned and raised, packed."""
        future: Future[bytes] = Future()
        with self._guard:
            if self._stopped:
                future.set_exception(WorkerDiedError("the launcher is stopping"))
            elif self._lost is not None:
                future.set_exception(self._lost)
            else:
                number = next(self._numbers)
                self._open[number] = future
                with suppress(OSError):  # the listener hears of it as well
                    self._channel.send(Work(number, need, folder, call, args))
        return future

    def _listen(self) -> None:
        """Hand over results until the process is gone or silent."""
        why = f"nothing was heard from it for {SILENT_SECONDS:.0f} seconds"
        try:
            while self._channel.poll(SILENT_SECONDS):
                word, content = self._channel.recv()
                if word != BEAT:
                    self._open.pop(word).set_result(content)
        except (EOFError, OSError):
            why = "its head or this machine's part of it is gone"
        with self._guard:
            self._lost = _lost(self._address, why)
            error = WorkerDiedError("the launcher is stopping") if self._stopped else self._lost
            for future in self._open.values():
                with suppress(InvalidStateError):
                    future.set_exception(error)

    def stop(self) -> None:
        """Cancel every job, and leave the cluster."""
        with self._guard:
            self._stopped = True
            with suppress(OSError):
                self._channel.send(None)
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._listener.join()
        self._channel.close()


# -- the cluster ------------------------------------------------------------------------------------------------------


def check(address: str | None) -> str:
    """Return an address at which something listens.

    Raises:
        SpecError: it is no address, or Ray is not installed.
        UnreachableError: nothing listens there.
    """
    found = ADDRESS.fullmatch(address or "")
    if found is None or address is None:
        raise SpecError(
            f"ADDRESS is {address!r}, but must be host:port of a running Ray cluster with EXECUTOR=ray; `ray status` "
            "or `ray start --head` prints it."
        )
    if importlib.util.find_spec("ray") is None:
        raise SpecError("EXECUTOR is 'ray', but must be 'local' where Ray is not installed; run: make schedulers")
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError):
        raise _unreachable(address) from None
    return address


def _unreachable(address: str, reason: str = "nothing there answers as one") -> UnreachableError:
    return UnreachableError(
        f"ADDRESS is {address!r}, but must be a Ray cluster of this version that this machine belongs to ({reason}); "
        "start it, or continue on this machine with the same command without EXECUTOR and ADDRESS."
    )


def _lost(address: str, reason: str) -> UnreachableError:
    return UnreachableError(
        f"ADDRESS is {address!r}, but must be a Ray cluster that stays ({reason}); start it again and run the same "
        "command, or continue on this machine with the same command without EXECUTOR and ADDRESS."
    )


def nodes(address: str) -> list[Node]:
    """Return the machines of a cluster, with the memory of their GPUs.

    Raises:
        UnreachableError: no cluster answers there.
    """
    driver = Driver(address, devices.memories)
    driver.stop()
    return driver.nodes


def need(found: Sequence[Node], runtime: Runtime) -> Need:
    """Return what a trial asks of a cluster.

    Raises:
        SpecError: trials declare more memory than the smallest GPU has.
    """
    memory = None if runtime.memory_gb is None else int(runtime.memory_gb * BYTES_PER_GB)
    return Need(runtime.num_threads, runtime.num_cores, _gpu_share(found, runtime), memory)


def _gpu_share(found: Sequence[Node], runtime: Runtime) -> float:
    """Return the share of a GPU: by declared memory that of the smallest GPU of the cluster, else one a process."""
    with_gpus = [node for node in found if node.resources.get("GPU", 0) > 0]
    if runtime.device == "cpu" or (runtime.device == "auto" and not with_gpus):
        return 0.0
    if runtime.gpu_memory_gb is None:
        return float(runtime.num_processes)
    smallest = min((gb for node in with_gpus for gb in node.gpu_memories_gb), default=None)
    count = devices.per_gpu(smallest, runtime.gpu_memory_gb)
    if count == 0:
        raise SpecError(devices.too_much(runtime.gpu_memory_gb, smallest or 0.0))
    return 1.0 / count


def num_slots(found: Sequence[Node], runtime: Runtime) -> int:
    """Return how many trials the cluster has room for.

    Raises:
        SpecError: not even one.
    """
    one = need(found, runtime)
    count = sum(_room(node.resources, one) for node in found)
    if count == 0:
        raise SpecError(
            f"a trial asks for {one.num_cpus} CPUs (runtime.num_threads, num_processes), {one.num_gpus:g} GPUs and "
            f"{runtime.memory_gb or 0:g} GB, but must fit on one machine of the Ray cluster; `ray status` says what "
            "they have."
        )
    return count


def _room(resources: dict[str, float], one: Need) -> int:
    asked = {"CPU": one.num_cpus, "GPU": one.num_gpus, "memory": one.memory_bytes or 0}
    return min(int(resources.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items() if amount > 0)
