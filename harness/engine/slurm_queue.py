"""SLURM by its own commands and submitit: what a job asks for, queueing it, its state, cancelling it.

Invariants: states come from `squeue`, which needs no accounting database; no secret of the launcher's environment goes
into a job, since SLURM writes that to disk. What does not live here: waiting for results (slurm_executor.py).
"""

# pyright: reportMissingImports=false
# submitit is an extra that may not be installed where types are checked.
from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import redact
from harness.engine import remote
from harness.errors import SpecError, UnreachableError
from harness.spec import Runtime

PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:,[A-Za-z0-9][A-Za-z0-9_.-]*)*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SIGNAL_SECONDS = 60
"""How long before its time limit a job is told."""
COMMAND_SECONDS = 60.0
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

    def submit(self, call: Callable[..., Any], *args: Any) -> Job | None:
        """Queue a job; None where SLURM does not answer now.

        Raises:
            UnreachableError: SLURM answers and takes no such job.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            return as_job(self._submitter.submit(call, *args))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            if not _answers():
                return None
            raise UnreachableError(
                f"EXECUTOR is 'slurm', but must be a queue that takes jobs ({last_line(str(error))}); mend it and run "
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

    def cancel(self, ids: Iterable[str]) -> bool:
        """End jobs, waiting ones too; return whether SLURM was told."""
        done = _command(["scancel", *ids])
        return done is not None and (done.returncode == 0 or _answers())  # it also fails where one is over already


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
        "srun_args": [f"--cpus-per-task={need.num_threads * need.num_processes}", "--export=ALL"],
        "additional_parameters": {"export": ",".join(_harmless(os.environ))},
        "signal_delay_s": SIGNAL_SECONDS,
        "setup": exports,
        **{name: value for name, value in given.items() if value is not None},
    }


def _harmless(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that a job may have: SLURM writes them into its own files."""
    given = {name: text for name, text in environment.items() if VARIABLE.fullmatch(name)}
    return [name for name, text in given.items() if not redact.is_secret(name, text)]


def _command(words: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _answers() -> bool:
    done = _command(["sinfo", "--noheader"])
    return done is not None and done.returncode == 0


def last_line(text: str) -> str:
    """Return the last line of what a program wrote."""
    return text.strip().splitlines()[-1] if text.strip() else "no reason was given"


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
            "EXECUTOR is 'slurm', but must be 'local' where submitit is not installed; run: make schedulers"
        ) from None
    names = {name.rstrip("*") for name in _partitions("%R", None)}
    missing = [name for name in (partition or "").split(",") if name and name not in names]
    if missing:
        raise SpecError(f"PARTITION is {partition!r}, but must be among {', '.join(sorted(names))}.")


def _partitions(column: str, partition: str | None) -> list[str]:
    words = ["sinfo", "--noheader", f"--format={column}", *([f"--partition={partition}"] if partition else [])]
    done = _command(words)
    if done is None or done.returncode:
        reason = last_line(done.stderr) if done is not None else "no answer"
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
