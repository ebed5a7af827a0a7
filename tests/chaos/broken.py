"""Builds that are broken on purpose, by name: a detector that does not see them is no detector.

Each is a change inside a process that lasts as long as the process. What does not live here: which scenario must see
which build (test_chaos.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from harness.engine import executor, launch, stopping, worker
from harness.engine.executor import Executor
from harness.records import before, leftovers, points, result, seal, store
from tests.chaos import stub

T = TypeVar("T")


class Broken:
    """An executor whose workers are of a broken build."""

    def __init__(self, plain: Executor, build: str) -> None:
        self._plain, self._build = plain, build
        self.num_slots = plain.num_slots

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run a call in a worker that is broken first."""
        return self._plain.submit(run_in, self._build, call, args)

    def stop(self) -> None:
        self._plain.stop()


def run_in(build: str, call: Callable[..., T], args: tuple[Any, ...]) -> T:
    """Run a call in this process after breaking it."""
    apply(build)
    return call(*args)


def apply(build: str) -> None:
    """Break this process; '' leaves it whole."""
    if build:
        BUILDS[build]()


def _commit_replaces() -> None:
    def commit(path: Path, content: bytes) -> bool:
        store.write_atomic(path, content)
        return True

    result.commit_once = commit


def _lock_does_not_lock() -> None:
    @contextmanager
    def lock(path: Path, *, wait: bool) -> Generator[None, None, None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield

    worker.lock = store.lock = lock


def _writes_in_place() -> None:
    def write(path: Path, content: bytes, *, durable: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as stream:
            stream.write(content[: len(content) // 2])
            points.passing("temporary.written", path)
            stream.write(content[len(content) // 2 :])

    def commit(path: Path, content: bytes) -> bool:
        if path.exists():
            return False
        write(path, content)
        return True

    worker.write_atomic = store.write_atomic = write
    result.commit_once = commit


def _reader_skips_sha256() -> None:
    plain = seal.opened

    def opened(content: bytes) -> bytes:
        found = seal._SEALED.match(content)
        return plain(content) if found is None else b"{\n" + content[found.end() :]

    seal.opened = opened


def _launch_skips_files() -> None:
    result.verify_small = lambda folder, standing: None


def _manifest_unread() -> None:
    store.verify_manifest = stub.verify_manifest = store.read_manifest


def _torn_tail_kept() -> None:
    store._cut_torn_tail = lambda descriptor: None


def _leftovers_kept() -> None:
    leftovers.sweep = lambda folder: 0


def _fork_keeps_lock() -> None:
    store._HELD = _Forgetful()


class _Forgetful(set[int]):
    def add(self, element: int, /) -> None:
        """Remember nothing."""


def _cache_by_name_alone() -> None:
    before._check = lambda *_: None
    store.verify_manifest = stub.verify_manifest = store.read_manifest
    plain = before.read
    before.read = lambda kept, key, folder: plain(kept, _key_in(folder), folder)


def _key_in(folder: Path) -> str:
    text = (folder / before.SCORES_FILE).read_text()
    return text.split('"key": "')[1].split('"')[0]


def _deaf() -> None:
    stopping.SIGNALS = ()


def _says_done_on_a_full_disk() -> None:
    plain = worker.attempt

    def attempt(job: Any) -> worker.Outcome:
        outcome = plain(job)
        return worker.Outcome(outcome.trial_id, "COMPLETE", ran=True) if outcome.no_disk else outcome

    worker.attempt = attempt


def _workers_outlive() -> None:
    executor.start_worker = start_worker_that_outlives


def start_worker_that_outlives(parent: int, environment: Mapping[str, str]) -> None:
    """Prepare a worker that does not notice when its launcher dies."""
    os.environ.update(environment)


def _resumes_without_cutting_its_log() -> None:
    os.truncate = lambda path, length: None


def _forgets_attempts() -> None:
    plain = worker._begin

    def begin(job: Any, folder: Path) -> int:
        (folder / "attempts.jsonl").unlink(missing_ok=True)
        shutil.rmtree(folder / "attempts", ignore_errors=True)
        return plain(job, folder)

    worker._begin = begin


def _loses_a_trial() -> None:
    plain = launch._Launch._look

    def look(self: Any) -> None:
        plain(self)
        if self.ready:
            self.ready.pop()

    launch._Launch._look = look


BUILDS: dict[str, Callable[[], None]] = {
    "commit_replaces": _commit_replaces,
    "lock_does_not_lock": _lock_does_not_lock,
    "writes_in_place": _writes_in_place,
    "reader_skips_sha256": _reader_skips_sha256,
    "launch_skips_files": _launch_skips_files,
    "manifest_unread": _manifest_unread,
    "torn_tail_kept": _torn_tail_kept,
    "leftovers_kept": _leftovers_kept,
    "fork_keeps_lock": _fork_keeps_lock,
    "cache_by_name_alone": _cache_by_name_alone,
    "deaf": _deaf,
    "says_done_on_a_full_disk": _says_done_on_a_full_disk,
    "workers_outlive": _workers_outlive,
    "resumes_without_cutting_its_log": _resumes_without_cutting_its_log,
    "forgets_attempts": _forgets_attempts,
    "loses_a_trial": _loses_a_trial,
}
