"""Jobs as jobs of SLURM, one each, through submitit.

    OUT/slurm/<launch>/   .lock held while the launcher lives, jobs.txt, and what submitit writes of each job

Invariants: a job that ends without a result raises `WorkerDiedError`, and the launch decides what is tried again; the
jobs of a launcher that is gone are cancelled by the next one on its machine. States come from `squeue`, which needs no
accounting database. SLURM may put a job back into its queue by itself: it then tries the same trial again. What does
not live here: the signals' meaning for a trial (remote.py), and what is tried again (launch.py).
"""

# pyright: reportMissingImports=false
# submitit is an extra that may not be installed where types are checked.
from __future__ import annotations

import pickle
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any, Protocol, TypeVar

from harness.engine import remote
from harness.engine.executor import KilledForMemoryError, PreemptedError, WorkerDiedError
from harness.errors import BusyError, SpecError, UnreachableError
from harness.records.store import append_line, disk_errors, lock, read_lines
from harness.spec import Runtime

T = TypeVar("T")
PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:,[A-Za-z0-9][A-Za-z0-9_.-]*)*")
DEFAULT_JOBS = 16
"""Jobs in the queue at a time where WORKERS says nothing."""
SIGNAL_SECONDS = 60
"""How long before its time limit a job is told."""
COMMAND_SECONDS = 60.0
OVER_SECONDS = 10.0
"""How long the result of a job that is over may take to appear in a shared folder."""
UNDER_WAY = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"),
    *("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
}
GONE = "gone from the queue"
PREEMPTED = "preempted"
TIME_IS_UP = "time"
MEMORY_KILL = re.compile(r"oom.kill|out of memory|exceeded (?:job|step) memory|exceeded memory limit", re.IGNORECASE)
ADVICE = "or continue on this machine with the same command without EXECUTOR"


@dataclass(frozen=True)
class Job:
    """One submitted job."""

    id: str
    result: Path
    """Appears whole, with what the job returned or raised."""
    output: Path
    """What it and SLURM about it wrote on stderr."""

    @property
    def marker(self) -> Path:
        """Why it left, where it was told to."""
        return self.result.with_name(f"{self.id}_left.txt")


class Scheduler(Protocol):
    """What the executor needs of SLURM."""

    def submit(self, call: Callable[..., Any], *args: Any) -> Job:
        """Queue a job."""
        ...

    def states(self, ids: Iterable[str]) -> Mapping[str, str] | None:
        """Return the states of jobs, those that it no longer knows left out; None where it does not answer now."""
        ...

    def cancel(self, ids: Iterable[str]) -> None:
        """End jobs, waiting ones too."""
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
        self._over_since: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch, name="slurm", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Queue a module-level function.

        Raises:
            UnreachableError: SLURM takes no job.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        with self._guard:
            if self._stopped.is_set():
                future.set_exception(WorkerDiedError("the launcher is stopping"))
                return future
            job = self._scheduler.submit(run_job, self._cwd, call, args)
            append_line(self.folder / "jobs.txt", {"job": job.id})
            self._open[job.id] = job, future
        return future

    def stop(self) -> None:
        """Cancel every job, and give up the folder."""
        self._stopped.set()
        with self._guard:
            left = dict(self._open)
            self._open.clear()
        if left:
            self._scheduler.cancel(left)
        for _, future in left.values():
            _settle(future, error=WorkerDiedError("the launcher is stopping"))
        self._thread.join()
        self._held.close()
        if not any(self.folder.glob("*_log.*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def job_ids(self) -> list[str]:
        """Return the jobs in the queue now."""
        with self._guard:
            return list(self._open)

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        number = 0
        while not self._stopped.wait(self._poll_seconds):
            with self._guard:
                jobs = dict(self._open)
            for job, future in jobs.values():
                if job.result.exists():
                    self._close(job, future)
            left = [key for key, (job, _) in jobs.items() if not job.result.exists()]
            if left and number % 5 == 0:
                self._look(left, jobs)
            number += 1

    def _look(self, ids: list[str], jobs: dict[str, tuple[Job, Future[Any]]]) -> None:
        """Give up jobs that have been over for a while without a result."""
        states = self._scheduler.states(ids)
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
        raise WorkerDiedError(f"SLURM job {job.id} could not run it ({_last_line(content)})")
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


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason was given"


def cancel_orphans(folders: Path, scheduler: Scheduler) -> None:
    """Cancel the jobs of launchers of this machine that are gone: nobody waits for what those compute."""
    for folder in folders.glob("launch-*"):
        try:
            with lock(folder / ".lock", wait=False):
                ids = [str(row["job"]) for row in read_lines(folder / "jobs.txt")]
                states = scheduler.states(ids) or {} if ids else {}
                under_way = [key for key in ids if states.get(key) in UNDER_WAY]
                if under_way:
                    scheduler.cancel(under_way)
                shutil.rmtree(folder, ignore_errors=True)
        except BusyError:
            continue


# -- SLURM ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What one job asks of SLURM."""

    num_threads: int
    partition: str | None = None
    time_limit_minutes: int | None = None
    memory_gb: float | None = None
    num_gpus: int = 0
    num_processes: int = 1


class Slurm:
    """The SLURM of this machine, by its own commands and submitit."""

    def __init__(self, folder: Path, need: Need) -> None:
        from submitit import SlurmExecutor as Submitter

        self._folder = folder
        self._submitter = Submitter(folder, max_num_timeout=0)
        self._submitter.update_parameters(**_parameters(need))

    def submit(self, call: Callable[..., Any], *args: Any) -> Job:
        """Queue a job.

        Raises:
            UnreachableError: SLURM takes no job.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            return as_job(self._submitter.submit(call, *args))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise UnreachableError(
                f"EXECUTOR is 'slurm', but must be a queue that takes jobs ({_last_line(str(error))}); mend it and run "
                f"the same command again, {ADVICE}."
            ) from error

    def states(self, ids: Iterable[str]) -> Mapping[str, str] | None:
        """Return the states of jobs, those that SLURM no longer knows left out; None where it does not answer now."""
        words = ["squeue", "--noheader", "--states=all", "--format=%i|%T", f"--jobs={','.join(ids)}"]
        done = _command(words)
        if done is None or (done.returncode and "Invalid job id" not in done.stderr):
            return None
        rows = (line.strip().split("|") for line in done.stdout.splitlines() if "|" in line)
        return {row[0]: row[1] for row in rows}

    def cancel(self, ids: Iterable[str]) -> None:
        """End jobs, waiting ones too."""
        _command(["scancel", *ids])


def as_job(job: Any) -> Job:
    """Return what is needed of one of submitit's jobs."""
    return Job(job.job_id, job.paths.result_pickle, job.paths.stderr)


def _parameters(need: Need) -> dict[str, Any]:
    """Return what submitit writes into a job's script."""
    given = {
        "partition": need.partition,
        "mem": None if need.memory_gb is None else f"{int(need.memory_gb * 1024)}MB",
        "gpus_per_node": need.num_gpus or None,
    }
    exports = [f"export {key}={shlex.quote(text)}" for key, text in remote.variables(need.num_threads).items()]
    return {
        "job_name": "sft-ablation",
        "time": need.time_limit_minutes,  # without one submitit would say 5 minutes, None the partition's default
        "cpus_per_task": need.num_threads * need.num_processes,
        # A step no longer takes this over from its job.
        "srun_args": [f"--cpus-per-task={need.num_threads * need.num_processes}"],
        "signal_delay_s": SIGNAL_SECONDS,
        "setup": exports,
        **{name: value for name, value in given.items() if value is not None},
    }


def _command(words: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None


def check(partition: str | None) -> None:
    """Refuse a SLURM that cannot be used from here.

    Raises:
        SpecError: there is none on this machine, submitit is missing, or there is no such partition.
        UnreachableError: it does not answer.
    """
    if partition is not None and PARTITION.fullmatch(partition) is None:
        raise SpecError(f"PARTITION is {partition!r}, but must be names of partitions with commas between; see sinfo.")
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise SpecError(
            f"EXECUTOR is 'slurm', but must be 'local' where there is no sbatch; run it on a login node, {ADVICE}."
        )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise SpecError(
            "EXECUTOR is 'slurm', but must be 'local' where submitit is not installed; "
            "run: .venv/bin/pip install -c constraints.txt -e '.[slurm]'"
        ) from None
    names = {name.rstrip("*") for name in _partitions("%R", None)}
    missing = [name for name in (partition or "").split(",") if name and name not in names]
    if missing:
        raise SpecError(f"PARTITION is {partition!r}, but must be among {', '.join(sorted(names))}.")


def _partitions(column: str, partition: str | None) -> list[str]:
    words = ["sinfo", "--noheader", f"--format={column}", *([f"--partition={partition}"] if partition else [])]
    done = _command(words)
    if done is None or done.returncode:
        reason = _last_line(done.stderr) if done is not None else "no answer"
        raise UnreachableError(
            f"EXECUTOR is 'slurm', but must be a SLURM that answers ({reason}); start it and run the same command "
            f"again, {ADVICE}."
        )
    return done.stdout.split()


def need(partition: str | None, runtime: Runtime) -> Need:
    """Return what a trial asks for; under device `auto` a GPU where the partition has any, and one a process."""
    has_gpus = runtime.device == "auto" and any("gpu" in text for text in _partitions("%G", partition))
    num_gpus = runtime.num_processes * int(runtime.device == "cuda" or has_gpus)
    limits = runtime.time_limit_minutes, runtime.memory_gb
    return Need(runtime.num_threads, partition, *limits, num_gpus, runtime.num_processes)
