"""What answers look like, whatever they say: the behaviour panel, before and after.

Invariant: every slice with a panel, every condition. What does not live here: the numbers (analysis/behaviour.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import behaviour
from analysis import files as formats
from analysis.context import Context
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return the panel of each slice that has one, and how long its answers are."""
    slices = behaviour.panel_slices(context.frame)
    if not slices:
        return "no task measures behaviour (evals.tasks.panel)"
    table = context.shown(behaviour.panel_table(context.effects, context.frame, context.items))
    lengths = rows_of(behaviour.lengths_table(context.items, slices))
    groups = [
        {
            "slice": name,
            "rows": rows_of(table[table["slice"] == name]),
            "lengths": [row for row in lengths if row["slice"] == name],
        }
        for name in slices
    ]
    return Section("behaviour", "Behaviour", {"groups": groups})


def files(section: Section) -> dict[str, bytes]:
    """Return the panel and the lengths as CSV."""
    groups = section.content["groups"]
    tables = {name: pd.DataFrame([row for group in groups for row in group[name]]) for name in ("rows", "lengths")}
    return {"behaviour.csv": formats.csv(tables["rows"]), "lengths.csv": formats.csv(tables["lengths"])}
