"""Stub trials as jobs of SLURM, and jobs that sleep; free of torch, since every job imports this module."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.engine import launch
from harness.engine.slurm_executor import SlurmExecutor
from harness.engine.slurm_queue import Need, Slurm
from harness.records.store import Store, write_atomic
from tests.engine.stub import run_stub
from tests.engine.stub_launch import RUNTIME
from tests.engine.trials import planned

POLL_SECONDS = 0.1


def run(root: Path, count: int, workers: int, make: Callable[[int], SlurmExecutor]) -> launch.Summary:
    """Launch stub trials as jobs."""
    how = launch.Options(workers, run=run_stub, prepare=False, executor=lambda num_slots, runtime: make(num_slots))
    return launch.launch(Store(root), planned(count), RUNTIME, how)


def in_queue(root: Path, need: Need | None = None) -> Callable[[int], SlurmExecutor]:
    """Return what makes executors on the real queue."""
    wanted = need or Need(1, memory_gb=0.5)
    return partial(SlurmExecutor, scheduler=partial(Slurm, need=wanted), root=root, poll_seconds=POLL_SECONDS)


def take(size_mib: int) -> int:
    """Take memory and hold it for a while."""
    taken = bytearray(size_mib << 20)
    time.sleep(30.0)
    return len(taken)


def write_and_sleep(file: Path) -> None:
    """Write this process's id and sleep."""
    write_atomic(file, str(os.getpid()).encode())
    time.sleep(60.0)
