"""Parts that members of a trial take in tests; free of torch, since every member imports this module."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Literal

from harness.engine.together import Member
from harness.engine.worker import num_attempts
from harness.errors import DataError
from harness.identity import trial_id
from harness.records.schema import TrialResult
from harness.records.store import Store, write_atomic
from harness.spec import Runtime, TrialSpec
from tests.engine.stub import run_stub

Loss = Literal["dies", "stops", "needs_halving"]


def silent(**progress: object) -> None:
    """Report nothing; it is sent to every member, and therefore lies here."""


def dies(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(*args: object) -> None:
    raise DataError("as asked")


def waits(member: Member, spec: TrialSpec, store: Store, *args: object) -> None:
    write_atomic(store.root / str(member.rank), str(os.getpid()).encode())
    threading.Event().wait(60.0)


def second_dies(member: Member, *args: Any) -> None:
    (dies if member.rank else waits)(member, *args)


def second_refuses(member: Member, *args: Any) -> None:
    (refuses if member.rank else waits)(member, *args)


def first_refuses(member: Member, *args: Any) -> None:
    (waits if member.rank else refuses)(member, *args)


def second_is_lost(
    member: Member,
    spec: TrialSpec,
    store: Store,
    runtime: Runtime,
    command: str,
    report: Callable[..., None],
    *,
    how: Loss,
    times: int,
) -> TrialResult | None:
    """Lose the second member in the first attempts, while the first trains and waits for it; then run the stub."""
    report(phase="train", step=1)
    is_lost = runtime.num_halvings < times if how == "needs_halving" else _attempt(spec, store) <= times
    if not is_lost:
        return None if member.rank else run_stub(spec, store, runtime, command, report)
    if not member.rank:
        threading.Event().wait(60.0)
    if how == "needs_halving":
        raise MemoryError("no room")
    os.kill(os.getpid(), signal.SIGKILL if how == "dies" else signal.SIGSTOP)
    return None


def _attempt(spec: TrialSpec, store: Store) -> int:
    return num_attempts(store.trial(trial_id(spec)))
