"""Wilson intervals of single scores: what a share of few items tells by itself.

Invariant: only of metrics whose items are 0 or 1, and only below 300 items. What does not live here: intervals of a
change (stats.py), which are what a comparison rests on.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import pandas as pd

from analysis.stats import wilson
from harness.spec.metrics import BINARY_METRICS

MOST_ITEMS = 300
"""From so many items on, an interval by the normal approximation covers as well."""


def is_binary(target: str) -> bool:
    """Return whether a target is one slice's metric with items of 0 or 1."""
    return target.count("/") == 2 and target.rsplit("/", 1)[1] in BINARY_METRICS


def with_score_intervals(effects: pd.DataFrame) -> pd.DataFrame:
    """Add `before_low`, `before_high`, `after_low` and `after_high` to a table of effects; nan where none is due.

    Wilson's 95 % interval of the share of right items, over items alone: a score after is the mean over seeds of the
    same items and counts them once. Clusters of items are not accounted for.
    """
    ends = {
        side: [_interval(row, side) for _, row in effects[["target", "num_items", side]].iterrows()]
        for side in ("before", "after")
    }
    columns = {
        f"{side}_{name}": [pair[n] for pair in pairs]
        for side, pairs in ends.items()
        for n, name in enumerate(("low", "high"))
    }
    return effects.assign(**columns)


def _interval(row: pd.Series, side: str) -> tuple[float, float]:
    num_items, share = int(row["num_items"]), float(row[side])
    if not is_binary(str(row["target"])) or not 0 < num_items < MOST_ITEMS or math.isnan(share):
        return math.nan, math.nan
    return wilson(share * num_items, num_items)
