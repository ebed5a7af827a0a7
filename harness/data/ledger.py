"""What became of every row that was looked at, for the record.

Invariant: a row of the table for each training example in training order, each validation row and each row that is not
used; a source is named by its content. Rows that were never reached, and the half that `completion_ratio` leaves out,
are in no table. What does not live here: choosing rows (prepare.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import versions
from harness.data.conversations import Conversation
from harness.data.packing import PackedRows
from harness.identity import fingerprint
from harness.records.schema import ROW_COLUMNS
from harness.records.store import write_atomic
from harness.spec import DataSource, FileData, HubData

if TYPE_CHECKING:
    from harness.data.prepare import PreparedData


@dataclass(frozen=True)
class Part:
    """The training rows of one source, in training order."""

    origin: str
    """The field of the data spec that names the source."""
    source: DataSource | None
    """None of evaluation items that are trained on."""
    cleaned_by: tuple[Any, ...]
    """What was asked to be dropped from the source before anything was chosen; with the source it names the rows."""
    conversations: Sequence[Conversation] = field(compare=False, repr=False)
    """All rows of the source that were left."""
    places: Sequence[int] = field(compare=False, repr=False)
    """Which of them are trained on."""

    @property
    def chosen(self) -> Iterator[Conversation]:
        """Yield the rows that are trained on."""
        return (self.conversations[place] for place in self.places)


def named(source: DataSource | None) -> tuple[str, str | None]:
    """Return what a source is called and its revision: a file's sha256, a hub dataset's commit, a world's hash; for
    None, that rows are evaluation items, of which the record has the hashes."""
    if source is None:
        return "evaluation items", None
    if isinstance(source, FileData):
        return Path(source.path).name, source.sha256
    if isinstance(source, HubData):
        return source.repo_id, source.revision
    return f"pocket world {source.world.seed}", fingerprint(source, versions.POCKET_BEHAVIOURS)


def ledger(rows: PreparedData) -> list[dict[str, Any]]:
    """Return a dict with `ROW_COLUMNS` for each row; what does not apply is None.

    `use` is train, validation or dropped; `reason` says why a row is dropped; `packed_row` is the training row, counted
    from 0, that an example shares with others; `mark` what was done to a row on purpose.
    """
    names = {part.origin: named(part.source) for part in rows.parts}
    trained = [name for part in rows.parts for name in [part.origin] * len(part.places)]
    shared = _packed_rows(rows)
    found = [
        _entry(example.row_id, "train", names, name)
        | {
            "num_tokens": len(example.input_ids),
            "num_loss_tokens": int(np.count_nonzero(example.loss_weights)),
            "packed_row": shared.get(place),
            "mark": "; ".join(rows.marks.get(place, ())) or None,
        }
        for place, (example, name) in enumerate(zip(rows.examples, trained, strict=True))
    ]
    found += [
        _entry(example.row_id, "validation", names, "source")
        | {
            "num_tokens": len(example.input_ids),
            "num_loss_tokens": int(np.count_nonzero(example.loss_weights)),
        }
        for example in rows.validation
    ]
    return found + [_entry(one.row_id, "dropped", names, one.origin) | {"reason": one.reason} for one in rows.dropped]


def _packed_rows(rows: PreparedData) -> dict[int, int]:
    if not isinstance(rows.train, PackedRows):
        return {}
    return {place: number for number, group in enumerate(rows.train.groups) for place in group}


def _entry(row_id: str, use: str, names: dict[str, tuple[str, str | None]], name: str) -> dict[str, Any]:
    source, revision = names[name]
    return dict.fromkeys(ROW_COLUMNS) | {
        "row_id": row_id, "use": use, "field": name, "source": source, "revision": revision,
    }  # fmt: skip


def write_ledger(path: Path, rows: PreparedData) -> None:
    """Write the ledger as Parquet.

    Raises:
        DiskError: the disk is full or read-only.
    """
    import pyarrow
    from pyarrow import parquet

    texts, numbers = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema(
        [(name, numbers if name.startswith("num_") or name == "packed_row" else texts) for name in ROW_COLUMNS]
    )
    written = BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ledger(rows), schema=schema), written, compression="zstd")
    write_atomic(path, written.getvalue())
