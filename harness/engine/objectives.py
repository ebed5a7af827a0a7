"""The numbers that a study is told: objectives and constraints of one trial, on val items, and their mean over seeds.

Invariant: unknown is never zero: a mean over seeds of which one has no number is no number. What does not live here:
telling (study.py), what a measure is (harness.records.measures).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from harness.records.measures import measure_mean, primary_metrics
from harness.records.schema import EvalScores, TrialResult
from harness.spec import Constraint, Measure


def objective(result: TrialResult | None, measure: Measure, value: str) -> float | None:
    """Return a measure of one trial on val items, or None where it has none.

    The measure is the mean of the primary metric over its slices. `after` is the trained model's, `delta` that less the
    base's. A metric of which less is better counts as it is: the direction of the objective must fit.
    """
    if result is None or result.after is None:
        return None
    after, before = _measure(result, result.after, measure), _measure(result, result.before, measure)
    if value == "after":
        return after
    return None if after is None or before is None else after - before


def _measure(result: TrialResult, scores: EvalScores, measure: Measure) -> float | None:
    tasks = result.spec.evals.tasks
    slices = {measure: [task.key for task in tasks if task.primary and task.measure == measure]}
    return measure_mean(scores.val, primary_metrics(slices, tasks)[measure])[0]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean over seeds, or None where there is none or one of them has no finite number."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if values and len(known) == len(values) else None


def excess(result: TrialResult | None, constraint: Constraint) -> float | None:
    """Return by how much a trial exceeds a limit: feasible at 0 or less."""
    value = column(result, constraint.column) if result is not None else None
    return None if value is None else value - constraint.at_most


def column(result: TrialResult, name: str) -> float | None:
    """Return a column that a constraint may name."""
    if "/" in name:
        side, measure = name.split("/", 1)
        return objective(result, measure, side)  # pyright: ignore[reportArgumentType]
    if name == "trainable_share":
        return result.train.trainable_parameters / result.train.total_parameters
    owner = result.provenance if name in ("peak_memory_bytes", "seconds_train") else result.train
    value = getattr(owner, name)
    return None if value is None else float(value)
