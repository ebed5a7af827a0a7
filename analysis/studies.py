"""What may be said of the conditions of a study, whose points a sampler chose.

Invariant: no interval and no test of a condition that was sampled: its neighbours were chosen because of its score, and
the best of many is flattered by its noise. Winners on fresh seeds have both: nobody chose by these scores. What does
not live here: choosing (selection.py), the study itself.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from harness.records.schema import CONFIRM_ARM

SAMPLED = "sampled"
"""`kind` of an effect whose interval is withheld."""
REASON = "no interval: a sampler chose the conditions by the scores of earlier ones, so that they are not independent"
WITHHELD = ("se", "se_items", "df", "low", "high", "p_value", "p_holm", "p_randomised", "sign_p", "mde")
"""Columns that a study's tables do not fill; and those that end in one of `ENDINGS`."""
ENDINGS = ("_low", "_high", "_p_value")


def is_withheld(column: str) -> bool:
    """Return whether a column says how uncertain a sampled condition's number is; its base was not sampled."""
    return column in WITHHELD or (column.endswith(ENDINGS) and not column.startswith("before"))


def without_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without standard errors, intervals, tests and detectable effects; its notes say why.

    Estimates and the spread over seeds stay.
    """
    if table.empty:
        return table
    changes: dict[str, object] = {str(name): math.nan for name in table.columns if is_withheld(str(name))}
    if "note" in table.columns:
        changes["note"] = [f"{note}; {REASON}" if note else REASON for note in table["note"].fillna("")]
    said: dict[str, object] = {"kind": SAMPLED, "family_size": 0}
    if "sign_p" in table.columns:  # there `better` is a verdict; elsewhere it is a direction, which stays
        said["better"] = "unknown"
    return table.assign(**changes, **{name: value for name, value in said.items() if name in table.columns})


def in_parts(frame: pd.DataFrame, table_of: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Return a table of conditions: what was sampled without intervals, then the winners on fresh seeds.

    The winners are a family of their own, of which none was chosen by the numbers in it, so that their intervals stand.
    """
    is_fresh = frame["arm"] == CONFIRM_ARM
    if not is_fresh.any():
        return without_intervals(table_of(frame))
    parts = [without_intervals(table_of(frame[~is_fresh])), table_of(frame[is_fresh])]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]
