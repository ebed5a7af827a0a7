"""Between base and tuned weights: what is learned and what is kept on the straight line from one to the other.

Invariant: 0 is the base and 1 the trained model; a measure is known at a weight where all of its primary slices are.
What does not live here: mixing weights (harness/evals/interpolation.py).
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
from analysis.points import FigureData, as_curves, intervals_sentence, is_share, line_labels, measure_titles, population
from analysis.probed import INTERPOLATION_COLUMNS, INTERPOLATION_FILE, trial_table
from analysis.replicates import over_replicates, replicate_of


def points(context: Context) -> list[FigureData] | str:
    """Return each measure by weight between base and tuned, one panel a measure and one line a condition."""
    tables = [table for trial in context.sweep.trials if (table := _scores(context, trial)) is not None]
    if not tables:
        return "no trial was scored between base and tuned weights: probes.interpolation is empty"
    table = pd.concat(tables, ignore_index=True)
    rows: list[dict[str, object]] = []
    for measure in dict.fromkeys(table["measure"]):
        for condition, label in line_labels(context.record, context.frame).items():
            own = table[(table["measure"] == measure) & (table["condition"] == condition)]
            about = {"panel": measure, "series": label, "condition": condition}
            rows += _curve(own, about, is_share=is_share(context, measure))
    intervals = intervals_sentence(context) if context.is_sampled else INTERVALS
    caption = (
        "Scores on test items at weights base + w (tuned - base); marks are means over seeds, dots are seeds. "
        f"{intervals} {population(context.frame, context.effects)}"
    )
    return as_curves(
        context,
        "interpolation",
        rows,
        caption,
        x="w: 0 is the base, 1 is tuned",
        y="score",
        titles=measure_titles(context.effects),
    )


INTERVALS = (
    "Intervals: 95 %, t over seeds alone, items fixed, cut at 0 and 1 where the score is a share, not adjusted for the "
    "number of comparisons."
)


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a measure, one line a condition."""
    return draw_curves(data, width)


def _scores(context: Context, trial: OpenedTrial) -> pd.DataFrame | None:
    """Return a trial's measure, weight and value: the mean over the measure's slices; None where it has no file."""
    rows = trial_table(trial, INTERPOLATION_FILE, INTERPOLATION_COLUMNS)
    if rows is None:
        return None
    rows = rows[(rows["split"] == "test") & rows["value"].notna()]
    slices = rows.assign(key=metric_key(rows))
    means = slices.groupby(["weight", "key"])["value"].mean().unstack("key")
    found = [
        means[list(keys)].mean(axis=1, skipna=False).dropna().rename("value").reset_index().assign(measure=measure)
        for measure, keys in context.primary_keys.items()
        if keys and set(keys) <= set(means.columns)
    ]
    return pd.concat(found, ignore_index=True).assign(**trial_keys(trial)) if found else None


def _curve(own: pd.DataFrame, about: dict[str, object], *, is_share: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for weight, trials in own.groupby("weight", sort=True):
        here: dict[str, Any] = {**about, "x": weight}
        rows += [
            here | {"kind": "seed", "y": one.value, "seed": one.seed, "trial_id": one.trial_id}
            for one in trials.itertuples()
        ]
        found = over_replicates({replicate_of(one.world, one.seed): one.value for one in trials.itertuples()})
        low, high = (min(max(end, 0.0), 1.0) if is_share else end for end in (found.low, found.high))
        mean = here | {"kind": "mean", "y": found.estimate, "low": low, "high": high, "num_seeds": found.num_seeds}
        rows.append(mean | {"note": found.note, "trial_ids": " ".join(dict.fromkeys(trials["trial_id"]))})
    return rows
