"""Whether an attempt runs now, from the files that it left: the one definition of RUNNING; and who holds a file.

Invariant: nothing is locked and nothing is written. What does not live here: the states that a record decides
(harness/engine/states.py, analysis/opened.py).
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.records.schema import Failure, Progress

STALE_AFTER_SECONDS = 30
"""A progress file of another host this young means that its attempt runs: its process cannot be seen from here."""


def is_running(progress: Progress | None, failure: Failure | None) -> bool:
    """Return whether a trial without a result is being run.

    It is where its progress is not older than its latest failure, and the process that wrote it is alive - itself, not
    a later one of its number - or, on another host, wrote it a moment ago.
    """
    if progress is None:
        return False
    written = _time(progress.time_utc)
    if failure is not None and written < _time(failure.time_utc):
        return False
    if progress.host == os.uname().nodename:
        return process_exists(progress.pid) and progress.process_start in (None, process_start(progress.pid))
    return (datetime.now(UTC) - written).total_seconds() < STALE_AFTER_SECONDS


def process_start(pid: int) -> str | None:
    """Return when a process started, as `<boot id>/<clock ticks since boot>`, or None where that is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name, in parentheses, may hold anything; the start is field 22 and the field after the name the third.
        ticks = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return f"{boot}/{ticks}"


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def namespace() -> str:
    """Return where process ids mean what they mean here: the host and its namespace of them.

    Containers that share a host's name, as those on its network do, have numbers of their own.
    """
    try:
        inside = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        inside = ""
    return f"{os.uname().nodename}+{inside}"


def process_exists(pid: int) -> bool:
    """Return whether a process of this number is there and runs; one that ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")


def holders(path: Path) -> list[int]:
    """Return the other processes of this host that have a file open, as far as this user may see."""
    target = str(path.resolve())
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(entry) == target:
                found.add(int(entry.parts[2]))
    return sorted(found - {os.getpid()})
