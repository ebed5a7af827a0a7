"""Where the engine meets the report and the W&B mirror.

Invariant: a missing or broken mirror is one line on stderr and never stops a trial. What does not live here: what a
report holds (analysis), what W&B is told (harness/tracking).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from analysis import report
from analysis.report import Report
from harness.engine.plan import Plan
from harness.tracking import mirror


def load_report() -> None:
    """Import what a report needs, some seconds' worth."""
    from analysis import figure_kinds, render, sections  # noqa: F401


def write_report(plan: Plan) -> Report:
    """Write the report of what is there, unless the last one says the same."""
    return report.write_report(plan.store.root, plan.folder.name)


def write_figures(plan: Plan, venue: str | None) -> Report:
    """Write the figures alone."""
    return report.write_figures(plan.store.root, plan.folder.name, venue)


def mirrored(plan: Plan) -> AbstractContextManager[None]:
    """Mirror a launch into W&B while it runs, in a process of its own."""
    return mirror.following(plan.store, plan.record)


def rebuild_mirror(plan: Plan) -> list[str]:
    """Write the W&B mirror of a sweep again from its records and return the runs' folders.

    Raises:
        HarnessError: W&B is missing or broken.
    """
    return [str(folder) for folder in mirror.rebuild(plan.store, plan.record)]
