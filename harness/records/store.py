"""The folder that holds every record: atomic writes, first-wins commits, file locks.

Invariant: a reader never sees half a file. `write_atomic` replaces, `commit_once` lets the first writer win (`link`),
both after fsync of the data and followed by fsync of the folder; a folder artefact appears by one rename. Locks are
`flock`: the kernel frees them when the holder dies. Every step of a commit passes a named point (points.py), where
tests put a fault. What does not live here: what the files mean (schema.py), how a record is sealed (seal.py), what the
dead left (leftovers.py), who runs what (engine).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import pydantic
from safetensors import SafetensorError

from harness.errors import BadInputError, BusyError, DiskError, StoreError
from harness.records import points, seal
from harness.records.attempts import namespace
from harness.spec.names import is_inner_path

M = TypeVar("M", bound=pydantic.BaseModel)
LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What `link` answers where a file system has none: FAT, some network and FUSE file systems."""
TAIL_BYTES, APPEND_SECONDS = 4096, 0.2


def file_sha256(path: Path) -> str:
    """Return the sha256 hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Generator[None, None, None]:
    """Turn a full or read-only disk into one sentence with exit code 75."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"no space left to write {path}; free some and run the same command again") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise DiskError(f"{path} cannot be written ({error.strerror}); set OUT= to a writable folder") from error
        raise
    except SafetensorError as error:
        # The Rust writer gives the system's error in its text only: 28 is ENOSPC, 122 EDQUOT.
        if "os error 28" in str(error) or "os error 122" in str(error):
            raise DiskError(f"no space left to write {path}; free some and run the same command again") from error
        raise


def fsync_folder(folder: Path) -> None:
    """Force a folder's own entries (names, renames) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(path: Path, content: bytes, *, durable: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{os.getpid()}@{namespace()}"  # by which leftovers.py knows that nobody writes it any more
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.{owner}.", suffix=".tmp", dir=path.parent)
    try:
        points.passing("temporary.made", path)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            points.passing("temporary.written", path)
            if durable:
                os.fsync(stream.fileno())
        points.passing("temporary.synced", path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole; readers see the old or the new bytes.

    Args:
        path: the file.
        content: its new bytes.
        durable: whether they must survive a power failure; a file that the next attempt writes anew need not.

    Raises:
        DiskError: the disk is full or read-only.
    """
    with disk_errors(path):
        temporary = _write_temporary(path, content, durable=durable)
        try:
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        points.passing("replace.renamed", path)
        if durable:
            fsync_folder(path.parent)
        points.passing("replace.synced", path)


def commit_once(path: Path, content: bytes) -> bool:
    """Create a file unless it exists; return whether this call created it.

    Raises:
        DiskError: the disk is full or read-only.
    """
    with disk_errors(path):
        temporary = _write_temporary(path, content)
        try:
            _link(temporary, path)
            points.passing("commit.linked", path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        points.passing("commit.unlinked", path)
        fsync_folder(path.parent)
        points.passing("commit.synced", path)
        return True


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise DiskError(
            f"{path} cannot be committed: its file system makes no hard links ({error.strerror}); set OUT= to a folder "
            "on one that does"
        ) from error


def append_line(path: Path, row: Mapping[str, object]) -> None:
    """Append one JSON row and flush it to the operating system; a torn last line is cut off first.

    Several processes may append to one file: each locks it meanwhile; one that is stopped then holds nobody up.

    Raises:
        DiskError: the disk is full or read-only; what it took of the row is a torn last line.
    """
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    with disk_errors(path), path.open("a+b", buffering=0) as stream:
        if _is_alone(stream.fileno()):
            _cut_torn_tail(stream.fileno())
        try:
            points.passing("append.opened", path)
            while line:
                line = line[stream.write(line) :]
            points.passing("append.written", path)
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


def _is_alone(descriptor: int) -> bool:
    """Lock an open file for this process; return False where another one keeps it for longer than an append takes."""
    deadline = time.monotonic() + APPEND_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        else:
            return True


def _cut_torn_tail(descriptor: int) -> None:
    """Cut what follows the last line break off an open file, which then ends with a whole line."""
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - TAIL_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)


def read_lines(path: Path) -> list[dict[str, object]]:
    """Return the whole rows of a JSON-lines file, [] where there is none; a torn last line is left out.

    Raises:
        StoreError: another line is not a JSON object, or the file cannot be read; the sentence names it.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    return [_row(path, line) for line in content.split(b"\n")[:-1]]


def _row(path: Path, line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} holds a line that is not JSON: {line[:80]!r}") from error
    if not isinstance(row, dict):
        raise StoreError(f"{path} holds a line that is not a JSON object: {line[:80]!r}")
    return cast("dict[str, object]", row)


def cut_torn_tail(path: Path) -> None:
    """Remove a last line without a newline, left by a kill or a full disk in the middle of a write."""
    with disk_errors(path), suppress(FileNotFoundError), path.open("r+b", buffering=0) as stream:
        _cut_torn_tail(stream.fileno())


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the next free `<stem>.damaged-<n><suffix>` beside it and return that.

    Raises:
        OSError: it cannot be renamed.
    """
    stem, suffix = (path.stem, path.suffix) if path.is_file() else (path.name, "")
    names = (path.with_name(f"{stem}.damaged-{number}{suffix}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    os.rename(path, aside)
    LOG.warning("%s is set aside as %s", path, aside.name)
    return aside


@contextmanager
def lock(path: Path, *, wait: bool) -> Generator[None, None, None]:
    """Hold an exclusive `flock` on a path; the kernel frees it when the process dies.

    Raises:
        BusyError: `wait` is False and another process holds it.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _HELD.add(descriptor)
    try:
        points.passing("lock.opened", path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(f"{path.parent} is held by another process") from None
        points.passing("lock.held", path)
        yield
    finally:
        _HELD.discard(descriptor)
        # Unlocked by name as well: a child that still holds a copy of the descriptor must not keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
        points.passing("lock.freed", path)


def _close_held() -> None:
    """Close a parent's locks in a child that forked: one that outlives its parent would keep them."""
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


_HELD: set[int] = set()
"""Descriptors of the locks of this process."""
os.register_at_fork(after_in_child=_close_held)


def write_manifest(folder: Path) -> dict[str, str]:
    """Write `manifest.json`, file -> sha256 of everything in a folder, and return it. fsyncs every file first."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(MANIFEST, None)
    for path in files.values():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    manifest = {name: file_sha256(path) for name, path in files.items()}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return manifest


def read_manifest(folder: Path) -> dict[str, str]:
    """Return a folder's manifest.

    Raises:
        StoreError: there is none, or it is not readable.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder} is not complete: {MANIFEST} is missing or damaged ({error})") from error
    if not isinstance(manifest, dict) or not all(map(is_inner_path, cast("dict[str, str]", manifest))):
        raise StoreError(f"{folder / MANIFEST} is damaged: it is not a JSON object of files below its folder")
    return cast("dict[str, str]", manifest)


def verify_manifest(folder: Path) -> dict[str, str]:
    """Check every file of a folder against its manifest and return it. safetensors itself checks nothing.

    Raises:
        StoreError: a file is missing or its bytes changed; the sentence names it.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path} is missing though {MANIFEST} names it")
        if file_sha256(path) != expected:
            raise StoreError(f"{path} is damaged: its sha256 is not the one in {MANIFEST}")
    return manifest


@dataclass(frozen=True)
class Store:
    """The output folder (`OUT=`)."""

    root: Path

    def trial(self, trial_id: str) -> Path:
        """Return the folder of a trial; it may not exist yet."""
        return self.root / "trials" / trial_id

    def sweep(self, name: str) -> Path:
        """Return the folder of a sweep, named `<name>@<base>[-<set hash>]`."""
        return self.root / "sweeps" / name

    def artefact(self, kind: str, key: str) -> Path:
        """Return the folder of an artefact; complete when its manifest is there."""
        return self.root / "artefacts" / kind / key

    def has_artefact(self, kind: str, key: str) -> bool:
        """Return whether an artefact is complete."""
        return (self.artefact(kind, key) / MANIFEST).is_file()

    def is_whole(self, kind: str, key: str, check: Callable[[Path], None] | None = None) -> bool:
        """Return whether an artefact is complete, every byte as its manifest says and as `check` wants it."""
        if not self.has_artefact(kind, key):
            return False
        try:
            verify_manifest(self.artefact(kind, key))
            if check is not None:
                check(self.artefact(kind, key))
        except StoreError as error:
            LOG.warning("%s", error)
            return False
        return True

    def ensure_artefact(
        self, kind: str, key: str, build: Callable[[Path], None], check: Callable[[Path], None] | None = None
    ) -> Path:
        """Return an artefact's folder, building it first where it is missing; a damaged one is set aside.

        One process builds, others wait for it. `build` writes into a temporary folder, which becomes the artefact by
        one rename after its manifest is written; a kill leaves nothing but that temporary folder, swept next time.

        Args:
            kind: the folder below `artefacts/`.
            key: its name there.
            build: writes the files into the folder that it is given.
            check: raises StoreError where the content, whole as it may be, is not that of this key.

        Raises:
            DiskError: the disk is full or read-only.
        """
        target = self.artefact(kind, key)
        if self.is_whole(kind, key, check):
            return target
        with lock(target.parent / f".{key}.lock", wait=True):
            if self.is_whole(kind, key, check):
                return target
            building = target.parent / f".{key}.building"
            with disk_errors(building):
                if building.exists():
                    shutil.rmtree(building)
                if target.exists():
                    set_aside(target)
                building.mkdir(parents=True)
                points.passing("artefact.begun", target)
                build(building)
                points.passing("artefact.built", target)
                write_manifest(building)
                points.passing("artefact.sealed", target)
                os.rename(building, target)
                points.passing("artefact.renamed", target)
                fsync_folder(target.parent)
        return target

    def read(self, path: Path, model: type[M]) -> M | None:
        """Return a record file, or None where it does not exist.

        Raises:
            StoreError: the file is there but damaged, or cannot be read.
            BadInputError: the store's root is, or lies under, a file.
        """
        try:
            return model.model_validate_json(seal.opened(path.read_bytes()).decode())
        except FileNotFoundError:
            return None
        except ValueError as error:  # pydantic's and of the encoding, too
            raise StoreError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
        except OSError as error:
            if isinstance(error, NotADirectoryError) and not self.root.is_dir():
                raise BadInputError(f"OUT is {str(self.root)!r}, but must be a folder ({error.strerror}).") from error
            raise StoreError(f"{path} cannot be read ({error.strerror})") from error
