"""Where a scenario runs and what it counts: output folders, an undisturbed control, a tally."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.records.schema import PlannedTrial
from tests.chaos import invariants, processes
from tests.chaos.invariants import Control
from tests.engine.trials import planned

NUM_TRIALS = 12
MAX_SHOWN = 12


class CaughtError(Exception):
    """Something is wrong, and that is all that was asked."""


@dataclass
class Tally:
    """What a scenario did and what it found."""

    until_caught: bool = False
    """Whether the first problem ends the scenario, by `CaughtError`."""

    counts: Counter[str] = field(default_factory=Counter)
    """Kills, faults, cuts, flips and so on, and trials checked against the control."""
    problems: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    """What could not be done on this machine."""

    def check(self, what: str, found: Sequence[str]) -> None:
        """Take what a detector found after something was done."""
        self.problems += [f"{what}: {problem}" for problem in found]
        if found and self.until_caught:
            raise CaughtError

    def require(self, holds: bool, what: str) -> None:
        """Take one condition, and the sentence for where it does not hold."""
        if not holds:
            self.problems.append(what)
            if self.until_caught:
                raise CaughtError


@dataclass
class Setting:
    """Gives a scenario its folders, its trials and its luck."""

    folder: Path
    """Scratch; removed by whoever made it."""
    seed: int = 0
    build: str = ""
    """A broken build, see broken.py; '' is ours."""
    count: int = 0
    """How often the scenario does what it does; what is exhaustive anyway ignores it."""
    is_long: bool = False
    tally: Tally = field(default_factory=Tally)
    _number: int = 0

    @cached_property
    def random(self) -> random.Random:
        """The scenario's random numbers."""
        return random.Random(self.seed)

    @cached_property
    def trials(self) -> list[PlannedTrial]:
        """All trials; a scenario takes the first ones."""
        return planned(NUM_TRIALS)

    @cached_property
    def control(self) -> Control:
        """What the trials leave when nothing happens, by a build that is whole."""
        root = self.fresh()
        code = processes.finish(root, self.trials)
        if code != 0:
            raise RuntimeError(f"the undisturbed run ended with {code}; see {root}.log")
        found = invariants.control_of(root)
        self.discard(root)
        return found

    def fresh(self) -> Path:
        """Return a new output folder, which does not exist yet."""
        self._number += 1
        return self.folder / f"out-{self._number}"

    def discard(self, root: Path) -> None:
        """Remove an output folder and what lies beside it."""
        shutil.rmtree(root, ignore_errors=True)
        for path in self.folder.glob(root.name + ".*"):
            path.unlink()

    def settle(self, tally: Tally, what: str, root: Path, trials: Sequence[PlannedTrial]) -> None:
        """Run the same command again, check everything, and remove the folder where all is well."""
        before = len(tally.problems)
        code = processes.finish(root, trials, self.build)
        tally.require(code == 0, f"{what}: the next start ended with {code}")
        tally.check(what, invariants.after_next_start(root, trials, self.control))
        tally.counts["trials compared"] += len(trials)
        if len(tally.problems) == before:
            self.discard(root)
