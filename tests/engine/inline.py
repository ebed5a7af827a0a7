"""An executor without processes: for tests whose trials are real but need no isolation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from harness.spec import Runtime

T = TypeVar("T")


class InlineExecutor:
    """Runs each job when it is submitted, in this process."""

    num_slots = 1
    keeps_workers = True

    def submit(self, call: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run a job now."""
        future: Future[T] = Future()
        try:
            future.set_result(call(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def stop(self) -> None:
        """Nothing runs between submits."""


def inline(num_workers: int, runtime: Runtime) -> InlineExecutor:
    """Return the executor, as `Options.executor` wants it."""
    return InlineExecutor()
