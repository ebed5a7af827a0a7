"""What each trial left besides its result, as frames: items, samples, training logs.

Invariant: an item that one side did not answer keeps its row, with NaN and the reason. What does not live here:
aggregates (frames.py), tests (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import contextlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.opened import OpenedSweep, OpenedTrial
from harness.errors import StoreError
from harness.records.schema import ROW_COLUMNS
from harness.records.store import Store, file_sha256, read_lines, read_manifest

ITEMS_FILE = "items.parquet"
ITEM_KEYS = ["suite", "task", "item_id", "split", "metric"]
TRIAL_KEYS = ["trial_id", "condition", "condition_id", "arm", "seed", "world"]


def items_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the per-item values of an opened sweep, before joined to after.

    An item known on one side only keeps its row with NaN on the other and the reason. A trial whose item file is gone
    or damaged has no row here; `load_sweep` still has it.
    """
    read = cache(lambda items_file: _read_items(sweep.store, items_file))  # many trials share a before
    parts: list[pd.DataFrame] = []
    for trial, result in sweep.finished:
        if result.after is None:
            continue
        committed = result.files.get(ITEMS_FILE)
        before, after = read(result.before.items_file), _read_items(sweep.store, result.after.items_file, committed)
        if before is not None and after is not None:
            full = result.before_full_precision
            joined = _join_items(trial, before, after)
            parts.append(_with_full_precision(joined, None if full is None else read(full.items_file)))
    if not parts:
        return pd.DataFrame(columns=[*TRIAL_KEYS, *ITEM_KEYS, *ITEM_VALUES])
    joined = pd.concat(parts, ignore_index=True)
    joined["delta"] = joined["after"] - joined["before"]
    joined["world"] = joined["world"].astype("Int64")
    return joined[[*TRIAL_KEYS, *ITEM_KEYS, *ITEM_VALUES]]


def metric_key(rows: pd.DataFrame) -> pd.Series:
    """Return `suite/task/metric` of each row: the name of a metric of a slice everywhere else."""
    return rows["suite"].astype(str) + "/" + rows["task"].astype(str) + "/" + rows["metric"].astype(str)


ITEM_VALUES = [
    "cluster", "before", "after", "delta", "before_full_precision", "output_before", "output_after", "reason_before",
    "reason_after", "chance",
]  # fmt: skip


def _read_items(store: Store, items_file: str, committed: str | None = None) -> pd.DataFrame | None:
    """Return the items in a file, None where it is gone, damaged or not as it was committed."""
    path = store.root / items_file
    try:
        table = pd.read_parquet(path) if path.is_file() and _is_whole(path, committed) else None
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors; the report counts the trials without items
        return None
    if table is None or not {*ITEM_KEYS, "cluster", "value", "output", "reason"} <= set(table.columns):
        return None
    return table if "chance" in table else table.assign(chance=float("nan"))  # as of schema version 1


def _is_whole(path: Path, committed: str | None) -> bool:
    """Return whether a file has the sha256 of its result, or of the manifest beside it, where either names it."""
    if committed is None:
        with contextlib.suppress(StoreError):
            committed = read_manifest(path.parent).get(path.name)
    return committed is None or file_sha256(path) == committed


def _join_items(trial: OpenedTrial, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    renames = {"value": "", "output": "output_", "reason": "reason_"}
    sides = [
        table.rename(
            columns={name: (prefix + side) for name, prefix in renames.items()}
            | {name: f"{name}_{side}" for name in ("cluster", "chance")}
        )
        for side, table in (("before", before), ("after", after))
    ]
    joined = _merge(sides[0], sides[1])
    joined["cluster"] = joined["cluster_after"].fillna(joined["cluster_before"])
    joined["chance"] = joined["chance_after"].fillna(joined["chance_before"])
    for column, value in trial_keys(trial).items():
        joined[column] = value
    return joined


def trial_keys(trial: OpenedTrial) -> dict[str, Any]:
    """Return what tells the rows of a trial's tables from another's."""
    planned = trial.planned
    keys = (planned.trial_id, trial.condition, planned.condition_id, planned.arm, planned.seed, planned.world)
    return dict(zip(TRIAL_KEYS, keys, strict=True))


def _with_full_precision(joined: pd.DataFrame, full: pd.DataFrame | None) -> pd.DataFrame:
    if full is None:
        return joined.assign(before_full_precision=float("nan"))
    side = full[[*ITEM_KEYS, "value"]].rename(columns={"value": "before_full_precision"})
    if joined[ITEM_KEYS].equals(side[ITEM_KEYS]):
        return joined.assign(before_full_precision=side["before_full_precision"])
    return joined.merge(side, on=ITEM_KEYS, how="left")


def _merge(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    # The same requests in the same order, the usual case, need no join; a join of strings costs ten times as much.
    if before[ITEM_KEYS].equals(after[ITEM_KEYS]):
        return pd.concat([before, after.drop(columns=ITEM_KEYS)], axis=1)
    joined = before.merge(after, on=ITEM_KEYS, how="outer", indicator=True)
    for side, only in (("before", "right_only"), ("after", "left_only")):
        joined.loc[joined["_merge"] == only, f"reason_{side}"] = "not asked"
    return joined


QUESTION_COLUMNS = ["suite", "task", "item_id", "prompt", "reference", "instructions"]


def questions_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return what every item of an opened sweep asks and its right answer, each once, in the order asked.

    Items of a base that was scored before questions were kept have no row; a long prompt ends with a mark that it is
    cut. Where trials ask one item in different words, the words are those of the first.
    """
    files = dict.fromkeys(sweep.store.root / result.before.items_file for _, result in sweep.finished)
    tables = [table for path in files if (table := questions_beside(path)) is not None]
    if not tables:
        return pd.DataFrame(columns=QUESTION_COLUMNS)
    return pd.concat(tables, ignore_index=True).drop_duplicates(["suite", "task", "item_id"], ignore_index=True)


def questions_beside(items_file: Path) -> pd.DataFrame | None:
    """Return what the items of one base's file ask; None where that was not kept or the file is damaged."""
    path = items_file.with_name("questions.parquet")
    try:
        return pd.read_parquet(path).reindex(columns=QUESTION_COLUMNS) if path.is_file() else None
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors; a damaged table costs its own rows alone
        return None


def samples_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the fixed-prompt answers of an opened sweep, in the order they were written."""
    return _lines_frame(sweep, "samples.jsonl", ["step", "phase", "prompt", "answer", "stopped"])


def metrics_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the training logs of an opened sweep, in the order they were written."""
    return _lines_frame(sweep, "metrics.jsonl", ["step"])


def rows_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return what became of every row that the trials of an opened sweep looked at.

    A trial whose table is gone or damaged, or that was recorded before there was one, has no rows here.
    """
    tables = [table.assign(**trial_keys(trial)) for trial in sweep.trials if (table := _rows(trial)) is not None]
    columns = [*TRIAL_KEYS, *ROW_COLUMNS]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _rows(trial: OpenedTrial) -> pd.DataFrame | None:
    path = trial.folder / "rows.parquet"
    try:
        return pd.read_parquet(path).reindex(columns=list(ROW_COLUMNS)) if path.is_file() else None
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors; a damaged table costs its own rows alone
        return None


def _lines_frame(sweep: OpenedSweep, file: str, columns: list[str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for trial in sweep.trials:
        marks = trial_keys(trial)
        rows += [marks | {name: _flat(value) for name, value in line.items()} for line in _lines(trial.folder / file)]
    return pd.DataFrame(rows, columns=None if rows else [*TRIAL_KEYS, *columns])


def _lines(path: Path) -> list[dict[str, object]]:
    try:
        return read_lines(path)
    except (StoreError, UnicodeDecodeError):  # a damaged log costs its own rows, not the report
        return []


def _flat(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
