"""Training and validation loss by step.

Invariant: means over seeds of what the training logs hold. What does not live here: loss against tokens (packing.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import new_figure, shown
from analysis.points import FigureData, path_label, row_labels, seeds_sentence
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
        f"Training loss (lines) and validation loss (dots) by step, mean over seeds; no intervals, no correction. "
        f"{seeds_sentence(frame)}",
        {"rows": path_label(record)},
        is_wide=curves["arm"].nunique() > 1,
    )
    return [figure]


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel an arm, one line a condition."""
    arms = list(dict.fromkeys(data.points["arm"]))
    figure, panels = new_figure(width, width * 0.42, 1, len(arms), sharey=True)
    for axes, arm in zip(panels, arms, strict=True):
        rows = data.points[data.points["arm"] == arm]
        own = list(dict.fromkeys(rows["condition"]))
        for place, condition in enumerate(own):
            colour = mpl.colormaps["cividis"](0.05 + 0.85 * place / max(1, len(own) - 1))
            lines = rows[rows["condition"] == condition]
            train, val = lines[lines["kind"] == "train/loss"], lines[lines["kind"] == "val/loss"]
            axes.plot(
                train["step"], train["loss"], color=colour, linewidth=1.0, label=shown(lines["label"].iloc[0], 36)
            )
            axes.plot(val["step"], val["loss"], color=colour, marker="o", markersize=2.6, linestyle="", zorder=3)
        axes.set_xlabel("step")
        if len(arms) > 1:
            axes.set_title(shown(arm))
        if len(own) <= 12:
            axes.legend(
                title=shown(data.labels["rows"]), fontsize=6, title_fontsize=6, labelspacing=0.25, handlelength=1.4
            )
    panels[0].set_ylabel("loss per loss token")
    return figure
