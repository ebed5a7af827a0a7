"""The result of a recovery test: how much of what was forgotten came back for people who were not told of again.

Invariant: a share stands beside its control, which the same training adds where nothing was forgotten. What does not
live here: the shares (analysis/recovery.py), which sweep is a recovery test (harness/engine/recovery.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from analysis import files as bytes_of
from analysis.context import Context
from analysis.recovery import QUANTITIES, recovery_frame
from analysis.section import Section, rows_of
from harness.spec.recovery import FROM_BASE, FROM_TUNED


def compute(context: Context) -> Section | str:
    """Return each condition's loss and the shares of it that came back, or why there is none."""
    if {trial.arm for trial in context.record.trials} != {FROM_TUNED, FROM_BASE}:
        return "the sweep is no recovery test"
    table = context.shown(recovery_frame(context.sweep))
    rows = [
        {"condition": condition, "cells": rows_of(group)} for condition, group in table.groupby("condition", sort=False)
    ]
    return Section("recovery", "Recovery", {"columns": list(QUANTITIES.values()), "rows": rows, "table": table})


def files(section: Section) -> dict[str, bytes]:
    """Return the shares with their intervals."""
    return {"recovery.csv": bytes_of.csv(section.content["table"])}
