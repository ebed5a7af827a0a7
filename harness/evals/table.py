"""Per-item rows and the aggregates over them.

Invariant: a slice's score is the mean of the `value` column over the rows of its split, so whoever pairs rows gets the
difference that the table shows; an item that could not be measured keeps its row, with a reason. What does not live
here: measuring.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    chance: float | None = None
    """What guessing is worth on average: 1 / number of choices; None where there are none to guess among."""


class QuestionRow(NamedTuple):
    """What one item asks; the columns of questions.parquet."""

    suite: str
    task: str
    item_id: str
    prompt: str
    """As the base is shown it, cut at `LONGEST_PROMPT` characters."""
    reference: str | None
    """The right answer; None where there is none."""
    instructions: str | None = None
    """Kinds of instruction that an answer has to follow, in order, spaces between; None where there are none."""


LONGEST_PROMPT = 4000
CUT_MARK = " [... cut]"
SCHEMA = pa.schema([(name, pa.float64() if name in ("value", "chance") else pa.string()) for name in ItemRow._fields])
QUESTION_SCHEMA = pa.schema([(name, pa.string()) for name in QuestionRow._fields])


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> None:
    """Write a table as a whole, compressed; `columns` has those of the schema.

    Raises:
        DiskError: the disk is full or read-only.
    """
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns), schema=schema), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def columns_of(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns of rows whose fields are in this order."""
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def write_rows(path: Path, rows: Sequence[ItemRow]) -> None:
    """Write items.parquet as a whole.

    Raises:
        DiskError: the disk is full or read-only.
    """
    write_parquet(path, columns_of(rows, SCHEMA.names), SCHEMA)


def write_questions(path: Path, rows: Sequence[QuestionRow]) -> None:
    """Write questions.parquet as a whole, long texts cut with a mark.

    Raises:
        DiskError: the disk is full or read-only.
    """
    cut = [
        row._replace(prompt=shortened(row.prompt), reference=row.reference and shortened(row.reference)) for row in rows
    ]
    write_parquet(path, columns_of(cut, QUESTION_SCHEMA.names), QUESTION_SCHEMA)


def shortened(text: str) -> str:
    """Return a text as a report shows it."""
    return text if len(text) <= LONGEST_PROMPT else text[: LONGEST_PROMPT - len(CUT_MARK)] + CUT_MARK


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
    measured = [row for row in rows if row.value is not None]
    values = [row.value for row in measured if row.value is not None]
    chances = [row.chance for row in measured if row.chance is not None]
    is_known = bool(values) and not any(row.reason == NOT_FINITE for row in rows)
    return Score(
        value=math.fsum(values) / len(values) if is_known else None,
        num_items=len(values),
        num_clusters=len({row.cluster for row in measured}),
        reason=_remarks(rows, split),
        chance=math.fsum(chances) / len(chances) if chances and len(chances) == len(measured) else None,
    )


def _remarks(rows: list[ItemRow], split: str) -> str | None:
    if not rows:
        return f"no {split} items"
    counts: dict[str, int] = {}
    for row in rows:
        if row.reason is not None:
            counts[row.reason] = counts.get(row.reason, 0) + 1
    return "; ".join(f"{count} of {len(rows)} items: {reason}" for reason, count in counts.items()) or None
