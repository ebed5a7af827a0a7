"""Where trials run, as the command line asks for it: this machine, a Ray cluster or SLURM.

Invariant: whatever cannot be used is refused before anything is written, and no environment variable chooses. What
does not live here: the executors themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.engine import executor as executors
from harness.engine import ray_executor, slurm_executor, slurm_queue
from harness.engine.executor import Executor
from harness.engine.ray_executor import RayExecutor
from harness.engine.slurm_executor import SlurmExecutor
from harness.engine.slurm_queue import Slurm
from harness.errors import SpecError, unknown_name
from harness.spec import Runtime

NAMES = ("local", "ray", "slurm")


class Place(Protocol):
    """Where trials run."""

    def num_workers(self, asked: int | None, runtime: Runtime) -> int:
        """Return how many trials run at a time: what was asked for, else as many as there is room for.

        Raises:
            SpecError: there is no room for one, or what is needed is not installed.
            UnreachableError: it does not answer.
        """
        ...

    def __call__(self, num_workers: int, runtime: Runtime) -> Executor:
        """Return an executor, as `Options.executor` wants it."""
        ...

    def words(self) -> list[str]:
        """Return the options of the command line that ask for it."""
        ...


@dataclass(frozen=True)
class Here:
    """This machine."""

    def num_workers(self, asked: int | None, runtime: Runtime) -> int:
        """Return what was asked for, else what fills the cores or the GPUs."""
        return asked or executors.default_workers(runtime)

    def __call__(self, num_workers: int, runtime: Runtime) -> Executor:
        """Return an executor of local processes."""
        return executors.local(num_workers, runtime)

    def words(self) -> list[str]:
        """Nothing: it is the default."""
        return []


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster that runs already."""

    address: str | None

    def num_workers(self, asked: int | None, runtime: Runtime) -> int:
        """Return what was asked for, else what the cluster has room for."""
        room = ray_executor.num_slots(ray_executor.nodes(ray_executor.check(self.address)), runtime)
        return asked or room

    def __call__(self, num_workers: int, runtime: Runtime) -> Executor:
        """Return an executor of tasks there."""
        ask = partial(ray_executor.need, runtime=runtime)
        return RayExecutor(num_workers, ray_executor.check(self.address), ask)

    def words(self) -> list[str]:
        """Return the options of the command line that ask for it."""
        return ["--executor", "ray", "--address", self.address or ""]


@dataclass(frozen=True)
class SlurmQueue:
    """The queue of the SLURM that this machine submits to."""

    root: Path
    partition: str | None

    def num_workers(self, asked: int | None, runtime: Runtime) -> int:
        """Return what was asked for, else a fixed number of jobs in the queue."""
        slurm_queue.check(self.partition)
        return asked or slurm_executor.DEFAULT_JOBS

    def __call__(self, num_workers: int, runtime: Runtime) -> Executor:
        """Return an executor of jobs there."""
        need = slurm_queue.need(self.partition, runtime)
        return SlurmExecutor(num_workers, lambda folder: Slurm(folder, need), self.root)

    def words(self) -> list[str]:
        """Return the options of the command line that ask for it."""
        return ["--executor", "slurm", *([] if self.partition is None else ["--partition", self.partition])]


HERE = Here()


def choose(executor: str | None, address: str | None, partition: str | None, out: Path) -> Place:
    """Return the place that the command line asks for.

    Args:
        executor: one of `NAMES`; None is local.
        address: `host:port` of a Ray cluster.
        partition: of SLURM; None is its default.
        out: the output folder, which the machines share.

    Raises:
        SpecError: no such place, or an option of another one.
    """
    name = executor or "local"
    if name not in NAMES:
        raise SpecError(unknown_name("EXECUTOR", name, NAMES))
    for option, value, of in (("ADDRESS", address, "ray"), ("PARTITION", partition, "slurm")):
        if value is not None and name != of:
            raise SpecError(f"{option} is {value!r}, but must be left out with EXECUTOR={name}; it is for {of}.")
    if name == "ray":
        return RayCluster(address)
    return SlurmQueue(out, partition) if name == "slurm" else HERE
