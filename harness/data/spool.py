"""Rows in the order in which they came, of which only so many stay in memory.

Invariant: a value is read as it was appended, whenever and however often. What does not live here: what the rows are.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Generic, TypeVar, overload

from harness.records.store import disk_errors

T = TypeVar("T")

IN_MEMORY = 20_000
"""Rows that stay in memory; every further one lies in a file that has no name and goes with the process."""
BYTES_IN_MEMORY = 2**27
"""Of rows that say how many they take: those beyond lie in that file as well."""
BUFFER_BYTES = 1 << 20


class Spool(Sequence[T], Generic[T]):
    """A sequence that grows at its end and takes a bounded part of the memory."""

    def __init__(self, values: Iterable[T] = (), *, in_memory: int | None = None) -> None:
        self._in_memory = IN_MEMORY if in_memory is None else in_memory
        self._first: list[T] = []
        self._num_bytes = 0
        self._ends = array("q", [0])
        """Where each value in the file ends, in bytes, after a 0."""
        self._file: IO[bytes] | None = None
        self._unwritten = False
        self.extend(values)

    def append(self, value: T) -> None:
        """Add a value at the end.

        Raises:
            DiskError: the folder for temporary files is full or cannot be written.
        """
        if len(self._ends) == 1 and len(self._first) < self._in_memory and self._num_bytes < BYTES_IN_MEMORY:
            self._first.append(value)
            self._num_bytes += getattr(value, "num_bytes", 0)
            return
        written = pickle.dumps(value, protocol=5)
        with disk_errors(Path(tempfile.gettempdir())):
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=BUFFER_BYTES)  # noqa: SIM115 - open as long as its rows are used
            self._file.write(written)
        self._ends.append(self._ends[-1] + len(written))
        self._unwritten = True

    def extend(self, values: Iterable[T]) -> None:
        """Add values at the end."""
        for value in values:
            self.append(value)

    def truncate(self, length: int) -> None:
        """Keep the first so many values alone."""
        del self._first[length:]
        del self._ends[1 + max(0, length - len(self._first)) :]
        if self._file is not None:
            self._file.seek(self._ends[-1])
            self._file.truncate()

    def __len__(self) -> int:
        return len(self._first) + len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"there is no row {index} among {len(self)}")
        return self._first[place] if place < len(self._first) else self._read(place - len(self._first))

    def __iter__(self) -> Iterator[T]:
        yield from self._first
        for place in range(len(self._ends) - 1):
            yield self._read(place)

    def _read(self, place: int) -> T:
        assert self._file is not None
        if self._unwritten:
            with disk_errors(Path(tempfile.gettempdir())):
                self._file.flush()
            self._unwritten = False
        start, end = self._ends[place], self._ends[place + 1]
        return pickle.loads(os.pread(self._file.fileno(), end - start, start))
