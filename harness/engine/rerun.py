"""Running one row again: in place where it has no result, beside the store and compared where it has one.

Invariant: a committed record is never changed. What does not live here: running a sweep (launch.py).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.engine import launch, states, view
from harness.engine.beside import beside
from harness.engine.launch import Options
from harness.errors import SpecError, shown
from harness.identity import condition_id
from harness.records import result
from harness.records.schema import CHOICES_FILE, EvalScores, PlannedTrial, Scores, TrialResult
from harness.records.store import MANIFEST, Store
from harness.spec import Runtime, TrialSpec

SIDES = ("before", "before_full_precision", "after")
Rows = dict[tuple[str, str], tuple[Any, ...]]
"""(Slice or metric key, item) -> what was recorded of it."""


@dataclass(frozen=True)
class Rerun:
    """How a row came out this time."""

    trial_id: str
    state: str
    message: str = ""
    compared: bool = False
    differences: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What differs from the record: name -> (recorded, now). Empty when it was reproduced exactly."""

    @property
    def exit_code(self) -> int:
        return 0 if self.state in states.FINAL and not self.differences else 1

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        return vars(self) | {"reproduced": self.compared and not self.differences}


def rerun(prefix: str, store: Store, keep: Literal["none", "adapter", "all"] | None) -> Rerun:
    """Run one trial again.

    Args:
        prefix: the trial's id or an unambiguous beginning.
        store: where it ran.
        keep: weights that stay; None as the trial was launched. Weights of a reproduced trial join its record.

    Raises:
        SpecError: no such trial.
        BadInputError: base, template or data cannot be used any more.
    """
    trial, runtime = _read(prefix, store)
    runtime = runtime.replace({"keep": keep}) if keep else runtime
    recorded = result.read(store.trial(trial.trial_id))
    runtime = runtime if recorded is None else _halved_as(recorded, runtime)
    target = store if recorded is None else _fresh(store, trial)
    options = Options(num_workers=1, retry_failed=True)
    summary = launch.launch(target, [trial], runtime, options, view.choose(target, as_json=False))
    outcome = summary.outcomes.get(trial.trial_id)
    if outcome is None or outcome.state not in states.FINAL:
        return Rerun(trial.trial_id, outcome.state if outcome else "PENDING", outcome.message if outcome else "")
    if recorded is None:
        return Rerun(trial.trial_id, outcome.state)
    again = result.read(target.trial(trial.trial_id))
    assert again is not None
    found = differences(recorded, again) | _item_differences(recorded, store, again, target)
    if not found:
        _adopt_weights(target.trial(trial.trial_id), store.trial(trial.trial_id))
        shutil.rmtree(target.root)
    return Rerun(trial.trial_id, outcome.state, f"kept in {target.root}" if found else "", True, found)


def _read(prefix: str, store: Store) -> tuple[PlannedTrial, Runtime]:
    found = sorted(path.name for path in (store.root / "trials").glob(f"{prefix}*")) if prefix.isalnum() else []
    if len(found) != 1:
        raise SpecError(
            f"trial id is {shown(prefix)}, but must name exactly one trial of {store.root / 'trials'} "
            f"({len(found)} match); the ids are in the report's trials.csv."
        )
    folder = store.trial(found[0])
    spec, runtime = store.read(folder / "spec.json", TrialSpec), store.read(folder / "runtime.json", Runtime)
    if spec is None or runtime is None:
        raise SpecError(
            f"{folder} has no spec.json or runtime.json, but must be a trial that was started; run its sweep."
        )
    trial = PlannedTrial(
        trial_id=found[0], condition_id=condition_id(spec), arm="rerun", axes={}, seed=spec.seed, spec=spec
    )
    return trial, runtime


def _halved_as(recorded: TrialResult, runtime: Runtime) -> Runtime:
    """Return how to run a trial with as many rows together as its record ended with: the order of additions is part of
    the last digits, and today there may be more memory, or less."""
    train = recorded.train
    return runtime.replace({"num_halvings": train.num_halvings, "num_eval_halvings": train.num_eval_halvings})


def _fresh(store: Store, trial: PlannedTrial) -> Store:
    """Return an empty store beside this one."""
    root = store.root / "reruns" / trial.trial_id
    shutil.rmtree(root, ignore_errors=True)
    return beside(store, root, [trial.spec])


def differences(recorded: TrialResult, again: TrialResult) -> dict[str, tuple[Any, Any]]:
    """Return what two results of one recipe do not agree on: resolved identity, training and data summary, scores."""
    pairs: dict[str, tuple[Any, Any]] = {"state": (recorded.state, again.state)}
    for part in ("resolved", "train", "data"):
        old, new = getattr(recorded, part).model_dump(), getattr(again, part).model_dump()
        pairs |= {f"{part}.{name}": (old[name], new[name]) for name in old}
    for side in SIDES:
        old, new = getattr(recorded, side), getattr(again, side)
        pairs |= _score_pairs(side, old.test if old else {}, new.test if new else {})
        pairs |= _score_pairs(f"{side}/val", old.val if old else {}, new.val if new else {})
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _score_pairs(side: str, old: Scores, new: Scores) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*old, *new})
    return {f"{side}/{key}": (_value(old, key), _value(new, key)) for key in keys}


def _value(scores: Scores, key: str) -> float | None:
    return scores[key].value if key in scores else None


def _item_differences(
    recorded: TrialResult, store: Store, again: TrialResult, target: Store
) -> dict[str, tuple[Any, Any]]:
    """Return, for each metric of a side whose items differ, the first of them: equal means may hide other items."""
    found: dict[str, tuple[Any, Any]] = {}
    for side in SIDES:
        old, new = _items(getattr(recorded, side), store), _items(getattr(again, side), target)
        if old is None or new is None:
            states = ("missing" if old is None else "there", "missing" if new is None else "there")
            found |= {f"{side} items": states} if states[0] != states[1] else {}
            continue
        found |= _first_differences(side, "by item", old, new)
        old, new = _choices(getattr(recorded, side), store), _choices(getattr(again, side), target)
        if old is not None and new is not None:  # a record from before choices were kept has none to compare
            found |= _first_differences(side, "by choice", old, new)
    return found


def _first_differences(side: str, unit: str, old: Rows, new: Rows) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in (key for key in old | new if old.get(key) != new.get(key)):
        found.setdefault(f"{side}/{key[0]} {unit}", (f"{key[1]}: {old.get(key)}", f"{key[1]}: {new.get(key)}"))
    return found


def _items(scores: EvalScores | None, store: Store) -> Rows | None:
    """Return (metric key, item id) -> value, output and reason, or None where the rows are missing or damaged."""
    rows = _read_rows(None if scores is None else store.root / scores.items_file)
    try:
        return (
            None
            if rows is None
            else {
                (f"{row['suite']}/{row['task']}/{row['metric']}", row["item_id"]): (
                    row["value"],
                    row["output"],
                    row["reason"],
                )
                for row in rows
            }
        )
    except KeyError:
        return None


def _choices(scores: EvalScores | None, store: Store) -> Rows | None:
    """Return (slice, item id and choice) -> log-probability, or None where the choices are missing or damaged."""
    rows = _read_rows(None if scores is None else (store.root / scores.items_file).with_name(CHOICES_FILE))
    try:
        return (
            None
            if rows is None
            else {
                (f"{row['suite']}/{row['task']}", f"{row['item_id']} choice {row['choice']}"): (row["logprob"],)
                for row in rows
            }
        )
    except KeyError:
        return None


def _read_rows(path: Path | None) -> list[dict[str, Any]] | None:
    from pyarrow import ArrowException, parquet

    try:
        return None if path is None else parquet.read_table(path).to_pylist()
    except (OSError, ArrowException):
        return None


def _adopt_weights(source: Path, target: Path) -> None:
    if (source / "weights" / MANIFEST).is_file() and not (target / "weights").exists():
        (source / "weights").rename(target / "weights")
