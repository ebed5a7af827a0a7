"""What a trial costs, from trials of the same shape that ran on this store.

Seconds are `per step x steps + per validation x validations + rest`, medians over the rows; a step costs the median of
the steps that a trial logged after its first. The seconds of a rank between two measured ones lie on the straight line.
Invariant: a forecast without a measurement of the same shape and setting is None, "unknown", never a guess. What does
not live here: the rows (measurement.py), what they say of seconds and disk (rates.py) and of memory (footprint.py).
"""

from __future__ import annotations

import heapq
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.engine import footprint, measurement, rates, rows
from harness.engine.footprint import Footprint
from harness.engine.measurement import Measurement, shape
from harness.engine.rates import Rates
from harness.errors import StoreError
from harness.records.schema import PlannedTrial
from harness.records.store import Store
from harness.spec import Runtime, TrialSpec

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What one trial is expected to take; None is unknown."""

    num_steps: int | None
    num_tokens: int | None
    seconds: float | None
    disk_bytes: int | None
    memory_bytes: int | None
    footprint: Footprint | None = None
    """The memory by its parts; None where they are unknown, as in measurements of earlier versions."""


def num_steps(spec: TrialSpec) -> int | None:
    """Return a trial's optimizer steps, or None where the number of rows is unknown before they are read."""
    size = spec.data.num_examples if spec.data.num_examples is not None else rows.available(spec.data)
    if spec.train.num_steps is not None:
        return spec.train.num_steps
    return None if size is None or spec.data.is_packed else spec.train.steps(size)


def _packed_steps(spec: TrialSpec, found: Rates | None) -> int | None:
    """Return the steps over packed rows that hold as many examples as those of measured trials; None without any."""
    size, epochs = spec.data.num_examples, spec.train.num_epochs
    if (
        found is None
        or size is None
        or epochs is None
        or not spec.data.is_packed
        or math.isnan(found.examples_per_step)
    ):
        return None
    return max(1, math.ceil(size * epochs / found.examples_per_step))


@dataclass(frozen=True)
class _Known:
    """What measurements say of trials that are alike."""

    rates: Rates | None
    peak: int | None
    parts: Footprint | None


def _cost(spec: TrialSpec, known: _Known) -> Cost:
    found = known.rates
    steps = num_steps(spec) or _packed_steps(spec, found)
    if found is None or steps is None:
        return Cost(steps, None, None, None, known.peak, known.parts)
    tokens, disk = round(found.tokens_per_step * steps), round(found.disk_bytes)
    return Cost(steps, tokens, found.seconds(spec, steps), disk, known.peak, known.parts)


class Forecast:
    """Forecasts trials of one store; reads each shape's measurements once, and again after `refresh`."""

    def __init__(self, store: Store, runtime: Runtime | None = None) -> None:
        """Take a store and how trials are to run; without the latter, measurements of all settings count."""
        self._store = store
        self._runtime = runtime
        self._measured: dict[str, list[Measurement]] = {}
        self._shapes: dict[tuple[int, ...], tuple[TrialSpec, str]] = {}
        self._all_known: dict[tuple[Any, ...], _Known] = {}
        self._costs: dict[tuple[int, ...], Cost] = {}

    def refresh(self) -> None:
        """Take what was measured since."""
        self._measured.clear()
        self._all_known.clear()
        self._costs.clear()

    def of(self, spec: TrialSpec) -> Cost:
        """Return what a trial is expected to take, worked out once for the replicates of a condition."""
        key, name = self._shape(spec)
        if key not in self._costs:
            self._costs[key] = _cost(spec, self._known(spec, name))
        return self._costs[key]

    def is_measured(self, spec: TrialSpec) -> bool:
        """Return whether the seconds of a step are known."""
        return self._known(spec, self._shape(spec)[1]).rates is not None

    def _known(self, spec: TrialSpec, name: str) -> _Known:
        """Return what measurements say of a spec, gone through once for all that differ in nothing that they tell."""
        how = () if self._runtime is None else tuple(measurement.setting(spec, self._runtime).items())
        key = name, how, measurement.rank(spec), spec.train.early_stopping_patience is not None
        if key not in self._all_known:
            measured = self._of_shape(name)
            alike = self._alike(spec, measured)
            self._all_known[key] = _Known(rates.of_rank(alike, spec), *self._memory(spec, measured, alike))
        return self._all_known[key]

    def _memory(
        self, spec: TrialSpec, measured: list[Measurement], alike: list[Measurement]
    ) -> tuple[int | None, Footprint | None]:
        """Return the peak and its parts; without parts the largest peak that was measured alike."""
        known = rates.of_setting(measured, spec, self._runtime)
        size = self._rows_per_pass(spec, measured)
        parts = None if size is None else footprint.of(known, spec, size)
        if parts is not None:
            return parts.total, parts
        own = [row for row in alike if row.rank in (None, measurement.rank(spec))]
        return max((round(row.memory_bytes) for row in own if row.memory_bytes is not None), default=None), None

    def _alike(self, spec: TrialSpec, measured: list[Measurement]) -> list[Measurement]:
        """Return the measurements of a spec's setting and size of forward pass."""
        known = rates.of_setting(measured, spec, self._runtime)
        return rates.of_size(known, spec, self._rows_per_pass(spec, measured))

    def _rows_per_pass(self, spec: TrialSpec, measured: list[Measurement]) -> int | None:
        if self._runtime is None:
            return None
        halvings = max(self._runtime.num_halvings, measurement.halvings(measured, spec, self._runtime))
        return self._runtime.rows_per_pass(spec.train.batch_size, halvings)

    def _shape(self, spec: TrialSpec) -> tuple[tuple[int, ...], str]:
        """Return the key and shape of a spec, worked out once for the replicates of a condition: they share every
        part."""
        parts = tuple(id(part) for part in (spec.base, spec.data, spec.method, spec.train, spec.evals, spec.probes))
        if parts not in self._shapes:
            self._shapes[parts] = spec, shape(spec)  # the spec keeps its parts, and so their ids
        return parts, self._shapes[parts][1]

    def _of_shape(self, name: str) -> list[Measurement]:
        if name not in self._measured:
            try:
                self._measured[name] = measurement.measured(measurement.path_of(self._store, name))
            except StoreError as error:
                LOG.warning("%s; what its trials cost is unknown until the next launch sets it aside", error)
                self._measured[name] = []
        return self._measured[name]


def total_seconds(costs: Iterable[Cost], num_workers: int) -> float | None:
    """Return the wall seconds of several trials on some workers, or None if any is unknown."""
    seconds = [cost.seconds for cost in costs]
    if any(value is None for value in seconds):
        return None
    known = [value for value in seconds if value is not None]
    return max(sum(known) / num_workers, max(known, default=0.0))


def num_within(costs: Iterable[Cost], num_workers: int, budget_seconds: float) -> int | None:
    """Return how many trials, started in order as workers fall free, end within a budget, or None if any is unknown."""
    ends: list[float] = []
    busy_until = [0.0] * num_workers
    for cost in costs:
        if cost.seconds is None:
            return None
        ends.append(heapq.heappop(busy_until) + cost.seconds)
        heapq.heappush(busy_until, ends[-1])
    return sum(end <= budget_seconds for end in ends)


def unmeasured(store: Store, trials: Iterable[PlannedTrial], runtime: Runtime) -> list[PlannedTrial]:
    """Return trials of each shape and setting whose cost is unknown: one at the lowest rank and one at the highest, of
    the most rows each, so that the longest are among them."""
    known, groups = Forecast(store, runtime), {}
    for trial in trials:
        if not known.is_measured(trial.spec):
            key = shape(trial.spec) + json.dumps(measurement.setting(trial.spec, runtime))
            groups.setdefault(key, []).append(trial)
    return [trial for group in groups.values() for trial in _ends(group)]


def _ends(trials: list[PlannedTrial]) -> list[PlannedTrial]:
    """Return the first trial of the most rows at the lowest rank, and at the highest where that is another one."""
    ranks = [measurement.rank(trial.spec) or 0 for trial in trials]
    found: dict[int, PlannedTrial] = {}
    for end in (min(ranks), max(ranks)):
        own = [trial for trial, rank in zip(trials, ranks, strict=True) if rank == end]
        found[end] = max(own, key=lambda trial: trial.spec.data.num_examples or 0)
    return list(found.values())
