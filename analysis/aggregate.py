"""Scores of many tasks as one number: interquartile mean, performance profile, probability of improvement.

Legend: a task's values are those of its replicates (seeds). Invariant: an unknown value makes its aggregate unknown,
and tasks are fixed: nothing is claimed about other tasks. What does not live here: paired effects (stats.py).

Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv:2108.13264.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false
# scipy has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from analysis.resampling import MIN_RESAMPLED, expanded_alpha, why_no_interval
from analysis.variance import Floats
from harness.seeding import numpy_stream

NUM_RESAMPLES = 4000
ByTask = Mapping[str, Sequence[float]]
"""Task -> values of its replicates."""


@dataclass(frozen=True)
class Aggregate:
    """One number over tasks and replicates."""

    estimate: float
    low: float
    high: float
    num_tasks: int
    num_replicates: int
    """Of the task that has the fewest."""
    note: str = ""


def iqm(values: Sequence[float] | Floats) -> float:
    """Return the interquartile mean: the mean of what is left without the lowest and the highest quarter.

    Population: all values alike; floor(n / 4) are cut on each side. Direction: that of the values. nan on empty input
    and where a value is unknown.

    Source: arXiv:2108.13264, section 4.3.
    """
    known = np.asarray(values, dtype=float).ravel()
    return float(scipy.stats.trim_mean(known, 0.25)) if len(known) and not np.isnan(known).any() else math.nan


def iqm_interval(by_task: ByTask, *, shared_seeds: bool = False) -> Aggregate:
    """Return the interquartile mean over all tasks and replicates with a stratified bootstrap interval.

    Replicates are resampled within each task, 4 000 times; the percentiles are expanded for few replicates
    (resampling.py). No interval below 5 replicates of a task, with an unknown value or without spread.

    Args:
        by_task: task -> values; nan on empty input.
        shared_seeds: the same place of every task is one and the same trained model, so that they are drawn together.

    Raises:
        ValueError: seeds are shared, but tasks have different numbers of them.

    Source: arXiv:2108.13264, section 4.2.
    """
    tasks = [np.asarray(values, dtype=float) for values in by_task.values()]
    num_replicates = min(map(len, tasks), default=0)
    if shared_seeds and any(len(values) != num_replicates for values in tasks):
        raise ValueError("by_task has tasks of different lengths, but must have one value of each shared seed")
    estimate = iqm(np.concatenate(tasks)) if tasks else math.nan
    result = Aggregate(estimate, math.nan, math.nan, len(tasks), num_replicates)
    if math.isnan(estimate):
        return _without(result, "no value" if not num_replicates else "a value is unknown")
    if num_replicates < MIN_RESAMPLED:
        return _without(result, why_no_interval(num_replicates))
    if all(np.ptp(values) == 0 for values in tasks):
        return _without(result, "no interval: the replicates do not vary")
    found: Any = scipy.stats.bootstrap(
        tasks,
        _iqm_of,
        n_resamples=NUM_RESAMPLES,
        vectorized=True,
        paired=shared_seeds,
        method="percentile",
        confidence_level=1 - expanded_alpha(num_replicates),
        rng=numpy_stream(0, "analysis.iqm"),
    )
    ends = found.confidence_interval
    return Aggregate(estimate, float(ends.low), float(ends.high), len(tasks), num_replicates)


def _iqm_of(*tasks: Floats, axis: int = -1) -> Floats:
    return scipy.stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)


def _without(result: Aggregate, note: str) -> Aggregate:
    return Aggregate(result.estimate, math.nan, math.nan, result.num_tasks, result.num_replicates, note)


def performance_profile(by_task: ByTask, thresholds: Sequence[float]) -> Floats:
    """Return for each threshold the mean over tasks of the share of replicates above it.

    Population: every task counts the same, whatever its number of replicates. Direction: more is better where more of
    the score is. nan without tasks, for a task without replicates, and where a value is unknown.

    Source: arXiv:2108.13264, equation 2 (run-score distributions).
    """
    tasks = [np.asarray(values, dtype=float) for values in by_task.values()]
    limits = np.asarray(thresholds, dtype=float)
    if not tasks or any(not len(values) or np.isnan(values).any() for values in tasks):
        return np.full(len(limits), math.nan)
    return np.mean([(values[:, None] > limits).mean(axis=0) for values in tasks], axis=0)


def probability_of_improvement(first: ByTask, second: ByTask) -> float:
    """Return the mean over tasks of P(second > first) + P(equal) / 2, for replicates drawn at random.

    On a task it is Mann-Whitney's U / (n m). Population: tasks of both, each counted the same. Above 1/2 where the
    second is the better one, where more is better. nan without a common task and where a value is unknown.

    Source: arXiv:2108.13264, section 4.3.
    """
    shares = [_superiority(first[task], second[task]) for task in first if task in second]
    return float(np.mean(shares)) if shares else math.nan


def _superiority(first: Sequence[float], second: Sequence[float]) -> float:
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not len(a) or not len(b) or np.isnan(np.concatenate([a, b])).any():
        return math.nan
    return float(scipy.stats.mannwhitneyu(b, a).statistic) / (len(a) * len(b))
