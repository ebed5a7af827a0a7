"""Signal to noise: by how much a metric tells conditions apart, in units of what a seed moves it by.

Legend: y[c, s] is the score after training of condition c under seed s, in one world. Invariant: signal and noise are
in the metric's own unit; where the data cannot tell, their ratio is nan with a reason. What does not live here: the
spread over seeds (sections/seed_spread.py), tests of a difference (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.matrices import by_world
from analysis.variance import Floats, crossed_variance
from harness.spec.metrics import METRICS_OF, OVER_REFUSED

NAN = math.nan
MIN_CONDITIONS, MIN_SEEDS = 3, 2
SAMPLED = "a sampler chose the conditions by the scores of earlier ones"
OF_FORM = frozenset({"end_of_turn", "empty", "format_failure"})
OF_ANSWERS = frozenset({OVER_REFUSED, *(name for names in METRICS_OF.values() for name in names)}) - OF_FORM
"""Metrics that score what is answered: of a slice, one may stand for another."""


@dataclass(frozen=True)
class Signal:
    """What a metric sees of the conditions."""

    signal: float
    """Standard deviation over conditions of their mean score, less the seeds' share; 0 where that explains it all."""
    num_conditions: int
    """Compared, in the world that has most."""
    note: str = ""


def signal_of(trials: pd.DataFrame, target: str) -> Signal:
    """Return the standard deviation that conditions cause in `after/<target>`.

    signal^2 = max(0, sum over worlds of (m - 1) v / sum of (m - 1)), where v = variance over a world's m conditions of
    the mean over its k seeds - MS_residual / k of the conditions x seeds layout: the variance component of conditions,
    by expected mean squares. What a seed moves in every condition alike is in neither. Population: trials with a score,
    each counted once; a condition that lacks a seed of its world is left out and noted. More tells conditions apart
    better; nan below 3 conditions or 2 seeds.

    Source: Heineman et al., arXiv:2508.13144, where signal is the relative dispersion of many models' scores and noise
    the relative spread of a model's last checkpoints; Madaan et al., arXiv:2406.10229, where noise is the spread over
    pretraining seeds. Here the models are the conditions of a sweep and noise is the fine-tuning seeds; a standard
    deviation takes the place of a range, which grows with the number of conditions.
    """
    known = trials[trials[f"after/{target}"].notna()]
    layouts = [_layout(own, f"after/{target}") for _, own in by_world(known)]
    complete = [table[~np.isnan(table).any(axis=1)] for table in layouts]
    usable = [table for table in complete if len(table) >= MIN_CONDITIONS and table.shape[1] >= MIN_SEEDS]
    if not usable:
        return Signal(NAN, max(map(len, complete), default=0), _why_none(layouts))
    weights = [len(table) - 1 for table in usable]
    pooled = float(np.average([_component(table) for table in usable], weights=weights))
    num_left_out = sum(map(len, layouts)) - sum(map(len, usable))
    note = f"{num_left_out} conditions lack a seed and are left out" if num_left_out else ""
    return Signal(math.sqrt(max(pooled, 0.0)), max(map(len, usable)), note)


def _layout(own: pd.DataFrame, column: str) -> Floats:
    """Return conditions x seeds, nan where a trial has no score."""
    conditions, names = pd.factorize(own["condition_id"])
    seeds, seed_names = pd.factorize(own["seed"])
    table = np.full((len(names), len(seed_names)), NAN)
    table[conditions, seeds] = own[column].to_numpy(dtype=float)
    return table


def _component(table: Floats) -> float:
    """Return the variance component of the rows: (MS_rows - MS_residual) / columns."""
    num = len(table)
    parts = crossed_variance(table, np.arange(num), np.zeros(num, dtype=np.int64))
    return num * (parts.items - parts.residual)


def _why_none(layouts: list[Floats]) -> str:
    if max((table.shape[1] for table in layouts), default=0) < MIN_SEEDS:
        return f"no signal: fewer than {MIN_SEEDS} seeds"
    return f"no signal: fewer than {MIN_CONDITIONS} conditions with a score under every seed"


def signal_columns(trials: pd.DataFrame, target: str, seed_sd: float, *, is_sampled: bool) -> dict[str, object]:
    """Return `signal`, `snr` = signal / seed_sd, `num_conditions` and `note` of a row of the spread over seeds.

    More is better: an SNR of 2 means that two conditions differ, typically, by twice what two seeds do. nan where the
    signal is, where no seed moves the score, and in a study, whose conditions were chosen by their scores.
    """
    found = Signal(NAN, 0, SAMPLED) if is_sampled else signal_of(trials, target)
    note = "; ".join(filter(None, [found.note, "" if seed_sd > 0 else "no seed moves the score: no ratio"]))
    snr = found.signal / seed_sd if seed_sd > 0 else NAN
    return {"signal": found.signal, "snr": snr, "num_conditions": found.num_conditions, "note": note}


def telling_most(rows: Iterable[Mapping[str, Any]], primaries: Iterable[str]) -> list[dict[str, object]]:
    """Return for every slice the metric of its answers that has the largest SNR, beside the slice's primary one.

    A slice is there where at least two of its metrics have an SNR. It is for the next sweep: a metric that was chosen
    because it tells these conditions apart flatters the difference between them.

    Args:
        rows: with `target` and `snr`.
        primaries: metric keys that stand for a slice.
    """
    by_slice: dict[str, dict[str, float]] = {}
    for row in rows:
        name, _, metric = str(row["target"]).rpartition("/")
        if metric in OF_ANSWERS and name and not math.isnan(row["snr"]):
            by_slice.setdefault(name, {})[metric] = float(row["snr"])
    primary = dict(key.rsplit("/", 1) for key in primaries)
    return [
        {"slice": name, "metric": (best := max(found, key=lambda metric: found[metric])), "snr": found[best]}
        | {"primary": primary.get(name, ""), "primary_snr": found.get(primary.get(name, ""), NAN)}
        for name, found in by_slice.items()
        if len(found) > 1
    ]
