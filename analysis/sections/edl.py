"""Excess description length: what the training rows taught beyond what their kind teaches.

Invariant: a condition without one has its row and the reason. What does not live here: the numbers (analysis/edl.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.edl import edl_by_condition, edl_table
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return EDL in bits, per token and per trainable parameter of every condition."""
    trials = edl_table(context.sweep, context.metrics)
    if trials["edl_bits"].isna().all():
        reasons = [note for note in dict.fromkeys(trials["note"]) if note]
        return reasons[0] if reasons else "no trial is planned"
    table = context.shown(edl_by_condition(trials))
    return Section("edl", "Description length", {"rows": rows_of(table), "trials": rows_of(trials)})


def files(section: Section) -> dict[str, bytes]:
    """Return the table per trial as CSV."""
    return {"edl.csv": formats.csv(pd.DataFrame(section.content["trials"]))}
