"""Scores on val items while a model trains: when is what learned, and when lost?

Invariant: val items alone, the same ones at each step. What does not live here: losses (loss.py), scores after training
along an axis (axis.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import draw_curves
from analysis.items import metric_key, trial_keys
from analysis.opened import OpenedTrial
from analysis.points import FigureData, as_curves, counts, line_labels, seeds_sentence
from analysis.probed import DURING_COLUMNS, DURING_FILE, trial_table
from harness.spec.metrics import primary_metric


def points(context: Context) -> list[FigureData] | str:
    """Return scores by step, one panel for each watched slice and one line for each condition."""
    tables = [table for trial in context.sweep.trials if (table := scores(trial)) is not None]
    if not tables:
        return "no trial was watched while it trained: probes.during is empty"
    table = pd.concat(tables, ignore_index=True)
    rows: list[dict[str, object]] = []
    for key in dict.fromkeys(table["key"]):
        for condition, label in line_labels(context.record, context.frame).items():
            own = table[(table["key"] == key) & (table["condition"] == condition)]
            rows += _curve(own, {"panel": key, "series": label, "condition": condition})
    caption = (
        "Scores of watched slices on val items by optimizer step, step 0 before the first one; marks are means over "
        "the seeds that were scored there, dots are seeds. No intervals, no correction. "
        f"Val items of a slice: {counts(table['num_items'])}. {seeds_sentence(context.frame)}"
    )
    return as_curves(context, "during", rows, caption, x="step", y="score")


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a slice, one line a condition."""
    return draw_curves(data, width)


def scores(trial: OpenedTrial) -> pd.DataFrame | None:
    """Return a trial's step, key, value (mean over known items), number of items known; None where it has no file."""
    rows = trial_table(trial, DURING_FILE, DURING_COLUMNS)
    if rows is None:
        return None
    wanted = {f"{task.key}/{primary_metric(task)}" for task in trial.planned.spec.evals.tasks}
    rows = rows.assign(key=metric_key(rows))
    rows = rows[rows["key"].isin(wanted) & rows["value"].notna()]
    table = rows.groupby(["key", "step"], sort=False)["value"].agg(["mean", "size"]).reset_index()
    return table.rename(columns={"mean": "value", "size": "num_items"}).assign(**trial_keys(trial))


def _curve(own: pd.DataFrame, about: dict[str, object]) -> list[dict[str, Any]]:
    nan = float("nan")
    rows: list[dict[str, Any]] = []
    for step, trials in own.groupby("step", sort=True):
        here: dict[str, Any] = {**about, "x": step}
        rows += [
            here
            | {"kind": "seed", "y": one.value, "num_items": one.num_items, "seed": one.seed, "trial_id": one.trial_id}
            for one in trials.itertuples()
        ]
        mean = here | {"kind": "mean", "y": trials["value"].mean(), "low": nan, "high": nan}
        rows.append(mean | {"num_seeds": len(trials), "trial_ids": " ".join(dict.fromkeys(trials["trial_id"]))})
    return rows
