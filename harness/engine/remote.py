"""A job on another machine: what it finds there before it runs, and how it leaves.

Invariant: a job finds what a local worker finds - the launcher's working directory, which lies in a shared folder with
the code, OUT and local models, and the thread counts - so that it does what it would do there. What does not live
here: who assigns machines (ray_executor.py, slurm_executor.py), what a job does (worker.py, jobs.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from harness import redact
from harness.engine import heap
from harness.engine.executor import WorkerDiedError, environment
from harness.errors import EXIT_TRY_AGAIN

T = TypeVar("T")
OUR_PREFIX = "HARNESS_"


def variables(num_threads: int) -> dict[str, str]:
    """Return the environment variables of a job elsewhere: those of a local worker, and the user's own for us.

    No secret is among them, since schedulers write them to disk.
    """
    given = {name: value for name, value in os.environ.items() if name.startswith(OUR_PREFIX)}
    ours = {name: value for name, value in given.items() if not redact.is_secret(name, value)}
    return environment(num_threads) | {heap.HUGE_PAGES: "1"} | ours


def run(folder: Path, call: Callable[..., T], args: tuple[Any, ...]) -> T:
    """Run a call in the launcher's working directory.

    Raises:
        WorkerDiedError: this machine does not have that folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise WorkerDiedError(
            f"{folder} cannot be entered on {os.uname().nodename} ({error.strerror}), but must be a folder that all "
            "machines share; launch from one"
        ) from error
    heap.keep_freed(os.environ)
    return call(*args)


def leave_on_signals(marker: Path, handled: Mapping[signal.Signals, str]) -> None:
    """End this process when the scheduler says so, and leave behind why.

    Every file is written whole or not at all and the kernel frees the trial's lock, so that nothing has to be finished:
    the next attempt goes on from the newest checkpoint.

    Args:
        marker: gets the text that goes with the signal.
        handled: signal -> what it means.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        try:
            marker.write_text(handled[signal.Signals(signum)])
        finally:
            os._exit(EXIT_TRY_AGAIN)

    marker.unlink(missing_ok=True)
    for name in handled:
        signal.signal(name, leave)
