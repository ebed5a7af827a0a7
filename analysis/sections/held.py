"""What moved between conditions besides the knob: steps, tokens, learning-rate integral and the like.

Invariant: every recorded quantity of the training is shown, equal or not. What does not live here: what counts as
unequal (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from analysis import tables
from analysis.context import Context
from analysis.section import Section, rows_of


def compute(context: Context) -> Section:
    """Return per arm the quantities that differ, and every quantity of each condition."""
    unequal = tables.not_held_equal(context.frame)
    table = tables.held_table(context.frame)
    arms = {
        str(arm): {"unequal": unequal[str(arm)], "rows": rows_of(rows)}
        for arm, rows in table.groupby("arm", sort=False)
    }
    return Section("held", "Held equal", {"arms": arms})


def files(section: Section) -> dict[str, bytes]:
    """Return none: trials.csv has these columns."""
    return {}
