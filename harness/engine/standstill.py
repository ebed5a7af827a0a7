"""Whether processes that wait for one another still compute.

One that is stopped or hangs lets the others wait, who then take no processor time either. Invariant: nobody is called
still who computes, however slowly, or who was stopped together with the watcher, which then counts nothing. What does
not live here: what is done about it (together.py); GPUs, whose waiting processes are busy.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

POLL_SECONDS = 2.0
STILL_SECONDS = 120.0
"""How long all processes of a trial may stand still while they train."""
BUSY_SHARE = 0.01
"""Of one core, over all processes together: background threads of a waiting process take a tenth of it."""


class Standstill:
    """Watches processes; asked every `POLL_SECONDS`."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._still = 0.0

    def lasts(self, pids: Collection[int], *, training: bool) -> bool:
        """Return whether processes that train have stood still for too long by now.

        Args:
            pids: all processes of a trial.
            training: whether they train; before and after that one may wait for another trial's, without any work.
        """
        before, self._seconds = self._seconds, sum(map(cpu_seconds, pids))
        is_still = training and self._seconds - before < BUSY_SHARE * POLL_SECONDS
        self._still = self._still + POLL_SECONDS if is_still else 0.0
        return self._still >= STILL_SECONDS


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process took; 0 where it is gone or the system does not tell."""
    try:
        # The second field is a name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
