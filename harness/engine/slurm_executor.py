"""Jobs as jobs of SLURM, one each, through submitit.

    OUT/slurm/<launch>/   .lock held while the launcher lives, jobs.txt, and what submitit writes of each job

Invariants: a job that ends without a result raises `WorkerDiedError`, and the launch decides what is tried again; the
jobs of a launcher that is gone are cancelled by the next one on its machine; a SLURM that does not answer for a while
says nothing of its jobs, and is asked again. SLURM may put a job back into its queue by itself: it then tries the same
trial again. What does not live here: SLURM's commands (slurm_queue.py), the signals' meaning for a trial (remote.py),
and what is tried again (launch.py).
"""

# pyright: reportMissingImports=false
# submitit is an extra that may not be installed where types are checked.
from __future__ import annotations

import logging
import pickle
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any, Protocol, TypeVar

from harness.engine import remote
from harness.engine.executor import KilledForMemoryError, PreemptedError, WorkerDiedError
from harness.engine.slurm_queue import ADVICE, Job, last_line
from harness.errors import BusyError, DiskError, UnreachableError
from harness.records.store import append_line, disk_errors, lock, read_lines

LOG = logging.getLogger(__name__)
T = TypeVar("T")
DEFAULT_JOBS = 16
"""Jobs in the queue at a time where WORKERS says nothing."""
OVER_SECONDS = 10.0
"""How long the result of a job that is over may take to appear in a shared folder."""
PATIENCE_SECONDS = 3600.0
"""How long SLURM may be silent, as while its controller is started anew."""
UNDER_WAY = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"),
    *("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
}
GONE = "gone from the queue"
PREEMPTED = "preempted"
TIME_IS_UP = "time"
MEMORY_KILL = re.compile(r"oom.kill|out of memory|exceeded (?:job|step) memory|exceeded memory limit", re.IGNORECASE)


class Scheduler(Protocol):
    """What the executor needs of SLURM."""

    def submit(self, call: Callable[..., Any], *args: Any) -> Job | None:
        """Queue a job; None where it does not answer now.

        Raises:
            UnreachableError: it answers and takes no such job.
        """
        ...

    def states(self, ids: Iterable[str]) -> Mapping[str, str] | None:
        """Return the states of jobs, those that it no longer knows left out; None where it does not answer now."""
        ...

    def cancel(self, ids: Iterable[str]) -> bool:
        """End jobs, waiting ones too; return whether it was told."""
        ...


# -- on the node ------------------------------------------------------------------------------------------------------


def run_job(folder: Path, call: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, Exception | None]:
    """Run a call in a job and return what it returned and what it raised."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    remote.leave_on_signals(job.paths.folder / f"{job.job_id}_left.txt", {SIGTERM: PREEMPTED, SIGUSR2: TIME_IS_UP})
    try:
        return remote.run(folder, call, args), None
    # The end of the process: as with `concurrent.futures`, whatever a call raises is its future's.
    except Exception as error:
        return None, error


# -- at the launcher --------------------------------------------------------------------------------------------------


class SlurmExecutor:
    """Slots that are jobs in a queue."""

    keeps_workers = False

    def __init__(
        self, num_slots: int, scheduler: Callable[[Path], Scheduler], root: Path, poll_seconds: float = 0.5
    ) -> None:
        """Take a folder for this launch, and cancel what launchers that are gone left in the queue.

        Args:
            num_slots: jobs in the queue at a time.
            scheduler: makes the scheduler, from the folder of the launch.
            root: the output folder, which the nodes share.
            poll_seconds: how often results are looked for; SLURM is asked every fifth time.
        """
        self.num_slots, self._poll_seconds = num_slots, poll_seconds
        with disk_errors(root), ExitStack() as stack:
            folders = root / "slurm"
            folders.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="launch-", dir=folders)).absolute()
            stack.enter_context(lock(self.folder / ".lock", wait=False))
            self._held = stack.pop_all()
        self._scheduler = scheduler(self.folder)
        cancel_orphans(folders, self._scheduler)
        self._cwd, self._guard, self._stopped = Path.cwd(), threading.Lock(), threading.Event()
        self._open: dict[str, tuple[Job, Future[Any]]] = {}
        self._waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._over_since: dict[str, float] = {}
        self._silent_since: float | None = None
        self._thread = threading.Thread(target=self._watch, name="slurm", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Queue a module-level function; its future raises `UnreachableError` where SLURM takes no such job."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        with self._guard:
            if self._stopped.is_set():
                future.set_exception(WorkerDiedError("the launcher is stopping"))
            else:
                self._waiting.append((future, call, args))
        return future

    def stop(self) -> None:
        """Cancel every job, and give up the folder; jobs that cannot be cancelled now are left to the next launch."""
        with self._guard:
            self._stopped.set()
        self._thread.join()
        told = not self._open or (self._silent_since is None and self._scheduler.cancel(self._open))
        if not told:
            LOG.warning("%d jobs could not be cancelled; the next launch on SLURM cancels them", len(self._open))
        self._fail_all(WorkerDiedError("the launcher is stopping"))
        self._held.close()
        if told and not any(self.folder.glob("*_log.*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def job_ids(self) -> list[str]:
        """Return the jobs in the queue now."""
        with self._guard:
            return list(self._open)

    def _fail_all(self, error: Exception) -> None:
        with self._guard:
            futures = [future for future, *_ in self._waiting] + [future for _, future in self._open.values()]
            self._waiting.clear()
            self._open.clear()
        for future in futures:
            _settle(future, error=error)

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        number = 0
        while not self._stopped.wait(self._poll_seconds):
            asks = number % 5 == 0
            if asks or self._silent_since is None:
                self._queue_waiting()
            with self._guard:
                jobs = dict(self._open)
            for job, future in jobs.values():
                if job.result.exists():
                    self._close(job, future)
            left = [key for key, (job, _) in jobs.items() if not job.result.exists()]
            if left and asks:
                self._look(left, jobs)
            number += 1

    def _queue_waiting(self) -> None:
        """Queue what was submitted, as far as SLURM answers."""
        while self._waiting and not self._stopped.is_set():
            future, call, args = self._waiting[0]
            try:
                job = self._scheduler.submit(run_job, self._cwd, call, args)
                self._heard(job is not None)
                if job is None:
                    return
                with self._guard:
                    self._open[job.id] = job, future
                with disk_errors(self.folder):
                    append_line(self.folder / "jobs.txt", {"job": job.id})
            except (UnreachableError, DiskError) as error:
                _settle(future, error=error)
            self._waiting.popleft()

    def _heard(self, answered: bool) -> None:
        """Note whether SLURM answered, and give up one that was silent for too long."""
        now = time.monotonic()
        if answered:
            if self._silent_since is not None:
                LOG.warning("SLURM answers again")
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
            text = "SLURM does not answer; its jobs go on, and it is asked again for up to %.0f minutes"
            LOG.warning(text, PATIENCE_SECONDS / 60)
        elif now - self._silent_since > PATIENCE_SECONDS:
            self._fail_all(
                UnreachableError(
                    f"EXECUTOR is 'slurm', but must be a SLURM that answers (it did not for {PATIENCE_SECONDS:.0f} "
                    f"seconds); start it and run the same command again, {ADVICE}."
                )
            )

    def _look(self, ids: list[str], jobs: dict[str, tuple[Job, Future[Any]]]) -> None:
        """Give up jobs that have been over for a while without a result."""
        states = self._scheduler.states(ids)
        self._heard(states is not None)
        if states is None:
            return
        for key in ids:
            state = states.get(key, GONE)
            if state in UNDER_WAY:
                self._over_since.pop(key, None)
                continue
            since = self._over_since.setdefault(key, time.monotonic())
            if time.monotonic() - since >= min(OVER_SECONDS, 10 * self._poll_seconds):
                job, future = jobs[key]
                self._forget(job)
                _settle(future, error=_death(job, state))

    def _close(self, job: Job, future: Future[Any]) -> None:
        """Hand over a result and remove what the job left."""
        self._forget(job)
        try:
            value, error = _read(job)
        except WorkerDiedError as lost:
            _settle(future, error=lost)
            return
        for path in job.result.parent.glob(f"{job.id}_*"):
            path.unlink(missing_ok=True)
        _settle(future, value, error)

    def _forget(self, job: Job) -> None:
        with self._guard:
            self._open.pop(job.id, None)


def _read(job: Job) -> tuple[Any, Exception | None]:
    """Return what a job's call returned and raised.

    Raises:
        WorkerDiedError: the call was not run, or what it returned cannot be read.
    """
    try:
        outcome, content = pickle.loads(job.result.read_bytes())
    except (pickle.UnpicklingError, EOFError, OSError, AttributeError, ImportError, TypeError, ValueError) as error:
        raise WorkerDiedError(f"{job.result} cannot be read ({type(error).__name__}: {error})") from error
    if outcome == "error":  # not what the call raised, but what kept it from running
        raise WorkerDiedError(f"SLURM job {job.id} could not run it ({last_line(content)})")
    return content


def _settle(future: Future[Any], value: Any = None, error: Exception | None = None) -> None:
    with suppress(InvalidStateError):  # `stop` was quicker
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)


def _death(job: Job, state: str) -> WorkerDiedError:
    """Return what a job died of, by its state, what it left behind, and what SLURM wrote."""
    left = _text(job.marker)
    message = f"SLURM job {job.id} ended as {state} without a result; see {job.output}"
    if state == "PREEMPTED" or (left == PREEMPTED and not state.startswith("CANCELLED")):
        return PreemptedError(message)
    if state == "OUT_OF_MEMORY" or MEMORY_KILL.search(_text(job.output)):
        return KilledForMemoryError(f"{message}; it took more than runtime.memory_gb, or what SLURM gives")
    if left == TIME_IS_UP or state == "TIMEOUT":
        return WorkerDiedError(f"{message}; its time was up: raise runtime.time_limit_minutes")
    return WorkerDiedError(message)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def cancel_orphans(folders: Path, scheduler: Scheduler) -> None:
    """Cancel the jobs of launchers of this machine that are gone: nobody waits for what those compute."""
    for folder in folders.glob("launch-*"):
        try:
            with lock(folder / ".lock", wait=False):
                ids = [str(row["job"]) for row in read_lines(folder / "jobs.txt")]
                states = scheduler.states(ids) if ids else {}
                under_way = [key for key in ids if (states or {}).get(key) in UNDER_WAY]
                # Jobs of which nothing is known are left to the next launch.
                if states is not None and (not under_way or scheduler.cancel(under_way)):
                    shutil.rmtree(folder, ignore_errors=True)
        except BusyError:
            continue
