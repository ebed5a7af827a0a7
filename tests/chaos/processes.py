"""Attempts and launches in processes of their own, forked: real ones, and without the second that an import takes.

What does not live here: what is done to them (the scenarios).
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.engine import executor as executors
from harness.engine import launch, worker
from harness.engine.executor import Executor
from harness.engine.launch import Options
from harness.engine.worker import TrialJob
from harness.errors import HarnessError
from harness.records.schema import PlannedTrial
from harness.records.store import Store
from harness.spec import Runtime
from tests.chaos import broken
from tests.chaos.stub import RUNTIME, run_chaos
from tests.engine.inline import inline

WAIT_SECONDS = 300.0
CRASHED = 99
_CHILDREN: set[int] = set()
"""Children that were not waited for yet."""


def fork(call: Callable[[], int], log: Path) -> int:
    """Run a call in a child with a process group of its own and return its pid; it exits with what the call returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        _CHILDREN.add(pid)
        with suppress(OSError):  # in the child as well, whoever comes first: a kill of the group must find it
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os._exit(call())
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(CRASHED)


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int | None
    """Its exit code; None where a signal ended it."""
    by_signal: int | None
    stopped: bool = False


def wait(pid: int, seconds: float = WAIT_SECONDS, *, until_stopped: bool = False) -> Ended:
    """Wait for a child to end, or to be stopped as well.

    Raises:
        TimeoutError: it does neither in time; it is killed.
    """
    deadline = time.monotonic() + seconds
    flags = os.WNOHANG | (os.WUNTRACED if until_stopped else 0)
    while True:
        found, status = os.waitpid(pid, flags)
        if found:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            _CHILDREN.discard(pid)
            raise TimeoutError(f"process {pid} did not end within {seconds:.0f} s")
        time.sleep(0.001)
    if os.WIFSTOPPED(status):
        return Ended(None, None, stopped=True)
    _CHILDREN.discard(pid)
    if os.WIFSIGNALED(status):
        return Ended(None, os.WTERMSIG(status))
    return Ended(os.WEXITSTATUS(status), None)


def end_all() -> None:
    """End the children that a scenario left when it broke off."""
    for pid in list(_CHILDREN):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _CHILDREN.discard(pid)


def job(root: Path, trial: PlannedTrial) -> TrialJob:
    """Return one attempt at a trial of chaos."""
    return TrialJob(trial.spec, root, RUNTIME, run_chaos)


def attempt(root: Path, trial: PlannedTrial, prepare: Callable[[], object] = lambda: None) -> int:
    """Start one attempt in a child, after a preparation in it, and return its pid; it exits with 0 for COMPLETE."""

    def run() -> int:
        prepare()
        outcome = worker.attempt(job(root, trial))
        print(outcome, flush=True)
        return 0 if outcome.state == "COMPLETE" else 3

    return fork(run, _log(root))


def start(
    root: Path,
    trials: Sequence[PlannedTrial],
    num_workers: int = 2,
    view: Callable[[], launch.View] = launch.View,
    build: str = "",
    prepare: Callable[[], object] = lambda: None,
) -> int:
    """Start a launch with real workers in a child and return its pid; it exits as the command line would."""
    return fork(lambda: _launched(root, trials, num_workers, view(), build, prepare), _log(root))


def _launched(
    root: Path,
    trials: Sequence[PlannedTrial],
    num_workers: int,
    view: launch.View,
    build: str,
    prepare: Callable[[], object],
) -> int:
    broken.apply(build)
    prepare()
    how = Options(num_workers, run=run_chaos, executor=lambda n, runtime: workers(n, runtime, build), prepare=False)
    try:
        summary = launch.launch(Store(root), trials, RUNTIME, how, view)
    except HarnessError as error:
        print(error, flush=True)
        return error.exit_code
    for outcome in summary.failed:
        print(outcome, flush=True)
    print(summary.why, summary.message, flush=True)
    return summary.exit_code


def workers(num_workers: int, runtime: Runtime, build: str) -> Executor:
    """Return the real executor; of a broken build, its workers are broken as well."""
    plain = executors.local(num_workers, runtime)
    return broken.Broken(plain, build) if build else plain


def finish(root: Path, trials: Sequence[PlannedTrial], build: str = "") -> int:
    """Run the same command again, one trial after the other in one child, and return its exit code."""

    def run() -> int:
        broken.apply(build)
        how = Options(1, retry_failed=False, run=run_chaos, executor=inline, prepare=False)
        summary = launch.launch(Store(root), trials, RUNTIME, how)
        for outcome in summary.failed:
            print(outcome, flush=True)
        return summary.exit_code

    code = wait(fork(run, _log(root))).code
    return CRASHED if code is None else code


def _log(root: Path) -> Path:
    return root.with_name(root.name + ".log")


def log_tail(root: Path) -> str:
    """Return the end of what the children of an output folder printed."""
    return _log(root).read_text(errors="replace")[-1500:] if _log(root).exists() else ""


def gone(pid: int) -> bool:
    """Return whether a process is no more; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
