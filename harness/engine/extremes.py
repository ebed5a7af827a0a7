"""What is at floor or ceiling on a base, said before it is scored; and what an experiment declares for the report.

Invariant: torch-free, nothing is scored here: what is said comes from the catalogue, the experiment, and a score before
training that stands in the store. What does not live here: when a score is at an end (analysis/extremes.py).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from analysis import extremes
from harness.engine import states
from harness.errors import StoreError
from harness.evals import suites
from harness.records import result
from harness.records.schema import PlannedTrial, Scores
from harness.records.store import Store
from harness.spec import EvalTask, Experiment

logger = logging.getLogger(__name__)


def sentences(tasks: Sequence[EvalTask], experiment: Experiment, before: Scores | None) -> tuple[str, ...]:
    """Return one sentence for each slice that can move one way only, or shows little, on an experiment's base.

    What the catalogue of suites says of the base comes first, then what the experiment declares of other slices, then
    what was measured.

    Args:
        tasks: the slices that are asked.
        experiment: whose base is scored.
        before: scores of that base on test items; None where it was not scored yet.
    """
    said = [(task.key, one) for task in tasks for one in suites.expectations((task,), experiment.name)]
    by_catalogue = {key for key, _ in said}
    others = [task for task in tasks if task.key not in by_catalogue]
    declared = extremes.declared_extremes(others, experiment.extremes)
    measured = extremes.measured_extremes(tasks, before or {})
    return (*(one for _, one in said), *(found.sentence for found in (*declared, *measured)))


def of_plan(experiment: Experiment, trials: Iterable[PlannedTrial], store: Store) -> tuple[str, ...]:
    """Return `sentences` of the slices of a plan, with the score before training of its first finished trial."""
    return sentences(experiment.spec.evals.tasks, experiment, known_before(trials, store))


def known_before(trials: Iterable[PlannedTrial], store: Store) -> Scores | None:
    """Return the base's scores on test items, from the first trial with a readable result; None where none has one."""
    begun = states.begun(store)
    for trial in trials:
        if begun is not None and trial.trial_id not in begun:
            continue
        with contextlib.suppress(StoreError):  # a damaged record is the report's to tell
            if (found := result.read(store.trial(trial.trial_id))) is not None:
                return (found.before_full_precision or found.before).test
    return None


def say(experiment: Experiment, trials: Iterable[PlannedTrial], store: Store) -> None:
    """Log `of_plan`, for a launch."""
    for sentence in of_plan(experiment, trials, store):
        logger.warning("%s", sentence)


def declared(experiment: Experiment) -> dict[str, Any]:
    """Return the fields of a sweep's record that its experiment declares.

    An extreme of a slice that is not asked is left out, and so is a method whose rate no sweep found.
    """
    names = {task.name for task in experiment.spec.evals.tasks}
    return {
        "represented": experiment.represented,
        "adjacent": experiment.adjacent,
        "extremes": tuple(one for one in experiment.extremes if one[0] in names),
        "rates_found_by": {one.method.kind: one.found_by for one in experiment.methods if one.found_by},
    }
