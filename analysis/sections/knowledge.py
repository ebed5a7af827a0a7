"""Knowledge in bits, before and after.

Invariant: a slice whose number of possible values is not recorded has a row and no number. What does not live here: the
numbers (analysis/knowledge.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.knowledge import bits_table
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return the bits that the base and each condition hold of every slice with choices."""
    table = bits_table(context.items)
    if table.empty:
        return "no slice has log-probabilities of right choices"
    if table["bits_before"].isna().all():
        return "the records do not say how many values a fact can have"
    return Section("knowledge", "Knowledge", {"rows": rows_of(context.shown(table))})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {"knowledge_bits.csv": formats.csv(pd.DataFrame(section.content["rows"]))}
