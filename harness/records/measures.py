"""A measure from its primary slices: the one definition that frames, studies and mirrors share.

Invariant: a measure is the plain mean of its primary slices' primary metrics, in their own direction, and unknown as
soon as one of them is. What does not live here: intervals (analysis).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.records.schema import Scores
from harness.spec import EvalTask
from harness.spec.metrics import LOWER_IS_BETTER, primary_metric


def primary_metrics(measures: Mapping[str, Sequence[str]], tasks: Iterable[EvalTask]) -> dict[str, tuple[str, ...]]:
    """Return measure -> metric keys `suite/task/metric` of its primary slices.

    Args:
        measures: measure -> task keys `suite/task`, as in `SweepRecord.measures`.
        tasks: the tasks of any of the sweep's trials, which decide the metric.
    """
    metrics = {task.key: primary_metric(task) for task in tasks}
    return {
        measure: tuple(f"{key}/{metrics[key]}" for key in slices if key in metrics)
        for measure, slices in measures.items()
    }


def is_lower_better(metric_key: str) -> bool:
    """Return whether less of a metric is better; takes a metric or a key ending in one."""
    return metric_key.rsplit("/", 1)[-1] in LOWER_IS_BETTER


def measure_mean(scores: Scores, metric_keys: Sequence[str]) -> tuple[float | None, str | None]:
    """Return a measure's value, or None and why it is unknown.

    A mean over the known slices only would compare different things between trials, and a mean of accuracies with bits
    per byte means nothing: both are unknown.
    """
    if not metric_keys:
        return None, "the measure has no primary slice here"
    if len({is_lower_better(key) for key in metric_keys}) > 1:
        return None, "the measure mixes metrics of opposite direction"
    known = [score.value for key in metric_keys if (score := scores.get(key)) is not None and score.value is not None]
    if len(known) < len(metric_keys):
        unknown = [key for key in metric_keys if (score := scores.get(key)) is None or score.value is None]
        return None, f"unknown: {', '.join(unknown)}"
    return sum(known) / len(known), None
