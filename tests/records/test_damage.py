"""Damage and what the dead leave: found, named, set aside, made again; never read as something else."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import BusyError, StoreError
from harness.records import before, leftovers, result
from harness.records.attempts import holders, namespace, process_exists
from harness.records.schema import EvalScores, Failure
from harness.records.seal import opened, sealed
from harness.records.store import Store, append_line, lock, read_lines, set_aside, write_manifest

ROOT = Path(__file__).parents[2]
FAILURE = Failure(cause="oom", message="m", log_tail="", command="c", attempt=1, time_utc="2026-01-01T00:00:00+00:00")


# -- seals ------------------------------------------------------------------------------------------------------------


def test_seal_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path, store = tmp_path / "failure.json", Store(tmp_path)
    whole = sealed(FAILURE)
    path.write_bytes(whole)
    assert store.read(path, Failure) == FAILURE
    assert json.loads(whole)["cause"] == "oom"  # still plain JSON
    for place in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(StoreError, match=r"failure\.json is damaged"):
            store.read(path, Failure)


def test_seal_record_without_one_is_read_as_before() -> None:
    plain = FAILURE.model_dump_json(indent=1).encode()
    assert opened(plain) == plain
    assert opened(sealed(FAILURE)) == plain


def test_result_under_another_trials_name_is_damage(tmp_path: Path) -> None:
    golden = next((Path(__file__).parents[1] / "golden").glob("record_v3/trials/*/result.json"))
    folder = tmp_path / "trials" / "other"
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(golden.read_bytes())
    with pytest.raises(StoreError, match=r"result\.json is damaged: it is the result of trial"):
        result.read(folder)


def test_set_aside_takes_the_next_free_name(tmp_path: Path) -> None:
    for text in ("a", "b"):
        (tmp_path / "study.json").write_text(text)
        set_aside(tmp_path / "study.json")
    (tmp_path / "weights").mkdir()
    set_aside(tmp_path / "weights")
    names = {path.name: path.is_dir() or path.read_text() for path in tmp_path.iterdir()}
    assert names == {"study.damaged-1.json": "a", "study.damaged-2.json": "b", "weights.damaged-1": True}


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5000, 100_000])
def test_append_line_after_a_torn_row_of_any_length_loses_that_row_alone(tmp_path: Path, size: int) -> None:
    log = tmp_path / "log"
    append_line(log, {"step": 1, "text": "x" * size})
    with log.open("ab") as stream:
        stream.write(b'{"step": 2, "text": "' + b"y" * size)
    append_line(log, {"step": 3})
    assert [row["step"] for row in read_lines(log)] == [1, 3]


def test_append_line_is_held_up_by_no_process_that_is_stopped_in_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    append_line(log, {"step": 1})
    with log.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        append_line(log, {"step": 2})
    assert [row["step"] for row in read_lines(log)] == [1, 2]


def test_read_lines_row_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n5\n')
    with pytest.raises(StoreError, match="log holds a line that is not a JSON object: b'5'"):
        read_lines(tmp_path / "log")


# -- the dead ---------------------------------------------------------------------------------------------------------


def test_lock_is_freed_by_a_kill_though_a_forked_child_lives_on(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from harness.records.store import lock\n"
        "with lock(Path(sys.argv[1]), wait=False):\n"
        "    if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60); os._exit(0)\n"
        "    time.sleep(60)"
    )
    path = tmp_path / "claim"
    root = Path(__file__).parents[2]
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(BusyError), lock(path, wait=False):
            pass
        assert holders(path) == [holder.pid]
        holder.kill()
        holder.wait()
        assert process_exists(child)
        with lock(path, wait=False):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_process_exists_not_when_it_ended_and_its_parent_has_not_looked() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert process_exists(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while process_exists(child.pid):
        assert time.monotonic() < deadline
    child.wait()


def test_leftovers_of_a_process_that_is_gone_are_removed_and_no_others(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, host = namespace(), os.uname().nodename
    names = {
        f".result.json.{gone.pid}@{here}.ab12.tmp": False,
        f".result.json.{os.getpid()}@{here}.ab12.tmp": True,
        f".result.json.{gone.pid}@{here}.elsewhere.ab12.tmp": True,
        # a container that shares the host's name, whose process is alive under this number there
        f".result.json.{gone.pid}@{host}+4026532999.ab12.tmp": True,
        ".notes.tmp": True,
    }
    for name in names:
        (tmp_path / name).touch()
    assert leftovers.sweep(tmp_path) == 1
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_leftovers_of_a_look_at_the_output_folder_that_was_killed_are_removed(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom harness.records import usable\n"
        "usable.commit_once = lambda path, content: (path.touch(), 'trials' in str(path) and os.kill(os.getpid(), 9))\n"
        "usable.check(Path(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob(".check*"))) == 1
    leftovers.sweep_store(tmp_path)
    assert list(tmp_path.rglob(".check*")) == []


def test_leftovers_half_built_artefact_goes_unless_it_is_being_built(tmp_path: Path) -> None:
    kind = Store(tmp_path).artefact("before", "a").parent
    for key in ("a", "b"):
        (kind / f".{key}.building").mkdir(parents=True)
    builder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys\nwith open(sys.argv[1], 'w') as s:\n"
         "    fcntl.flock(s, fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()", str(kind / ".a.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert builder.stdout is not None
    builder.stdout.readline()
    leftovers.sweep_store(tmp_path)
    assert [path.name for path in sorted(kind.glob("*.building"))] == [".a.building"]
    builder.communicate()
    leftovers.sweep_store(tmp_path)
    assert not list(kind.glob("*.building"))


# -- artefacts --------------------------------------------------------------------------------------------------------


def scores(key: str) -> EvalScores:
    return EvalScores(key=key, test={}, val={}, items_file="items.parquet")


@pytest.mark.parametrize("poison", ["another key", "another file", "no manifest", "missing"])
def test_before_foreign_or_damaged_scores_are_set_aside_and_measured_again(
    tmp_path: Path, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, measured = Store(tmp_path), []

    def measure(folder: Path) -> None:
        measured.append(folder)
        before.write(folder, scores("a"))

    for _ in range(2):
        assert before.ensure(store, "a", measure).key == "a"
    assert len(measured) == 1
    folder = store.artefact("before", "a")
    if poison == "another key":
        before.write(folder, scores("b"))
        write_manifest(folder)
    elif poison == "another file":
        before.write(folder, scores("b"))
    else:
        (folder / ("manifest.json" if poison == "no manifest" else before.SCORES_FILE)).unlink()
    with caplog.at_level(logging.WARNING):
        assert before.ensure(store, "a", measure).key == "a"
    assert len(measured) == 2
    assert store.artefact("before", "a.damaged-1").is_dir()
    assert "is set aside as a.damaged-1" in caplog.text
