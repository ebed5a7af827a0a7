"""How much a score varies from seed to seed alone, and how much that is beside what the conditions do to it.

Invariant: the spread is pooled over conditions within which only the seed differs, never across them. What does not
live here: the signal (signal.py), the seeds' part in an interval of a change (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from analysis import files as formats
from analysis.context import Context
from analysis.section import Section, rows_of
from analysis.signal import signal_columns, telling_most
from analysis.tables import Target, targets


def compute(context: Context) -> Section | str:
    """Return spread over seeds, signal and their ratio of the score after training, of every measure and metric."""
    wanted = targets(context.primary_keys, context.frame)
    rows = [row for target in wanted if (row := _row(context, target)) is not None]
    if not rows:
        return "no condition has two seeds with a known score"
    primaries = [target.name for target in wanted if target.level == "primary"]
    content = {"rows": rows_of(pd.DataFrame(rows)), "telling": telling_most(rows, primaries)}
    return Section("seed_spread", "Seed spread", content)


def _row(context: Context, target: Target) -> dict[str, object] | None:
    found = spread(context.frame, target.name)
    if found is None:
        return None
    trials = context.frame.drop_duplicates("trial_id")
    signal = signal_columns(trials, target.name, float(found["seed_sd"]), is_sampled=context.is_sampled)
    ids = {"trial_ids": found.pop("trial_ids")}
    return {"target": target.name, "level": target.level} | found | signal | ids


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {"seed_spread.csv": formats.csv(pd.DataFrame(section.content["rows"]))}


def spread(frame: pd.DataFrame, target: str) -> dict[str, Any] | None:
    """Return the pooled standard deviation over seeds of `after/<target>`, with a 95 % interval; None if unknown.

    s^2 = sum over groups of (k - 1) s_g^2 / sum of (k - 1), where a group is the seeds of one condition (and world).
    The interval is that of a normal variance, chi-square with as many degrees of freedom; it takes the groups to vary
    alike. Trials that stand in two arms count once. Less is more repeatable.
    """
    known = frame[frame[f"after/{target}"].notna()].drop_duplicates("trial_id")
    groups = known.groupby(["condition_id", "world"], dropna=False, sort=False)[f"after/{target}"]
    table = pd.DataFrame({"num": groups.count(), "variance": groups.var(ddof=1)})
    table = table[table["num"] >= 2]
    if table.empty:
        return None
    df = int((table["num"] - 1).sum())
    pooled = float((table["variance"] * (table["num"] - 1)).sum() / df)
    low, high = (math.sqrt(pooled * df / scipy.stats.chi2.ppf(end, df)) for end in (0.975, 0.025))
    used = known[known["condition_id"].isin(table.index.get_level_values("condition_id"))]
    return {
        "target": target,
        "seed_sd": math.sqrt(pooled),
        "low": low,
        "high": high,
        "smallest": float(np.sqrt(table["variance"].min())),
        "largest": float(np.sqrt(table["variance"].max())),
        "num_groups": len(table),
        "num_seeds": int(table["num"].sum()),
        "df": df,
        "trial_ids": " ".join(used["trial_id"]),
    }
