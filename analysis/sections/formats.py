"""Format learned against skill learned, and what became of the base's own format.

Invariant: formats of one skill beside one another, before and after. What does not live here: the numbers, and which
slices are formats of what (analysis/formats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as written
from analysis import formats
from analysis.context import Context
from analysis.section import Section, rows_of

COLUMNS = [
    "condition", "name", "quantity", "num_formats", "before", "after", "delta", "low", "high", "p_value", "mde",
    "num_items", "num_seeds", "num_planned", "note", "trial_ids",
]  # fmt: skip


def compute(context: Context) -> Section | str:
    """Return every skill that was asked in its taught format and another one, or in several layouts, and two rates."""
    tasks = {task.key: task for trial in context.sweep.trials for task in trial.planned.spec.evals.tasks}
    groups = formats.layout_groups(tasks.values(), context.record.represented)
    skills = formats.format_table(context.frame, context.items, (*formats.POCKET, *groups))
    rates = formats.rates_table(context.frame, context.items)
    if len(skills):
        several = skills[skills["quantity"].isin(("gap", "format spread"))]["skill"]
        skills = skills[skills["skill"].isin(several)].rename(columns={"skill": "name"})
    if len(rates):
        rates = rates.rename(columns={"rate": "name"}).assign(quantity="rate", num_formats=1)
    tables = [table for table in (skills, rates) if len(table)]
    if not tables:
        return "no skill is asked in its taught format and in another one, or in several layouts"
    table = context.shown(pd.concat(tables))
    groups = {str(name): rows_of(rows[COLUMNS]) for name, rows in table.groupby("name", sort=False)}
    return Section("formats", "Formats", {"groups": groups, "rates": [rate.name for rate in formats.POCKET_RATES]})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    rows = [row for group in section.content["groups"].values() for row in group]
    return {"formats.csv": written.csv(pd.DataFrame(rows))}
