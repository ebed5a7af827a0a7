"""Kills for memory, as the kernel counts them: of this process's control group where it has one, else of the machine.

Invariant: the count only grows, and None says that nothing counts. A group counts its own processes: what runs out
of memory elsewhere on the machine is not taken for the end of a worker. What does not live here: what a launch makes of
it (executor.py), what a group may take (footprint.py).

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (memory.oom_control).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MACHINE = Path("/proc/vmstat")
COUNTERS = ("memory.events", "memory.oom_control")
"""Of a group, by version 2 and by version 1."""


def memory_kills() -> int | None:
    """Return how many processes the kernel has killed for memory; None where it does not say."""
    for path in (*(group / name for group in own_groups() for name in COUNTERS), MACHINE):
        try:
            counts = dict(line.split() for line in path.read_text().splitlines())
            return int(counts["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return None


def own_groups() -> Iterator[Path]:
    """Yield the folders of this process's group and of those around it, which may not all be there: a container sees
    its own group as the top."""
    try:
        lines = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]
    except OSError:
        return
    groups = {names: path for _, names, path in lines}
    of_memory = next((path for names, path in groups.items() if "memory" in names.split(",")), None)
    top, own = (GROUPS, groups.get("")) if of_memory is None else (GROUPS / "memory", of_memory)
    if own is not None:  # of version 2 the machine's own top group has no such files
        yield from (top / path.relative_to("/") for path in (Path(own), *Path(own).parents))
