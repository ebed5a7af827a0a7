"""What a mirrored run says: config, history and summary of one trial, from its record.

Invariant: flat keys, JSON values, nothing that the record does not hold, unknown left out rather than 0. What does not
live here: W&B itself (mirror.py).
"""

from __future__ import annotations

import json
import math
from typing import Any

from harness.records.measures import measure_mean, primary_metrics
from harness.records.schema import EvalScores, Failure, PlannedTrial, Scores, SweepRecord, TrialResult

STEP = "train/step"
_MEASURED = {"seconds_total", "seconds_train", "seconds_eval", "tokens_per_second"} | {
    "peak_memory_bytes",
    "peak_gpu_memory_bytes",
}
"""Provenance that is a measurement: it belongs to the summary."""


def group_of(record: SweepRecord) -> str:
    """Return the sweep's folder name, which is the group of its runs."""
    return f"{record.name}@{record.base}" + (f"-{record.set_hash}" if record.set_hash else "")


def display_name(planned: PlannedTrial) -> str:
    """Return e.g. `num_examples=50 seed=0 [equal_steps]`."""
    axes = " ".join(f"{name.rsplit('.', 1)[-1]}={value}" for name, value in planned.axes.items())
    world = "" if planned.world is None else f" world={planned.world}"
    return f"{axes} seed={planned.seed}{world} [{planned.arm}]".strip()


def config_of(record: SweepRecord, planned: PlannedTrial, result: TrialResult | None) -> dict[str, Any]:
    """Return the resolved spec as dotted keys, the axes, and where the trial belongs."""
    config: dict[str, Any] = {
        "trial_id": planned.trial_id,
        "condition_id": planned.condition_id,
        "sweep": record.name,
        "base": record.base,
        "arm": planned.arm,
        "world": planned.world,
        "hypothesis": record.hypothesis,
    }
    config |= {f"axis.{name}": value for name, value in planned.axes.items()}
    config |= _flat(json.loads(planned.spec.model_dump_json()))
    if result is not None:
        config |= {
            f"resolved.{name}": value for name, value in _flat(json.loads(result.resolved.model_dump_json())).items()
        }
        config |= {
            f"provenance.{name}": value
            for name, value in _flat(json.loads(result.provenance.model_dump_json())).items()
            if not name.startswith(("seconds", "peak", "tokens_per_second"))
        }
    return config


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def history_row(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row of metrics.jsonl as it is logged, or None where it holds no finite number besides its step."""
    numbers = {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    step = numbers.pop("step", None)
    return {STEP: step} | numbers if numbers and step is not None else None


def summary_of(record: SweepRecord, result: TrialResult) -> dict[str, Any]:
    """Return before, after and delta of every test metric and measure, what training did, and the state."""
    train, where = result.train, result.provenance
    summary: dict[str, Any] = {"state": result.state, "divergence": train.divergence}
    summary |= {name: value for name, value in json.loads(train.model_dump_json()).items() if name != "divergence"}
    summary |= {
        "seconds": where.seconds_total,
        "seconds_train": where.seconds_train,
        "seconds_eval": where.seconds_eval,
        "tokens_per_second": where.tokens_per_second,
        "peak_memory_bytes": where.peak_memory_bytes,
        "peak_gpu_memory_bytes": where.peak_gpu_memory_bytes,
    }
    sides = {"before": result.before, "after": result.after, "before_full_precision": result.before_full_precision}
    scores = {side: _side(record, result, found) for side, found in sides.items() if found is not None}
    summary |= {f"{side}/{name}": value for side, values in scores.items() for name, value in values.items()}
    for before, delta in (("before", "delta"), ("before_full_precision", "delta_full_precision")):
        if before in scores and "after" in scores:
            summary |= {f"{delta}/{name}": value for name, value in _delta(scores[before], scores["after"]).items()}
    return {name: value for name, value in summary.items() if value is not None}


def failure_summary(failure: Failure) -> dict[str, Any]:
    """Return the summary of a trial that has no result."""
    return {"state": "FAILED", "cause": failure.cause, "message": failure.message, "attempt": failure.attempt}


def _side(record: SweepRecord, result: TrialResult, found: EvalScores) -> dict[str, float | None]:
    scores: Scores = found.test
    values: dict[str, float | None] = {key: score.value for key, score in scores.items()}
    metrics = primary_metrics(record.measures, result.spec.evals.tasks)
    return values | {measure: measure_mean(scores, keys)[0] for measure, keys in metrics.items()}


def _delta(before: dict[str, float | None], after: dict[str, float | None]) -> dict[str, float]:
    pairs = ((name, before[name], after[name]) for name in before.keys() & after.keys())
    return {name: second - first for name, first, second in pairs if first is not None and second is not None}
