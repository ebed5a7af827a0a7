"""Reads an offline run back: W&B ships no reader for `run-<id>.wandb`.

The file is a LevelDB log (blocks of 32 768 bytes, records of a crc32, a length, a type and their bytes, split over
blocks where they do not fit) of serialised `wandb_internal_pb2.Record`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32_768, struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What an offline run says."""

    run_id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metric: str = ""


def read_run(folder: Path) -> OfflineRun:
    """Return the run in an `offline-run-...` folder."""
    (path,) = folder.glob("run-*.wandb")
    run = OfflineRun()
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        _take(run, record)
    return run


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        checksum, length, kind = HEADER.unpack_from(data, position)
        body = data[position + HEADER.size : position + HEADER.size + length]
        assert zlib.crc32(bytes([kind]) + body) == checksum
        position += HEADER.size + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


def _take(run: OfflineRun, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.run_id, run.project, run.group = record.run.run_id, record.run.project, record.run.run_group
        run.job_type, run.name = record.run.job_type, record.run.display_name
        run.config |= _values(record.run.config.update)
    elif kind == "config":
        run.config |= _values(record.config.update)
    elif kind == "history":
        run.history.append(_values(record.history.item))
    elif kind == "summary":
        run.summary |= _values(record.summary.update)
    elif kind == "metric" and record.metric.glob_name == "*":
        run.step_metric = record.metric.step_metric
    elif kind == "exit":
        run.exit_code = record.exit.exit_code


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
