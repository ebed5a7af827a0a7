"""An exponential through the runs near the front of learning against forgetting.

Invariant: which runs are near is said by their val scores where all have them, what they are worth by test scores.
What does not live here: the front itself and what is compared at equal learning (tradeoff.py), fitting (fits.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fits import Fit, Points, exponential
from analysis.stats import Floats
from analysis.tradeoff import SIDES, series_names

WITHIN = 0.02
"""Two points of a share.

Source: Shenfeld et al. (RL's Razor), arXiv:2509.04259.
"""
COLUMNS = [
    "series", "num_trials", "num_near", "a", "a_low", "a_high", "b", "b_low", "b_high", "c", "c_low", "c_high", "r2",
    "num_replicates", "note",
]  # fmt: skip
ON_TEST = "no val scores: the runs are chosen on test items, too"


def near_front(points: Floats, within: float = WITHIN) -> NDArray[np.bool_]:
    """Return which known points no other beats by more than `within` on both coordinates.

    Args:
        points: (n, 2) of learned, retained; more is better.
        within: 0 keeps what no other beats on both.
    """
    known = np.isfinite(points).all(axis=1)
    beaten = (points[None, :, :] > points[:, None, :] + within).all(axis=2)
    return known & ~beaten.any(axis=1)


def exponential_table(frame: pd.DataFrame, axis_fields: Sequence[str], *, is_sampled: bool = False) -> pd.DataFrame:
    """Return one row per series: retained = c + a exp(b learned) through its trials near its front, test items.

    The front is that of all replicates of a world. Intervals: 95 %, resampled replicates; none of conditions that a
    sampler chose. nan below three runs of different learning, with the reason.

    Args:
        frame: one row per planned trial, with the measures learned and retained, on test and on val items.
        axis_fields: the varied fields.
        is_sampled: whether a search chose the conditions.
    """
    if frame.empty or not {f"after/{side}" for side in SIDES} <= set(frame.columns):
        return pd.DataFrame(columns=COLUMNS)
    names = series_names(frame, axis_fields)
    rows = [_row(str(name), trials, is_sampled=is_sampled) for name, trials in frame.groupby(names, sort=False)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(name: str, trials: pd.DataFrame, *, is_sampled: bool) -> dict[str, object]:
    values, on_val = ([f"{when}/{side}" for side in SIDES] for when in ("after", "val_after"))
    known = trials[trials[values].notna().all(axis=1)]
    has_val = set(on_val) <= set(known.columns) and bool(known[on_val].notna().all(axis=None))
    near = [
        own[near_front(own[on_val if has_val else values].to_numpy(dtype=float))]
        for _, own in known.groupby("world", dropna=False)
    ]
    chosen = pd.concat([known.iloc[:0], *near])
    worlds = None if chosen["world"].isna().any() else chosen["world"].to_numpy(dtype=int)
    x, y = (chosen[column].to_numpy(dtype=float) for column in values)
    fit = exponential(Points(x, y, chosen["seed"].to_numpy(dtype=int), worlds))
    notes = [note for note in (fit.note, "" if has_val else ON_TEST) if note]
    row: dict[str, object] = {"series": name, "num_trials": len(known), "num_near": len(chosen), "r2": fit.r2}
    return (
        row | _parameters(fit, is_sampled=is_sampled) | {"num_replicates": fit.num_replicates, "note": "; ".join(notes)}
    )


def _parameters(fit: Fit, *, is_sampled: bool) -> dict[str, float]:
    found = {name: one.value for name, one in fit.parameters.items()}
    if is_sampled:
        return found
    ends = ((f"{name}_{end}", getattr(one, end)) for name, one in fit.parameters.items() for end in ("low", "high"))
    return found | dict(ends)
