"""From a data reference to conversations, in a fixed order.

Invariant: what is read is what the reference names - a file by its sha256, a hub dataset by its commit, a world by its
spec - and every row that does not become a conversation is counted under its reason. Free of torch at import, and
nothing is downloaded here. What does not live here: row formats (formats.py), choosing rows (selection.py).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from harness.data.conversations import Conversation, UnusableRow
from harness.data.formats import Format, parse, sniff
from harness.errors import DataError, HarnessError
from harness.pocket import world
from harness.pocket.audit import conversation_leaks
from harness.records.store import Store
from harness.spec import DataSource, FileData, HubData, PocketData, PocketText

NUM_SNIFFED = 100
PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Rows:
    """What a source holds."""

    conversations: list[Conversation]
    num_read: int
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> rows that could not become a conversation."""


def read_rows(source: DataSource, store: Store | None = None) -> Rows:
    """Return the conversations of a source, in its own order.

    Args:
        source: the reference.
        store: where fetched hub datasets lie; without one, only the hub client's cache is looked at.

    Raises:
        DataError: it is not there, is not what the reference names, or holds no usable row.
    """
    if isinstance(source, PocketData):
        return _pocket_rows(cast("Hashable", source))  # type checkers do not see that models are hashable
    if isinstance(source, PocketText):
        return _parsed(world.build(source.world).texts(source), "text", "the pocket world")
    if isinstance(source, FileData):
        return _parsed(_file_rows(source), source.format, source.path)
    return _parsed(_hub_rows(source, store), source.format, f"{source.repo_id}@{source.revision[:12]}")


@lru_cache(maxsize=4)
def _pocket_rows(source: PocketData) -> Rows:
    """Return the rows of a world, generated and searched for leaks once for all trials of a process."""
    made = world.build(source.world)
    raw = made.rows(source)
    if leaks := conversation_leaks(made, raw):
        raise HarnessError(f"the pocket world's rows hold what is held out: {'; '.join(leaks[:3])}")
    rows = _parsed(raw, "messages", "the pocket world")
    marked = [
        replace(conversation, group=row["group"], ends_open=row.get("ends_open", False))
        for conversation, row in zip(rows.conversations, raw, strict=True)
    ]
    return Rows(marked, rows.num_read)


def describe_file(path: Path) -> FileData:
    """Return the reference of a local JSON-lines or Parquet file; its format is read off its first rows.

    Raises:
        DataError: it cannot be read, its format is not known, or none of its first rows can be trained on.
    """
    content = _read_bytes(path)
    raw = [row for _, row in zip(range(NUM_SNIFFED), _raw_rows(content, str(path)), strict=False)]
    kind = sniff(raw, str(path))
    _parsed(raw, kind, str(path))
    return FileData(sha256=hashlib.sha256(content).hexdigest(), format=kind, path=str(path.absolute()))


def _parsed(raw: Iterable[Any], kind: Format, name: str) -> Rows:
    conversations: list[Conversation] = []
    dropped: Counter[str] = Counter()
    for index, row in enumerate(raw):
        try:
            conversations.append(parse(row, kind, index))
        except UnusableRow as fault:
            dropped[fault.reason] += 1
    num_read = len(conversations) + dropped.total()
    if not conversations:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())) or "it is empty"
        raise DataError(
            f"{name} has no row that can be trained on among the {num_read} read ({reasons}), but must hold "
            "conversations with an assistant turn, or texts; mend the rows"
        )
    return Rows(conversations, num_read, dropped)


# -- files ------------------------------------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data.source.path is {str(path)!r}, but must be a readable JSON-lines or Parquet file ({error.strerror})"
        ) from error


def _file_rows(source: FileData) -> Iterator[Any]:
    content = _read_bytes(Path(source.path))
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise DataError(
            f"{source.path} has sha256 {digest[:12]}, but must have {source.sha256[:12]}; it changed since the plan, "
            "so plan again"
        )
    return _raw_rows(content, source.path)


def _raw_rows(content: bytes, name: str) -> Iterator[Any]:
    return _parquet_rows(content, name) if content.startswith(PARQUET_MAGIC) else _json_rows(content, name)


def _parquet_rows(content: bytes, name: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(io.BytesIO(content))
        for batch in table.iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is a damaged Parquet file ({str(error).splitlines()[0]}); write it again") from error


def _json_rows(content: bytes, name: str) -> Iterator[Any]:
    # Bytes, so that only a newline ends a row: str.splitlines() also cuts at U+2028, which JSON leaves inside strings.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}:{number} is not JSON ({error}); write one object a line, in UTF-8") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}:{number} is {line[:40]!r}, but must be a JSON object; write one object a line")
        yield row


# -- hub --------------------------------------------------------------------------------------------------------------


def _hub_rows(source: HubData, store: Store | None) -> Iterator[Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    folder = _hub_folder(source, store)
    try:
        # Streaming reads the files as they lie: no second copy in the library's own cache, and nothing to go stale.
        rows = datasets.load_dataset(str(folder), name=source.config, split=source.split, streaming=True)
    except (ValueError, OSError, DatasetsError) as error:
        raise DataError(
            f"data.source.split is {source.split!r} with config {source.config!r}, but must be in the snapshot of "
            f"{source.repo_id} ({str(error).splitlines()[0]})"
        ) from error
    return iter(rows)


def _hub_folder(source: HubData, store: Store | None) -> Path:
    if store is not None and store.has_artefact("fetched", source.artefact_key):
        return store.artefact("fetched", source.artefact_key)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(source.repo_id, repo_type="dataset", revision=source.revision, local_files_only=True)
        )
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"data.source {source.repo_id} at revision {source.revision[:12]} is not on this machine, but must be "
            "before a trial starts; run make fetch where the hub can be reached"
        ) from error
