"""Learning-rate curves of each method: is every method compared where it is best?

Invariant: val items and validation loss alone, because a choice is made by looking at this figure. What does not live
here: the optimum and its interval (optima.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import cue, draw_curves
from analysis.optima import is_lower_measure, optimum_of
from analysis.points import FigureData, as_curves, is_number, series_of, val_population
from analysis.tables import joined_ids

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
    optima = [] if context.is_sampled else _optima(context, others)
    caption = (
        "Validation loss and scores on val items by learning rate (logarithmic), one line a method; marks are means "
        "over seeds, dots are seeds; scores have no interval: val is for choosing. "
        f"{OPTIMA if optima else ''}{val_population(context)}"
    )
    titles = {"title/val_loss": "val_loss, nats ↓"}
    titles |= {
        f"title/{name} (val)": f"{name} (val) ↓"
        for name in context.record.measures
        if is_lower_measure(context.primary_keys, name)
    }
    return as_curves(
        context, "learning_rates", [*rows, *optima] if rows else [], caption, x="learning_rate", y="", titles=titles
    )


OPTIMA = (
    "At the bottom of a score's panel: each method's best rate, the vertex of a parabola in the logarithm, with a 95 % "
    "t interval of the logarithm over replicates, where there are two; not adjusted for the number of comparisons; an "
    "open mark is a best rate at the edge of the grid in some replicate, and so a bound. "
)


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a number, one line a method, and the best rates of each at the foot."""
    figure = draw_curves(data, width)
    curves = data.points[data.points["kind"] != "optimum"]
    series = list(dict.fromkeys(curves["series"]))
    for axes, panel in zip(figure.axes, dict.fromkeys(curves["panel"]), strict=False):
        marks = data.points[(data.points["kind"] == "optimum") & (data.points["panel"] == panel)]
        for _, mark in marks.iterrows():
            _draw_optimum(axes, mark, series.index(mark["series"]))
        if len(marks):  # room for the marks below the curves
            low, high = axes.get_ylim()
            axes.set_ylim(low - (high - low) * 0.07 * (1 + len(series)), high)
    return figure


def _draw_optimum(axes: Axes, mark: pd.Series, place: int) -> None:
    colour, marker = cue(place)
    limits = axes.get_xlim()
    ends = np.clip([mark["low_x"], mark["high_x"]], *limits)
    height, across = 0.04 + 0.06 * place, axes.get_xaxis_transform()
    axes.plot(ends, [height, height], color=colour, linewidth=1.4, transform=across, zorder=4)
    face = "white" if mark["censored"] else colour
    style = {"markersize": 4.5, "markerfacecolor": face, "markeredgecolor": colour, "markeredgewidth": 0.9}
    axes.plot([mark["x"]], [height], marker=marker, linestyle="", transform=across, zorder=5, clip_on=False, **style)
    axes.set_xlim(limits)


def _optima(context: Context, others: list[str]) -> list[dict[str, object]]:
    frame = context.frame
    names = frame.apply(lambda trial: series_of(trial, others, frame), axis=1, result_type="reduce")
    rows: list[dict[str, object]] = []
    for measure in context.record.measures:
        lower = is_lower_measure(context.primary_keys, measure)
        for series, trials in frame.groupby(names, sort=False):
            best = optimum_of(trials, measure, lower_is_better=lower)
            if not pd.isna(best.rate):
                about = {"kind": "optimum", "panel": f"{measure} (val)", "series": series, "x": best.rate}
                found = {"low_x": best.low, "high_x": best.high, "censored": best.censored, "note": best.note}
                rows.append(about | found | {"trial_ids": joined_ids(trials)})
    return rows


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
