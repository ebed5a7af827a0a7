"""Per-item rows and the aggregates over them.

Invariant: a slice's score is the mean of the `value` column over the rows of its split, so whoever pairs rows gets the
difference that the table shows; an item that could not be measured keeps its row, with a reason. What does not live
here: measuring.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from harness.records.schema import Score, Scores
from harness.records.store import write_atomic

NOT_FINITE = "the model's output is not finite"
TOO_LONG = "the continuation is longer than the context"
CUT = "cut on the left to fit the context"


class ItemRow(NamedTuple):
    """One metric of one item; the columns of items.parquet."""

    suite: str
    task: str
    item_id: str
    cluster: str
    split: str
    metric: str
    value: float | None
    output: str | None
    """The choice made or the text generated."""
    reason: str | None
    """Why there is no value; or, beside a value, what was cut to get it."""


SCHEMA = pa.schema([(name, pa.float64() if name == "value" else pa.string()) for name in ItemRow._fields])


def write_rows(path: Path, rows: Sequence[ItemRow]) -> None:
    """Write items.parquet as a whole.

    Raises:
        DiskError: the disk is full or read-only.
    """
    columns = {name: [row[index] for row in rows] for index, name in enumerate(ItemRow._fields)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def aggregate(rows: Iterable[ItemRow], split: str) -> Scores:
    """Return metric key -> score over the items of a split.

    The mean over measured items. A slice with any non-finite output has no value: leaving those items out would
    flatter a model that breaks on some. Items that do not fit the context are left out and counted, since they are the
    same ones before and after.
    """
    groups: dict[str, list[ItemRow]] = {}
    for row in rows:
        members = groups.setdefault(f"{row.suite}/{row.task}/{row.metric}", [])
        if row.split == split:
            members.append(row)
    return {key: _score(members, split) for key, members in groups.items()}


def _score(rows: list[ItemRow], split: str) -> Score:
    values = [row.value for row in rows if row.value is not None]
    num_clusters = len({row.cluster for row in rows if row.value is not None})
    remarks = _remarks(rows, split)
    if not values or any(row.reason == NOT_FINITE for row in rows):
        return Score(value=None, num_items=len(values), num_clusters=num_clusters, reason=remarks)
    return Score(
        value=math.fsum(values) / len(values), num_items=len(values), num_clusters=num_clusters, reason=remarks
    )


def _remarks(rows: list[ItemRow], split: str) -> str | None:
    if not rows:
        return f"no {split} items"
    counts: dict[str, int] = {}
    for row in rows:
        if row.reason is not None:
            counts[row.reason] = counts.get(row.reason, 0) + 1
    return "; ".join(f"{count} of {len(rows)} items: {reason}" for reason, count in counts.items()) or None
