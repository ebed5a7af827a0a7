"""The drift panel as frames: how far each trained model is from its base.

Invariant: means are those of the record, rows those of drift.parquet; a trial without a panel has neither, never 0.
What does not live here: measuring (harness/evals/drift.py), showing (sections/drift.py, figure_kinds/).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from analysis.cells import replicate_values
from analysis.opened import OpenedSweep, OpenedTrial, open_named
from analysis.probed import joined_tables
from analysis.replicates import over_replicates
from analysis.stats import Effect
from harness.spec.claim import DRIFT, drift_names

DRIFT_FILE = "drift.parquet"
PREFIX = DRIFT
"""Of the panel's means among the columns of the trial frame."""
COLUMNS = {"text_set": "str", "item_id": "str", "position": "Int64", "metric": "str", "value": "float64"}
NO_PANEL = "no trial has a drift panel: probes.drift is off"


def load_drift(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per trial, text or layer, position and measure of drift.

    Args:
        name: the sweep, e.g. "drift".
        base: the base it ran on: its name, or the path of a local folder.
        out: the output folder (`OUT=`).
        set_hash: which overrides; "" is none, None is none where such a sweep is there, else the only one.

    Raises:
        BadInputError: no such sweep, or several that only `set_hash` tells apart.
        StoreError: the sweep's plan is damaged.
    """
    return drift_frame(open_named(name, base, out, set_hash))


def drift_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the rows of every drift panel of an opened sweep; see `load_drift`.

    A trial whose file is gone or damaged has no rows here.
    """
    return joined_tables(sweep, DRIFT_FILE, COLUMNS)


def mean_names(sweep: OpenedSweep) -> list[str]:
    """Return the names `text_set/metric` of every mean that a panel of the sweep has or a claim of it asks for."""
    measured = (name for _, result in sweep.finished if result.drift is not None for name in result.drift.values)
    return list(dict.fromkeys([*measured, *drift_names(sweep.record.claims)]))


def mean_of(trial: OpenedTrial, name: str) -> tuple[float | None, str | None]:
    """Return a mean of a trial's panel, or None and why it is unknown."""
    if trial.result is None or trial.result.drift is None:
        return None, trial.cause or "probes.drift is off"
    panel = trial.result.drift
    return panel.values.get(name), panel.reasons.get(name, panel.reasons.get(name.partition("/")[0]))


def drift_table(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return one row per condition and mean: its estimate over seeds with a t interval, worlds as strata.

    Args:
        frame: of trials, with the columns `drift/<name>`.
        names: which means.
    """
    rows = [
        {"condition": condition, "arm": group["arm"].iloc[0], "name": name} | _numbers(_effect(group, PREFIX + name))
        for condition, group in frame.drop_duplicates(["condition", "trial_id"]).groupby("condition", sort=False)
        for name in names
    ]
    return pd.DataFrame(rows, columns=["condition", "arm", "name", *NUMBERS])


NUMBERS = ("estimate", "low", "high", "num_seeds", "num_unknown", "note")


def _numbers(found: tuple[Effect, int]) -> dict[str, object]:
    effect, num_unknown = found
    about = {name: getattr(effect, name) for name in ("estimate", "low", "high", "num_seeds", "note")}
    return about | {"num_unknown": num_unknown}


def _effect(group: pd.DataFrame, column: str) -> tuple[Effect, int]:
    """Return a mean over the known replicates, and how many trials lack the number."""
    values = replicate_values(group, column)
    return over_replicates(values), sum(map(math.isnan, values.values()))
