"""What is left of what the base could do: retention, above chance, agreement of answers, relative forgetting.

Invariant: slices of the measures that training teaches are not among them. What does not live here: the numbers
(analysis/forgetting.py), gained and lost items (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.forgetting import chances, luo_table, retention_table
from analysis.section import Section, rows_of
from analysis.tax import TRAINED_MEASURES
from harness.records.measures import is_lower_better


def compute(context: Context) -> Section | str:
    """Return retention per condition and slice, and Luo's FG and the mean change per condition."""
    kept = [keys for measure, keys in context.primary_keys.items() if measure not in TRAINED_MEASURES]
    keys = list(dict.fromkeys(key for own in kept for key in own))
    if not keys:
        return "no primary slice is of a measure that training could make the base forget"
    retained = retention_table(context.items, [key for key in keys if not is_lower_better(key)], chances(context.sweep))
    relative = luo_table(context.frame, keys)
    if retained.empty and relative.empty:
        return "no trial has items known on both sides"
    return Section("forgetting", "Forgetting", {"rows": rows_of(retained), "relative": rows_of(relative), "keys": keys})


def files(section: Section) -> dict[str, bytes]:
    """Return both tables as CSV."""
    return {
        "retention.csv": formats.csv(pd.DataFrame(section.content["rows"])),
        "forgetting.csv": formats.csv(pd.DataFrame(section.content["relative"])),
    }
