"""Packing: the same losses against steps and against tokens, because packed rows make fewer steps of more tokens.

Invariant: both panels show the same values. What does not live here: scores by kind of packing (axis.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import cue, handle, legend_above, new_figure, shown
from analysis.points import FigureData, path_label, row_labels, rows_population

PACKING = "data.packing"
NUM_MARKS = 40
"""A curve is drawn as at most this many means over equal runs of steps."""
PANELS = {"step": "steps", "num_tokens": "tokens read"}


def points(context: Context) -> list[FigureData] | str:
    """Return training loss by step and by tokens read, mean over seeds, of each condition."""
    if PACKING not in context.record.axis_fields:
        return f"{PACKING} is not varied"
    metrics = context.metrics
    if not {"step", "train/loss", "train/num_tokens"} <= set(metrics.columns):
        return "no trial has logged losses with the tokens of a step"
    logged = metrics[metrics["train/loss"].notna()].sort_values(["trial_id", "arm", "step"], kind="stable")
    logged = logged.assign(num_tokens=logged.groupby(["trial_id", "arm"])["train/num_tokens"].cumsum())
    curves = _means(logged.astype({"train/loss": float, "step": float, "num_tokens": float}))
    order = {condition: place for place, condition in enumerate(dict.fromkeys(context.frame["condition"]))}
    curves = curves.assign(order=curves["condition"].map(order)).sort_values(["order", "step"]).drop(columns="order")
    figure = FigureData(
        "packing",
        "packing",
        curves.merge(row_labels(context.record, context.frame)[["condition", "label"]], on="condition"),
        "Training loss against optimizer steps and against tokens read, means over runs of steps and over seeds; no "
        f"interval, no correction. {rows_population(context)}",
        {"rows": path_label(context.record)},
        context.is_sampled,
        is_wide=True,
    )
    return [figure]


def draw(data: FigureData, width: float) -> Figure:
    """Draw two panels with the same lines."""
    figure, panels = new_figure(width, 2.5, 1, 2, sharey=True)
    own = list(dict.fromkeys(data.points["condition"]))
    several = data.points["arm"].nunique() > 1
    handles = []
    for place, condition in enumerate(own):
        rows = data.points[data.points["condition"] == condition]
        colour, marker = cue(place)
        for axes, column in zip(panels, PANELS, strict=True):
            axes.plot(
                rows[column], rows["loss"], color=colour, marker=marker, markersize=2.4, linewidth=0.9, markevery=5
            )
        label = rows["label"].iloc[0] + (f", {rows['arm'].iloc[0]}" if several else "")
        handles.append(handle(label, colour, marker))
    for axes, name in zip(panels, PANELS.values(), strict=True):
        axes.set_xlabel(name)
    panels[0].set_ylabel("loss, nats per loss token")
    legend_above(figure, handles, width, shown(data.labels["rows"]))
    return figure


def _means(logged: pd.DataFrame) -> pd.DataFrame:
    longest = logged.groupby("condition")["step"].transform("max").to_numpy(dtype=float)
    width = np.maximum(longest / NUM_MARKS, 1)
    runs = logged.assign(run=(logged["step"] / width).round())
    groups = runs.groupby(["condition", "arm", "run"], sort=False)
    table = groups.agg(step=("step", "mean"), num_tokens=("num_tokens", "mean"), loss=("train/loss", "mean"))
    trials = runs.groupby("condition")["trial_id"].unique().map(lambda names: " ".join(names)).rename("trial_ids")
    return table.reset_index().drop(columns="run").join(trials, on="condition")
