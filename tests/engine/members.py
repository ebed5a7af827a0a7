"""Parts that members of a trial take in tests; free of torch, since every member imports this module."""

from __future__ import annotations

import os
import signal
import threading

from harness.engine.together import Member
from harness.errors import DataError
from harness.records.store import Store, write_atomic
from harness.spec import TrialSpec


def dies(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(*args: object) -> None:
    raise DataError("as asked")


def waits(member: Member, spec: TrialSpec, store: Store, *args: object) -> None:
    write_atomic(store.root / str(member.rank), str(os.getpid()).encode())
    threading.Event().wait(60.0)


def second_dies(member: Member, *args: object) -> None:
    (dies if member.rank else waits)(member, *args)


def second_refuses(member: Member, *args: object) -> None:
    (refuses if member.rank else waits)(member, *args)


def first_refuses(member: Member, *args: object) -> None:
    (waits if member.rank else refuses)(member, *args)
