"""What may be said of the conditions of a study, whose points a sampler chose.

Invariant: no interval and no test of a condition that was sampled: its neighbours were chosen because of its score, and
the best of many is flattered by its noise. What does not live here: choosing (selection.py), the study itself.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import pandas as pd

SAMPLED = "sampled"
"""`kind` of an effect whose interval is withheld."""
REASON = "no interval: a sampler chose the conditions by the scores of earlier ones, so that they are not independent"
WITHHELD = ("se", "se_items", "df", "low", "high", "p_value", "p_holm", "mde", "after_low", "after_high")


def without_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of effects without standard errors, intervals, tests and detectable effects; the note says why.

    Estimates and the spread over seeds stay.
    """
    if table.empty:
        return table
    notes = [f"{note}; {REASON}" if note else REASON for note in table["note"]]
    withheld = {name: math.nan for name in WITHHELD if name in table.columns}
    return table.assign(**withheld, kind=SAMPLED, note=notes, family_size=0)
