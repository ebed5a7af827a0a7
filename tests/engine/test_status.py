"""Status: from files alone, whatever state they are in, once or until the sweep is over."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.opened import open_sweep
from harness.engine import show, watching
from harness.errors import StoreError
from harness.records import result
from harness.records.seal import sealed
from harness.records.store import Store, read_manifest, write_atomic
from tests.analysis import synthetic
from tests.analysis.synthetic import build

ROOT = Path(__file__).parents[2]
SMALL = synthetic.Plan(seeds=(0, 1), values=(25, 400), scale=0.1)
WATCHED = """
import os, sys
sys.dont_write_bytecode = True
broken, *words = sys.argv[1:]
from harness import cli
from harness.engine import watching
if broken == "broken":
    from harness.records.store import lock
    plain = watching.status
    def status(request, out):
        with lock(out / ".lock", wait=False):
            return plain(request, out)
    watching.status = status
seen = []
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.utime", "fcntl.flock", "fcntl.lockf", "tempfile.mkstemp", "tempfile.mkdtemp", "subprocess.Popen")
def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in CHANGES or (writes and str(arguments[0]) != os.devnull):
        seen.append((event, str(arguments[:1])))
sys.addaudithook(hook)
sys.argv = ["harness", *words]
try:
    cli.main()
except SystemExit as ended:
    print(ended.code, seen, file=sys.stderr)
"""


def watched(kind: str, *words: str) -> tuple[str, str]:
    """Run the command line with every change of a file or lock noted; return its output and what it ended with."""
    command = [sys.executable, "-c", WATCHED, kind, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", [[], ["lima_size"]])
def test_status_opens_nothing_for_writing_and_locks_nothing_while_all_is_locked(
    name: list[str], tmp_path: Path
) -> None:
    build(tmp_path, SMALL)
    with ExitStack() as stack:
        for folder in (tmp_path, *tmp_path.glob("trials/*"), *tmp_path.glob("sweeps/*")):
            fcntl.flock(stack.enter_context((folder / ".lock").open("w")), fcntl.LOCK_EX)
        printed, ended = watched("plain", "status", *name, "--out", str(tmp_path))
    assert "lima_size@pocket:" in printed
    assert ended == "0 []"


def test_status_that_locked_or_wrote_would_be_found(tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    _, ended = watched("broken", "status", "--out", str(tmp_path))
    assert "('open'" in ended
    assert "('fcntl.flock'" in ended


def shown(view: watching.StatusView) -> str:
    console = Console(width=400)
    with console.capture() as capture:
        show.show(view, console)
    return capture.get()


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff\x00{]"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "other": lambda path: path.write_text('{"trial_id": 3}'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["result.json", "failure.json", "progress.json", "sweep.json"])
def test_status_of_a_damaged_file_says_so_and_ends_in_order(file: str, damage: str, tmp_path: Path) -> None:
    outcomes: dict[tuple[str, Any, int], str | None] = {
        ("equal_epochs", 25, 0): "FAILED",
        ("equal_epochs", 25, 1): "RUNNING",
    }
    _, name = build(tmp_path, synthetic.Plan(seeds=(0, 1), values=(25,), scale=0.1, outcomes=outcomes))
    (path, *_) = [*tmp_path.glob(f"trials/*/{file}"), *tmp_path.glob(f"sweeps/*/{file}")]
    DAMAGE[damage](path)
    view = watching.status(None, tmp_path)
    printed = shown(view)
    json.dumps(view.as_json())
    if damage == "link":  # what is not there is not damaged
        assert "DAMAGED" not in printed
    else:
        assert f"{file} " in printed
        assert "DAMAGED" in printed
    if file == "sweep.json":
        assert view.exit_code == (0 if damage == "link" else 1)
        assert view.as_json() == ([] if damage == "link" else [{"problem": view.problems[0]}])
        assert f"{name}: 1 COMPLETE" not in printed


def test_status_goes_on_while_files_are_replaced(tmp_path: Path) -> None:
    store, name = build(tmp_path, SMALL)
    files = [*tmp_path.glob("trials/*/result.json"), store.sweep(name) / "sweep.json"]
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for path in files:
                write_atomic(path, path.read_bytes(), durable=False)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        views = [shown(watching.status(None, tmp_path)) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert set(views) == {f"{name}: 8 COMPLETE\n"}


def test_watch_shows_each_change_once_and_ends_with_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, SMALL)
    first, second = sorted(tmp_path.glob("trials/*/result.json"))[:2]
    for path in (first, second):
        path.rename(path.with_name("later"))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            first.with_name("later").rename(first)
        if len(slept) == 5:
            second.with_name("later").rename(second)

    monkeypatch.setattr(watching.time, "sleep", sleep)
    counts = [view.as_json()[0]["counts"] for view in watching.watch(None, tmp_path)]
    assert counts == [{"COMPLETE": 6, "PENDING": 2}, {"COMPLETE": 7, "PENDING": 1}, {"COMPLETE": 8}]
    assert slept == [watching.SECONDS] * 5


def test_watch_on_a_terminal_redraws_in_place_and_ends_with_130_at_ctrl_c(tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    path = sorted(tmp_path.glob("trials/*/result.json"))[0]
    path.rename(path.with_name("later"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "harness", "status", "--watch", "--out", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        seen, until = b"", time.monotonic() + 60
        while b"1 PENDING" not in seen and time.monotonic() < until:
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    os.close(ours)
    assert b"\x1b[2J" in seen  # each look clears what the last one drew
    assert b"lima_size@pocket: 7 COMPLETE, 1 PENDING" in seen
    assert b"Traceback" not in seen


def test_watch_for_machines_is_one_json_a_line(tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    command = [sys.executable, "-m", "harness", "status", "--watch", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)[0]["counts"] == {"COMPLETE": 8}


# -- records that would lead out of their folder ----------------------------------------------------------------------


@pytest.mark.parametrize("trial_id", ["../../outside", "/etc", "a/b", "..", ".", "", "a\0b", "a\nb", "x" * 300])
def test_status_of_a_plan_whose_trial_is_elsewhere_is_damage(trial_id: str, tmp_path: Path) -> None:
    root = tmp_path / "out"
    store, name = build(root, SMALL)
    path = store.sweep(name) / "sweep.json"
    for where in (tmp_path / "outside", root / "a/b"):
        where.mkdir(parents=True)
        (where / "result.json").write_text("{")
    tree = json.loads(path.read_text())
    tree.pop("sha256", None)
    tree["trials"][0]["trial_id"] = trial_id
    path.write_text(json.dumps(tree))  # without a seal, as old records are
    view = watching.status(None, root)
    assert view.records == ()
    assert "is damaged" in view.problems[0]
    with pytest.raises(StoreError, match="is damaged"):
        open_sweep(store, name)


@pytest.mark.parametrize("field", ["name", "base", "set_hash"])
def test_record_whose_folder_is_elsewhere_is_damage(field: str, tmp_path: Path) -> None:
    store, name = build(tmp_path, SMALL)
    path = store.sweep(name) / "sweep.json"
    tree = json.loads(path.read_text())
    tree.pop("sha256", None)
    path.write_text(json.dumps(tree | {field: "../../outside"}))
    assert "is damaged" in watching.status(None, tmp_path).problems[0]


@pytest.mark.parametrize("name", ["../victim.parquet", "/victim.parquet", "weights/../../victim.parquet"])
def test_result_that_names_a_file_elsewhere_renames_and_reads_nothing_there(name: str, tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    path = sorted(tmp_path.glob("trials/*/result.json"))[0]
    victim = path.parents[1] / "victim.parquet"
    victim.write_text("precious")
    tree = json.loads(path.read_text())
    tree.pop("sha256", None)
    for changes in ({"files": {name: "0" * 64}}, {"before": tree["before"] | {"items_file": name}}):
        path.write_text(json.dumps(tree | changes))
        with pytest.raises(StoreError, match="is damaged"):
            result.read(path.parent)
    assert victim.read_text() == "precious"


def test_result_that_could_name_a_file_elsewhere_would_be_found(tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    path = sorted(tmp_path.glob("trials/*/result.json"))[0]
    victim = path.parents[1] / "victim.parquet"
    victim.write_text("precious")
    standing = result.read(path.parent)
    assert standing is not None
    unchecked = standing.model_copy(update={"files": {"../victim.parquet": "0" * 64}})
    with pytest.raises((StoreError, OSError, ValueError)):
        result.verify_small(path.parent, unchecked)  # without the check it reads there
    path.write_bytes(sealed(unchecked))
    with pytest.raises(StoreError, match="is damaged"):
        result.read(path.parent)  # with it, a record that says so is never opened, sealed or not


@pytest.mark.parametrize("name", ["../victim", "/victim"])
def test_manifest_that_names_a_file_elsewhere_is_damage(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.artefact("before", "k")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({name: "0" * 64}))
    assert not store.is_whole("before", "k")
    with pytest.raises(StoreError, match="is damaged"):
        read_manifest(folder)
