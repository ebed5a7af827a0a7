"""The GPUs of this machine, and how many trials share one: found without importing torch.

Invariant: a trial that declares what GPU memory it needs never shares a GPU that is too small for all of them; what a
GPU has is asked of the driver and never assumed. What does not live here: what a slot does (executor.py).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from harness.errors import SpecError

DRIVER = Path("/proc/driver/nvidia/gpus")
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
QUERY_SECONDS = 30.0
MIB_PER_GB = 1024.0


@dataclass(frozen=True)
class Gpu:
    """One GPU as trials see it."""

    name: str
    """What CUDA_VISIBLE_DEVICES takes: an index or a UUID."""
    memory_gb: float | None
    """In GiB; None where the driver does not tell."""


def gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    return tuple(str(index) for index in range(len(list(DRIVER.iterdir())))) if DRIVER.is_dir() else ()


def inventory() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use with their memory."""
    known = memories()
    return tuple(Gpu(name, known.get(name, _by_prefix(name, known))) for name in gpus())


def memories() -> dict[str, float]:
    """Return the memory of every GPU of this machine in GiB, by index and by UUID; {} where the driver says nothing."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=QUERY_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, float] = {}
    for line in done.stdout.splitlines():
        index, uuid, memory = (part.strip() for part in line.split(",", 2))
        if memory.isdecimal():  # some boards answer "[N/A]"
            found[index] = found[uuid] = int(memory) / MIB_PER_GB
    return found


def _by_prefix(name: str, known: Mapping[str, float]) -> float | None:
    """Return the memory of a GPU that is named by the beginning of its UUID."""
    matches = [memory for uuid, memory in known.items() if name.startswith("GPU-") and uuid.startswith(name)]
    return matches[0] if len(matches) == 1 else None


def slots(inventory: Sequence[Gpu], declared_gb: float | None) -> tuple[str, ...]:
    """Return the GPU of each slot: floor(memory / declared) slots a GPU, one where nothing is declared or known.

    The slots go round the GPUs, so that few trials spread over all of them.

    Raises:
        SpecError: trials declare more than any GPU has.
    """
    if declared_gb is None:
        return tuple(gpu.name for gpu in inventory)
    counts = [per_gpu(gpu.memory_gb, declared_gb) for gpu in inventory]
    if inventory and not any(counts):
        raise SpecError(too_much(declared_gb, max(gpu.memory_gb or 0.0 for gpu in inventory)))
    columns = [[gpu.name] * count for gpu, count in zip(inventory, counts, strict=True)]
    return tuple(name for row in zip_longest(*columns) for name in row if name is not None)


def per_gpu(memory_gb: float | None, declared_gb: float | None) -> int:
    """Return how many trials fit on a GPU by what they declare; one where either is not known."""
    if memory_gb is None or declared_gb is None:
        return 1
    return int(memory_gb / declared_gb + 1e-9)  # 24 / 2.4 must be 10


def grouped(names: Sequence[str], num_processes: int) -> tuple[str, ...]:
    """Return the GPUs of each slot whose trials train in several processes, as CUDA_VISIBLE_DEVICES takes them.

    Raises:
        SpecError: there are fewer than processes.
    """
    if len(names) < num_processes:
        raise SpecError(too_few(num_processes, len(names)))
    firsts = range(0, len(names) - num_processes + 1, num_processes)
    return tuple(",".join(names[first : first + num_processes]) for first in firsts)


def too_few(num_processes: int, num_gpus: int) -> str:
    """Return the one sentence for more processes than GPUs."""
    return (
        f"runtime.num_processes is {num_processes}, but must be at most {num_gpus}, since each takes a GPU of its own; "
        "lower it, or set runtime.device to 'cpu'."
    )


def too_much(declared_gb: float, memory_gb: float) -> str:
    """Return the one sentence for a declaration that no GPU can hold."""
    return (
        f"runtime.gpu_memory_gb is {declared_gb:g}, but must be at most {memory_gb:.1f}, what the largest GPU has; "
        "declare less, or train in a smaller micro-batch."
    )
