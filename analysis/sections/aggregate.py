"""Many tasks as one number: the interquartile mean of each condition over primary slices, and its performance profile.

Invariant: only slices that score a share of right items, so that all are on one scale; tasks are fixed, replicates are
resampled. What does not live here: the estimators (analysis/aggregate.py), the drawing (figure_kinds/aggregate.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import files as formats
from analysis.aggregate import iqm, iqm_interval, performance_profile, probability_of_improvement
from analysis.context import Context
from analysis.score_intervals import is_binary
from analysis.section import Section, rows_of
from analysis.tables import joined_ids
from harness.records.measures import is_lower_better

THRESHOLDS = np.round(np.linspace(0.0, 1.0, 51), 2)
"""Of the performance profiles."""


def compute(context: Context) -> Section | str:
    """Return per condition: IQM before and after, its interval, how often it improves on the base; and the profiles."""
    keys = shares(context)
    if len(keys) < 2:
        return "fewer than two primary slices score a share of right items, so that there is nothing to aggregate"
    rows: list[dict[str, object]] = []
    profiles: list[dict[str, Any]] = []
    for condition, trials in context.frame.groupby("condition", sort=False):
        row, curve = _condition(trials, keys)
        about = {"condition": condition, "arm": trials["arm"].iloc[0]}
        rows.append(about | row)
        profiles += [
            about | {"threshold": float(at), "share": float(share)} for at, share in zip(THRESHOLDS, curve, strict=True)
        ]
    if pd.isna([row["iqm"] for row in rows]).all():
        return "no condition has a trial with every one of its slices known"
    return Section(
        "aggregate",
        "Aggregate",
        {"rows": rows_of(context.shown(pd.DataFrame(rows))), "keys": keys, "profiles": profiles},
    )


def files(section: Section) -> dict[str, bytes]:
    """Return the table and the profiles as CSV."""
    return {
        "aggregate.csv": formats.csv(pd.DataFrame(section.content["rows"])),
        "performance_profiles.csv": formats.csv(pd.DataFrame(section.content["profiles"])),
    }


def shares(context: Context) -> list[str]:
    """Return the metric keys of primary slices that score a share of items of which more is better."""
    keys = dict.fromkeys(key for keys in context.primary_keys.values() for key in keys)
    return [key for key in keys if is_binary(key) and not is_lower_better(key)]


def _condition(trials: pd.DataFrame, keys: list[str]) -> tuple[dict[str, object], np.ndarray]:
    """Return a row of the table and the profile at `THRESHOLDS`; trials without every score are left out, counted."""
    columns = [f"after/{key}" for key in keys]
    known = trials[trials[columns].notna().all(axis=1)].sort_values(["world", "seed"])
    after = {key: known[f"after/{key}"].tolist() for key in keys}
    before = known[[f"before/{key}" for key in keys]].mean()  # over worlds, whose bases differ
    found = iqm_interval(after, shared_seeds=True)
    num_left_out = len(trials) - len(known)
    left_out = f"{num_left_out} of {len(trials)} trials lack a score and are left out" if num_left_out else ""
    row: dict[str, object] = {
        "before": iqm(before.to_numpy(dtype=float)),
        "iqm": found.estimate,
        "low": found.low,
        "high": found.high,
        "improvement": _improvement(known, keys),
        "num_tasks": found.num_tasks,
        "num_replicates": found.num_replicates,
        "note": "; ".join(part for part in (found.note, left_out) if part),
        "trial_ids": joined_ids(known) if len(known) else "",
    }
    return row, performance_profile(after, THRESHOLDS.tolist())


def _improvement(known: pd.DataFrame, keys: list[str]) -> float:
    """Return the probability that a replicate beats the base of its world on a task, ties counted half."""
    worlds = [(str(world), own) for world, own in known.groupby("world", dropna=False)]
    before = {f"{key}@{world}": [own[f"before/{key}"].iloc[0]] for key in keys for world, own in worlds}
    after = {f"{key}@{world}": own[f"after/{key}"].tolist() for key in keys for world, own in worlds}
    return probability_of_improvement(before, after)
