"""From a data reference to conversations, in a fixed order.

Invariant: what is read is what the reference names - a file by its sha256, a hub dataset by its commit, a world by its
spec - and every row that does not become a conversation is counted under its reason. Free of torch at import, and
nothing is downloaded here. What does not live here: row formats (formats.py), choosing rows (selection.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.data.conversations import Conversation, Dropped, UnusableRow, by_reason
from harness.data.formats import KNOWN_FIELDS, Format, parse, row_name, sniff
from harness.data.spool import Spool
from harness.errors import DataError, HarnessError
from harness.pocket import world
from harness.pocket.audit import conversation_leaks
from harness.records.store import Store
from harness.spec import DataSource, FileData, HubData, PocketData, PocketText

if TYPE_CHECKING:
    from datasets import DatasetBuilder
    from pyarrow import Array, Scalar

NUM_SNIFFED = 100
PARQUET_MAGIC = b"PAR1"
PARQUET_BATCH = 1024
"""Rows of a Parquet file that are in memory at once."""
UNREADABLE = math.nan
"""Stands for a value that cannot be read: malformed wherever a text, a list or an object must be."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Rows:
    """What a source holds."""

    conversations: Sequence[Conversation]
    num_read: int
    dropped: Sequence[Dropped] = ()
    """Those that could not become a conversation."""
    ignored_fields: Mapping[str, int] = field(default_factory=dict)
    """Field of messages that is not read -> rows with something in it."""


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
    with _opened(path) as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        raw = list(islice(_raw_rows(stream, str(path)), NUM_SNIFFED))
    kind = sniff(raw, str(path))
    _parsed(raw, kind, str(path))
    return FileData(sha256=sha256, format=kind, path=str(path.absolute()))


def _parsed(raw: Iterable[Any], kind: Format, name: str) -> Rows:
    conversations: Spool[Conversation] = Spool()
    dropped: list[Dropped] = []
    names = set[str]()
    ignored = Counter[str]()
    for index, row in enumerate(raw):
        row_id = _distinct(row_name(row, index), index, names)
        names.add(row_id)
        try:
            parsed = parse(row, kind, index)
        except UnusableRow as fault:
            dropped.append(Dropped(row_id, fault.reason))
        else:
            ignored.update(parsed.ignored_fields)
            conversations.append(parsed if parsed.row_id == row_id else replace(parsed, row_id=row_id))
    num_read = len(conversations) + len(dropped)
    if not conversations:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in by_reason(dropped).items()) or "it is empty"
        raise DataError(
            f"{name} has no row that can be trained on among the {num_read} read ({reasons}), but must hold "
            "conversations with an assistant turn, or texts; mend the rows"
        )
    return Rows(conversations, num_read, dropped, dict(sorted(ignored.items())))


def _distinct(row_id: str, index: int, taken: Collection[str]) -> str:
    """Return what a row is called in records: with its place behind it where an earlier row has its name."""
    while row_id in taken:
        row_id = f"{row_id} (row-{index})"
    return row_id


# -- files ------------------------------------------------------------------------------------------------------------


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"data.source.path is {str(path)!r}, but must be a readable JSON-lines or Parquet file ({error.strerror})"
        ) from error


def _file_rows(source: FileData) -> Iterator[Any]:
    with _opened(Path(source.path)) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != source.sha256:
            raise DataError(
                f"{source.path} has sha256 {digest[:12]}, but must have {source.sha256[:12]}; it changed since the "
                "plan, so plan again"
            )
        stream.seek(0)
        yield from _raw_rows(stream, source.path)


def _raw_rows(stream: BufferedReader, name: str) -> Iterator[Any]:
    magic = stream.read(len(PARQUET_MAGIC))
    stream.seek(0)
    return _parquet_rows(stream, name) if magic == PARQUET_MAGIC else _json_rows(stream, name)


def _parquet_rows(stream: BufferedReader, name: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(stream)
        known = [column for column in file.schema_arrow.names if column in KNOWN_FIELDS]
        # Where no column is known, all are read, so that whoever reads on can say which there are.
        for batch in file.iter_batches(batch_size=PARQUET_BATCH, columns=known or None):
            columns = map(_values, batch.columns)
            for values in zip(*columns, strict=True):
                yield dict(zip(batch.schema.names, values, strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is a damaged Parquet file ({str(error).splitlines()[0]}); write it again") from error


def _values(column: Array) -> list[Any]:
    """Return the values of a column, `UNREADABLE` for one that Python has none for: no UTF-8, or a date past its
    range."""
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError):
        values = [_value(scalar) for scalar in column]
    return [_without_nulls(value) for value in values] if "struct<" in str(column.type) else values


def _value(scalar: Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return UNREADABLE


def _json_rows(stream: BufferedReader, name: str) -> Iterator[Any]:
    # Bytes, so that only a newline ends a row: str.splitlines() also cuts at U+2028, which JSON leaves inside strings.
    for number, line in enumerate(stream, start=1):
        written = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}:{number} is not JSON ({error}); write one object a line, in UTF-8") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}:{number} is {written[:40]!r}, but must be a JSON object; write one object a line")
        yield row


def _without_nulls(value: Any) -> Any:
    """Return a value without the fields of objects that hold nothing: a struct has those of all others in its column,
    so that every call would have the arguments of every other."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


# -- hub --------------------------------------------------------------------------------------------------------------


def _hub_rows(source: HubData, store: Store | None) -> Iterator[Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    folder = str(_hub_folder(source, store))
    try:
        files = _readable_files(datasets.load_dataset_builder(folder, name=source.config), source.split)
        if files is not None:
            return chain.from_iterable(map(_local_rows, files))
        # Streaming reads the files as they lie: no second copy in the library's own cache, and nothing to go stale.
        return map(
            _without_nulls, datasets.load_dataset(folder, name=source.config, split=source.split, streaming=True)
        )
    except (ValueError, OSError, DatasetsError) as error:
        raise DataError(
            f"data.source.split is {source.split!r} with config {source.config!r}, but must be in the snapshot of "
            f"{source.repo_id} ({str(error).splitlines()[0]})"
        ) from error


def _readable_files(builder: DatasetBuilder, split: str) -> list[Path] | None:
    """Return the files of a split where all are JSON lines or Parquet as our own readers read them, else None.

    The library gives every row the keys of all others, and where types differ rewrites numbers: 8.854e-12 is 0.0 to it.
    """
    from datasets.packaged_modules.json.json import Json, JsonConfig
    from datasets.packaged_modules.parquet.parquet import Parquet, ParquetConfig

    config = builder.config
    if isinstance(builder, Json):
        assert isinstance(config, JsonConfig)
        is_plain, is_ours = config.field is None and config.encoding == "utf-8", _begins_as_json_lines
    elif isinstance(builder, Parquet):
        assert isinstance(config, ParquetConfig)
        is_plain, is_ours = config.columns is None and config.filters is None, _is_plain_parquet
    else:
        return None
    named = {str(name): paths for name, paths in (config.data_files or {}).items()}
    files = [Path(str(path)) for path in named.get(split, ())]
    return files if files and is_plain and all(file.is_file() and is_ours(file) for file in files) else None


def _begins_as_json_lines(file: Path) -> bool:
    """Return whether the first line is an object: that of an array, a compressed file or a document over lines is
    none."""
    with file.open("rb") as stream:
        first = next((line for line in stream if line.removeprefix(BYTE_ORDER_MARK).strip()), b"")
    try:
        return isinstance(json.loads(first.removeprefix(BYTE_ORDER_MARK)), dict)
    except (ValueError, RecursionError):
        return False


def _is_plain_parquet(file: Path) -> bool:
    """Return whether columns are what they look like: the library keeps some as JSON in strings, and says so."""
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(file)
    except pyarrow.ArrowException:
        return True  # the reader says what is wrong with it
    return b'"_type": "Json"' not in (schema.metadata or {}).get(b"huggingface", b"")


def _local_rows(file: Path) -> Iterator[Any]:
    with _opened(file) as stream:
        yield from _raw_rows(stream, str(file))


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
