"""Several launchers on one study: one leads, the others run what it planned and take its place when it ends or dies.

Invariant: only the leader, who holds the study's lock, proposes, gives up, tells and writes; whoever helps runs
recorded trials alone, of which each is claimed by one process. What does not live here: leading (study.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from harness.engine import proposals, states
from harness.engine.launch import Options, Summary, View, launch
from harness.engine.plan import Plan
from harness.engine.proposals import StudyRecord
from harness.errors import BusyError, StoreError
from harness.records.schema import PlannedTrial
from harness.records.store import lock
from harness.spec import Study

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.5


def lead(stack: ExitStack, plan: Plan, options: Options, view_for: Callable[[], View], total: Summary) -> bool:
    """Hold the study's lock until the stack closes, helping whoever has it until then; return whether it is held.

    False is a call that ended before: `total` says why.

    Raises:
        BusyError: another process runs another definition of the study in this folder.
        BadInputError: base, template or data cannot be used.
        DiskError: the output folder cannot be written.
    """
    is_first = True
    while True:
        try:
            stack.enter_context(lock(plan.folder / ".study.lock", wait=False))
            return True
        except BusyError:
            _check_same(plan)
        if is_first:
            LOG.warning("another process leads study %s; this one helps, and takes over when it ends", plan.record.name)
        is_first = False
        _help(plan, options, view_for, total)
        if total.why != "done":
            return False


def _check_same(plan: Plan) -> None:
    try:
        book = plan.store.read(plan.folder / "study.json", StudyRecord)
    except StoreError:
        return  # the leader mends it
    if book is not None and book.definition != proposals.definition(plan):
        raise BusyError(f"{plan.folder} is held by another process, which runs another definition of this study")


def _help(plan: Plan, options: Options, view_for: Callable[[], View], total: Summary) -> None:
    """Run what the leader planned and nobody has finished, then leave it a moment to go on."""
    left = None if options.budget_seconds is None else options.budget_seconds - total.seconds
    if left is not None and left <= 0:
        total.why, total.message = "budget", "the budget is used up; run the same command again to continue"
        return
    if trials := _open(plan):
        runtime = plan.setting.experiment.runtime
        done = launch(plan.store, trials, runtime, replace(options, budget_seconds=left), view_for())
        add(total, replace(done, num_planned=0))
    else:
        total.seconds += LOOK_SECONDS
    time.sleep(LOOK_SECONDS)


def _open(plan: Plan) -> list[PlannedTrial]:
    """Return recorded trials that are not settled; none where the leader may still give up some of them."""
    study = plan.setting.sweep
    assert isinstance(study, Study)
    if study.pruning is not None:
        return []
    recorded = proposals.with_recorded(plan)
    seen = states.of_record(recorded.store, recorded.record)
    return [trial for key, trial in recorded.trials.items() if seen[key].state in ("PENDING", "RUNNING")]


def add(total: Summary, batch: Summary) -> None:
    """Add how a launch ended to how the call went so far; what ran in this call stays so."""
    for key, outcome in batch.outcomes.items():
        known = total.outcomes.get(key)
        if known is None or known.state != outcome.state or outcome.ran:
            total.outcomes[key] = outcome
    total.num_planned += batch.num_planned
    total.seconds += batch.seconds
    total.why, total.message = batch.why, batch.message
