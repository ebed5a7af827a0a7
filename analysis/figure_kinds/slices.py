"""Slices through what was tried: the value that conditions are chosen by, against each varied field.

Invariant: val alone, as of everything that is chosen by; one mark a condition. What does not live here: importances
(importance.py), the same conditions as lines across all fields (parallel.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.context import Context
from analysis.figures import LOST, Scale, legend_above, new_figure, num_columns, shared_label, shown
from analysis.labels import short_fields
from analysis.optima import is_lower_measure
from analysis.points import FigureData, val_population
from analysis.search import conditions_table


def points(context: Context) -> list[FigureData] | str:
    """Return each condition's value on val by each varied field, or why there is none."""
    found = chosen_by(context)
    if isinstance(found, str):
        return found
    table, name, _ = found
    fields = short_fields(context.record.axis_fields)
    caption = (
        f"{name} on val items against each varied field, one mark a condition (mean over its seeds), larger and "
        "lighter the later it was planned or proposed; crosses at the foot: conditions without a value. No intervals, "
        f"no correction: val is for choosing. {val_population(context)}"
    )
    labels = {"y": name} | {f"axis.{field}": short for field, short in fields.items()}
    return [FigureData("slices", "slices", table, caption, labels, is_wide=True)]


def chosen_by(context: Context) -> tuple[pd.DataFrame, str, str] | str:
    """Return one row per condition with its axis values and value on val, what that is, and its direction.

    The first objective of a study; of a grid the measure of its selection, or `learned`.
    """
    record, frame = context.record, context.frame
    several = [field for field in record.axis_fields if frame[f"axis.{field}"].nunique() > 1]
    if len(several) < 2:
        return "fewer than two fields are varied: the figure of the axis shows it"
    if record.objectives:
        name, direction = record.objectives[0]
        measure, value = name.split("/", 1)
    else:
        measure, value = (record.selection or {}).get("measure", "learned"), "after"
        name = f"{measure}, after"
        direction = "minimize" if is_lower_measure(context.primary_keys, measure) else "maximize"
    table = conditions_table(frame, several, f"val_{value}/{measure}")
    if table.empty or table["value"].isna().all():
        return f"no condition has {name!r} known on val"
    ids = frame.groupby("condition")["trial_id"].unique().map(" ".join).rename("trial_ids")
    return table.assign(order=range(len(table))).join(ids, on="condition"), name, direction


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a field."""
    names = [column for column in data.points.columns if column.startswith("axis.")]
    columns = num_columns(width, len(names)) + (1 if width >= 5 and len(names) > 2 else 0)
    rows = math.ceil(len(names) / columns)
    figure, panels = new_figure(width, 0.4 + 1.75 * rows, rows, columns, sharey=True)
    for axes, name in zip(panels, names, strict=False):
        known = data.points[data.points[name].notna()]
        _draw_field(axes, known, known[name], len(data.points))
        axes.set_xlabel(shown(data.labels[name], 30))
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    shared_label(figure, shown(data.labels["y"]), upright=True)
    if data.points["value"].isna().any():
        cross = {"color": LOST, "marker": "x", "markersize": 4, "linestyle": ""}
        legend_above(figure, [Line2D([], [], label="no value", **cross)], width)
    return figure


def _draw_field(axes: Axes, known: pd.DataFrame, values: pd.Series, num_conditions: int) -> None:
    scale = Scale(values)
    x = scale.places(values)
    has = known["value"].notna().to_numpy()
    late = known["order"].to_numpy(dtype=float) / max(1, num_conditions - 1)
    colours = mpl.colormaps["cividis"](0.05 + 0.8 * late)
    axes.scatter(x[has], known["value"][has], s=8 + 14 * late[has], c=colours[has], linewidths=0, zorder=3)
    foot = np.full(int((~has).sum()), 0.02)
    axes.scatter(x[~has], foot, marker="x", s=14, color=LOST, transform=axes.get_xaxis_transform(), zorder=3)
    scale.apply(axes)
