"""What probes left beside a trial's result, as frames: scores while it trained, and scores between base and tuned.

Invariant: rows are those of during.parquet and interpolation.parquet; a trial without such a file, or with a damaged
one, has no row here, and a sweep without any gives an empty frame with the same columns. What does not live here:
measuring (harness/evals/during.py, harness/evals/interpolation.py), the drift panel (drift.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.items import TRIAL_KEYS, trial_keys
from analysis.opened import OpenedSweep, OpenedTrial, open_named

DURING_FILE = "during.parquet"
INTERPOLATION_FILE = "interpolation.parquet"
_TEXTS = ("suite", "task", "item_id", "cluster", "metric")
DURING_COLUMNS = {"step": "int64"} | dict.fromkeys(_TEXTS, "str") | {"value": "float64", "chance": "float64"}
DURING_COLUMNS |= {"reason": "str"}
"""Column -> type; step 0 is before the first step, and every item is one of val."""
INTERPOLATION_COLUMNS = {"weight": "float64"} | dict.fromkeys(("suite", "task", "item_id", "cluster", "split"), "str")
INTERPOLATION_COLUMNS |= {"metric": "str", "value": "float64", "chance": "float64", "output": "str", "reason": "str"}
"""Column -> type; weight 0 is the base and 1 the tuned model."""


def load_during(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per trial, checkpoint, val item and metric: scores while it trained.

    Args:
        name: the sweep, e.g. "lima_size"; its spec has to name slices in `probes.during`.
        base: the base it ran on: its name, or the path of a local folder.
        out: the output folder (`OUT=`).
        set_hash: which overrides; "" is none, None is none where such a sweep is there, else the only one.

    Raises:
        BadInputError: no such sweep, or several that only `set_hash` tells apart.
        StoreError: the sweep's plan is damaged.
    """
    return during_frame(open_named(name, base, out, set_hash))


def load_interpolation(
    name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None
) -> pd.DataFrame:
    """Return one row per trial, weight between base and tuned, item and metric; arguments and errors as `load_during`.

    Only trials whose spec has `probes.interpolation` have rows.
    """
    return interpolation_frame(open_named(name, base, out, set_hash))


def during_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the scores while training of an opened sweep; see `load_during`."""
    return joined_tables(sweep, DURING_FILE, DURING_COLUMNS)


def interpolation_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the scores between base and tuned weights of an opened sweep; see `load_interpolation`."""
    return joined_tables(sweep, INTERPOLATION_FILE, INTERPOLATION_COLUMNS)


def joined_tables(sweep: OpenedSweep, file: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return a table that trials have beside their results, of all trials; empty with its columns where none has it.

    Args:
        sweep: whose trials.
        file: its name in a trial's folder, Parquet.
        columns: column -> type.
    """
    found = [(trial, trial_table(trial, file, columns)) for trial in sweep.trials]
    tables = [table.assign(**trial_keys(trial)) for trial, table in found if table is not None]
    names = [*TRIAL_KEYS, *columns]
    if not tables:
        return pd.DataFrame(columns=names).astype(dict(columns))
    joined = pd.concat(tables, ignore_index=True)[names]
    return joined.assign(world=joined["world"].astype("Int64"))


def trial_table(trial: OpenedTrial, file: str, columns: Mapping[str, str]) -> pd.DataFrame | None:
    """Return one trial's table; None without a result or such a file, or where the file is damaged."""
    path = trial.folder / file
    if trial.result is None or not path.is_file():
        return None
    try:
        return pd.read_parquet(path).reindex(columns=list(columns)).astype(dict(columns))
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors; a damaged file costs its own rows alone
        return None
