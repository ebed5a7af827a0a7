"""The scenarios by name, how often each does what it does in the short and the long set, and running them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.chaos import damage, failures, kills, processes
from tests.chaos.setting import CaughtError, Setting, Tally

Set = Literal["short", "long"]
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Scenario:
    """One kind of fault."""

    run: Callable[[Setting], Tally]
    short: int = 1
    long: int = 1
    """Counts; those of the exhaustive ones mean nothing."""


def _training(setting: Setting) -> Tally:
    from tests.chaos import training  # torch

    return training.kills(setting)


SCENARIOS: dict[str, Scenario] = {
    "worker_kills": Scenario(kills.worker_kills, 150, 2000),
    "launcher_kills": Scenario(kills.launcher_kills, 30, 300),
    "commit_points": Scenario(failures.commit_points),
    "io_calls": Scenario(failures.io_calls),
    "cut_files": Scenario(damage.cut_files),
    "bit_flips": Scenario(damage.bit_flips),
    "disk_full": Scenario(failures.disk_full),
    "many_launchers": Scenario(kills.many_launchers, 1, 10),
    "poisoned_caches": Scenario(damage.poisoned_caches),
    "signals": Scenario(kills.signals),
    "grandchildren": Scenario(kills.grandchildren),
}
TRAINING: dict[str, Scenario] = {"training": Scenario(_training, 0, 200)}
"""Of the long set alone."""


def of_set(name: Set) -> dict[str, Scenario]:
    """Return the scenarios of a set."""
    return SCENARIOS if name == "short" else SCENARIOS | TRAINING


@dataclass(frozen=True)
class Done:
    """A scenario that ran."""

    name: str
    tally: Tally
    seconds: float


def run(
    name: str, which: Set, *, seed: int = 0, build: str = "", count: int | None = None, until_caught: bool = False
) -> Done:
    """Run a scenario in a folder of its own; the short set in memory, where a disk would only be waited for.

    Args:
        name: the scenario.
        which: the set, which decides how often.
        seed: of the random points.
        build: a broken build; '' is ours.
        count: how often instead.
        until_caught: stop at the first problem.
    """
    scenario = of_set(which)[name]
    wanted = count if count is not None else scenario.short if which == "short" else scenario.long
    started = time.monotonic()
    memory = str(MEMORY) if which == "short" and os.access(MEMORY, os.W_OK) else None
    folder = tempfile.TemporaryDirectory(prefix=f"chaos-{name}-", dir=memory, ignore_cleanup_errors=True)
    setting = Setting(Path(folder.name), seed, build, wanted, which == "long", Tally(until_caught))
    try:
        with suppress(CaughtError):
            scenario.run(setting)
    finally:
        processes.end_all()
        folder.cleanup()
    return Done(name, setting.tally, time.monotonic() - started)
