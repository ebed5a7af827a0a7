"""Records as tidy frames: the loaders, and the frame of trials. docs/metrics.md documents every column.

Invariant: `load_sweep` has one row per planned trial, whatever became of it; an unknown number is NaN and the row's
`missing` column says why. `delta` is always after minus before, never sign-flipped. What does not live here: items and
logs (items.py), intervals and tests (stats.py), drawing (figures.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import drift
from analysis.items import items_frame, metrics_frame, questions_frame, rows_frame, samples_frame
from analysis.opened import OpenedSweep, OpenedTrial, open_named
from analysis.selection import mark_chosen
from harness.records.measures import is_lower_better, measure_mean, primary_metrics
from harness.records.schema import EvalScores, Scores, TrialResult
from harness.spec import TrialSpec

NAN = float("nan")


def load_sweep(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per planned trial of a sweep, from its records.

    Args:
        name: the sweep, e.g. "lima_size".
        base: the base it ran on: its name, or the path of a local folder.
        out: the output folder (`OUT=`).
        set_hash: which overrides; "" is none, None is none where such a sweep is there, else the only one.

    Raises:
        BadInputError: no such sweep, or several that only `set_hash` tells apart.
        StoreError: the sweep's plan is damaged.
    """
    return sweep_frame(open_named(name, base, out, set_hash))


def load_items(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per trial, item and metric with the item's value before and after; raises as `load_sweep`."""
    return items_frame(open_named(name, base, out, set_hash))


def load_samples(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per trial, phase and fixed prompt with the model's answer; raises as `load_sweep`."""
    return samples_frame(open_named(name, base, out, set_hash))


def load_metrics(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return the training logs: one row per trial and logged step; raises as `load_sweep`."""
    return metrics_frame(open_named(name, base, out, set_hash))


def load_rows(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per trial and row of its data, with what became of it; raises as `load_sweep`."""
    return rows_frame(open_named(name, base, out, set_hash))


def load_questions(
    name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None
) -> pd.DataFrame:
    """Return one row per item with what it asks and its right answer; raises as `load_sweep`."""
    return questions_frame(open_named(name, base, out, set_hash))


# -- trials -----------------------------------------------------------------------------------------------------------


def sweep_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return one row per planned trial of an opened sweep; see `load_sweep`."""
    metrics = metrics_of(sweep)
    keys = _metric_keys(sweep)
    with_full = any(result.before_full_precision for _, result in sweep.finished)
    drifts = drift.mean_names(sweep)
    rows = [_trial_row(sweep, trial, keys, metrics, drifts, with_full=with_full) for trial in sweep.trials]
    frame = pd.DataFrame(rows)
    for column in frame.columns:
        if column.startswith("axis."):
            frame[column] = _one_type(frame[column])
    frame["world"] = frame["world"].astype("Int64")
    measure = (sweep.record.selection or {}).get("measure", "")
    lower_is_better = any(is_lower_better(key) for key in metrics.get(measure, ()))
    return mark_chosen(_flag_mixed_identity(frame, sweep), sweep.record, lower_is_better=lower_is_better)


def metrics_of(sweep: OpenedSweep) -> dict[str, tuple[str, ...]]:
    """Return measure -> metric keys of its primary slices."""
    tasks = (task for trial in sweep.trials for task in trial.planned.spec.evals.tasks)
    return primary_metrics(sweep.record.measures, tasks)


def why_missing(row: pd.Series, column: str) -> str | None:
    """Return why a number of a row is NaN, or None where nothing is known to be missing."""
    reasons: dict[str, str] = json.loads(row["missing"])
    return reasons.get(column, reasons.get("*"))


def _metric_keys(sweep: OpenedSweep) -> list[str]:
    planned = [key for keys in metrics_of(sweep).values() for key in keys]
    scored = [key for _, result in sweep.finished for scores in _all_scores(result) for key in scores.test]
    return list(dict.fromkeys(planned + sorted(scored)))


def _all_scores(result: TrialResult) -> list[EvalScores]:
    return [scores for scores in (result.before, result.after, result.before_full_precision) if scores is not None]


class _Row:
    """A row under construction: values, and a reason for each unknown one."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def put(self, column: str, value: float | None, reason: str | None) -> None:
        self.values[column] = NAN if value is None else float(value)
        if value is None:
            self.reasons[column] = reason or "not recorded"


def _trial_row(
    sweep: OpenedSweep,
    trial: OpenedTrial,
    keys: list[str],
    metrics: dict[str, tuple[str, ...]],
    drifts: list[str],
    *,
    with_full: bool,
) -> dict[str, Any]:
    row = _Row()
    row.values |= _plan_columns(trial)
    row.values |= {f"axis.{field}": trial.planned.axes.get(field) for field in sweep.record.axis_fields}
    row.values |= _spec_columns(trial.planned.spec)
    _put_scores(row, trial, keys, metrics, with_full=with_full)
    row.values |= _training_columns(trial.result)
    for name in drifts:
        row.put(drift.PREFIX + name, *drift.mean_of(trial, name))
    row.values |= _provenance_columns(trial.result)
    if trial.result is None:
        row.reasons = {"*": f"{trial.state}: {trial.cause}"}
    row.values["missing"] = json.dumps(row.reasons, sort_keys=True)
    row.values["rerun"] = trial.command or sweep.record.command
    return row.values


def _plan_columns(trial: OpenedTrial) -> dict[str, Any]:
    planned = trial.planned
    return {
        "trial_id": planned.trial_id,
        "condition": trial.condition,
        "condition_id": planned.condition_id,
        "arm": planned.arm,
        "seed": planned.seed,
        "world": planned.world,
        "state": trial.state,
        "cause": trial.cause,
    }


def _spec_columns(spec: TrialSpec) -> dict[str, Any]:
    return {
        "method": spec.method.kind,
        "learning_rate": spec.train.learning_rate,
        "batch_size": spec.train.batch_size,
        "num_examples": spec.data.num_examples,
    }


def _put_scores(
    row: _Row, trial: OpenedTrial, keys: list[str], metrics: dict[str, tuple[str, ...]], *, with_full: bool
) -> None:
    result = trial.result
    before = result.before if result else None
    after = result.after if result else None
    no_after = f"{trial.state}: {trial.cause}" if result and after is None else None
    _put_split(row, "", keys, metrics, before.test if before else None, after.test if after else None, no_after)
    _put_split(row, "val_", keys, metrics, before.val if before else None, after.val if after else None, no_after)
    if with_full:
        full = result.before_full_precision if result else None
        reason = "the base is not quantised in this trial" if result else None
        _put_side(row, "before_full_precision/", keys, metrics, full.test if full else None, reason)
        for name in [*metrics, *keys]:
            _put_difference(row, f"delta_full_precision/{name}", f"after/{name}", f"before_full_precision/{name}")


def _put_split(
    row: _Row,
    prefix: str,
    keys: list[str],
    metrics: dict[str, tuple[str, ...]],
    before: Scores | None,
    after: Scores | None,
    no_after: str | None,
) -> None:
    _put_side(row, f"{prefix}before/", keys, metrics, before, None)
    _put_side(row, f"{prefix}after/", keys, metrics, after, no_after)
    for name in [*metrics, *keys]:
        _put_difference(row, f"{prefix}delta/{name}", f"{prefix}after/{name}", f"{prefix}before/{name}")


def _put_side(
    row: _Row,
    prefix: str,
    keys: list[str],
    metrics: dict[str, tuple[str, ...]],
    scores: Scores | None,
    reason: str | None,
) -> None:
    for measure, primaries in metrics.items():
        value, why = measure_mean(scores or {}, primaries)
        row.put(prefix + measure, value, reason or why)
    for key in keys:
        score = (scores or {}).get(key)
        row.put(prefix + key, score.value if score else None, reason or (score.reason if score else "not scored"))


def _put_difference(row: _Row, column: str, after: str, before: str) -> None:
    difference = row.values[after] - row.values[before]
    reasons = [f"{side}: {row.reasons[side]}" for side in (after, before) if side in row.reasons]
    row.put(column, None if reasons else difference, "; ".join(reasons))


def _training_columns(result: TrialResult | None) -> dict[str, Any]:
    if result is None:
        return dict.fromkeys(TRAINING_COLUMNS, NAN) | {"stopped_early": None}
    train, data = result.train, result.data
    return {
        "steps": train.num_steps,
        "num_epochs": train.num_epochs,
        "num_examples_seen": train.num_examples_seen,
        "num_tokens": train.num_tokens,
        "num_loss_tokens": train.num_loss_tokens,
        "loss_tokens_per_step": train.num_loss_tokens / train.num_steps if train.num_steps else NAN,
        "learning_rate_integral": train.learning_rate_integral,
        "trainable_parameters": train.trainable_parameters,
        "total_parameters": train.total_parameters,
        "trainable_share": train.trainable_parameters / train.total_parameters if train.total_parameters else NAN,
        "train_loss_first": _number(train.train_loss_first),
        "train_loss_last": _number(train.train_loss_last),
        "val_loss": _number(train.val_loss),
        "num_train": data.num_train,
        "num_validation": data.num_validation,
        "num_rows_dropped": sum(data.num_rows_dropped.values()),
        "num_truncated": data.num_truncated,
        "num_packed_rows": _number(data.num_packed_rows),
        "pack_fill": _number(data.pack_fill),
        "completion_prompt_ratio": _number(data.completion_prompt_ratio),
        "mean_tokens": _number(data.mean_tokens),
        "loss_token_share": _number(data.loss_token_share),
        "micro_batch_size": _number(train.micro_batch_size),
        "num_halvings": train.num_halvings,
        "num_eval_halvings": train.num_eval_halvings,
        "stopped_early": train.stopped_early,
    }


TRAINING_COLUMNS = (
    "steps", "num_epochs", "num_examples_seen", "num_tokens", "num_loss_tokens", "loss_tokens_per_step",
    "learning_rate_integral", "trainable_parameters", "total_parameters", "trainable_share", "train_loss_first",
    "train_loss_last", "val_loss", "num_train", "num_validation", "num_rows_dropped", "num_truncated",
    "num_packed_rows", "pack_fill", "completion_prompt_ratio", "mean_tokens", "loss_token_share",
    "micro_batch_size", "num_halvings", "num_eval_halvings",
)  # fmt: skip
NUMERIC_PROVENANCE = (
    "seconds", "seconds_train", "seconds_eval", "tokens_per_second", "peak_memory_bytes", "peak_gpu_memory_bytes",
    "num_threads",
)  # fmt: skip
TEXT_PROVENANCE = (
    "host", "platform", "cpu", "device", "git_commit", "git_dirty", "libraries", "started_utc", "weights_sha256",
    "tokenizer_sha256", "rows_sha256", "items_sha256", "quantisation", "template_sha256", "before_key", "after_key",
)  # fmt: skip


def _number(value: float | None) -> float:
    return NAN if value is None else value


def _provenance_columns(result: TrialResult | None) -> dict[str, Any]:
    if result is None:
        return dict.fromkeys(NUMERIC_PROVENANCE, NAN) | dict.fromkeys(TEXT_PROVENANCE)
    where, resolved = result.provenance, result.resolved
    return {
        "seconds": where.seconds_total,
        "seconds_train": where.seconds_train,
        "seconds_eval": where.seconds_eval,
        "tokens_per_second": _number(where.tokens_per_second),
        "peak_memory_bytes": _number(where.peak_memory_bytes),
        "peak_gpu_memory_bytes": _number(where.peak_gpu_memory_bytes),
        "num_threads": where.num_threads,
        "host": where.host,
        "platform": where.platform,
        "cpu": where.cpu,
        "device": where.device,
        "git_commit": where.git_commit,
        "git_dirty": where.git_dirty,
        "libraries": json.dumps(where.libraries, sort_keys=True),
        "started_utc": where.started_utc,
        "weights_sha256": resolved.weights_sha256,
        "tokenizer_sha256": resolved.tokenizer_sha256,
        "rows_sha256": resolved.rows_sha256,
        "items_sha256": json.dumps(resolved.items_sha256, sort_keys=True),
        "quantisation": resolved.quantisation,
        "template_sha256": result.data.template_sha256,
        "before_key": result.before.key,
        "after_key": result.after.key if result.after else None,
    }


def _one_type(values: pd.Series) -> pd.Series:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pd.to_numeric(values.astype(object))
    return values.map(lambda value: None if value is None else str(value))


def _flag_mixed_identity(frame: pd.DataFrame, sweep: OpenedSweep) -> pd.DataFrame:
    """Add `identity_mixed` and `identity_note`: trials that share a recipe's part must have resolved to one content."""
    notes: list[list[str]] = [[] for _ in sweep.trials]
    for part, recipe_and_content in _identity_parts(sweep).items():
        usual: dict[str, dict[str, int]] = {}
        for recipe, content in recipe_and_content.values():
            counts = usual.setdefault(recipe, {})
            counts[content] = counts.get(content, 0) + 1
        for position, (recipe, content) in recipe_and_content.items():
            if len(usual[recipe]) > 1:
                most = max(usual[recipe], key=lambda held: usual[recipe][held])
                notes[position].append(f"{part} {content[:12]}" + ("" if content == most else f", others {most[:12]}"))
    frame["identity_mixed"] = [bool(note) for note in notes]
    frame["identity_note"] = ["; ".join(note) or None for note in notes]
    return frame


def _identity_parts(sweep: OpenedSweep) -> dict[str, dict[int, tuple[str, str]]]:
    """Return part -> row position -> (recipe, what it resolved to)."""
    parts: dict[str, dict[int, tuple[str, str]]] = {}
    for position, trial in enumerate(sweep.trials):
        if trial.result is None:
            continue
        spec, resolved = trial.result.spec, trial.result.resolved
        base = spec.base.model_dump_json(exclude={"path"})
        data = base + spec.data.model_dump_json(exclude={"source": {"path"}}) + str(spec.seed)
        found = {
            "weights": (base, resolved.weights_sha256),
            "tokenizer": (base, resolved.tokenizer_sha256),
            "rows": (data, resolved.rows_sha256),
        }
        tasks = {task.key: task.model_dump_json(exclude={"source": {"path"}}) for task in spec.evals.tasks}
        found |= {f"items of {key}": (tasks.get(key, key), sha) for key, sha in resolved.items_sha256.items()}
        for part, content in found.items():
            parts.setdefault(part, {})[position] = content
    return parts
