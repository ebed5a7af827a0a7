"""Where a running attempt is: written by its worker, read by whoever shows it.

Invariant: at most two writes a second, each atomic; a lost one loses nothing. What does not live here: showing it
(view.py).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.errors import DiskError
from harness.records.attempts import process_start
from harness.records.provenance import utc_now
from harness.records.schema import Progress
from harness.records.store import write_atomic

MIN_SECONDS = 0.5


class Reporter:
    """The `report` of a trial's context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = Progress(
            phase="start",
            step=0,
            num_steps=0,
            loss=None,
            tokens_per_second=None,
            pid=os.getpid(),
            host=os.uname().nodename,
            process_start=process_start(os.getpid()),
            time_utc=utc_now(),
        )
        self._written = 0.0

    def __call__(self, **changes: object) -> None:
        """Take `phase, step, num_steps, loss, tokens_per_second`, those that changed; writes a new phase at once."""
        new_phase = changes.get("phase", self._state.phase) != self._state.phase
        self._state = self._state.model_copy(update=changes)
        if new_phase or time.monotonic() - self._written >= MIN_SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        current = self._state.model_copy(update={"time_utc": utc_now()})
        try:
            write_atomic(self._path, current.model_dump_json().encode(), durable=False)
        except DiskError:
            return  # the trial itself will meet the full disk, and say so

    def close(self) -> None:
        """Remove the file: nothing runs any more."""
        self._path.unlink(missing_ok=True)
