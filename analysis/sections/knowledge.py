"""Knowledge in bits, rank and share of the right value in its set, and the facts that are known in several phrasings.

Invariant: a slice whose number of possible values is not recorded has a row and no number; where the choices were not
kept, or it cannot be told which fact an item asks, the reason stands in place of the table. What does not live here:
the numbers (analysis/knowledge.py, analysis/closed_set.py, analysis/known.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.closed_set import closed_set_frame, closed_set_table
from analysis.context import Context
from analysis.knowledge import bits_table
from analysis.known import facts_frame, known_table
from analysis.section import Section, rows_of

KINDS_OF_BITS = (("", "of all texts"), ("closed_", "of the set"))
"""Prefix of the columns -> what the probability is a share of."""
COUNT = "closed_num_facts"


def compute(context: Context) -> Section | str:
    """Return the bits that the base and each condition hold, where right values stand, and which facts are known."""
    closed = closed_set_frame(context.sweep, context.items)
    tables = {
        "rows": _bits(context, closed),
        "closed": _closed(closed),
        "known": _known(context),
    }
    if all(isinstance(table, str) for table in tables.values()):
        return str(tables["rows"])
    shown = {name: [] if isinstance(found, str) else rows_of(context.shown(found)) for name, found in tables.items()}
    reasons = {f"why_no_{name}": found if isinstance(found, str) else "" for name, found in tables.items()}
    graded = [row for row in shown["known"] if row["num_graded"]]
    bits = [kind for kind in KINDS_OF_BITS if kind[0] == "" or any(row[COUNT] for row in shown["rows"])]
    return Section("knowledge", "Knowledge", shown | reasons | {"graded": graded, "bits": bits})


def _bits(context: Context, closed: pd.DataFrame) -> pd.DataFrame | str:
    table = bits_table(context.items, closed=closed)
    if table.empty:
        return "no slice has log-probabilities of right choices"
    is_told = table[["bits_before", "closed_bits_before"]].notna().to_numpy().any()
    return table if is_told else "the records do not say how many values a fact can have"


def _closed(closed: pd.DataFrame) -> pd.DataFrame | str:
    table = closed_set_table(closed)
    if table.empty:
        return "unknown: no slice has choices"
    return table if table["num_items"].any() else str(table["note"].iloc[0])


def _known(context: Context) -> pd.DataFrame | str:
    facts = facts_frame(context.sweep, context.items)
    return facts if isinstance(facts, str) else known_table(facts)


def files(section: Section) -> dict[str, bytes]:
    """Return the tables that there are as CSV."""
    content = section.content
    tables = {
        "knowledge_bits.csv": content["rows"],
        "closed_set.csv": content["closed"],
        "known_facts.csv": content["known"],
    }
    return {name: formats.csv(pd.DataFrame(rows)) for name, rows in tables.items() if rows}
