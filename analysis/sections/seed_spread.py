"""How much a score varies from seed to seed alone: the spread over fine-tuning seeds of every primary slice.

Invariant: pooled over conditions within which only the seed differs, never across them. What does not live here: the
seeds' part in an interval of a change (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import numpy as np
import pandas as pd
import scipy.stats

from analysis import files as formats
from analysis.context import Context
from analysis.section import Section, rows_of
from analysis.tables import targets


def compute(context: Context) -> Section | str:
    """Return the standard deviation over seeds of the score after training, per measure and primary slice."""
    wanted = [target for target in targets(context.primary_keys, context.frame) if target.level != "other"]
    rows = [row for target in wanted if (row := spread(context.frame, target.name)) is not None]
    if not rows:
        return "no condition has two seeds with a known score"
    named = [{"target": row["target"], "level": _level(row["target"], context)} | row for row in rows]
    return Section("seed_spread", "Seed spread", {"rows": rows_of(pd.DataFrame(named))})


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {"seed_spread.csv": formats.csv(pd.DataFrame(section.content["rows"]))}


def spread(frame: pd.DataFrame, target: str) -> dict[str, object] | None:
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


def _level(target: object, context: Context) -> str:
    return "measure" if target in context.primary_keys else "primary"
