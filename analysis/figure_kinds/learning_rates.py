"""Learning-rate curves of each method: is every method compared where it is best?

Invariant: val items and validation loss alone, because a choice is made by looking at this figure. What does not live
here: the optimum and its interval (optima.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import draw_curves
from analysis.points import FigureData, as_curves, is_number, seeds_sentence, series_of

RATE = "train.learning_rate"


def points(context: Context) -> list[FigureData] | str:
    """Return val score and validation loss by learning rate, one line for each method (and arm)."""
    if RATE not in context.record.axis_fields:
        return f"{RATE} is not varied"
    frame, column = context.frame, f"axis.{RATE}"
    if not is_number(frame[column]) or frame[column].nunique() < 3:
        return f"{RATE} has fewer than three values"
    others = [f"axis.{name}" for name in context.record.axis_fields if name != RATE]
    wanted = {"val_loss": "val_loss"} | {f"{name} (val)": f"val_after/{name}" for name in context.record.measures}
    rows = [row for panel, name in wanted.items() for row in _rows(frame, name, column, panel, others)]
    caption = (
        "Validation loss and scores on val items by learning rate (logarithmic), one line a method; marks are means "
        f"over seeds, dots are seeds; no intervals, no correction: val is for choosing. {seeds_sentence(frame)}"
    )
    return as_curves(context, "learning_rates", rows, caption, x="learning_rate", y="")


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a number, one line a method."""
    return draw_curves(data, width)


def _rows(frame: pd.DataFrame, name: str, column: str, panel: str, others: list[str]) -> list[dict[str, object]]:
    known = frame[frame[name].notna() & frame[column].notna()]
    rows: list[dict[str, object]] = []
    for condition, trials in known.groupby("condition", sort=False):
        first = trials.iloc[0]
        about = {"panel": panel, "series": series_of(first, others, frame), "x": first[column], "condition": condition}
        rows += [
            about | {"kind": "seed", "y": trial[name], "seed": trial["seed"], "trial_id": trial["trial_id"]}
            for _, trial in trials.iterrows()
        ]
        mean = about | {"kind": "mean", "y": trials[name].mean(), "low": float("nan"), "high": float("nan")}
        rows.append(mean | {"trial_ids": " ".join(dict.fromkeys(trials["trial_id"]))})
    return rows
