"""The behaviour panel over conditions: rates of leaks, loops, copies and lengths, before and after.

Invariant: a change comes from `effects`, computed once for the whole report; what a base does not have - a copy of
training targets - is shown after training alone, with the interval of that score and no change. What does not live
here: the metrics (harness/evals/behaviour.py), drawing (sections/behaviour.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import numpy as np
import pandas as pd
import scipy.stats

from analysis.tables import effects_table
from harness.records.schema import PANEL_METRICS, UNDIRECTED

NAN = math.nan
BESIDE = ("end_of_turn", "empty")
"""Metrics of every generated answer, shown with the panel."""
AFTER_ALONE = ("training_copy",)
"""What no base has."""
TAIL = 0.95
COLUMNS = [
    "condition", "slice", "metric", "direction", "before", "after", "delta", "low", "high", "interval_of", "kind",
    "num_items", "num_seeds", "num_planned", "note", "trial_ids",
]  # fmt: skip


def panel_slices(frame: pd.DataFrame) -> list[str]:
    """Return the slices whose answers have a panel, in the order of the frame's columns."""
    keys = [column.removeprefix("after/").rpartition("/") for column in frame.columns if column.startswith("after/")]
    return list(dict.fromkeys(key for key, _, metric in keys if metric == PANEL_METRICS[0]))


def panel_table(effects: pd.DataFrame, frame: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return one row per condition, slice with a panel, and metric: before, after, delta, a 95 % interval.

    `interval_of` says whether it is the delta's or, of what no base has, the score's after training. Before, after and
    delta are means over test items and seeds, as in every table of effects.

    Args:
        effects: the sweep's effects table.
        frame: one row per planned trial.
        items: per-item values.
    """
    wanted = {f"{key}/{metric}": (key, metric) for key in panel_slices(frame) for metric in (*BESIDE, *PANEL_METRICS)}
    rows = effects[effects["target"].isin(wanted)].assign(interval_of="delta")
    alone = [name for name, (_, metric) in wanted.items() if metric in AFTER_ALONE]
    rows = pd.concat([rows[~rows["target"].isin(alone)], _after_alone(frame, items, alone)])
    places = {name: place for place, name in enumerate(wanted)}
    named = [wanted[target] for target in rows["target"]]
    table = rows.assign(
        slice=[key for key, _ in named],
        metric=[metric for _, metric in named],
        direction=["none" if metric in UNDIRECTED else _direction(low) for (_, metric), low in
                   zip(named, rows["lower_is_better"], strict=True)],
        place=[places[target] for target in rows["target"]],
    )  # fmt: skip
    conditions = {name: place for place, name in enumerate(dict.fromkeys(effects["condition"]))}
    order = table.assign(of=table["condition"].map(conditions)).sort_values(["place", "of"], kind="stable")
    return order[COLUMNS].reset_index(drop=True)


def _direction(lower_is_better: bool) -> str:
    return "less" if lower_is_better else "more"


def _after_alone(frame: pd.DataFrame, items: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the effects of these metrics against 0: their scores after training, with intervals."""
    others = [name for name in frame.columns if name.startswith(("before/", "after/", "delta/"))]
    kept = frame.drop(columns=[name for name in others if name.partition("/")[2] not in keys])
    for key in keys:
        kept = kept.assign(**{f"before/{key}": 0.0, f"delta/{key}": frame[f"after/{key}"]})
    own = items[items["metric"].isin(AFTER_ALONE)].assign(before=0.0)
    if not keys:
        return pd.DataFrame(columns=[*COLUMNS, "target", "lower_is_better"])
    table = effects_table(kept, own, {})
    table = table[table["target"].isin(keys)]
    note = "a base was trained on no targets"
    notes = [f"{note}; {other}" if other else note for other in table["note"]]
    return table.assign(before=NAN, delta=NAN, interval_of="after", note=notes)


def lengths_table(items: pd.DataFrame, slices: list[str]) -> pd.DataFrame:
    """Return one row per condition and slice: mean and 95th percentile of answers' tokens, before and after, and KS.

    Over all test items and seeds together. KS: the largest distance between the two distribution functions, between 0
    (equal) and 1; the length limit cuts both.

    Args:
        items: per-item values.
        slices: keys of slices with a panel.
    """
    lengths = items[(items["split"] == "test") & (items["metric"] == "num_tokens")]
    lengths = lengths.assign(slice=lengths["suite"].astype(str) + "/" + lengths["task"].astype(str))
    rows = []
    for (condition, name), group in lengths.groupby(["condition", "slice"], sort=False, observed=True):
        known = group.dropna(subset=["before", "after"])
        if name in slices and len(known):
            before, after = (known[side].to_numpy(dtype=float) for side in ("before", "after"))
            rows.append(
                {"condition": str(condition), "slice": name}
                | {"mean_before": before.mean(), "mean_after": after.mean()}
                | {"p95_before": np.quantile(before, TAIL), "p95_after": np.quantile(after, TAIL)}
                | {"ks": float(scipy.stats.ks_2samp(before, after).statistic), "num_answers": len(known)}
            )
    return pd.DataFrame(rows)
