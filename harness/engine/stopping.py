"""Stopping a launch by a signal: it ends in order, with exit code 130, and the same command goes on.

Invariant: SIGINT, SIGTERM and SIGHUP ask to stop; SIGQUIT ends a launch at once, as SIGKILL does, and its workers go
with it. A signal that was ignored before, as SIGHUP is under nohup, stays ignored. What does not live here: what is
done about it (launch.py).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Set by a signal; looked at between polls."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.wanted = True


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Have the signals set `stop`, and what they did before again at the end."""
    names = [name for name in SIGNALS if signal.getsignal(name) != signal.SIG_IGN]
    before = {name: signal.signal(name, stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
