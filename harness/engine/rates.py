"""Seconds, tokens and disk of trials, from rows that trials of their shape and setting left.

Invariant: a rank or a setting that nobody measured has no rates; rows of earlier versions tell less, and what they do
not tell is taken to be alike. What does not live here: how rows come to be (measurement.py), memory (footprint.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from harness.engine.measurement import Measurement, num_validations, rank, setting
from harness.spec import FullConfig, Runtime, TrialSpec


@dataclass(frozen=True)
class Rates:
    """What trials of one shape, setting and rank cost."""

    seconds_per_step: float
    seconds_per_validation: float
    seconds_besides: float
    tokens_per_step: float
    disk_bytes: float
    examples_per_step: float
    """NaN where rows of earlier versions do not tell."""

    @classmethod
    def of(cls, measured: list[Measurement]) -> Rates:
        """Return the medians over measurements: of trials where there are any, for a probe's answers are those of a
        model that has learned little."""
        trials = [row for row in measured if not row.is_probe] or measured

        def median(value: Callable[[Measurement], float]) -> float:
            return statistics.median(value(row) for row in trials)

        return cls(
            seconds_per_step=median(_per_step),
            seconds_per_validation=median(_per_validation),
            seconds_besides=median(_besides),
            tokens_per_step=median(lambda row: row.num_tokens / row.num_steps),
            disk_bytes=median(lambda row: row.disk_bytes),
            examples_per_step=median(lambda row: (row.num_examples_seen or math.nan) / row.num_steps),
        )

    def towards(self, other: Rates, share: float) -> Rates:
        """Return the rates so far on the way to others."""
        pairs = {name: (value, getattr(other, name)) for name, value in vars(self).items()}
        return Rates(**{name: low + share * (high - low) for name, (low, high) in pairs.items()})

    def seconds(self, spec: TrialSpec, num_steps: int) -> float:
        """Return what a trial of so many steps takes."""
        validations = self.seconds_per_validation * num_validations(spec.train, num_steps)
        return self.seconds_per_step * num_steps + validations + self.seconds_besides


def _per_step(row: Measurement) -> float:
    return row.seconds_train / row.num_steps if row.seconds_per_step is None else row.seconds_per_step


def _per_validation(row: Measurement) -> float:
    return 0.0 if row.seconds_between is None or not row.num_validations else row.seconds_between / row.num_validations


def _besides(row: Measurement) -> float:
    """Return the seconds outside of steps, each taken as a warm one, and of validations."""
    known = _per_step(row) * row.num_steps + _per_validation(row) * (row.num_validations or 0) + row.seconds_rehearsal
    return max(0.0, row.seconds_total - known)


def of_setting(measured: list[Measurement], spec: TrialSpec, runtime: Runtime | None) -> list[Measurement]:
    """Return the measurements of a setting, all without one; those of earlier versions name no more than threads."""
    if runtime is None:
        return measured
    wanted = setting(spec, runtime)
    own = [row for row in measured if row.setting == wanted]
    return own or [row for row in measured if row.setting is None and row.num_threads in (None, runtime.num_threads)]


def of_size(measured: list[Measurement], spec: TrialSpec, rows_per_pass: int | None) -> list[Measurement]:
    """Return the measurements of a size of forward pass, all without one; those that do not tell count as alike."""
    if rows_per_pass is None:
        return measured
    # earlier versions tell the size as it was, which is not as it was asked for where there is dropout
    tells = isinstance(spec.method, FullConfig) or spec.method.dropout == 0
    sizes = [row.rows_per_pass or (row.micro_batch_size if tells else None) for row in measured]
    return [row for row, size in zip(measured, sizes, strict=True) if size in (None, rows_per_pass)]


def of_rank(measured: list[Measurement], spec: TrialSpec) -> Rates | None:
    """Return the rates at a rank: measured there, or on the line between the nearest two; None beyond them."""
    wanted = rank(spec)
    by_rank: dict[int | None, list[Measurement]] = {}
    for row in measured:
        by_rank.setdefault(wanted if row.rank is None else row.rank, []).append(row)
    if wanted in by_rank or wanted is None:
        return Rates.of(by_rank[wanted]) if wanted in by_rank else None
    low = max((other for other in by_rank if other is not None and other < wanted), default=None)
    high = min((other for other in by_rank if other is not None and other > wanted), default=None)
    if low is None or high is None:
        return None
    return Rates.of(by_rank[low]).towards(Rates.of(by_rank[high]), (wanted - low) / (high - low))
