"""What training cost in slices that its data does not represent: mean, worst, and non-inferiority where margins are.

Invariant: which slices count, and by which rule, is printed. What does not live here: the numbers (analysis/tax.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.section import Section, rows_of
from analysis.tax import declared_margins, named_slices, represented_slices, slices_table, tax_table


def compute(context: Context) -> Section | str:
    """Return the alignment tax of every condition, and the slices behind it."""
    tasks = {task.key: task for trial in context.sweep.trials for task in trial.planned.spec.evals.tasks}
    declared = tuple(getattr(context.record, "represented", ()))  # records of schema version 1 have none
    represented, rule = represented_slices(tasks.values(), declared)
    adjacent = named_slices(tasks.values(), tuple(getattr(context.record, "adjacent", ())))
    margins = declared_margins(context.record, context.primary_keys)
    rows = tax_table(context.effects, represented, margins, adjacent)
    if rows.empty:
        return f"no primary slice counts as not represented in the training data ({rule})"
    slices = slices_table(context.effects, represented, margins, adjacent)
    content = {"rows": rows_of(rows), "slices": rows_of(slices), "rule": rule, "margins": margins}
    return Section("tax", "Tax", content)


def files(section: Section) -> dict[str, bytes]:
    """Return both tables as CSV."""
    return {
        "tax.csv": formats.csv(pd.DataFrame(section.content["rows"])),
        "tax_slices.csv": formats.csv(pd.DataFrame(section.content["slices"])),
    }
