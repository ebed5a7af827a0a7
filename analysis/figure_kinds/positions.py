"""Drift by position: is it the first tokens of an answer that fine-tuning moves?

Invariant: a line is a mean over trials of means over answers; a position that no answer reaches is not drawn. What does
not live here: how positions are counted (harness/evals/drift_texts.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis import drift
from analysis.context import Context
from analysis.figures import new_figure, shown
from analysis.points import FigureData, path_label, row_labels, seeds_sentence

PANELS = {
    ("base_answers", "kl_base_tuned"): "KL(base || tuned), nats",
    ("base_answers", "entropy_tuned"): "entropy, tuned, nats",
}
"""Text set and measure of each panel -> what its axis says."""
MIN_ANSWERS = 5
"""Answers below which a trial's mean at a position is not used."""


def points(context: Context) -> list[FigureData] | str:
    """Return means by condition, panel and position in the answer, or why there are none."""
    rows = drift.drift_frame(context.sweep)
    rows = rows[rows["position"].notna() & rows["value"].notna()].astype({"position": int, "value": float})
    parts = [
        _profile(rows[(rows["text_set"] == text_set) & (rows["metric"] == metric)]).assign(panel=label)
        for (text_set, metric), label in PANELS.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        return drift.NO_PANEL if rows.empty else f"no position is reached by {MIN_ANSWERS} answers"
    names = row_labels(context.record, context.frame)[["condition", "arm", "label"]]
    labelled = names.merge(table, on="condition")  # in the order of the plan
    caption = (
        "Drift by position in the answer, from its first token: the base's greedy answers to prompts of the new task; "
        f"mean over answers, then over trials; positions that fewer than {MIN_ANSWERS} answers reach are left out. "
        f"{seeds_sentence(context.frame)}"
    )
    return [FigureData("positions", "positions", labelled, caption, {"rows": path_label(context.record)})]


def _profile(rows: pd.DataFrame) -> pd.DataFrame:
    """Return condition, position, mean over trials, and how many trials and answers it is of."""
    trials = rows.groupby(["condition", "trial_id", "position"], sort=False)["value"].agg(["mean", "count"])
    trials = trials[trials["count"] >= MIN_ANSWERS].reset_index()
    means = trials.groupby(["condition", "position"], sort=False).agg(
        value=("mean", "mean"), num_trials=("mean", "size"), num_answers=("count", "sum")
    )
    return means.reset_index().sort_values(["condition", "position"], kind="stable")


def draw(data: FigureData, width: float) -> Figure:
    panels = list(dict.fromkeys(data.points["panel"]))
    figure, found = new_figure(width, width * 0.42, 1, len(panels))
    conditions = list(dict.fromkeys(data.points["condition"]))
    for axes, name in zip(found, panels, strict=True):
        rows = data.points[data.points["panel"] == name]
        for place, condition in enumerate(conditions):
            own = rows[rows["condition"] == condition].sort_values("position")
            colour = mpl.colormaps["cividis"](0.05 + 0.85 * place / max(1, len(conditions) - 1))
            label = shown(own["label"].iloc[0], 36) if len(own) else None
            axes.plot(own["position"], own["value"], color=colour, linewidth=1.0, marker="o", markersize=2, label=label)
        axes.set_xlabel("position in the answer")
        axes.set_ylabel(shown(name))
    if len(conditions) <= 12:
        handles, labels = found[0].get_legend_handles_labels()
        place = {"loc": "outside upper left", "ncols": 4, "fontsize": 6, "title_fontsize": 6}
        figure.legend(handles, labels, title=shown(data.labels["rows"]), **place)
    return figure
