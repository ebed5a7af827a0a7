"""Every condition's change of every measure with its interval.

Invariant: one row a condition, in plan order. What does not live here: the intervals (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import BASE, OKABE_ITO, by_condition, shared_label, title
from analysis.numbers import MINUS
from analysis.points import FigureData, measure_titles, path_label, population, row_labels


def points(context: Context) -> list[FigureData] | str:
    """Return each condition's change of each measure with its interval, or why not."""
    record, frame, effects = context.record, context.frame, context.effects
    columns = ["condition", "target", "delta", "low", "high", "kind", "num_seeds", "num_items", "lower_is_better"]
    changes = effects.loc[(effects["level"] == "measure") & effects["delta"].notna(), columns]
    if changes.empty:
        return "no condition has a known change"
    figure = FigureData(
        "forest",
        "forest",
        changes.rename(columns={"target": "measure"}).merge(row_labels(record, frame), on="condition"),
        "Change of every measure, after minus before, with paired 95 % intervals (items clustered, seeds crossed; not "
        f"adjusted for the number of comparisons). Open marks: one seed, items only. {population(frame, effects)}",
        {"rows": path_label(record)} | measure_titles(effects),
    )
    return [figure]


def draw(data: FigureData, width: float) -> Figure:
    places, measures, figure, panels = by_condition(data, width)
    for axes, measure in zip(panels, measures, strict=True):
        points = data.points[data.points["measure"] == measure]
        y = np.array([places[condition] for condition in points["condition"]])
        axes.hlines(y, points["low"], points["high"], color="#374151", linewidth=1.0, zorder=2)
        faces = np.where(points["kind"] == "items only", "white", OKABE_ITO[0])
        axes.scatter(points["delta"], y, s=14, c=faces, edgecolors=OKABE_ITO[0], linewidths=0.9, zorder=3)
        axes.axvline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.set_title(title(data, measure))
    shared_label(figure, f"after {MINUS} before")
    return figure
