"""Kills and signals from outside: workers, launchers, process groups, and many launchers at once."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from harness.engine import launch, worker
from harness.records.schema import PlannedTrial
from harness.records.store import Store
from tests.chaos import broken, invariants, processes, stub
from tests.chaos.setting import Setting, Tally

STEP_SECONDS = 0.004
SPAN_SECONDS = 0.06
"""A kill comes at a random moment so long after a trial began: in it, in its commit, or in the next one's claim."""
KILL_SHARE = 0.6
WILD_SECONDS = 1.5
"""Besides, any worker is killed at random about so often, those that just start included."""
ORPHAN_SECONDS = 20.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
PHASES = ("begin", "started", "running", "finished", "end")


# -- workers ----------------------------------------------------------------------------------------------------------


def worker_kills(setting: Setting) -> Tally:
    """Kill workers of running launches at random points; each launch is one of twelve trials on four workers."""
    tally, trials = setting.tally, setting.trials
    assert setting.control
    while tally.counts["kills"] < setting.count:
        root = setting.fresh()
        stub.pace(root, STEP_SECONDS)
        launcher = processes.start(root, trials, num_workers=4, build=setting.build)
        for pid in _victims(setting, root, launcher):
            if tally.counts["kills"] < setting.count and _kill(pid, launcher):
                tally.counts["kills"] += 1
        ended = processes.wait(launcher)
        tally.require(ended.code in (0, 1), f"kills: the launcher ended with {ended}: {processes.log_tail(root)}")
        tally.check("after kills", invariants.always(root) + invariants.numbered_twice(root))
        setting.settle(tally, "worker kills", root, trials)
    return tally


def _victims(setting: Setting, root: Path, launcher: int) -> Iterator[int]:
    """Yield the workers to kill, each at its moment, until the launcher ends."""
    due: list[tuple[float, int]] = []
    seen, luck = 0, setting.random
    wild = time.monotonic() + luck.expovariate(1 / WILD_SECONDS)
    while not processes.gone(launcher):
        lines = [line for line in stub.told(root) if line.event == "run"]
        now = time.monotonic()
        chosen = [line.pid for line in lines[seen:] if luck.random() < KILL_SHARE]
        due += [(now + luck.uniform(0.0, SPAN_SECONDS), pid) for pid in chosen]
        seen = len(lines)
        if now > wild and (workers := _children(launcher)):
            due.append((now, luck.choice(workers)))
            wild = now + luck.expovariate(1 / WILD_SECONDS)
        for entry in [entry for entry in due if entry[0] <= now]:
            due.remove(entry)
            yield entry[1]
        time.sleep(0.002)


def _children(launcher: int) -> list[int]:
    path = Path(f"/proc/{launcher}/task")
    found: list[int] = []
    for thread in path.glob("*/children"):
        with suppress(OSError):
            found += map(int, thread.read_text().split())
    return found


def _kill(pid: int, launcher: int) -> bool:
    """Kill a worker, and no stranger that got its number; return whether it was alive until then."""
    if pid not in _children(launcher) or processes.gone(pid):
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


# -- launchers --------------------------------------------------------------------------------------------------------


def launcher_kills(setting: Setting) -> Tally:
    """Kill a launcher, or it and its workers at once, at a random moment; what it leaves is finished by the next."""
    tally, trials = setting.tally, setting.trials[:4]
    assert setting.control
    killed = 0
    while killed < setting.count:
        root = setting.fresh()
        stub.pace(root, STEP_SECONDS)
        launcher = processes.start(root, trials, build=setting.build)
        _wait_for_moment(setting, root, launcher)
        workers = _children(launcher)
        whole_group = killed % 2 == 1
        with suppress(ProcessLookupError):
            (os.killpg if whole_group else os.kill)(launcher, signal.SIGKILL)
        if processes.wait(launcher).by_signal == signal.SIGKILL:  # one that had ended by then counts for nothing
            tally.counts["group kills" if whole_group else "launcher kills"] += 1
            killed += 1
        _orphans(tally, workers)
        tally.check("after a kill", invariants.always(root))
        setting.settle(tally, "launcher kills", root, trials)
    return tally


def _wait_for_moment(setting: Setting, root: Path, launcher: int) -> None:
    """Wait until a random trial has begun, and a little longer; now and then only until the workers start."""
    target = setting.random.choice((0, 1, 2, 2, 3, 4))
    while sum(line.event == "run" for line in stub.told(root)) < target and not processes.gone(launcher):
        time.sleep(0.002)
    time.sleep(setting.random.uniform(0.0, 0.4 if target == 0 else SPAN_SECONDS))


def _orphans(tally: Tally, workers: list[int]) -> None:
    """No worker outlives its launcher; those of a broken build are ended here."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline and not all(processes.gone(pid) for pid in workers):
        time.sleep(0.01)
    left = [pid for pid in workers if not processes.gone(pid)]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    tally.require(not left, f"orphans: {len(left)} workers outlived their launcher")


def many_launchers(setting: Setting) -> Tally:
    """Start eight launchers on one folder at once: no trial is run twice, none is lost."""
    tally, trials = setting.tally, setting.trials
    assert setting.control
    for _ in range(setting.count):
        root = setting.fresh()
        stub.pace(root, STEP_SECONDS)
        launchers = [processes.start(root, trials, num_workers=1, build=setting.build) for _ in range(8)]
        ended = [processes.wait(launcher) for launcher in launchers]
        tally.counts["launchers"] += len(launchers)
        tally.check("eight launchers", invariants.run_twice(root))
        tally.require(all(one.code == 0 for one in ended), f"launchers: they ended with {ended}; see {root}.log")
        tally.check("eight launchers", invariants.after_next_start(root, trials, setting.control))
        tally.check("eight launchers", invariants.unreadable(root, trials, setting.control))
        tally.counts["trials compared"] += len(trials)
    return tally


# -- signals ----------------------------------------------------------------------------------------------------------


class SignalAt(launch.View):
    """Sends its own launcher a signal in a phase."""

    def __init__(self, phase: str, number: int) -> None:
        self._phase, self._number = phase, number

    def _reach(self, phase: str) -> None:
        if phase == self._phase:
            self._phase = ""
            os.kill(os.getpid(), self._number)

    def begin(self, *_: Any) -> None:
        self._reach("begin")

    def started(self, *_: Any) -> None:
        self._reach("started")

    def finished(self, *_: Any) -> None:
        self._reach("finished")

    def end(self) -> None:
        self._reach("end")


def signals(setting: Setting) -> Tally:
    """Send each signal in each phase of a launch: it ends in order, or at once, and the next start finishes."""
    tally, trials = setting.tally, setting.trials[:3]
    assert setting.control
    for number in SIGNALS:
        for phase in PHASES:
            root = setting.fresh()
            stub.pace(root, STEP_SECONDS)
            name = f"{number.name} when {phase}"
            launcher = processes.start(
                root, trials, 1, partial(SignalAt, phase, number), setting.build, _as_in_a_terminal
            )
            if phase == "running":
                _await_run(root, launcher)
                os.kill(launcher, number)
            ended = processes.wait(launcher)
            tally.counts["signals"] += 1
            tally.require(_expected(ended, number, phase), f"{name}: the launcher ended with {ended}")
            tally.check(name, invariants.always(root))
            setting.settle(tally, name, root, trials)
    return tally


def _await_run(root: Path, launcher: int) -> None:
    while not stub.told(root) and not processes.gone(launcher):
        time.sleep(0.002)


def _expected(ended: processes.Ended, number: signal.Signals, phase: str) -> bool:
    if number == signal.SIGQUIT:
        return ended.by_signal == number
    return ended.code == 130 or (phase == "end" and ended.code == 0)


def _as_in_a_terminal() -> None:
    """Take signals as a program in a terminal does: a shell starts what runs behind it with some of them ignored."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


# -- grandchildren ----------------------------------------------------------------------------------------------------


def grandchildren(setting: Setting) -> Tally:
    """Kill a worker whose child lives on: the trial runs again at once, or the child that keeps it is named."""
    tally, trial = setting.tally, setting.trials[0]
    assert setting.control
    for fork in (os.fork, ctypes.CDLL(None).fork):
        root = setting.fresh()
        note = root.with_name(root.name + ".grandchild")
        pid = processes.attempt(root, trial, partial(_fork_when_running, fork, note, setting.build))
        processes.wait(pid)
        grandchild = int(note.read_text())
        held = worker.holders(Store(root), trial.trial_id)
        tally.counts["surviving grandchildren"] += 1
        if fork is os.fork:
            _runs_at_once(setting, tally, root, trial, held)
        tally.require(fork is os.fork or held == [grandchild], f"grandchild: {held} is named, not {grandchild}")
        os.kill(grandchild, signal.SIGKILL)
        while not processes.gone(grandchild):
            time.sleep(0.01)
        setting.settle(tally, "grandchild", root, [trial])
    return tally


def _fork_when_running(fork: Callable[[], int], note: Path, build: str) -> None:
    """Make this attempt fork a child that sleeps, once the trial is claimed, and then kill itself."""
    broken.apply(build)
    plain = worker._begin

    def begin(job: Any, folder: Path) -> int:
        number = plain(job, folder)
        child = fork()
        if child == 0:
            os.setpgid(0, 0)
            time.sleep(60)
            os._exit(0)
        note.write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    worker._begin = begin


def _runs_at_once(setting: Setting, tally: Tally, root: Path, trial: PlannedTrial, held: list[int]) -> None:
    tally.require(not held, f"grandchild: {held} keeps the lock of a dead worker")
    code = processes.wait(processes.attempt(root, trial)).code
    tally.require(code == 0, f"grandchild: the trial of a dead worker does not run again ({code})")
    seen = Counter(line.event for line in stub.told(root))
    tally.require(seen["committed"] == 1, "grandchild: the trial of a dead worker was not committed")
