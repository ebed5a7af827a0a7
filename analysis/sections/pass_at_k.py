"""Several sampled answers to an item: pass@k and how many differ, before and after.

Invariant: every slice whose task samples answers, every condition. What does not live here: the numbers
(analysis/sampled.py), greedy answers (every other section).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis import sampled
from analysis.context import Context
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return pass@k of each slice that samples answers."""
    table = sampled.pass_table(context.effects)
    if table.empty:
        return "no task samples answers (evals.tasks.num_samples)"
    groups = [{"slice": name, "rows": rows_of(own)} for name, own in table.groupby("slice", sort=False)]
    return Section("pass_at_k", "pass@k", {"groups": groups})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    rows = [row for group in section.content["groups"] for row in group["rows"]]
    return {"pass_at_k.csv": formats.csv(pd.DataFrame(rows, columns=sampled.COLUMNS))}
