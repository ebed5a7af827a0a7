"""Generated answers besides being right: abstained, made up, in which language and style, and scores at equal length.

Invariant: every slice with answers in words, every condition; a metric that no condition of a slice has stands in a
note with the reason, not in rows of dashes. What does not live here: the numbers (analysis/answers.py,
length_control.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import answers
from analysis import files as formats
from analysis.context import Context
from analysis.length_control import length_controlled_table
from analysis.section import Section, rows_of


def compute(context: Context) -> Section | str:
    """Return what became of the answers of each slice, and its changes at equal length."""
    answered = answers.answered_frame(context.sweep, context.items, context.frame)
    if answered.empty:
        return "no slice has answers in words with a score before and after"
    told = answers.told_frame(answered, context.items)
    table = context.shown(answers.answers_table(told, context.frame))
    controlled = context.shown(length_controlled_table(answered, context.items, context.frame))
    groups = [_group(str(name), table, controlled) for name in dict.fromkeys(answered["slice"])]
    content = {"groups": groups, "answers": rows_of(table), "controlled": rows_of(controlled)}
    return Section("answers", "Answers", content)


def _group(name: str, table: pd.DataFrame, controlled: pd.DataFrame) -> dict[str, object]:
    own = table[table["slice"] == name]
    known = own["delta"].notna().groupby(own["metric"]).transform("any")
    unknown = own[~known].drop_duplicates("metric")
    return {
        "slice": name,
        "rows": rows_of(own[known]),
        "unknown": rows_of(unknown[["metric", "note"]]),
        "controlled": rows_of(controlled[controlled["slice"] == name]),
    }


def files(section: Section) -> dict[str, bytes]:
    """Return both tables as CSV."""
    return {
        "answers.csv": formats.csv(pd.DataFrame(section.content["answers"], columns=answers.COLUMNS)),
        "length_controlled.csv": formats.csv(pd.DataFrame(section.content["controlled"])),
    }
