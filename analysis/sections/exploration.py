"""Every metric that nobody declared as primary, for exploration: false-discovery-rate-adjusted.

Invariant: m, the number of comparisons adjusted for, is printed. What does not live here: the declared families
(tables.py), the adjustment (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.section import Section, rows_of
from analysis.stats import benjamini_hochberg

COLUMNS = [
    "condition", "arm", "target", "lower_is_better", "before", "after", "delta", "low", "high", "p_value", "p_bh",
    "num_items", "num_seeds", "num_planned", "trial_ids",
]  # fmt: skip


def compute(context: Context) -> Section | str:
    """Return the change of every metric that is neither a measure nor primary, by p after Benjamini-Hochberg."""
    others = context.effects[context.effects["level"] == "other"]
    if others.empty:
        return "every metric that was scored is declared"
    if not others["p_value"].notna().any():
        return "no metric beside the declared ones has a test"
    table = adjusted(others)
    num_tests = int(others.drop_duplicates(["condition_id", "target"])["p_value"].notna().sum())
    table = table[COLUMNS].sort_values("p_bh", kind="stable")
    return Section("exploration", "Exploration", {"rows": rows_of(table), "num_tests": num_tests})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {
        "exploration.csv": formats.csv(pd.DataFrame(section.content["rows"]).assign(m=section.content["num_tests"]))
    }


def adjusted(others: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with `p_bh`; a condition that stands in two arms by the same trials is one comparison."""
    distinct = others.drop_duplicates(["condition_id", "target"])
    names = zip(distinct["condition_id"], distinct["target"], strict=True)
    found = dict(zip(names, benjamini_hochberg(distinct["p_value"].tolist()), strict=True))
    return others.assign(p_bh=[found[name] for name in zip(others["condition_id"], others["target"], strict=True)])
