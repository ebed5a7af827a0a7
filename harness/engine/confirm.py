"""What a study confirms: the conditions that its search chose on val items, run again on fresh seeds.

Invariant: the choice depends on what was told alone, and what confirms it was not looked at by anybody before: seeds
that no condition of the search had. What does not live here: running (study.py), what is said of it (analysis).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.engine import space
from harness.engine.resolve import Setting
from harness.records.schema import PlannedTrial
from harness.spec import Scalar, Study


def chosen(study: Study, told: Sequence[Any], optuna: Any) -> list[int]:
    """Return the numbers of the conditions that a search chose, the best first; empty where none is feasible.

    Of one objective it is the best feasible condition, the earliest of equal ones. Of several it is the front, each
    condition once, ordered by the first objective, best first; of more than `max_confirmed` those at equal steps along
    it, both ends among them.

    Args:
        study: what is optimised.
        told: every condition as Optuna was told it, in order.
        optuna: the module.
    """
    history = optuna.create_study(directions=[objective.direction for objective in study.objectives])
    history.add_trials(told)
    if len(study.objectives) == 1:
        return _best(history)
    distinct = {trial.user_attrs["condition_id"]: trial for trial in reversed(history.best_trials)}
    sign = 1 if study.objectives[0].direction == "minimize" else -1
    front = sorted(distinct.values(), key=lambda trial: (sign * trial.values[0], trial.number))
    return [trial.number for trial in _spread(front, study.max_confirmed)]


def _best(history: Any) -> list[int]:
    try:
        return [history.best_trial.number]
    except ValueError:  # none is complete and feasible
        return []


def _spread(front: Sequence[Any], count: int) -> list[Any]:
    """Return so many of the front, at equal steps along it, both ends among them; one alone is its first."""
    if len(front) <= count:
        return list(front)
    last = len(front) - 1
    return [front[round(place * last / max(1, count - 1))] for place in range(count)]


def planned(
    setting: Setting, proposals: Sequence[Mapping[str, Scalar]], numbers: Sequence[int]
) -> tuple[list[PlannedTrial], tuple[str, ...]]:
    """Return the trials of these conditions on the fresh seeds, and the conditions' ids."""
    trials = [space.confirming(setting, proposals[number]) for number in numbers]
    ids = tuple(space.planned(setting, proposals[number])[0].condition_id for number in numbers)
    return [trial for condition in trials for trial in condition], ids
