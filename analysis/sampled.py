"""Answers sampled to items before and after: the answers themselves, and pass@k over conditions.

Invariant: rows are those of sampled.parquet beside a side's items; a side without such a file, or with a damaged one,
has no row here. Changes come from `effects`, computed once for the whole report. What does not live here: sampling and
the estimator (harness/evals/pass_at_k.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd

from analysis.items import TRIAL_KEYS, trial_keys
from analysis.opened import OpenedSweep, open_named
from harness.records.schema import UNDIRECTED
from harness.spec.evals import MAX_SAMPLES
from harness.spec.metrics import sampled_metrics

SAMPLED_FILE = "sampled.parquet"
SIDES = ("before", "before_full_precision", "after")
SAMPLED_COLUMNS = {"phase": "str"} | dict.fromkeys(("suite", "task", "item_id"), "str") | {"sample": "int64"}
SAMPLED_COLUMNS |= {"answer": "str", "is_right": "boolean", "num_tokens": "int64"}
"""Column -> type; phase is one of `SIDES`, `is_right` is <NA> where the model's output was not finite."""
ITEM = [*TRIAL_KEYS, "phase", "suite", "task", "item_id"]
METRICS = sampled_metrics(MAX_SAMPLES)
"""Every metric of sampled answers, in order."""
COLUMNS = [
    "condition", "slice", "metric", "direction", "before", "after", "delta", "low", "high", "num_items", "num_seeds",
    "num_planned", "note", "trial_ids",
]  # fmt: skip


def load_sampled(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per trial, phase, item and sampled answer.

    Its tasks have to have `num_samples` (SET `evals.num_samples`); arguments and errors as `load_during`.
    """
    return sampled_frame(open_named(name, base, out, set_hash))


def sampled_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the sampled answers of an opened sweep; see `load_sampled`."""
    names = [*TRIAL_KEYS, *SAMPLED_COLUMNS]
    if not (tables := list(_tables(sweep))):
        return pd.DataFrame(columns=names).astype(SAMPLED_COLUMNS)
    joined = pd.concat(tables, ignore_index=True)[names]
    return joined.assign(world=joined["world"].astype("Int64"))


def _tables(sweep: OpenedSweep) -> Iterator[pd.DataFrame]:
    read = cache(_read)  # many trials share a before
    for trial, result in sweep.finished:
        for phase in SIDES:
            scores = getattr(result, phase)
            table = None if scores is None else read((sweep.store.root / scores.items_file).with_name(SAMPLED_FILE))
            if table is not None:
                yield table.assign(phase=phase, **trial_keys(trial))


def _read(path: Path) -> pd.DataFrame | None:
    columns = {name: kind for name, kind in SAMPLED_COLUMNS.items() if name != "phase"}
    try:
        return pd.read_parquet(path).reindex(columns=list(columns)).astype(columns) if path.is_file() else None
    except (OSError, ValueError, TypeError):  # pyarrow's errors are ValueErrors; a damaged file costs its own rows
        return None


def right_counts(sampled: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial, phase and item: `num_samples` of its answers, and `num_right` of them.

    `num_right` is <NA> where any answer is not judged. Beside the greedy answers it tells what is weakly known, right
    in samples alone, from what is unknown.

    Args:
        sampled: rows of `sampled_frame`.

    Source: Gekhman et al., arXiv:2405.05904, section 3: P(correct) at a temperature above 0.
    """
    groups = sampled.groupby(ITEM, sort=False, dropna=False, observed=True)["is_right"]
    counts = groups.agg(num_samples="size", num_judged="count", num_right="sum").reset_index()
    is_judged = counts["num_judged"] == counts["num_samples"]
    counts["num_right"] = counts["num_right"].astype("Int64").where(is_judged)
    return counts.drop(columns="num_judged")


# -- table ------------------------------------------------------------------------------------------------------------


def pass_table(effects: pd.DataFrame) -> pd.DataFrame:
    """Return one row per slice with samples, metric and condition: before, after, delta and its interval.

    Means over test items and seeds, as in every table of effects.

    Args:
        effects: the sweep's effects table.
    """
    parts = effects["target"].astype(str).str.rpartition("/")
    table = effects.assign(slice=parts[0], metric=parts[2])
    table = table[(table["slice"].str.count("/") == 1) & table["metric"].isin(METRICS)]
    places = {name: place for place, name in enumerate(dict.fromkeys(table["slice"]))}
    table = table.assign(
        direction=["none" if metric in UNDIRECTED else "more" for metric in table["metric"]],
        place=table["slice"].map(places),
        of=table["metric"].map({name: place for place, name in enumerate(METRICS)}),
    )
    return table.sort_values(["place", "of"], kind="stable")[COLUMNS].reset_index(drop=True)
