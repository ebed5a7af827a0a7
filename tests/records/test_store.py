"""The store: whole files or none, first wins, locks freed by the kernel, damage named."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import BadInputError, BusyError, DiskError, StoreError
from harness.records import usable
from harness.records.schema import EvalScores, Failure, Progress, Row, Score, SweepRecord, TrialResult
from harness.records.store import (
    MANIFEST,
    Store,
    append_line,
    commit_once,
    cut_torn_tail,
    lock,
    read_lines,
    verify_manifest,
    write_atomic,
    write_manifest,
)


def test_commit_once_second_writer_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    assert commit_once(target, b"first")
    assert not commit_once(target, b"second")
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


def _commit_own_name(target: str, barrier: multiprocessing.synchronize.Barrier, wins: multiprocessing.Queue) -> None:
    barrier.wait()
    wins.put(commit_once(Path(target), str(os.getpid()).encode()))


def test_commit_once_eight_processes_at_once_one_wins(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, wins = spawn.Barrier(8), spawn.Queue()
    workers = [spawn.Process(target=_commit_own_name, args=(str(tmp_path / "r"), barrier, wins)) for _ in range(8)]
    for worker in workers:
        worker.start()
    outcomes = [wins.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(outcomes) == 1
    assert int((tmp_path / "r").read_text()) in {worker.pid for worker in workers}


def test_write_atomic_into_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root ignores permission bits, so the operating system's own answer is raised at the call that would meet it.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(DiskError, match="cannot be written") as caught:
        write_atomic(tmp_path / "file", b"x")
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_output_folder_without_hard_links_is_one_sentence_before_anything_runs(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    usable.check(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr(os, "link", refuse)
    for commits in (lambda: commit_once(tmp_path / "result.json", b"{}"), lambda: usable.check(tmp_path / "out")):
        with pytest.raises(DiskError, match="its file system makes no hard links") as error:
            commits()
        assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_output_folder_whose_trials_are_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "trials").touch()
    with pytest.raises(DiskError, match="must be a folder that can be written"):
        usable.check(tmp_path)


def test_output_folder_without_locks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DiskError, match="must be a folder that can be written and locked"):
        usable.check(tmp_path / "out")


def test_write_atomic_under_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"cannot be written \(Not a directory\)"):
        write_atomic(tmp_path / "file" / "sweeps" / "sweep.json", b"x")


def test_write_atomic_on_a_full_disk_keeps_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "sweep.json"
    write_atomic(target, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match="no space left") as caught:
        write_atomic(target, b"new")
    assert caught.value.exit_code == 75
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_read_lines_torn_tail_is_left_out_and_cut(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    append_line(log, {"step": 1})
    append_line(log, {"step": 2})
    with log.open("ab") as stream:
        stream.write(b'{"step": 3, "lo')
    assert read_lines(log) == [{"step": 1}, {"step": 2}]
    cut_torn_tail(log)
    append_line(log, {"step": 3})
    assert [row["step"] for row in read_lines(log)] == [1, 2, 3]


def test_read_lines_every_cut_gives_a_prefix(tmp_path: Path) -> None:
    rows = [{"step": step, "text": "ü" * step} for step in range(4)]
    whole = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    log = tmp_path / "log"
    for cut in range(len(whole) + 1):
        log.write_bytes(whole[:cut])
        read = read_lines(log)
        assert read == rows[: len(read)]


def test_append_line_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_line(tmp_path / "log", {"loss": float("nan")})


_HOLDER = """
import sys, time
from pathlib import Path
from harness.records.store import lock
with lock(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_held_elsewhere_is_busy_and_freed_by_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    with pytest.raises(BusyError), lock(path, wait=False):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock(path, wait=False):
        pass


def test_lock_is_not_inherited_by_a_grandchild(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with lock(path, wait=False):
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], close_fds=False)
    try:
        with lock(path, wait=False):
            pass
    finally:
        grandchild.kill()
        grandchild.wait()


def test_manifest_flipped_byte_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    write_manifest(tmp_path)
    assert verify_manifest(tmp_path).keys() == {"model.safetensors"}
    (tmp_path / "model.safetensors").write_bytes(bytes(50) + b"\x01" + bytes(49))
    with pytest.raises(StoreError, match=r"model\.safetensors is damaged"):
        verify_manifest(tmp_path)


def test_ensure_artefact_killed_in_the_middle_is_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def die(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure_artefact("base", "k", die)
    assert not store.has_artefact("base", "k")
    built = store.ensure_artefact("base", "k", lambda folder: (folder / "whole").write_text("y") and None)
    assert sorted(path.name for path in built.iterdir()) == [MANIFEST, "whole"]


def test_ensure_artefact_complete_is_never_built_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    calls: list[float] = []

    def build(folder: Path) -> None:
        calls.append(time.monotonic())
        (folder / "file").write_text("x")

    assert store.ensure_artefact("base", "k", build) == store.ensure_artefact("base", "k", build)
    assert len(calls) == 1


DAMAGE = {
    "empty": b"",
    "torn": b'{"cause": "oom"',
    "another": b'{"unknown": 1}',
    "random": random.Random(0).randbytes(300),
    "zeros": bytes(300),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("result.json", TrialResult),
        ("failure.json", Failure),
        ("progress.json", Progress),
        ("sweep.json", SweepRecord),
        ("scores.json", EvalScores),
    ],
)
def test_read_damaged_record_is_named(tmp_path: Path, name: str, model: type[Row], damage: str) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGE[damage])
    with pytest.raises(StoreError, match=rf"{name} is damaged") as caught:
        Store(tmp_path).read(path, model)
    assert "\n" not in str(caught.value)
    assert Store(tmp_path).read(tmp_path / "absent.json", model) is None


def test_read_folder_in_place_of_a_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "failure.json").mkdir()
    with pytest.raises(StoreError, match=r"failure\.json cannot be read \(Is a directory\)"):
        Store(tmp_path).read(tmp_path / "failure.json", Failure)


@pytest.mark.parametrize("below", ["", "out"])
def test_read_in_a_store_that_is_no_folder_is_bad_input(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / below)
    with pytest.raises(BadInputError, match=r"OUT is '.*', but must be a folder"):
        store.read(store.trial("a") / "result.json", TrialResult)


def test_score_unknown_survives_the_disk_as_none(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    write_atomic(path, Score(value=None, num_items=0, reason="no items").model_dump_json().encode())
    read = Store(tmp_path).read(path, Score)
    assert read is not None
    assert read.value is None
    assert read.reason == "no items"
