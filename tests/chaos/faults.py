"""Faults inside a process: at a named point of a commit, or at the i-th call to the file system.

A process is told to fail by a call in it, `strike_point` or `strike_call`; no file, variable or option of the engine
can do it. The process ends after its attempt, so that nothing is put back.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.records import points

MODES = ("kill", "EIO", "ENOSPC", "stop")
CALLS = ("open", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "truncate", "ftruncate")
"""Functions of `os` that change what is on the disk, besides writing."""


def act(mode: str, what: str) -> None:
    """Do what a fault does: end this process, fail with an error, or stop until somebody wakes it.

    Raises:
        OSError: of the modes EIO and ENOSPC.
    """
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        code = getattr(errno, mode)
        raise OSError(code, os.strerror(code), what)


class Counter:
    """Counts events, remembers their names, and strikes at one of them."""

    def __init__(self, index: int | None, mode: str, root: Path | None = None) -> None:
        self.index, self.mode, self.root = index, mode, root and str(root)
        self.names: list[str] = []

    def __call__(self, name: str, path: object) -> bool:
        """Take an event; return whether it is the one, after acting for every mode but `torn`."""
        if self.root is not None and not _concerns(path, self.root):
            return False
        self.names.append(f"{name} {os.path.basename(str(path))}")
        if len(self.names) - 1 != self.index:
            return False
        if self.mode != "torn":
            act(self.mode, str(path))
        return True


def _concerns(path: object, root: str) -> bool:
    if isinstance(path, int):
        try:
            path = os.readlink(f"/proc/self/fd/{path}")
        except OSError:
            return False
    return str(path).startswith(root + os.sep)


def strike_point(index: int | None, mode: str) -> Counter:
    """Make this process fail at the i-th named point that it passes; None only counts them."""
    counter = Counter(index, mode)
    points.passing = lambda point, path: counter(point, path) and None
    return counter


def strike_call(index: int | None, mode: str, root: Path) -> Counter:
    """Make this process fail at its i-th call to the file system that concerns an output folder; None only counts.

    The mode `torn` writes half of what is to be written and then says that the disk is full.
    """
    counter = Counter(index, mode, root)
    for name in CALLS:
        setattr(os, name, partial(_called, getattr(os, name), name, counter))
    builtins.open = io.open = partial(_opened, io.open, counter)
    return counter


def _called(plain: Callable[..., Any], name: str, counter: Counter, *args: Any, **options: Any) -> Any:
    if counter(name, args[0]):
        act("ENOSPC", str(args[0]))
    return plain(*args, **options)


def _opened(plain: Callable[..., Any], counter: Counter, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
    """Open a file as `open` does; one that is written to goes through a raw file that counts its writes."""
    writes = any(letter in mode for letter in "wax+")
    if counter("open", file):
        act("ENOSPC", str(file))
    place = file if isinstance(file, int) else os.fspath(file)
    if not writes or counter.root is None or not _concerns(place, counter.root):
        return plain(file, mode, *args, **options)
    raw = _Raw(file, mode.replace("b", "").replace("t", ""), counter)
    buffering = args[0] if args else options.get("buffering", -1)
    if "b" in mode:
        return raw if buffering == 0 else io.BufferedWriter(raw)
    encoding = args[1] if len(args) > 1 else options.get("encoding")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding or "utf-8")


class _Raw(io.FileIO):
    def __init__(self, file: Any, mode: str, counter: Counter) -> None:
        super().__init__(file, mode)
        self._counter, self._place = counter, file

    def write(self, content: Any, /) -> int:
        if self._counter("write", self._place):
            super().write(bytes(content)[: max(1, len(content) // 2)])
            act("ENOSPC", str(self._place))
        return super().write(content)


def flip(path: Path, place: int, bit: int) -> None:
    """Flip a bit of a file where it lies; a second time puts it back."""
    with path.open("r+b", buffering=0) as stream:
        (value,) = os.pread(stream.fileno(), 1, place)
        os.pwrite(stream.fileno(), bytes([value ^ 1 << bit]), place)
