"""Where a result came from: host, code, libraries, seconds, memory. Never part of identity.

Invariant: what could not be found out is None. What does not live here: anything a score depends on.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from harness.records.schema import MemoryUse, Provenance
from harness.spec import Runtime

LIBRARIES = (
    "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "lm_eval", "optuna", "wandb",
    "liger_kernel",
)  # fmt: skip


class Clock:
    """Measures one trial; `read()` gives its provenance."""

    def __init__(self, command: str, runtime: Runtime) -> None:
        self._command = command
        self._runtime = runtime
        self._started = time.perf_counter()
        self._started_utc = utc_now()
        self._seconds = {"train": 0.0, "eval": 0.0}
        self._peaks: dict[str, int | None] = {}
        begin_peak_memory()
        self._resident_at_start = peak_memory_bytes()

    @contextmanager
    def training(self) -> Generator[None, None, None]:
        """Count the seconds inside as training."""
        with self._counting("train"):
            yield

    @contextmanager
    def evaluating(self) -> Generator[None, None, None]:
        """Count the seconds inside as evaluation."""
        with self._counting("eval"):
            yield

    @contextmanager
    def _counting(self, what: str) -> Generator[None, None, None]:
        start = time.perf_counter()
        self._end_phase("load")
        try:
            yield
        finally:
            self._seconds[what] += time.perf_counter() - start
            self._end_phase(what)

    def _end_phase(self, what: str) -> None:
        """Take the peak of a phase down, and give back what it freed, so that the next has a peak of its own."""
        peaks = [peak for peak in (self._peaks.get(what), peak_memory_bytes()) if peak is not None]
        self._peaks[what] = max(peaks, default=None)
        begin_peak_memory(of_gpu=False)

    def read(self, *, device: str, num_tokens: int, held: Mapping[str, int] | None = None) -> Provenance:
        """Return the provenance so far.

        Args:
            device: where the model was, e.g. "cpu" or "cuda:0".
            num_tokens: training tokens read, for the tokens per second.
            held: what the model takes, from `methods.held_bytes`.
        """
        commit, dirty = git_state()
        peaks = [peak for peak in (*self._peaks.values(), peak_memory_bytes()) if peak is not None]
        train_seconds = self._seconds["train"]
        return Provenance(
            host=platform.node(),
            platform=platform.platform(),
            cpu=cpu_name(),
            device=device,
            num_threads=self._runtime.num_threads,
            git_commit=commit,
            git_dirty=dirty,
            libraries=library_versions(),
            command=self._command,
            started_utc=self._started_utc,
            seconds_total=time.perf_counter() - self._started,
            seconds_train=train_seconds,
            seconds_eval=self._seconds["eval"],
            tokens_per_second=num_tokens / train_seconds if train_seconds > 0 and num_tokens else None,
            peak_memory_bytes=max(peaks, default=None),
            peak_gpu_memory_bytes=_peak_gpu_memory_bytes(),
            loss_kernel=self._runtime.loss_kernel,
            memory=None if held is None else self._memory(held),
        )

    def _memory(self, held: Mapping[str, int]) -> MemoryUse:
        return MemoryUse(
            start_bytes=self._resident_at_start,
            load_peak_bytes=self._peaks.get("load"),
            train_peak_bytes=self._peaks.get("train"),
            eval_peak_bytes=self._peaks.get("eval"),
            **held,
        )


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def library_versions() -> dict[str, str]:
    """Return the installed version of each library that moves numbers, and of Python."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Return the commit of the code that runs and whether it was modified; (None, None) outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None, None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, dirty


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


@cache
def cpu_name() -> str:
    """Return the processor's model name, or what the platform calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'} x {os.cpu_count()}"


def begin_peak_memory(*, of_gpu: bool = True) -> None:
    """Let the peaks of memory begin anew at what is held now: what was freed before goes back to the system (glibc)."""
    # A worker's later trials must not inherit an earlier one's peak. 5 resets the high-water mark (Linux).
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
    finally:
        torch = sys.modules.get("torch")
        if of_gpu and torch is not None and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int | None:
    """Return the process's resident high-water mark in bytes, or None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def _peak_gpu_memory_bytes() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())
