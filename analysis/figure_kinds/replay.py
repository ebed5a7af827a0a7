"""What a share of replayed rows keeps, and what it costs: learned and retained along the share.

Invariant: the knee is read off the means, without an interval, and the caption says so. What does not live here: claims
about replay (sweeps declare them).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import aside_points, draw_curves, moved_aside
from analysis.points import FigureData, around_score_sentence, as_curves, curve_rows, is_number, population, series_of

SHARE = "data.replay_share"
MEASURES = ("learned", "retained")
FEWEST_FOR_A_KNEE = 4


def points(context: Context) -> list[FigureData] | str:
    """Return learned and retained by share of replay, one panel for each arm, with the knee of each line."""
    if SHARE not in context.record.axis_fields:
        return f"{SHARE} is not varied"
    frame, column = context.frame, f"axis.{SHARE}"
    if not is_number(frame[column]):
        return f"{SHARE} has no numbers"
    others = [f"axis.{name}" for name in context.record.axis_fields if name != SHARE]
    rows = [
        row
        for measure in MEASURES
        if measure in context.record.measures
        for row in curve_rows(context, measure, column, lambda trial: series_of(trial, others, frame), measure)
    ]
    caption = (
        "Scores after training by the share of rows that are replayed. Ringed: the knee, the mean farthest from the "
        "straight line between the first and the last one, both axes scaled to 1; a description without an interval. "
        f"{around_score_sentence(context)} Dots are seeds. {population(frame, context.effects)}"
    )
    made = as_curves(context, "replay", rows, caption, x="replay_share", y="score after")
    return made if isinstance(made, str) else [replace(one, points=_with_knees(one.points)) for one in made]


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel an arm, with rings around the knees."""
    figure = draw_curves(data, width)
    panels, series = (list(dict.fromkeys(data.points[name])) for name in ("panel", "series"))
    for axes, panel in zip(figure.axes, panels, strict=False):
        for _, mark in data.points[(data.points["panel"] == panel) & data.points["is_knee"]].iterrows():
            around = moved_aside(axes, aside_points(series.index(mark["series"]), len(series)))
            ring = {"facecolors": "none", "edgecolors": "#111827", "linewidths": 0.9}
            axes.scatter([mark["x"]], [mark["y"]], s=70, zorder=6, transform=around, **ring)
    return figure


def knee(x: np.ndarray, y: np.ndarray) -> int | None:
    """Return the position of the knee of a curve; None for fewer than four points or a flat one.

    The point farthest from the chord between the ends, after scaling both axes to [0, 1].
    Source: Satopaa et al., Finding a "Kneedle" in a Haystack, ICDCSW 2011, without smoothing.
    """
    if len(x) < FEWEST_FOR_A_KNEE or x[0] == x[-1] or np.ptp(y) == 0:
        return None
    along, height = (x - x[0]) / (x[-1] - x[0]), (y - y.min()) / np.ptp(y)
    distance = np.abs(height - (height[0] + along * (height[-1] - height[0])))
    return int(distance.argmax())


def _with_knees(points: pd.DataFrame) -> pd.DataFrame:
    marked = points.assign(is_knee=False)
    for _, line in points[points["kind"] == "mean"].groupby(["panel", "series"], sort=False):
        own = line.sort_values("x")
        place = knee(own["x"].to_numpy(dtype=float), own["y"].to_numpy(dtype=float))
        if place is not None:
            marked.loc[own.index[place], "is_knee"] = True
    return marked
