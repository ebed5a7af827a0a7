"""The process that has joined a Ray cluster: says what machines there are, hands jobs to Ray, and sends back results.

Ray ends the process that joined it when the cluster's head or this machine's part of it is lost, and writes where it
likes. Invariants: that process is not the launcher; whatever Ray does to it, a launcher hears that it is gone or
silent; Ray retries nothing. What does not live here: what a trial asks for (ray_executor.py).
"""

# pyright: reportMissingImports=false
# Ray is an extra that may not be installed where types are checked.
from __future__ import annotations

import ctypes
import logging
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.engine import remote
from harness.engine.executor import PR_SET_PDEATHSIG, KilledForMemoryError, WorkerDiedError

BEAT_SECONDS = 1.0
MEMORY_SECONDS = 15.0
READY, REFUSED, BEAT = "ready", "refused", "beat"
"""What it says of itself: it is a step further, the cluster does not take it, the cluster answers still."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    resources: dict[str, float]
    gpu_memories_gb: tuple[float, ...] = ()
    """Of each GPU; () where nobody asked or it does not say."""


@dataclass(frozen=True)
class Need:
    """What one job asks of the cluster."""

    num_threads: int
    num_cpus: int
    num_gpus: float
    """A share of one GPU where trials declare their memory; 0.0 is none."""
    memory_bytes: int | None


@dataclass(frozen=True)
class Work:
    """One job, as the launcher sends it."""

    number: int
    need: Need
    folder: Path
    call: Callable[..., Any]
    args: tuple[Any, ...]


def serve(launcher: int, channel: Connection, address: str, memories: Callable[[], dict[str, float]] | None) -> None:
    """Join the cluster, send its nodes, then run jobs until the launcher sends None.

    Args:
        launcher: the process to die with.
        channel: to the launcher.
        address: `host:port` of the cluster.
        memories: called on every machine with GPUs; None asks nothing.
    """
    _be_quiet(launcher)
    import ray
    from ray.exceptions import RayError

    channel.send((READY, None))  # to import it takes seconds, which say nothing of the cluster
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
        channel.send((READY, None))
        nodes = _nodes(memories)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        channel.send((REFUSED, first_sentence(error)))
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray puts its own in place
    desk = _Desk(channel)
    desk.send(READY, nodes)
    while (work := channel.recv()) is not None:
        desk.start(work)
    desk.close()


def _be_quiet(launcher: int) -> None:
    """Leave the launcher's terminal and its signals alone, and die with it."""
    os.setsid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _nodes(memories: Callable[[], dict[str, float]] | None) -> list[Node]:
    import ray

    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    with_gpus = [key for key, resources in alive.items() if resources.get("GPU", 0) > 0]
    if memories is None or not with_gpus:
        return [Node(resources) for resources in alive.values()]
    known = _gpu_memories(with_gpus, memories)
    # One that does not say was just lost: a job that asked for its GPUs would wait for ever.
    return [Node(alive[key], known.get(key, ())) for key in alive if key not in with_gpus or key in known]


def _gpu_memories(node_ids: list[str], memories: Callable[[], dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Return the memories of the GPUs of those machines that say them in time."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(max_retries=0, num_cpus=0)(memories)
    there = {key: NodeAffinitySchedulingStrategy(key, soft=False) for key in node_ids}
    asked = {task.options(scheduling_strategy=where).remote(): key for key, where in there.items()}
    found = {}
    for reference in ray.wait(list(asked), num_returns=len(asked), timeout=MEMORY_SECONDS)[0]:
        with suppress(RayError):  # it went away
            found[asked[reference]] = tuple(ray.get(reference).values())
    return found


class _Desk:
    """What is under way."""

    def __init__(self, channel: Connection) -> None:
        import ray

        self._channel, self._guard = channel, threading.Lock()
        self._running: dict[int, Any] = {}
        self._own_node = ray.get_runtime_context().get_node_id()
        self._closing = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def send(self, word: str | int, content: Any) -> None:
        with self._guard:
            self._channel.send((word, content))

    def _beat(self) -> None:
        """Say again and again that the cluster answers; end this process when it no longer counts this machine in."""
        import ray

        while not self._closing.wait(BEAT_SECONDS):
            if not any(node["Alive"] and node["NodeID"] == self._own_node for node in ray.nodes()):
                os._exit(1)
            self.send(BEAT, None)

    def start(self, work: Work) -> None:
        import ray

        need = work.need
        options = {"num_cpus": need.num_cpus, "num_gpus": need.num_gpus, "memory": need.memory_bytes}
        variables = {"env_vars": remote.variables(need.num_threads)}
        task = ray.remote(max_retries=0, runtime_env=variables, **options)(remote.run)
        reference = task.remote(work.folder, work.call, work.args)
        self._running[work.number] = reference
        reference.future().add_done_callback(partial(self._finish, work.number))

    def _finish(self, number: int, future: Future[Any]) -> None:
        self._running.pop(number, None)
        self.send(number, _packed(future))

    def close(self) -> None:
        """Cancel what runs and what waits, and leave the cluster."""
        import ray

        self._closing.set()
        for reference in list(self._running.values()):
            ray.cancel(reference, force=True)
        self._beating.join(2 * BEAT_SECONDS)
        if not self._beating.is_alive():  # else the cluster does not answer, and would not here
            ray.shutdown()


def _packed(future: Future[Any]) -> bytes:
    """Return what a job returned and what it raised, as bytes."""
    error = future.exception()
    outcome = (None, _of_ours(error)) if error is not None else (future.result(), None)
    try:
        return pickle.dumps(outcome)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        return pickle.dumps((None, WorkerDiedError(f"what the job returned cannot be handed over ({problem})")))


def _of_ours(error: BaseException) -> BaseException:
    """Return what a job itself raised, or what its loss is called here."""
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

    if isinstance(error, RayTaskError):
        cause = getattr(error, "cause", None)
        return cause if isinstance(cause, Exception) else WorkerDiedError(first_sentence(error))
    if isinstance(error, OutOfMemoryError):
        return KilledForMemoryError(first_sentence(error))
    if isinstance(error, RayError):
        return WorkerDiedError(f"Ray lost the worker: {first_sentence(error)}")
    return error


def first_sentence(error: BaseException) -> str:
    """Return the beginning of one of Ray's messages, which go on with a page of advice."""
    text = " ".join(str(error).split())
    return re.split(r"(?<=[a-z])\. ", text, maxsplit=1)[0]
