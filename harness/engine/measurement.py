"""What trials and probes measured, by shape: read and written here, forecast from elsewhere.

    OUT/probes/<shape>.jsonl    one row per finished trial or probe

A shape is what decides the cost of a step and of an evaluation: base, kind of method, dtype, batch, lengths, data
source and items. What else decides - threads, layers with adapters, rank, size of forward pass - stands in each row.
Invariant: a row of an earlier version is read, and what it does not tell is None. What does not live here: what is made
of rows (rates.py, footprint.py, forecast.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import StoreError
from harness.identity import canonical
from harness.records.schema import MemoryUse, TrialResult
from harness.records.store import Store, append_line, disk_errors, read_lines, set_aside
from harness.spec import MAX_HALVINGS, FullConfig, QLoraConfig, Runtime, TrainSpec, TrialSpec

REHEARSED = ("rehearsal/rows_per_pass", "rehearsal/peak_bytes")


class Measurement(BaseModel):
    """One row: what one trial took. Everything after the first six is unknown in rows of earlier versions."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    num_steps: int = Field(ge=1)
    num_tokens: float
    seconds_train: float
    seconds_total: float
    disk_bytes: float
    memory_bytes: float | None
    """Peak of the process; of several, that of the main one for each."""
    num_examples_seen: float | None = None
    """Of packed data, several a row."""
    trial_id: str = ""
    seconds_per_step: float | None = None
    """Of a warm step."""
    seconds_between: float | None = None
    """Of training outside of steps: validations and samples."""
    num_validations: int | None = None
    seconds_rehearsal: float = 0.0
    """Of a probe: what it tried for the sake of memory alone."""
    is_probe: bool = False
    host: str = ""
    num_threads: int | None = None
    num_halvings: int = 0
    micro_batch_size: int | None = None
    """Of the forward passes as they were."""
    rows_per_pass: int | None = Field(default=None, ge=1)
    """Of the forward passes as they were asked for: dropout gives each row one of its own."""
    rank: int | None = Field(default=None, ge=1)
    setting: dict[str, Any] | None = None
    """What else decides about seconds and memory."""
    memory: MemoryUse | None = None
    rehearsed: list[tuple[int, int]] = []
    """Rows in a forward pass, and the peak of the process with them."""
    best_bytes: int = 0
    """Of a second copy of the best weights."""


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


def setting(spec: TrialSpec, runtime: Runtime) -> dict[str, str | int | bool]:
    """Return what decides seconds and memory besides shape, rank and size of forward pass: part of a method's
    configuration and of how a trial runs."""
    method = spec.method
    adapted: dict[str, str | int | bool] = {}
    if not isinstance(method, FullConfig):
        adapted = {"target_modules": method.target_modules, "has_dropout": method.dropout > 0}
    if isinstance(method, QLoraConfig):
        adapted["quantisation"] = str(method.base_quantisation)
    names = ("num_threads", "num_processes", "eval_batch_size", "device", "loss_kernel")
    shared = {} if runtime.sharding == "none" else {"sharding": runtime.sharding}
    return adapted | {name: getattr(runtime, name) for name in names} | shared


def rank(spec: TrialSpec) -> int | None:
    """Return the rank of a spec's adapters; None without any."""
    return None if isinstance(spec.method, FullConfig) else spec.method.rank


def num_validations(train: TrainSpec, num_steps: int) -> int:
    """Return how often a run of so many steps is validated: before the first, at each turn, and after the last."""
    return 2 if train.eval_every == 0 else 1 + math.ceil(num_steps / train.eval_every)


# -- writing ----------------------------------------------------------------------------------------------------------


def remember(store: Store, spec: TrialSpec, result: TrialResult, ran_in: Store, runtime: Runtime) -> None:
    """Append a finished trial, whose files lie in `ran_in`, as a measurement of its shape.

    Raises:
        DiskError: the disk is full or read-only.
    """
    if result.train.num_steps == 0 or result.state != "COMPLETE":
        return
    path = path_of(store, shape(spec))
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = ran_in.trial(result.trial_id)
    logged, train = read_lines(folder / "metrics.jsonl"), result.train
    row = {
        "trial_id": result.trial_id,
        "host": os.uname().nodename,
        "num_steps": train.num_steps,
        "num_tokens": train.num_tokens,
        "num_examples_seen": train.num_examples_seen,
        "num_validations": num_validations(spec.train, train.num_steps),
        "num_halvings": train.num_halvings,
        "micro_batch_size": train.micro_batch_size,
        "rows_per_pass": runtime.rows_per_pass(spec.train.batch_size, train.num_halvings),
        "disk_bytes": _disk_bytes(folder),
        "is_probe": runtime.rehearses,
        "rank": rank(spec),
        "setting": setting(spec, runtime),
    }
    append_line(path, row | _seconds(logged, result) | _memory(spec, logged, result, runtime))


def _seconds(logged: list[dict[str, Any]], result: TrialResult) -> dict[str, Any]:
    """Return what a trial took. A step counts as warm after the first; of a single one, its share of training."""
    provenance, steps, rehearsal = result.provenance, _numbers(logged, "seconds"), _numbers(logged, "rehearsal/seconds")
    between = provenance.seconds_train - sum(steps) - sum(rehearsal)
    share = provenance.seconds_train / result.train.num_steps
    return {
        "num_threads": provenance.num_threads,
        "seconds_train": provenance.seconds_train,
        "seconds_total": provenance.seconds_total,
        "seconds_per_step": statistics.median(steps[1:]) if steps[1:] else share,
        # a trial that was continued trained before this attempt, too
        "seconds_between": between if len(steps) >= result.train.num_steps and between >= 0 else None,
        "seconds_rehearsal": sum(rehearsal),
    }


def _numbers(logged: list[dict[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in logged if isinstance(row.get(name), int | float)]


def _memory(spec: TrialSpec, logged: list[dict[str, Any]], result: TrialResult, runtime: Runtime) -> dict[str, Any]:
    """Return what a trial measured of its memory; where a GPU holds the model, its parts are not this process's."""
    provenance = result.provenance
    peak, memory = provenance.peak_memory_bytes, provenance.memory
    if runtime.num_processes > 1:  # the others are not measured, and of shares no process holds the parts of the model
        return {"memory_bytes": None if peak is None else peak * runtime.num_processes}
    if memory is None or provenance.device != "cpu":
        return {"memory_bytes": peak}
    rehearsed = [[row.get(name) for name in REHEARSED] for row in logged if REHEARSED[0] in row]
    best = memory.gradient_bytes if spec.train.early_stopping_patience is not None else 0
    known = [point for point in rehearsed if None not in point]
    return {"memory_bytes": peak, "memory": memory.model_dump(), "rehearsed": known, "best_bytes": best}


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# -- reading ----------------------------------------------------------------------------------------------------------


def path_of(store: Store, name: str) -> Path:
    """Return the file of a shape."""
    return store.root / "probes" / f"{name}.jsonl"


def measured(path: Path) -> list[Measurement]:
    """Return the measurements of a file, [] where there is none.

    Raises:
        StoreError: it holds something else.
    """
    return [_checked(path, row) for row in read_lines(path)]


def _checked(path: Path, row: Mapping[str, Any]) -> Measurement:
    try:
        return Measurement.model_validate_json(json.dumps(row))
    except ValidationError as error:
        raise StoreError(f"{path} is damaged: it holds a line that is no measurement") from error


def set_damaged_aside(root: Path) -> None:
    """Set the files of measurements aside that cannot be read, in the store of this root.

    Raises:
        DiskError: the disk is full or read-only.
    """
    for path in sorted((root / "probes").glob("*.jsonl")):
        if ".damaged-" in path.name:
            continue
        try:
            measured(path)
        except StoreError:
            with disk_errors(path):
                set_aside(path)


def num_halvings(store: Store, spec: TrialSpec, runtime: Runtime) -> int:
    """Return how often to halve the micro-batch so that it is no larger than what trials of the shape fitted in here.

    Rows of other machines and of trials whose memory sufficed say nothing.
    """
    path = path_of(store, shape(spec))
    try:  # asked before every attempt: of thousands of rows only those are checked that say something
        return halvings([_checked(path, row) for row in read_lines(path) if row.get("num_halvings")], spec, runtime)
    except StoreError:  # named and set aside by the next launch
        return 0


def halvings(rows: list[Measurement], spec: TrialSpec, runtime: Runtime) -> int:
    """Return that of the measurements of a shape."""
    halved = [row for row in rows if row.num_halvings and row.host == os.uname().nodename]
    sizes = [row.micro_batch_size for row in halved if row.micro_batch_size is not None]
    fitted = min(sizes, default=spec.train.batch_size)
    return next(
        (num for num in range(MAX_HALVINGS) if runtime.rows_per_pass(spec.train.batch_size, num) <= fitted),
        MAX_HALVINGS,
    )
