"""Jobs as tasks of a Ray cluster that runs already.

Ray chooses the machine by what a job asks for: CPUs, a share of a GPU, memory. Invariant: Ray retries nothing; a job
whose worker or machine is lost raises `WorkerDiedError`, and the launch decides. The store lies in a folder that all
machines share. What does not live here: starting a cluster, and what is tried again (launch.py).
"""

# pyright: reportMissingImports=false
# Ray is an extra that may not be installed where types are checked.
from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.engine import devices, remote
from harness.engine.executor import KilledForMemoryError, WorkerDiedError
from harness.errors import SpecError, UnreachableError
from harness.spec import Runtime

T = TypeVar("T")
ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<port>\d{1,5})")
CONNECT_SECONDS = 5.0
HEALTH_SECONDS = 30.0
BYTES_PER_GB = 2**30


@dataclass(frozen=True)
class Need:
    """What one job asks of the cluster."""

    num_threads: int
    num_cpus: int
    num_gpus: float
    """A share of one GPU where trials declare their memory; 0.0 is none."""
    memory_bytes: int | None


class RayExecutor:
    """Slots on a Ray cluster."""

    def __init__(self, num_slots: int, address: str, need: Need) -> None:
        """Join the cluster.

        Args:
            num_slots: jobs that are handed to Ray at a time; it runs as many of them as there is room for.
            address: `host:port` of the cluster.
            need: what each job asks for.

        Raises:
            UnreachableError: no cluster answers there.
        """
        import ray

        self.num_slots = num_slots
        # Ray ends the worker after a job with a GPU, to free its memory.
        self.keeps_workers = need.num_gpus == 0
        self._joined = join(address)
        options = {"num_cpus": need.num_cpus, "num_gpus": need.num_gpus, "memory": need.memory_bytes}
        variables = remote.variables(need.num_threads)
        self._task = ray.remote(max_retries=0, runtime_env={"env_vars": variables}, **options)(remote.run)
        self._folder = Path.cwd()
        self._guard, self._stopped = threading.Lock(), False
        self._running: set[Any] = set()
        self._threads = ThreadPoolExecutor(num_slots, thread_name_prefix="ray")

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run a module-level function somewhere in the cluster."""
        return self._threads.submit(self._run, call, args)

    def _run(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        reference = None
        try:
            reference = self._start(call, args)
            return ray.get(reference)
        except RayTaskError as error:  # what the job itself raised
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except OutOfMemoryError as error:
            raise KilledForMemoryError(_first_sentence(error)) from error
        except RayError as error:
            raise WorkerDiedError(f"Ray lost the worker: {_first_sentence(error)}") from error
        finally:
            self._running.discard(reference)

    def _start(self, call: Callable[..., T], args: tuple[Any, ...]) -> Any:
        with self._guard:
            if self._stopped:
                raise WorkerDiedError("the launcher is stopping")
            reference = self._task.remote(self._folder, call, args)
            self._running.add(reference)
            return reference

    def stop(self) -> None:
        """Cancel what runs and what waits, and leave the cluster."""
        import ray

        with self._guard:
            self._stopped = True
            running = list(self._running)
        for reference in running:
            ray.cancel(reference, force=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._joined:
            ray.shutdown()


def _first_sentence(error: Exception) -> str:
    """Return the beginning of one of Ray's messages, which go on with a page of advice."""
    text = " ".join(str(error).split())
    return re.split(r"(?<=[a-z])\. ", text, maxsplit=1)[0]


# -- the cluster ------------------------------------------------------------------------------------------------------


def check(address: str | None) -> str:
    """Return the address of a cluster that answers.

    Raises:
        SpecError: it is no address, or Ray is not installed.
        UnreachableError: no cluster answers there.
    """
    found = ADDRESS.fullmatch(address or "")
    if found is None or address is None:
        raise SpecError(
            f"ADDRESS is {address!r}, but must be host:port of a running Ray cluster with EXECUTOR=ray; `ray status` "
            "or `ray start --head` prints it."
        )
    try:
        import ray  # noqa: F401
    except ImportError:
        raise SpecError(
            "EXECUTOR is 'ray', but must be 'local' where Ray is not installed; "
            "run: .venv/bin/pip install -c constraints.txt -e '.[ray]'"
        ) from None
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout=CONNECT_SECONDS).close()
        # In a process of its own: where something else listens there, Ray waits for minutes and then ends its process.
        words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
        subprocess.run(words, capture_output=True, check=True, timeout=HEALTH_SECONDS)
    except (OSError, OverflowError, subprocess.SubprocessError):
        raise _unreachable(address) from None
    return address


def _unreachable(address: str, reason: str = "nothing there answers as one") -> UnreachableError:
    return UnreachableError(
        f"ADDRESS is {address!r}, but must be a Ray cluster of this version that this machine belongs to ({reason}); "
        "start it, or continue on this machine with the same command without EXECUTOR and ADDRESS."
    )


def join(address: str) -> bool:
    """Connect this process to a cluster; return False where it is connected already.

    Raises:
        UnreachableError: the cluster does not take it.
    """
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return False
    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place, which ends the launch in the middle
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise _unreachable(address, _first_sentence(error)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    return True


def need(address: str, runtime: Runtime) -> Need:
    """Return what a trial asks of a cluster."""
    memory = None if runtime.memory_gb is None else int(runtime.memory_gb * BYTES_PER_GB)
    return Need(runtime.num_threads, runtime.num_cores, _gpu_share(address, runtime), memory)


def _gpu_share(address: str, runtime: Runtime) -> float:
    """Return the share of a GPU: by declared memory that of the smallest GPU of the cluster, else one a process.

    Raises:
        SpecError: trials declare more than the smallest GPU has.
    """
    nodes = [node for node in _nodes(address) if node["Resources"].get("GPU", 0) > 0]
    if runtime.device == "cpu" or (runtime.device == "auto" and not nodes):
        return 0.0
    if runtime.gpu_memory_gb is None:
        return float(runtime.num_processes)
    smallest = min((gb for node in nodes for gb in _gpu_memories(address, node["NodeID"])), default=None)
    count = devices.per_gpu(smallest, runtime.gpu_memory_gb)
    if count == 0:
        raise SpecError(devices.too_much(runtime.gpu_memory_gb, smallest or 0.0))
    return 1.0 / count


def _gpu_memories(address: str, node_id: str) -> list[float]:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    joined = join(address)
    try:
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        ask = ray.remote(max_retries=0, num_cpus=0)(devices.memories)
        return list(ray.get(ask.options(scheduling_strategy=there).remote()).values())
    except RayError:
        return []
    finally:
        if joined:
            ray.shutdown()


def _nodes(address: str) -> list[dict[str, Any]]:
    import ray

    joined = join(address)
    try:
        return [node for node in ray.nodes() if node["Alive"]]
    finally:
        if joined:
            ray.shutdown()


def num_slots(address: str, runtime: Runtime) -> int:
    """Return how many trials the cluster has room for.

    Raises:
        SpecError: not even one.
    """
    one = need(address, runtime)
    nodes = _nodes(address)
    count = sum(_room(node["Resources"], one) for node in nodes)
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
