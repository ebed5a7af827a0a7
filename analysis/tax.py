"""The alignment tax: what training cost in slices that its data does not represent.

Invariant: a slice is represented, adjacent or neither, and the table says which; what is adjacent is not represented;
benefits of represented slices never offset losses of others. What does not live here: the changes themselves and their
intervals (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from harness.records.measures import is_lower_better
from harness.records.schema import SweepRecord
from harness.spec import Contrast, EvalTask

NAN = math.nan
TRAINED_MEASURES = frozenset({"learned", "format", "behaviour"})
"""Measures whose slices count as represented where nothing is declared."""
RULE = (
    "nothing is declared: slices of the measures learned, format and behaviour count as represented in the training "
    "data, all others as not"
)


def represented_slices(tasks: Iterable[EvalTask], declared: Collection[str] = ()) -> tuple[frozenset[str], str]:
    """Return the slices (`suite/task`) that the training data represents, and by which rule.

    Args:
        tasks: the tasks scored.
        declared: suites and slices that are declared to be; () declares nothing.
    """
    tasks = list(tasks)
    if declared:
        return named_slices(tasks, declared), f"declared: {', '.join(sorted(declared))}"
    return frozenset(task.key for task in tasks if task.measure in TRAINED_MEASURES), RULE


def named_slices(tasks: Iterable[EvalTask], names: Collection[str]) -> frozenset[str]:
    """Return the slices (`suite/task`) that names of suites and slices mean."""
    return frozenset(task.key for task in tasks if task.suite in names or task.key in names)


def scale_of(key: str) -> str:
    """Return what a metric key shares its unit with: `score` where more is better, else the metric's own name."""
    return key.rsplit("/", 1)[-1] if is_lower_better(key) else "score"


def declared_margins(record: SweepRecord, metrics: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return metric key -> the smallest margin that a claim of the sweep declares for it or for its measure."""
    margins: dict[str, float] = {}
    for part in (part for claim in record.claims for part in claim.parts):
        if isinstance(part, Contrast) and part.margin > 0:
            for term in part.terms:
                for key in metrics.get(term.metric, (term.metric,)):
                    margins[key] = min(part.margin, margins.get(key, math.inf))
    return margins


def slices_table(
    effects: pd.DataFrame,
    represented: Collection[str],
    margins: Mapping[str, float] | None = None,
    adjacent: Collection[str] = (),
) -> pd.DataFrame:
    """Return one row per condition and primary slice, with its change as a gain and the test of non-inferiority.

    `gain` is after - before, turned where less is better, so that negative is always a loss. `non_inferior`: yes where
    the interval's lower end lies above -margin; no where its upper end lies below it; else undecided; unknown without a
    margin or an interval.

    Args:
        effects: the effects table.
        represented: slices `suite/task` that the training data represents.
        margins: metric key -> the loss that would matter, more than 0.
        adjacent: slices that it does not represent but is near to; `label` says so.
    """
    rows = effects[effects["level"] == "primary"] if len(effects) else pd.DataFrame(columns=list(effects.columns))
    found = [_slice_row(row, represented, margins or {}, adjacent) for row in rows.to_dict("records")]
    return pd.DataFrame(found, columns=SLICE_COLUMNS)


SLICE_COLUMNS = [
    "condition", "arm", "key", "scale", "represented", "label", "gain", "low", "high", "margin", "non_inferior",
    "mde", "note",
]  # fmt: skip


def _slice_row(
    row: Mapping[str, object], represented: Collection[str], margins: Mapping[str, float], adjacent: Collection[str]
) -> dict[str, object]:
    key = str(row["target"])
    name = key.rsplit("/", 1)[0]
    sign = -1.0 if is_lower_better(key) else 1.0
    ends = sorted((sign * float(row["low"]), sign * float(row["high"])))
    margin = margins.get(key, NAN)
    return {
        "condition": row["condition"],
        "arm": row["arm"],
        "key": key,
        "scale": scale_of(key),
        "represented": name in represented,
        "label": "represented" if name in represented else "adjacent" if name in adjacent else "unrepresented",
        "gain": sign * float(row["delta"]),
        "low": ends[0],
        "high": ends[1],
        "margin": margin,
        "non_inferior": _non_inferior(ends[0], ends[1], margin),
        "mde": row["mde"],
        "note": row["note"],
    }


def _non_inferior(low: float, high: float, margin: float) -> str:
    if math.isnan(margin) or math.isnan(low) or math.isnan(high):
        return "unknown"
    if low > -margin:
        return "yes"
    return "no" if high < -margin else "undecided"


COLUMNS = [
    "condition", "arm", "scale", "num_slices", "num_adjacent", "num_unknown", "mean", "mean_low", "mean_high",
    "worst", "worst_key", "worst_low", "worst_high", "num_below_margin", "num_with_margin", "num_non_inferior", "note",
]  # fmt: skip


def tax_table(
    effects: pd.DataFrame,
    represented: Collection[str],
    margins: Mapping[str, float] | None = None,
    adjacent: Collection[str] = (),
) -> pd.DataFrame:
    """Return one row per condition and scale: mean and worst gain over the slices that are not represented.

    `mean` is the plain mean of the slices' gains; its interval has the mean of their half widths, which covers whatever
    their correlation is, because the SE of a mean is at most the mean of the SEs. `worst` is the smallest gain: as the
    least of several it is pessimistic, and its interval is that of its slice alone. `num_below_margin`: slices whose
    gain lies below -margin; `num_non_inferior`: whose lower end lies above it; both nan without margins. A slice whose
    gain is unknown leaves mean and worst unknown. Metrics of different units (`scale`) are never averaged. Arguments as
    in `slices_table`.
    """
    slices = slices_table(effects, represented, margins, adjacent)
    rows = [
        {"condition": condition, "arm": arm, "scale": scale} | _tax(group)
        for (condition, arm, scale), group in slices[~slices["represented"].astype(bool)].groupby(
            ["condition", "arm", "scale"], sort=False
        )
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _tax(group: pd.DataFrame) -> dict[str, object]:
    gains = group["gain"].to_numpy(dtype=float)
    num_unknown = int(np.isnan(gains).sum())
    row: dict[str, object] = {"num_slices": len(group), "num_adjacent": int((group["label"] == "adjacent").sum())}
    row |= {"num_unknown": num_unknown} | _against_margins(group)
    if num_unknown:
        names = ", ".join(group.loc[group["gain"].isna(), "key"])
        return row | {"mean": NAN, "worst": NAN, "note": f"unknown: {names}"}
    worst = group.loc[group["gain"].idxmin()]
    mean, half = float(gains.mean()), float(((group["high"] - group["low"]) / 2).mean(skipna=False))
    return row | {
        "mean": mean,
        "mean_low": mean - half,
        "mean_high": mean + half,
        "worst": float(worst["gain"]),
        "worst_key": worst["key"],
        "worst_low": worst["low"],
        "worst_high": worst["high"],
        "note": "" if math.isfinite(half) else "a slice has no interval",
    }


def _against_margins(group: pd.DataFrame) -> dict[str, object]:
    known = group[group["margin"].notna()]
    below = int((known["gain"] < -known["margin"]).sum()) if len(known) else NAN
    passed = int((known["non_inferior"] == "yes").sum()) if len(known) else NAN
    return {"num_with_margin": len(known), "num_below_margin": below, "num_non_inferior": passed}
