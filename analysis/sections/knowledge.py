"""Knowledge in bits, before and after, and the facts that the base knows under several phrasings.

Invariant: a slice whose number of possible values is not recorded has a row and no number; where it cannot be told
which fact an item asks, the reason stands in place of the table. What does not live here: the numbers
(analysis/knowledge.py, analysis/known.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.knowledge import bits_table
from analysis.known import facts_frame, known_table
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return the bits that the base and each condition hold, and which facts each knows, by slice with choices."""
    bits, facts = _bits(context), facts_frame(context.sweep, context.items)
    if isinstance(bits, str) and isinstance(facts, str):
        return bits
    known = [] if isinstance(facts, str) else rows_of(context.shown(known_table(facts)))
    content = {
        "rows": [] if isinstance(bits, str) else rows_of(context.shown(bits)),
        "why_no_bits": bits if isinstance(bits, str) else "",
        "known": known,
        "graded": [row for row in known if row["num_graded"]],
        "why_not_known": facts if isinstance(facts, str) else "",
    }
    return Section("knowledge", "Knowledge", content)


def _bits(context: Context) -> pd.DataFrame | str:
    table = bits_table(context.items)
    if table.empty:
        return "no slice has log-probabilities of right choices"
    return "the records do not say how many values a fact can have" if table["bits_before"].isna().all() else table


def files(section: Section) -> dict[str, bytes]:
    """Return the tables that there are as CSV."""
    tables = {"knowledge_bits.csv": section.content["rows"], "known_facts.csv": section.content["known"]}
    return {name: formats.csv(pd.DataFrame(rows)) for name, rows in tables.items() if rows}
