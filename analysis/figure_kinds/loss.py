"""Training and validation loss by step.

Invariant: means over seeds of what the training logs hold. What does not live here: loss against tokens (packing.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import (
    MARKERS,
    legend_of_levels,
    level_cue,
    new_figure,
    num_columns,
    panel_title,
    shared_label,
    shown,
)
from analysis.points import FigureData, path_label, row_labels, rows_population
from analysis.tables import joined_ids

SMOOTH_STEPS = 50
"""A training curve is drawn as at most this many means over equal runs of steps."""


def points(context: Context) -> list[FigureData] | str:
    """Return training loss (means over runs of steps) and validation loss by condition, mean over seeds."""
    record, frame, metrics = context.record, context.frame, context.metrics
    present = [name for name in ("train/loss", "val/loss") if name in metrics.columns]
    if metrics.empty or "step" not in metrics.columns or not present:
        return "no trial has logged a loss"
    parts: list[pd.DataFrame] = []
    for name in present:
        table = metrics.loc[metrics[name].notna(), ["condition", "arm", "seed", "step", name]]
        table = table.rename(columns={name: "loss"}).astype({"step": float, "loss": float})
        if name == "train/loss":
            width = table.groupby("condition")["step"].transform("max") / SMOOTH_STEPS
            table["step"] = ((table["step"] / width.clip(lower=1)).round() * width.clip(lower=1)).round()
        means = table.groupby(["condition", "arm", "step"], sort=False)["loss"].agg(["mean", "count"]).reset_index()
        parts.append(means.rename(columns={"mean": "loss", "count": "num_values"}).assign(kind=name))
    curves = pd.concat(parts, ignore_index=True).sort_values(["arm", "condition", "kind", "step"], kind="stable")
    ids = frame.groupby("condition", sort=False)[["trial_id"]].apply(joined_ids)
    curves["trial_ids"] = curves["condition"].map(ids)
    order = {condition: place for place, condition in enumerate(dict.fromkeys(frame["condition"]))}
    curves = curves.assign(order=curves["condition"].map(order)).sort_values(["order", "kind", "step"])
    figure = FigureData(
        "loss",
        "loss",
        curves.drop(columns="order").merge(row_labels(record, frame)[["condition", "label"]], on="condition"),
        f"Training loss (lines) and validation loss (marks) by step, mean over seeds; no intervals, no correction. "
        f"{rows_population(context)}",
        {"rows": path_label(record)},
        is_wide=curves["arm"].nunique() > 1,
    )
    return [figure]


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel an arm, one line a condition."""
    arms = list(dict.fromkeys(data.points["arm"]))
    columns = num_columns(width, len(arms))
    rows_of_panels = math.ceil(len(arms) / columns)
    labels = list(dict.fromkeys(data.points["label"]))
    figure, panels = new_figure(width, 0.8 + 1.7 * rows_of_panels, rows_of_panels, columns, sharey=True)
    for axes, arm in zip(panels, arms, strict=False):
        for _, lines in data.points[data.points["arm"] == arm].groupby("condition", sort=False):
            _draw_condition(axes, lines, labels.index(lines["label"].iloc[0]), len(labels))
        panel_title(axes, shown(arm) if len(arms) > 1 else "")
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    shared_label(figure, "step")
    shared_label(figure, "loss, nats per loss token", upright=True)
    legend_of_levels(figure, labels, width, data.labels["rows"])
    return figure


def _draw_condition(axes: Axes, lines: pd.DataFrame, place: int, num_levels: int) -> None:
    colour, line = level_cue(place, num_levels)
    train, val = lines[lines["kind"] == "train/loss"], lines[lines["kind"] == "val/loss"]
    axes.plot(train["step"], train["loss"], color=colour, linewidth=1.0, linestyle=line)
    axes.plot(val["step"], val["loss"], color=colour, marker=MARKERS[place % 7], markersize=2.6, linestyle="", zorder=3)
