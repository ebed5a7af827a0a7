"""Whether each condition ran at the best learning rate of its recipe, as its own sweep found it on val.

Invariant: no test score is read. What does not live here: the search for the best rate (analysis/optima.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections import Counter

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.optima import compared_table
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return per condition: rate used, best rate with its interval, where it was found, and whether they agree."""
    if context.is_sampled:
        return "a search proposes learning rates instead of sweeping them"
    measure = (context.record.selection or {}).get("measure", "learned")
    if not context.primary_keys.get(measure):
        return f"the sweep does not score the measure {measure!r}"
    table = compared_table(context.sweep, context.frame, measure)
    if table.empty:
        return "no trial is planned"
    answers = {
        str(method): ", ".join(f"{count} {answer}" for answer, count in Counter(own["compared_at_optimum"]).items())
        for method, own in table.groupby("method", sort=False)
    }
    return Section("optima", "Best rates", {"rows": rows_of(table), "answers": answers, "measure": measure})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {"optima.csv": formats.csv(pd.DataFrame(section.content["rows"]))}
