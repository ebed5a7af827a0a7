"""What runs in a worker process: one trial attempt, one before-scoring, one base.

Invariant: an attempt holds the trial's lock from before it looks until after it committed, so two launchers on one
folder never run a trial at once; whatever goes wrong becomes a FAILED row with its cause, log tail and command. Free of
torch at import: the heavy packages load when a job runs. What does not live here: who submits jobs (launch.py).
"""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness import redact
from harness.engine import measurement, together
from harness.engine.executor import WorkerDiedError
from harness.engine.progress import Reporter
from harness.errors import BusyError, DiskError, HarnessError, StoreError, is_out_of_memory
from harness.identity import trial_id
from harness.records import attempts, leftovers, provenance, result
from harness.records.schema import Failure, Progress, TrialResult
from harness.records.seal import sealed
from harness.records.store import (
    Store,
    append_line,
    cut_torn_tail,
    disk_errors,
    lock,
    read_lines,
    set_aside,
    write_atomic,
)
from harness.spec import Runtime, TrialSpec

T = TypeVar("T")
LOG = logging.getLogger(__name__)
LOCK = ".lock"
LOG_TAIL_LINES = 40
EVALUATING = ("scoring after", "scoring before", "probing")
"""Phases of a trial in which nothing is trained."""
IMPORTED = ("harness.trial", "harness.evals.scoring", "transformers.generation", "transformers.modeling_layers")
ADAPTING = {"lora": ("peft",), "qlora": ("peft", "bitsandbytes")}
DISK_ERRORS = (errno.EIO, errno.ENXIO, errno.ESTALE, errno.ENOLCK)
"""What a disk or a network file system answers when it fails, besides being full or read-only."""


class TrialFunction(Protocol):
    """Runs one trial and commits its record; a module-level function, so that it can be sent to a worker."""

    def __call__(
        self, spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
    ) -> TrialResult: ...


@dataclass(frozen=True)
class TrialJob:
    """One attempt at a trial."""

    spec: TrialSpec
    root: Path
    runtime: Runtime
    run: TrialFunction
    rerun_after: int = 0
    """Failures up to this attempt are tried again; a later one was another launcher's and stands."""
    measure_into: Path | None = None
    """The store whose forecasts learn from this trial, where it is not `root`."""
    num_halvings: int = 0
    """How often the micro-batch is halved from the start, because the system killed earlier attempts for memory."""
    num_eval_halvings: int = 0
    """Likewise of the rows of an evaluation, because it killed them there."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    trial_id: str
    state: str
    """COMPLETE, DIVERGED, FAILED, or BUSY where another process holds the trial."""
    ran: bool
    cause: str | None = None
    message: str = ""
    log: str = ""
    no_disk: bool = False
    """The disk is full or read-only, so that no other trial could be recorded either."""


def run_trial(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """Run a real trial: the `TrialFunction` of every launch."""
    from harness import trial

    if runtime.num_processes > 1:
        return together.run_trial(spec, store, runtime, command, report)
    set_threads(runtime.num_threads)
    import_all(spec.method.kind)
    return trial.run_trial(spec, trial.TrialContext(store, runtime, command, report))


def import_all(method: str = "full") -> None:
    """Import what a trial of a kind of method uses, so that neither its seconds nor its memory hold it."""
    for module in IMPORTED + ADAPTING.get(method, ()):
        importlib.import_module(module)


def set_threads(num_threads: int) -> None:
    """Fix torch's threads: on CPU results are bitwise only at an equal number."""
    import torch

    torch.set_num_threads(num_threads)


def attempt(job: TrialJob) -> Outcome:
    """Try a trial once and return how it ended. Never raises for a trial's own failure.

    Raises:
        WorkerDiedError: a process that trained it with others is gone, and so is the attempt, as if this one had died.
    """
    store, key = Store(job.root), trial_id(job.spec)
    folder = store.trial(key)
    try:
        with lock(folder / LOCK, wait=False):
            return _claimed(job, store, folder, key)
    except BusyError:
        return Outcome(key, "BUSY", ran=False)
    except (StoreError, OSError) as error:  # the folder itself: it stops no other trial
        return _unrecorded(error, folder, key)


def _unrecorded(error: StoreError | OSError, folder: Path, key: str) -> Outcome:
    """Return how an attempt ended whose folder failed it: as its result says, if that was committed before."""
    full = isinstance(error, DiskError)
    try:
        standing = result.read(folder)
    except StoreError:
        standing = None
    if standing is not None:
        return Outcome(key, standing.state, ran=True, message=str(error), no_disk=full)
    return Outcome(key, "FAILED", ran=True, cause="disk", message=str(error), no_disk=full)


def _claimed(job: TrialJob, store: Store, folder: Path, key: str) -> Outcome:
    standing = _standing(folder)
    if standing is not None:
        return Outcome(key, standing.state, ran=False)
    failure = _whole(folder / result.FAILURE, lambda: result.read_failure(folder))
    if failure is not None and not failure.reruns_by_itself and failure.attempt > job.rerun_after:
        return Outcome(key, "FAILED", ran=False, cause=failure.cause, message=failure.message)
    number = _begin(job, folder)
    log = folder / "attempts" / f"{number}.log"
    reporter = Reporter(folder / "progress.json")
    command = rerun_command(key, job.root)
    try:
        try:
            with output_to(log):
                reporter(phase="start")
                finished = job.run(job.spec, store, _fitting(job), command, reporter)
        finally:
            redact_log(folder, number)
    except WorkerDiedError as error:
        with disk_errors(log), log.open("a", encoding="utf-8") as stream:
            stream.write(redact.redact(f"{error}\n"))
        raise
    # The trial boundary: whatever a trial raises becomes its row.
    except Exception as error:
        outcome = _failed(error, folder, number, log, command, key)
    else:
        _remember(job, finished, store)
        outcome = _ended(finished, log)
    finally:
        reporter.close()
        if "torch" in sys.modules:  # models hold cycles
            gc.collect()
    cause = outcome.cause if outcome.state == "FAILED" else None
    end = {"event": "end", "attempt": number, "state": outcome.state, "cause": cause}
    append_line(folder / "attempts.jsonl", end | {"time_utc": provenance.utc_now()})
    return outcome


def _remember(job: TrialJob, finished: TrialResult, store: Store) -> None:
    """Let forecasts learn from a trial; where that cannot be written the trial is none the worse."""
    try:
        measurement.remember(Store(job.measure_into or job.root), job.spec, finished, store, job.runtime)
    except (StoreError, OSError) as error:
        LOG.warning("%s; forecasts learn nothing from trial %s", error, finished.trial_id[:12])


def _ended(finished: TrialResult, log: Path) -> Outcome:
    """Return how a trial ended that has a result; one that DIVERGED says why, as a failure does."""
    why = finished.train.divergence if finished.state == "DIVERGED" else None
    if why is None:
        return Outcome(finished.trial_id, finished.state, ran=True)
    return Outcome(finished.trial_id, finished.state, ran=True, cause="nan", message=redact.redact(why), log=str(log))


def _fitting(job: TrialJob) -> Runtime:
    """Return how the trial runs, with the micro-batch that trials of its shape were found to fit in here."""
    found = measurement.num_halvings(Store(job.measure_into or job.root), job.spec, job.runtime)
    training = max(job.num_halvings, job.runtime.num_halvings, found)
    evaluation = max(job.num_eval_halvings, job.runtime.num_eval_halvings)
    return job.runtime.replace({"num_halvings": training, "num_eval_halvings": evaluation})


def _standing(folder: Path) -> TrialResult | None:
    """Return the committed result; it is set aside with what is damaged of its files, so that the trial runs again."""
    standing = _whole(folder / result.RESULT, lambda: result.read(folder))
    if standing is None:
        return None
    try:
        result.verify_small(folder, standing)
    except StoreError:
        result.set_damaged_aside(folder, standing)
        set_aside(folder / result.RESULT)  # last: a kill in between is noticed again
        return None
    return standing


def _whole(path: Path, read: Callable[[], T]) -> T | None:
    """Return what a file says, or None where it is damaged: it is then set aside under another name."""
    try:
        return read()
    except DiskError:
        raise
    except StoreError as error:
        # A file that cannot be read just now may be whole; a folder in its place never is.
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, IsADirectoryError):
            raise
        set_aside(path)
        return None


def _begin(job: TrialJob, folder: Path) -> int:
    """Write what an attempt leaves first and return its number, from 1."""
    events = folder / "attempts.jsonl"
    _whole(events, lambda: _starts(folder))
    cut_torn_tail(events)
    number = 1 + num_attempts(folder)
    redact_log(folder, number - 1)
    leftovers.sweep(folder)
    write_atomic(folder / "spec.json", job.spec.model_dump_json(indent=1).encode(), durable=False)
    write_atomic(folder / "runtime.json", job.runtime.model_dump_json(indent=1).encode(), durable=False)
    start = {"event": "start", "attempt": number, "pid": os.getpid(), "host": os.uname().nodename}
    submitted = {"slurm_job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {}
    append_line(events, start | submitted | {"time_utc": provenance.utc_now()})
    with disk_errors(folder):
        (folder / "attempts").mkdir(exist_ok=True)
    return number


def num_attempts(folder: Path) -> int:
    """Return the number of the latest attempt: the rows may be lost, and the logs carry it, too."""
    logs = [int(log.stem) for log in folder.glob("attempts/*.log") if log.stem.isdecimal()]
    try:
        return max([_starts(folder), *logs])
    except StoreError:
        return max(logs, default=0)


def newest_checkpoint(folder: Path) -> str:
    """Return the name of the newest checkpoint that a trial left, '' where there is none; names ascend."""
    return max((path.name for path in folder.glob("checkpoints/step_*")), default="")


def was_evaluating(folder: Path) -> bool:
    """Return whether the attempt that left its progress in a folder had trained, and scored or probed its model."""
    try:
        progress = Store(folder.parents[1]).read(folder / "progress.json", Progress)
    except StoreError:
        return False
    return progress is not None and progress.phase in EVALUATING


def _starts(folder: Path) -> int:
    """Return how many attempts `attempts.jsonl` tells of.

    Raises:
        StoreError: it is damaged.
    """
    path = folder / "attempts.jsonl"
    rows = read_lines(path)
    if not all("event" in row for row in rows):
        raise StoreError(f"{path} holds a line that is no event of an attempt")
    return sum(row["event"] == "start" for row in rows)


def holders(store: Store, key: str) -> list[int]:
    """Return the processes of this host that hold a trial, or have its lock open to try."""
    return attempts.holders(store.trial(key) / LOCK)


def rerun_command(key: str, root: Path) -> str:
    """Return the one line that runs this trial again."""
    return shlex.join(["python", "-m", "harness", "run-trial", key, "--out", str(root)])


# -- failures ---------------------------------------------------------------------------------------------------------


def cause_of(error: BaseException) -> str:
    """Return the class of a failure: oom, nan, data, killed, disk or bug."""
    if isinstance(error, HarnessError):
        return error.cause_class
    if is_out_of_memory(error):
        return "oom"
    return "disk" if isinstance(error, OSError) and error.errno in DISK_ERRORS else "bug"


def _failed(error: Exception, folder: Path, number: int, log: Path, command: str, key: str) -> Outcome:
    try:
        with disk_errors(folder):
            if isinstance(error, OSError):
                raise error
    except DiskError as full:
        error = full
    except OSError:
        pass
    with disk_errors(log), log.open("a", encoding="utf-8") as stream:
        stream.write(redact.redact("".join(traceback.format_exception(error))))
    message = f"{type(error).__name__}: {error}" if not isinstance(error, HarnessError) else str(error)
    outcome = record_failure(folder, key, cause_of(error), message, number, command)
    return replace(outcome, no_disk=isinstance(error, DiskError))


def record_failure(folder: Path, key: str, cause: Any, message: str, number: int, command: str) -> Outcome:
    """Write `failure.json` and return the outcome that goes with it."""
    log, message = folder / "attempts" / f"{number}.log", redact.redact(message)
    redact_log(folder, number)
    failure = Failure(
        cause=cause,
        message=message,
        log_tail=log_tail(log),
        command=command,
        attempt=number,
        time_utc=provenance.utc_now(),
    )
    write_atomic(folder / result.FAILURE, sealed(failure))
    return Outcome(key, "FAILED", ran=True, cause=cause, message=message, log=str(log))


def redact_log(folder: Path, number: int) -> None:
    """Take the secrets out of an attempt's log that C libraries, other processes or a killed worker left there."""
    log = folder / "attempts" / f"{number}.log"
    with suppress(FileNotFoundError):
        content = redact.redacted_bytes(log)
        if content is not None:
            write_atomic(log, content, durable=False)


def log_tail(log: Path, num_lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of an attempt's log, '' where there is none."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Send everything that this process prints, C libraries included, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with log.open("ab", buffering=0) as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        with redact.output():
            yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # a full disk costs the last lines of the log
                stream.flush()
        for copy, original in zip(saved, (1, 2), strict=True):
            os.dup2(copy, original)
            os.close(copy)
