"""What a study has still before it that no plan can name: conditions to propose, and winners to confirm.

Invariant: counts are upper limits - a front may be shorter, a condition may be proposed twice or be given up. What does
not live here: the cost of a trial (forecast.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from harness.engine import space
from harness.engine.forecast import Cost, Forecast
from harness.engine.resolve import Setting
from harness.records.schema import CONFIRM_ARM, PlannedTrial, SweepRecord
from harness.records.store import Store
from harness.spec import Study


@dataclass(frozen=True)
class Ahead:
    """Trials that are not planned yet, at most."""

    num_conditions: int
    """Conditions left to propose."""
    num_trials: int
    """Their trials."""
    num_confirming: int
    """Trials on fresh seeds."""
    cost: Cost
    """What each is taken to cost: the mean of the trials planned, or of both ends of the space; the largest peak."""

    def costs(self) -> list[Cost]:
        """Return the expected cost of each."""
        return [self.cost] * (self.num_trials + self.num_confirming)


def of_study(setting: Setting, record: SweepRecord, store: Store) -> Ahead:
    """Return what a study has before it."""
    study = setting.sweep
    assert isinstance(study, Study)
    sampled = {trial.condition_id for trial in record.trials if trial.arm != CONFIRM_ARM}
    left = max(0, study.num_conditions - len(sampled)) if record.winners is None else 0
    winners = 1 if len(study.objectives) == 1 else study.max_confirmed
    to_confirm = 0 if record.winners is not None else min(winners, study.num_conditions) * len(study.confirm_seeds)
    forecast = Forecast(store, setting.experiment.runtime)
    cost = _mean(forecast.of(trial.spec) for trial in examples(setting, record))
    return Ahead(left, left * len(space.seeds(setting)), to_confirm, cost)


def examples(setting: Setting, record: SweepRecord) -> tuple[PlannedTrial, ...]:
    """Return trials of a study that stand for those to come: those planned, else one at each end of its space."""
    return record.trials or tuple(space.planned(setting, proposal)[0] for proposal in space.ends(setting))


def _mean(costs: Iterable[Cost]) -> Cost:
    """Return the mean of each number, None where one is unknown."""
    known = list(costs)
    names = ("num_steps", "num_tokens", "seconds", "disk_bytes", "memory_bytes")
    columns = {name: [getattr(cost, name) for cost in known] for name in names}
    means = {name: None if None in column else statistics.fmean(column) for name, column in columns.items()}
    whole = {name: mean if name == "seconds" or mean is None else round(mean) for name, mean in means.items()}
    if whole["memory_bytes"] is not None:
        whole["memory_bytes"] = max(columns["memory_bytes"])  # what has to fit is the largest
    return Cost(**whole)  # pyright: ignore[reportArgumentType]
