"""The folder that holds every record: atomic writes, first-wins commits, file locks.

Invariant: a reader never sees half a file. `write_atomic` replaces, `commit_once` lets the first writer win (`link`),
both after fsync of the data and followed by fsync of the folder; a folder artefact appears by one rename. Locks are
`flock`: the kernel frees them when the holder dies. What does not live here: what the files mean (schema.py), and who
runs what (engine).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydantic
from safetensors import SafetensorError

from harness.errors import BadInputError, BusyError, DiskError, StoreError

M = TypeVar("M", bound=pydantic.BaseModel)
MANIFEST = "manifest.json"


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
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
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
        os.replace(temporary, path)
        if durable:
            fsync_folder(path.parent)


def commit_once(path: Path, content: bytes) -> bool:
    """Create a file unless it exists; return whether this call created it.

    Raises:
        DiskError: the disk is full or read-only.
    """
    with disk_errors(path):
        temporary = _write_temporary(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
        return True


def append_line(path: Path, row: Mapping[str, object]) -> None:
    """Append one JSON row and flush it to the operating system."""
    with disk_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, allow_nan=False) + "\n")


def read_lines(path: Path) -> list[dict[str, object]]:
    """Return the whole rows of a JSON-lines file; a torn last line is left out."""
    if not path.exists():
        return []
    rows: list[dict[str, object]] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise StoreError(f"{path} holds a line that is not JSON: {line[:80]!r}") from error
    return rows


def cut_torn_tail(path: Path) -> None:
    """Remove a last line without a newline, left by a kill in the middle of a write."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomic(path, whole)


@contextmanager
def lock(path: Path, *, wait: bool) -> Generator[None, None, None]:
    """Hold an exclusive `flock` on a path; the kernel frees it when the process dies.

    Raises:
        BusyError: `wait` is False and another process holds it.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(f"{path.parent} is held by another process") from None
        yield
    finally:
        # Unlocked by name as well: a child that still holds a copy of the descriptor must not keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


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
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder} is not complete: {MANIFEST} is missing or damaged ({error})") from error


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

    def ensure_artefact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Return an artefact's folder, building it first where it is missing.

        One process builds, others wait for it. `build` writes into a temporary folder, which becomes the artefact by
        one rename after its manifest is written; a kill leaves nothing but that temporary folder, swept next time.

        Raises:
            DiskError: the disk is full or read-only.
        """
        target = self.artefact(kind, key)
        if self.has_artefact(kind, key):
            return target
        with lock(target.parent / f".{key}.lock", wait=True):
            if self.has_artefact(kind, key):
                return target
            building = target.parent / f".{key}.building"
            with disk_errors(building):
                for leftover in (building, target):
                    if leftover.exists():
                        shutil.rmtree(leftover)
                building.mkdir(parents=True)
                build(building)
                write_manifest(building)
                os.rename(building, target)
                fsync_folder(target.parent)
        return target

    def read(self, path: Path, model: type[M]) -> M | None:
        """Return a record file, or None where it does not exist.

        Raises:
            StoreError: the file is there but damaged, or cannot be read.
            BadInputError: the store's root is, or lies under, a file.
        """
        try:
            return model.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (pydantic.ValidationError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
        except OSError as error:
            if isinstance(error, NotADirectoryError) and not self.root.is_dir():
                raise BadInputError(f"OUT is {str(self.root)!r}, but must be a folder ({error.strerror}).") from error
            raise StoreError(f"{path} cannot be read ({error.strerror})") from error
