"""Which slices could move one way only, because their score before training is at floor or ceiling.

Invariant: what was declared before any score stands beside what was measured, and neither hides the other. What does
not live here: when a score is at an end (analysis/extremes.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.extremes import CANNOT_SHOW, CEILING, all_extremes
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return the slices at an end, declared and measured."""
    tasks = {task.key: task for trial in context.sweep.trials for task in trial.planned.spec.evals.tasks}
    befores = {result.before.key: result.before.test for _, result in context.sweep.finished}
    found = all_extremes(list(tasks.values()), context.record.extremes, befores.values())
    if not found:
        return "no slice is at floor or ceiling before training, nor declared to be"
    rows = pd.DataFrame([asdict(one) | {"cannot_show": CANNOT_SHOW[one.end]} for one in found])
    return Section("extremes", "Floor, ceiling", {"rows": rows_of(rows), "ceiling": CEILING})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {"extremes.csv": formats.csv(pd.DataFrame(section.content["rows"]))}
