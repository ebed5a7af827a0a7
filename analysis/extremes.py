"""Slices whose score before training lies at an end of its scale: what can only move one way there shows half of it.

Invariant: an end is measured by the interval of the score's own items, or was declared before any score; a score that
is unknown or is no share of right items is at none. What does not live here: who declares (harness.spec.Experiment),
when it is said (harness/engine/extremes.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.records.schema import BINARY_METRICS, Score, Scores, primary_metric
from harness.spec import EvalTask

End = Literal["floor", "ceiling"]
CEILING = 0.99
"""A share whose interval reaches above is at its ceiling; an open answer has its floor as far from 0."""
STARTS_LOW = frozenset({"learned", "format", "behaviour"})
"""Measures of what training teaches: that they are at the floor before is no finding."""
CANNOT_SHOW: dict[str, str] = {"floor": "a fall", "ceiling": "a rise"}
Declared = tuple[str, str, str]
"""A slice by its name without the suite, at which end it is, and why."""


@dataclass(frozen=True)
class Extreme:
    """A slice at an end of its scale."""

    key: str
    """`suite/task`."""
    end: End
    why: str
    source: Literal["declared", "measured"]

    @property
    def sentence(self) -> str:
        """What is said of it before it is scored, and in the report."""
        return f"{self.key} is at {self.end} before training ({self.why}): {CANNOT_SHOW[self.end]} cannot show there"


def ends_of(score: Score) -> tuple[End, ...]:
    """Return at which ends a share of right items is, by its Wilson 95 % interval; few items may not tell it from both.

    floor: the interval contains what guessing scores, or lies below it. An open answer has no such number: there the
    interval must reach below 1 - `CEILING`. ceiling: it reaches above `CEILING`. () of an unknown score.
    """
    if score.value is None or not score.num_items:
        return ()
    low, high = _interval(score.value, score)
    found: list[End] = ["floor"] if low <= max(score.chance or 0.0, 1 - CEILING) else []
    return (*found, "ceiling") if high > CEILING else tuple(found)


def _interval(value: float, score: Score) -> tuple[float, float]:
    from analysis.stats import wilson  # scipy and statsmodels take a second, and a launch without a score needs none

    return wilson(value * score.num_items, score.num_items)


def declared_extremes(tasks: Iterable[EvalTask], declared: Iterable[Declared]) -> tuple[Extreme, ...]:
    """Return the slices that an experiment declares, of those that are asked."""
    said = {name: (end, why) for name, end, why in declared}
    return tuple(Extreme(task.key, *said[task.name], "declared") for task in tasks if task.name in said)


def measured_extremes(tasks: Iterable[EvalTask], before: Scores) -> tuple[Extreme, ...]:
    """Return the slices whose primary metric was at an end on test items before training.

    Metrics that are no share of right items have no end; what training teaches counts at the ceiling alone.

    Args:
        tasks: the slices.
        before: metric key -> score.
    """
    return tuple(found for task in tasks for found in _of_task(task, before))


def _of_task(task: EvalTask, before: Scores) -> Iterator[Extreme]:
    metric = primary_metric(task)
    score = before.get(f"{task.key}/{metric}")
    if score is None or metric not in BINARY_METRICS:
        return
    for end in ends_of(score):
        if end == "ceiling" or task.measure not in STARTS_LOW:
            yield Extreme(task.key, end, _measured(score, metric), "measured")


def _measured(score: Score, metric: str) -> str:
    value = score.value or 0.0
    low, high = _interval(value, score)
    guessed = "" if score.chance is None else f", guessing {score.chance:.3f}"
    return f"{metric} {value:.3f} [{low:.3f}, {high:.3f}] on {score.num_items} items{guessed}"


def all_extremes(
    tasks: Sequence[EvalTask], declared: Iterable[Declared], befores: Iterable[Scores]
) -> tuple[Extreme, ...]:
    """Return what is declared, then what was measured: of several bases the first at which a slice is at that end."""
    found: dict[tuple[str, str], Extreme] = {}
    for scores in befores:
        for one in measured_extremes(tasks, scores):
            found.setdefault((one.key, one.end), one)
    return (*declared_extremes(tasks, declared), *found.values())
