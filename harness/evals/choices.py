"""What a model gives to each choice of an item: the log-probabilities behind acc, acc_norm and gold_logprob.

Invariant: choices.parquet has one row for every choice of every multiple-choice item that was asked, in the order of
tasks, items and choices; it is written with items.parquet and moves nothing in it. What does not live here: what is
made of the choices (analysis/closed_set.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.evals.asking import Sample
from harness.evals.table import write_parquet
from harness.records.schema import CHOICES_FILE as CHOICES_FILE
from harness.spec import EvalTask

KIND = "multiple_choice"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("suite", "task", "item_id")),
        ("choice", pa.int32()),
        ("logprob", pa.float64()),
        ("num_bytes", pa.int32()),
        ("is_gold", pa.bool_()),
    ]
)
"""`choice` counts from 0; `logprob` is the natural log of the choice's probability, summed over its tokens, and null
where it is not finite; `num_bytes` is the choice's UTF-8 length, by which acc_norm divides."""


def write_choices(path: Path, tasks: Sequence[EvalTask], samples: Mapping[str, Sequence[Sample]]) -> None:
    """Write choices.parquet as a whole; without multiple-choice items it has its columns and no row.

    Args:
        path: the file.
        tasks: in order; those of other kinds leave nothing here.
        samples: task key -> what was answered, in the order of items.

    Raises:
        DiskError: the disk is full or read-only.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for task in tasks:
        for sample in samples[task.key] if task.kind == KIND else ():
            _add(columns, task, sample["doc"], [logprob for logprob, _ in sample["filtered_resps"]])
    write_parquet(path, columns, SCHEMA)


def _add(columns: dict[str, list[Any]], task: EvalTask, document: Mapping[str, Any], logprobs: list[float]) -> None:
    texts, count = document["choices"], len(document["choices"])
    for name, value in (("suite", task.suite), ("task", task.name), ("item_id", document["id"])):
        columns[name] += [value] * count
    columns["choice"] += range(count)
    columns["logprob"] += [float(logprob) if math.isfinite(logprob) else None for logprob in logprobs]
    columns["num_bytes"] += [len(text.encode()) for text in texts]
    columns["is_gold"] += [place == document["gold"] for place in range(count)]
