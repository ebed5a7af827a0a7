"""Faults from inside: at each named point of a commit, at each call to the file system, on a disk that is full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.records.points import POINTS
from harness.records.schema import PlannedTrial
from tests.chaos import broken, faults, invariants, processes
from tests.chaos.setting import Setting, Tally

LEVELS = 40
PAGE_BYTES = 4096
FULL_BYTES = 4 * 2**20


# -- commit points ----------------------------------------------------------------------------------------------------


def commit_points(setting: Setting) -> Tally:
    """Fail at every named point that a trial passes, once in each mode."""
    tally, trial = setting.tally, setting.trials[0]
    names = _counted(setting, trial, lambda: faults.strike_point(None, ""))
    passed = {name.split()[0] for name in names}
    tally.require(passed == set(POINTS), f"points that no trial passes: {sorted(set(POINTS) - passed)}")
    tally.counts["points passed"] = len(names)
    for index, name in enumerate(names):
        for mode in faults.MODES:
            root, what = setting.fresh(), f"{mode} at {name}"
            prepare = partial(_prepared, setting.build, partial(faults.strike_point, index, mode))
            pid = processes.attempt(root, trial, prepare)
            tally.counts[f"faults at points, {mode}"] += 1
            if mode == "stop":
                _take_over(setting, tally, what, root, trial, pid)
            else:
                _ended(tally, what, mode, pid)
                tally.check(what, invariants.numbered_twice(root))
            tally.check(what, invariants.always(root))
            setting.settle(tally, what, root, [trial])
    return tally


def _ended(tally: Tally, what: str, mode: str, pid: int) -> None:
    """An attempt ends by the kill, or in order: as a result or as a failure."""
    ended = processes.wait(pid)
    in_order = ended.by_signal == signal.SIGKILL if mode == "kill" else ended.code in (0, 3)
    tally.require(in_order, f"{what}: it ended with {ended}")


def _prepared(build: str, strike: Callable[[], object]) -> None:
    broken.apply(build)
    strike()


def _counted(setting: Setting, trial: PlannedTrial, strike: Callable[[], faults.Counter]) -> list[str]:
    """Return what an undisturbed attempt passes, in order."""
    root = setting.fresh()
    note = root.with_name(root.name + ".names")

    def run() -> int:
        from harness.engine import worker

        counter = strike()
        counter.root = str(root) if counter.root is not None else None
        outcome = worker.attempt(processes.job(root, trial))
        note.write_text("\n".join(counter.names))
        return 0 if outcome.state == "COMPLETE" else 3

    code = processes.wait(processes.fork(run, root.with_name(root.name + ".log"))).code
    assert code == 0, f"the attempt that is only counted ended with {code}; see {root}.log"
    names = note.read_text().splitlines()
    setting.discard(root)
    return names


def _take_over(setting: Setting, tally: Tally, what: str, root: Path, trial: PlannedTrial, pid: int) -> None:
    """Let another worker finish while the first is stopped, as on another host, and then wake the first."""
    ended = processes.wait(pid, until_stopped=True)
    tally.require(ended.stopped, f"{what}: it ended with {ended} and did not stop")
    for path in root.rglob(".*lock"):  # flock is freed by death alone; another host would not see it
        path.unlink()
    code = processes.finish(root, [trial], setting.build)
    tally.require(code == 0, f"{what}: the one that took over ended with {code}")
    path = root / "trials" / trial.trial_id / "result.json"
    stands = path.read_bytes()
    os.kill(pid, signal.SIGCONT)
    processes.wait(pid)
    tally.require(path.read_bytes() == stands, f"{what}: the woken worker overwrote the result of the other")


# -- calls to the file system -----------------------------------------------------------------------------------------


def io_calls(setting: Setting) -> Tally:
    """Fail at every call to the file system of a trial: a kill before it, EIO, or half done on a full disk.

    So at every open, write, fsync, rename, link, removal and new folder below the output folder.
    """
    tally, trial = setting.tally, setting.trials[0]
    names = _counted(setting, trial, lambda: faults.strike_call(None, "", Path("/")))
    tally.counts["calls of a trial"] = len(names)
    for index, name in enumerate(names):
        for mode in _modes(setting, index):
            root = setting.fresh()
            what = f"{mode} at call {index}, {name}"
            strike = partial(faults.strike_call, index, mode, root)
            _ended(tally, what, mode, processes.attempt(root, trial, partial(_prepared, setting.build, strike)))
            tally.counts[f"faults at calls, {mode}"] += 1
            tally.check(what, invariants.always(root))
            setting.settle(tally, what, root, [trial])
    return tally


def _modes(setting: Setting, index: int) -> tuple[str, ...]:
    """Return how a call fails: every one by a kill and by EIO, in the short set every other one on a full disk."""
    return ("kill", "EIO", "torn") if setting.is_long or index % 2 == 0 else ("kill", "EIO")


# -- a full disk ------------------------------------------------------------------------------------------------------


def disk_full(setting: Setting) -> Tally:
    """Run a sweep on file systems that hold ever more of it; with more room the same command finishes."""
    tally, trials = setting.tally, setting.trials[:2]
    assert setting.control
    problem = _mount(setting.folder / "probe", PAGE_BYTES * 4)
    if problem:
        tally.skips.append(f"disk full: a tmpfs cannot be mounted here ({problem}); run it as root")
        return tally
    _unmount(setting.folder / "probe")
    for level in range(1, LEVELS + 1):
        _on_small_disk(setting, tally, trials, level * PAGE_BYTES)
    ended = tally.counts["full disks"]
    tally.require(ended >= LEVELS // 2, f"disk full: only {ended} of {LEVELS} levels were too small: raise PAGE_BYTES")
    return tally


def _on_small_disk(setting: Setting, tally: Tally, trials: list[PlannedTrial], size: int) -> None:
    root, what = setting.fresh(), f"disk of {size} bytes"
    _mount(root, size)
    try:
        code = processes.finish(root, trials, setting.build)
        tally.counts["disks"] += 1
        tally.counts["full disks"] += code == 75
        tally.require(code in (0, 75), f"{what}: it ended with {code}")
        done = len(list(root.glob("trials/*/result.json")))
        tally.require(code != 0 or done == len(trials), f"{what}: it ended with 0, and {done} trials have a result")
        subprocess.run(["mount", "-o", f"remount,size={FULL_BYTES}", root], check=True)
        code = processes.finish(root, trials, setting.build)
        tally.require(code == 0, f"{what}: with more room it ended with {code}")
        tally.check(what, invariants.after_next_start(root, trials, setting.control))
        tally.counts["trials compared"] += len(trials)
    finally:
        _unmount(root)


def _mount(folder: Path, size: int) -> str:
    """Mount an empty file system of a size and return '', or why that cannot be."""
    folder.mkdir()
    if os.getuid() != 0 or not shutil.which("mount"):
        return "not root"
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip()


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)
