"""Simulated sweeps for tests: the same that the check of the statistics decides."""

from __future__ import annotations

from analysis.checks.sweeps import (
    AXIS,
    DETECTABLE,
    KEY,
    METRICS,
    Cell,
    decided,
    difference,
    noisy,
    tables,
    verdict_of,
)

__all__ = ["AXIS", "DETECTABLE", "KEY", "METRICS", "Cell", "decided", "difference", "noisy", "tables", "verdict_of"]
