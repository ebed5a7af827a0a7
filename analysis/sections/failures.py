"""Every planned trial that is not COMPLETE, with its cause and the command that runs it again.

Invariant: no such trial is left out. What does not live here: what a state means (opened.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from analysis.context import Context
from analysis.section import Section, rows_of

COLUMNS = ("trial_id", "condition", "seed", "world", "state", "cause", "rerun")


def compute(context: Context) -> Section:
    """Return one row per trial without a complete result; no rows where there is none."""
    frame = context.frame
    return Section("failures", "Failures", {"rows": rows_of(frame.loc[frame["state"] != "COMPLETE", list(COLUMNS)])})


def files(section: Section) -> dict[str, bytes]:
    """Return none: trials.csv has these columns."""
    return {}
