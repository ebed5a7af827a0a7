"""What training writes while it runs: metrics.jsonl and samples.jsonl, one flushed row at a time.

Invariant: every line is valid JSON; a number that is not finite is null, with the reason in the same row. What does
not live here: what a row means (docs/metrics.md), and progress.json (engine).
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.records.store import append_line

REPORT_EVERY_SECONDS = 0.5


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row; NaN and infinities become null and the reason names them.

    Raises:
        DiskError: the disk is full or read-only.
    """
    broken = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    if broken:
        reason = "; ".join(f"{key} is {row[key]}" for key in broken)
        row = row | dict.fromkeys(broken) | {"reason": reason}
    append_line(path, row)


def seal(path: Path) -> dict[str, Any]:
    """Force a log to the disk and return its length in bytes and their sha256."""
    path.touch()
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        content = stream.read()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def holds(path: Path, mark: dict[str, Any]) -> bool:
    """Return whether a log still begins with the bytes that were sealed."""
    content = path.read_bytes()[: mark["bytes"]] if path.exists() else b""
    return len(content) == mark["bytes"] and hashlib.sha256(content).hexdigest() == mark["sha256"]


class Reporter:
    """Passes progress on, at most every half second: a step of a small model takes less than writing it down."""

    def __init__(self, report: Callable[..., None]) -> None:
        self._report = report
        self._last = -math.inf

    def __call__(self, step: int, num_steps: int, loss: float | None, tokens_per_second: float | None) -> None:
        now = time.monotonic()
        if now - self._last >= REPORT_EVERY_SECONDS or step == num_steps:
            self._last = now
            self._report(phase="train", step=step, num_steps=num_steps, loss=loss, tokens_per_second=tokens_per_second)
