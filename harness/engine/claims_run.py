"""Every sweep that declares claims, one after the other: which ones, one run at a time, and detached.

    OUT/claims/run.log        what the detached run prints
    OUT/claims/run.json       where the run is, and its process; gone when it ended by itself
    OUT/claims/.lock          held while it runs

Invariant: nothing is decided from these files but whether a run goes on; a run that was killed is continued by the same
command, because every sweep is. What does not live here: running a sweep (commands.py), the verdicts (claims_view.py).
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.engine import catalog
from harness.engine.progress import Reporter
from harness.engine.resolve import Request
from harness.errors import BusyError, HarnessError, StoreError
from harness.records.attempts import is_running
from harness.records.schema import Progress
from harness.records.store import Store, disk_errors, lock
from harness.spec import WORLD_SEED, Sweep

FAST_SEEDS = 2
FAST_WORLDS = 1
FAST_TRIALS = 10
"""The most trials that a sweep may have left of it to be run under `fast`."""
START_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Started:
    """A detached run."""

    pid: int
    log: Path
    is_new: bool
    """False where one was running already."""


def claim_sweeps() -> list[Sweep]:
    """Return the sweeps that declare claims, by name."""
    sweeps = (catalog.load_sweep(name) for name in catalog.sweep_names())
    return [sweep for sweep in sweeps if isinstance(sweep, Sweep) and sweep.claims]


def requests(out: Path, base: str, *, fast: bool) -> list[Request]:
    """Return what is run, in order.

    Args:
        out: the output folder.
        base: the base.
        fast: only the first seeds and worlds of each sweep, and only sweeps of few conditions and of one base; their
            trials are among those of the whole.
    """
    sweeps = [sweep for sweep in claim_sweeps() if not fast or _is_fast(sweep)]
    return [Request(name=sweep.name, base=base, set=_subset(sweep) if fast else None, out=out) for sweep in sweeps]


def _is_fast(sweep: Sweep) -> bool:
    conditions = len(sweep.arms) * math.prod(len(axis.values) for axis in sweep.axes)
    one_base = not any(axis.field.split(".")[0] == "base" for axis in sweep.axes)
    return one_base and conditions * min(FAST_SEEDS, len(sweep.seeds)) * FAST_WORLDS <= FAST_TRIALS


def _subset(sweep: Sweep) -> str | None:
    """Return what SET has to be for the first seeds and worlds; None where that is all of them."""
    less: dict[str, list[int]] = {}
    if len(sweep.seeds) > FAST_SEEDS:
        less["seed"] = list(sweep.seeds[:FAST_SEEDS])
    if len(sweep.worlds) > FAST_WORLDS:
        less[WORLD_SEED] = list(sweep.worlds[:FAST_WORLDS])
    return json.dumps(less) if less else None


# -- one at a time ----------------------------------------------------------------------------------------------------


def log_file(out: Path) -> Path:
    """Return where a detached run prints to."""
    return out / "claims" / "run.log"


def running(out: Path) -> Progress | None:
    """Return where the run in an output folder is - `phase` names the sweep, `step` of `num_steps` - or None."""
    try:
        progress = Store(out).read(out / "claims" / "run.json", Progress)
    except StoreError:
        return None
    return progress if is_running(progress, None) else None


@contextmanager
def only_run(out: Path) -> Iterator[Reporter]:
    """Be the one run of an output folder, and say where it is.

    Raises:
        BusyError: another process is.
    """
    try:
        with lock(out / "claims" / ".lock", wait=False):
            reporter = Reporter(out / "claims" / "run.json")
            try:
                yield reporter
            finally:
                reporter.close()
    except BusyError:
        raise BusyError(f"claims-run is running already in {out}; see {log_file(out)}") from None


def start(command: Sequence[str], out: Path) -> Started:
    """Start a run that outlives this process and its terminal, unless one is running.

    Args:
        command: what runs in the foreground; it enters `only_run`.
        out: the output folder.

    Raises:
        HarnessError: it ended at once.
        DiskError: the output folder cannot be written.
    """
    log = log_file(out)
    if (standing := running(out)) is not None:
        return Started(standing.pid, log, is_new=False)
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    return _seen(process, out, log)


def _seen(process: subprocess.Popen[bytes], out: Path, log: Path) -> Started:
    """Wait until a started run holds the folder, so that two starts at once cannot both say that theirs does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        code = process.poll()
        standing = running(out)
        if standing is not None and (standing.pid == process.pid or code is not None):
            return Started(standing.pid, log, is_new=standing.pid == process.pid)
        if code == 0:
            return Started(process.pid, log, is_new=True)
        if code is not None:
            raise HarnessError(f"claims-run ended at once with exit code {code}; see {log}")
        time.sleep(POLL_SECONDS)
    return Started(process.pid, log, is_new=True)
