"""The winners of a study on fresh seeds, beside what the search had said of them.

Invariant: no winner is named by a number that it was chosen by. What does not live here: the numbers
(analysis/confirmation.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.confirmation import confirmation_table, sentence
from analysis.context import Context
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return one row per winner and objective, and who won in words."""
    if not context.is_sampled:
        return "it is a sweep: nothing was searched for"
    rows = rows_of(context.once(confirmation_table))
    return Section("confirmation", "Confirmation", {"rows": rows, "winner": sentence(context)})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {"confirmation.csv": formats.csv(pd.DataFrame(section.content["rows"]))} if section.content["rows"] else {}
