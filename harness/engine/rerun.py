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
from harness.errors import SpecError
from harness.identity import condition_id
from harness.records import result
from harness.records.schema import PlannedTrial, Scores, TrialResult
from harness.records.store import MANIFEST, Store
from harness.spec import Runtime, TrialSpec


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
    found = differences(recorded, again)
    if not found:
        _adopt_weights(target.trial(trial.trial_id), store.trial(trial.trial_id))
        shutil.rmtree(target.root)
    return Rerun(trial.trial_id, outcome.state, f"kept in {target.root}" if found else "", True, found)


def _read(prefix: str, store: Store) -> tuple[PlannedTrial, Runtime]:
    found = sorted(path.name for path in (store.root / "trials").glob(f"{prefix}*")) if prefix.isalnum() else []
    if len(found) != 1:
        raise SpecError(
            f"trial id is {prefix!r}, but must name exactly one trial of {store.root / 'trials'} ({len(found)} match); "
            "the ids are in the report's trials.csv."
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


def _fresh(store: Store, trial: PlannedTrial) -> Store:
    """Return an empty store beside this one."""
    root = store.root / "reruns" / trial.trial_id
    shutil.rmtree(root, ignore_errors=True)
    return beside(store, root, [trial.spec])


def differences(recorded: TrialResult, again: TrialResult) -> dict[str, tuple[Any, Any]]:
    """Return what two results of one recipe do not agree on: resolved identity, training summary, scores, files."""
    pairs: dict[str, tuple[Any, Any]] = {"state": (recorded.state, again.state)}
    for part in ("resolved", "train", "data"):
        old, new = getattr(recorded, part).model_dump(), getattr(again, part).model_dump()
        pairs |= {f"{part}.{name}": (old[name], new[name]) for name in old}
    for side in ("before", "after"):
        pairs |= _score_pairs(side, _test(getattr(recorded, side)), _test(getattr(again, side)))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _test(scores: Any) -> Scores:
    return scores.test if scores is not None else {}


def _score_pairs(side: str, old: Scores, new: Scores) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*old, *new})
    return {f"{side}/{key}": (_value(old, key), _value(new, key)) for key in keys}


def _value(scores: Scores, key: str) -> float | None:
    return scores[key].value if key in scores else None


def _adopt_weights(source: Path, target: Path) -> None:
    if (source / "weights" / MANIFEST).is_file() and not (target / "weights").exists():
        (source / "weights").rename(target / "weights")
