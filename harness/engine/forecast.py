"""What a trial costs, from trials of the same shape that ran on this store.

    OUT/probes/<shape>.jsonl    one row per finished trial or probe

A shape is what decides the cost of a step and of an evaluation: base, kind of method, dtype, batch, lengths, data
source and items. Seconds are `per step x steps + rest`, medians over the rows; a step costs the median of the steps
that a trial logged after its first, and everything else in it - warm-up, validation, scoring - is its rest. Invariant:
a forecast without a measurement is None, "unknown", never a guess. What does not live here: measuring (worker.py,
launch.py).
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.engine import rows
from harness.errors import StoreError
from harness.identity import canonical
from harness.records.schema import PlannedTrial, TrialResult
from harness.records.store import Store, append_line, disk_errors, read_lines, set_aside
from harness.spec import MAX_HALVINGS, Runtime, TrialSpec

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What one trial is expected to take; None is unknown."""

    num_steps: int | None
    num_tokens: int | None
    seconds: float | None
    disk_bytes: int | None
    memory_bytes: int | None


ALTERING = ("scrub", "duplicate_share", "noise_share", "style_share", "leak_share")
"""Fields of `data` that change the length of rows."""


def shape(spec: TrialSpec) -> str:
    """Return the key of a spec's shape."""
    parts = {
        "base": canonical(spec.base),
        "method": spec.method.kind,
        "dtype": spec.train.dtype,
        "batch_size": spec.train.batch_size,
        "validation": [spec.train.eval_every, spec.data.num_validation],
        "source": canonical(spec.data.source),
        "template": spec.data.template,
        "max_length": spec.data.max_length,
        "evals": canonical(spec.evals),
    }
    if spec.data.replay_share > 0:  # replayed texts are longer than conversations
        parts["replay"] = [spec.data.replay_share, canonical(spec.data.replay_source)]
    if spec.data.mixture:
        parts["mixture"] = canonical(spec.data.mixture)
    altered = {name: getattr(spec.data, name) for name in ALTERING if getattr(spec.data, name)}
    if altered:  # what is said of people, leaked or put before answers makes rows shorter or longer
        parts["altered"] = [canonical(tuple(altered.items())), spec.data.style, spec.data.style_prefix]
    if spec.data.packing != "off":
        parts["packing"] = [spec.data.packing, spec.data.pack_neighbours]
    if spec.data.deduplicate != "off" or spec.data.decontaminate:
        parts["cleaned"] = [spec.data.deduplicate, spec.data.decontaminate]
    if spec.data.instructions != "kept":
        parts["instructions"] = spec.data.instructions
    if probes := canonical(spec.probes):
        parts["probes"] = probes
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def remember(store: Store, spec: TrialSpec, result: TrialResult, ran_in: Store) -> None:
    """Append a finished trial, whose files lie in `ran_in`, as a measurement of its shape."""
    if result.train.num_steps == 0 or result.state != "COMPLETE":
        return
    path = _path(store, shape(spec))
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = result.provenance
    append_line(
        path,
        {
            "trial_id": result.trial_id,
            "num_threads": provenance.num_threads,
            "num_steps": result.train.num_steps,
            "num_tokens": result.train.num_tokens,
            "seconds_per_step": _seconds_per_step(ran_in.trial(result.trial_id), result),
            "seconds_train": provenance.seconds_train,
            "seconds_total": provenance.seconds_total,
            "memory_bytes": provenance.peak_memory_bytes,
            "host": os.uname().nodename,
            "num_halvings": result.train.num_halvings,
            "micro_batch_size": result.train.micro_batch_size,
            "disk_bytes": _disk_bytes(ran_in.trial(result.trial_id)),
        },
    )


def num_halvings(store: Store, spec: TrialSpec, runtime: Runtime) -> int:
    """Return how often to halve the micro-batch so that it is no larger than what trials of the shape fitted in here.

    Rows of other machines and of trials whose memory sufficed say nothing.
    """
    try:
        measured = _measured(_path(store, shape(spec)))
    except StoreError:  # named and set aside by the next launch
        return 0
    halved = [row for row in measured if row.get("num_halvings") and row.get("host") == os.uname().nodename]
    fitted = min((int(str(row["micro_batch_size"])) for row in halved), default=spec.train.batch_size)
    return next(
        (num for num in range(MAX_HALVINGS) if runtime.rows_per_pass(spec.train.batch_size, num) <= fitted),
        MAX_HALVINGS,
    )


def _seconds_per_step(folder: Path, result: TrialResult) -> float:
    """Return what a step costs once it is warm; of a trial that logged no second one, its share of training."""
    logged = [row["seconds"] for row in read_lines(folder / "metrics.jsonl") if "seconds" in row]
    known = [float(value) for value in logged[1:] if isinstance(value, int | float)]
    return statistics.median(known) if known else result.provenance.seconds_train / result.train.num_steps


def num_steps(spec: TrialSpec) -> int | None:
    """Return a trial's optimizer steps, or None where the number of rows is unknown before they are read."""
    size = spec.data.num_examples if spec.data.num_examples is not None else rows.available(spec.data)
    if spec.train.num_steps is not None:
        return spec.train.num_steps
    return None if size is None or spec.data.is_packed else spec.train.steps(size)


@dataclass(frozen=True)
class _Rates:
    """What trials of one shape cost."""

    seconds_per_step: float
    seconds_besides: float
    tokens_per_step: float
    disk_bytes: int
    memory_bytes: int | None

    @classmethod
    def of(cls, measured: list[dict]) -> _Rates | None:
        """Return the medians over measurements, the largest memory; None without any."""
        if not measured:
            return None
        besides = _median(measured, lambda row: max(0.0, row["seconds_total"] - _per_step(row) * row["num_steps"]))
        known = [row["memory_bytes"] for row in measured if row["memory_bytes"] is not None]
        return cls(
            seconds_per_step=_median(measured, _per_step),
            seconds_besides=besides,
            tokens_per_step=_median(measured, lambda row: row["num_tokens"] / row["num_steps"]),
            disk_bytes=round(_median(measured, lambda row: row["disk_bytes"])),
            memory_bytes=max(map(int, known), default=None),
        )


class Forecast:
    """Forecasts trials of one store; reads each shape's measurements once, and again after `refresh`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rates: dict[str, _Rates | None] = {}
        self._shapes: dict[tuple[int, ...], tuple[TrialSpec, str]] = {}

    def refresh(self) -> None:
        """Take what was measured since."""
        self._rates.clear()

    def of(self, spec: TrialSpec) -> Cost:
        """Return what a trial is expected to take."""
        steps, rates = num_steps(spec), self._of_shape(self._shape(spec))
        if rates is None or steps is None:
            return Cost(steps, None, None, None, None)
        return Cost(
            num_steps=steps,
            num_tokens=round(rates.tokens_per_step * steps),
            seconds=rates.seconds_per_step * steps + rates.seconds_besides,
            disk_bytes=rates.disk_bytes,
            memory_bytes=rates.memory_bytes,
        )

    def _shape(self, spec: TrialSpec) -> str:
        """Return the shape of a spec, worked out once for the replicates of a condition: they share every part."""
        parts = tuple(id(part) for part in (spec.base, spec.data, spec.method, spec.train, spec.evals, spec.probes))
        if parts not in self._shapes:
            self._shapes[parts] = spec, shape(spec)  # the spec keeps its parts, and so their ids
        return self._shapes[parts][1]

    def _of_shape(self, name: str) -> _Rates | None:
        if name not in self._rates:
            try:
                self._rates[name] = _Rates.of(_measured(_path(self._store, name)))
            except StoreError as error:
                LOG.warning("%s; what its trials cost is unknown until the next launch sets it aside", error)
                self._rates[name] = None
        return self._rates[name]


def _measured(path: Path) -> list[dict]:
    """Return the measurements of a file, [] where there is none.

    Raises:
        StoreError: it holds something else.
    """
    found: list[dict] = read_lines(path)  # type: ignore[assignment]
    if not all(_is_measurement(row) for row in found):
        raise StoreError(f"{path} is damaged: it holds a line that is no measurement")
    return found


def _is_measurement(row: dict) -> bool:
    numbers = [row.get(name) for name in ("num_steps", "num_tokens", "seconds_train", "seconds_total", "disk_bytes")]
    numbers.append(row.get("seconds_per_step", 0.0))  # not in the oldest rows
    numbers.append(0 if row.get("memory_bytes", "") is None else row.get("memory_bytes"))
    return all(type(number) in (int, float) for number in numbers) and row["num_steps"] > 0


def set_damaged_aside(root: Path) -> None:
    """Set the files of measurements aside that cannot be read, in the store of this root.

    Raises:
        DiskError: the disk is full or read-only.
    """
    for path in sorted((root / "probes").glob("*.jsonl")):
        if ".damaged-" in path.name:
            continue
        try:
            _measured(path)
        except StoreError:
            with disk_errors(path):
                set_aside(path)


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


def unmeasured(store: Store, trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
    """Return one trial of each shape that has no measurement yet."""
    first = {shape(trial.spec): trial for trial in reversed(list(trials))}
    return [trial for name, trial in reversed(first.items()) if not _path(store, name).exists()]


def _per_step(row: dict) -> float:
    return row.get("seconds_per_step", row["seconds_train"] / row["num_steps"])


def _median(measured: list[dict], value) -> float:
    return statistics.median(value(row) for row in measured)


def _path(store: Store, name: str) -> Path:
    return store.root / "probes" / f"{name}.jsonl"


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
