"""Drift by position: is it the first tokens of an answer that fine-tuning moves?

Invariant: a line is a mean over trials of means over answers; a position that no answer reaches is not drawn. What does
not live here: how positions are counted (harness/evals/drift_texts.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import drift
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
from analysis.points import FigureData, counts, path_label, row_labels, seeds_sentence

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
        f"Answers in a mean: {counts(labelled['num_answers'])}. No intervals, no correction. "
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
    """Draw one panel a measure of drift, one line a condition."""
    panels = list(dict.fromkeys(data.points["panel"]))
    conditions = data.points.drop_duplicates("condition")
    columns = num_columns(width, len(panels))
    rows_of_panels = math.ceil(len(panels) / columns)
    height = 0.5 + 0.13 * math.ceil(min(len(conditions), 12) / columns) + 1.7 * rows_of_panels
    figure, found = new_figure(width, height, rows_of_panels, columns)
    for axes, name in zip(found, panels, strict=False):
        rows = data.points[data.points["panel"] == name]
        for place, condition in enumerate(conditions["condition"]):
            own = rows[rows["condition"] == condition].sort_values("position")
            colour, line = level_cue(place, len(conditions))
            style = {"linestyle": line, "linewidth": 1.0, "marker": MARKERS[place % 7], "markersize": 2.4}
            axes.plot(own["position"], own["value"], color=colour, **style)
        panel_title(axes, shown(name))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    shared_label(figure, "position in the answer")
    several = conditions["arm"].nunique() > 1
    labels = [f"{one.label}, {one.arm}" if several else str(one.label) for one in conditions.itertuples()]
    legend_of_levels(figure, labels, width, data.labels["rows"])
    return figure
