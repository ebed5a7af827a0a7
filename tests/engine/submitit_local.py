"""submitit's own executor of local processes as a scheduler: no daemon, real signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import submitit

from harness.engine import remote
from harness.engine.slurm_queue import Job, as_job


class LocalScheduler:
    """Runs each job in a process that submitit starts and watches."""

    def __init__(self, folder: Path) -> None:
        self._submitter = submitit.LocalExecutor(folder)
        self._submitter.update_parameters(timeout_min=5)
        self.jobs: dict[str, Any] = {}

    def submit(self, call: Callable[..., Any], *args: Any) -> Job:
        """Start a job."""
        with pytest.MonkeyPatch.context() as patch:
            # By `setup` there would be a shell between, which passes no signal on.
            for name, text in remote.variables(1).items():
                patch.setenv(name, text)
            job = self._submitter.submit(call, *args)
        self.jobs[job.job_id] = job
        return as_job(job)

    def states(self, ids: Iterable[str]) -> Mapping[str, str] | None:
        """Return RUNNING, FINISHED or INTERRUPTED."""
        return {key: self.jobs[key].state for key in ids if key in self.jobs}

    def cancel(self, ids: Iterable[str]) -> bool:
        """Signal the jobs, as scancel does."""
        for key in ids:
            self.signal(key, signal.SIGTERM)
        return True

    def signal(self, key: str, number: signal.Signals) -> None:
        """Send a signal to one job."""
        self.jobs[key]._process.send_signal(number)
