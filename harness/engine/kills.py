"""Kills for memory, as the kernel counts them: of this process's control group where it has one, else of the machine.

Invariant: the count only grows, and None says that nothing counts. A group counts its own processes: what runs out
of memory elsewhere on the machine is not taken for the end of a worker. What does not live here: what a launch makes of
it (executor.py).

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (memory.oom_control).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MACHINE = Path("/proc/vmstat")


def memory_kills() -> int | None:
    """Return how many processes the kernel has killed for memory; None where it does not say."""
    for path in (*_of_group(), MACHINE):
        try:
            counts = dict(line.split() for line in path.read_text().splitlines())
            return int(counts["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return None


def _of_group() -> Iterator[Path]:
    """Yield where the counter of this process's group may be: at its path, or at the top of what a container sees."""
    try:
        lines = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]
    except OSError:
        return
    groups = {names: path for _, names, path in lines}
    of_memory = next((path for names, path in groups.items() if "memory" in names.split(",")), None)
    if of_memory is not None:  # version 1
        for path in (of_memory, "/"):
            yield GROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
    elif "" in groups:  # version 2; the machine's own top group has no such file
        for path in (groups[""], "/"):
            yield GROUPS / path.lstrip("/") / "memory.events"
