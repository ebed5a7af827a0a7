"""When a launch gives up: everything that ran failed alike, the trials that are least like the first ones included.

Invariant: one success, or a second kind of failure, ends the doubt for good. What does not live here: running trials
(launch.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.engine import measurement
from harness.engine.worker import Outcome
from harness.records.schema import PlannedTrial

EQUAL_FAILURES = 3
"""So many first outcomes with one and the same failure, and nothing else, put the launch in doubt: it then tries the
last trial of each shape, and stops where those fail the same way and more than one condition has failed."""


class Doubt:
    """What the trials that ran in a launch say about those that are left."""

    def __init__(self, trials: Mapping[str, PlannedTrial]) -> None:
        self._trials = trials
        self._kinds: set[tuple[str, str | None, str]] = set()
        self._scouts: frozenset[str] | None = None
        self.failed: list[str] = []
        """Trials that ran and failed, in that order."""
        self.num_ran = 0
        self.no_disk = False
        """The disk was full or read-only for one of them."""

    def add(self, outcome: Outcome) -> None:
        """Take a trial that ended; one that did not run says nothing."""
        if not outcome.ran:
            return
        self.num_ran += 1
        self.no_disk = self.no_disk or outcome.no_disk
        failed = outcome.state == "FAILED"
        # What is said of memory that ran out names sizes, which differ from trial to trial.
        says = outcome.message if failed and outcome.cause != "oom" else ""
        self._kinds.add((outcome.state, outcome.cause, says))
        if failed:
            self.failed.append(outcome.trial_id)

    @property
    def is_there(self) -> bool:
        """Whether everything that ran so far failed alike, often enough to be no accident."""
        return len(self._kinds) == 1 and len(self.failed) == self.num_ran >= EQUAL_FAILURES

    def is_certain(self, rerun_after: Mapping[str, int]) -> bool:
        """Return whether those that are least like the first ones failed alike as well, in more than one condition."""
        if not self.is_there:
            return False
        num_conditions = len({self._trials[key].condition_id for key in self.failed})
        return num_conditions > 1 and self.scouts(rerun_after) <= set(self.failed)

    def scouts(self, rerun_after: Mapping[str, int]) -> frozenset[str]:
        """Return the last trial of each shape, far from the first ones; one that never ran where there is one.

        Args:
            rerun_after: the trials of this launch and how often each had failed before it.
        """
        if self._scouts is None:
            tried = [key for key in self._trials if key in rerun_after]
            tried.sort(key=lambda key: rerun_after[key] == 0)
            self._scouts = frozenset({measurement.shape(self._trials[key].spec): key for key in tried}.values())
        return self._scouts
