"""The plan of what was launched: as its folder tells it, where a request alone does not.

Invariant: reads, never locks and never writes. What does not live here: making a plan (plan.py).
"""

from __future__ import annotations

from dataclasses import replace

from harness.engine import plan as plans
from harness.engine import recovery as follow_ups
from harness.engine.plan import Plan
from harness.engine.resolve import Request
from harness.errors import SpecError
from harness.records.schema import SweepRecord
from harness.spec import Study


def planned(request: Request) -> Plan:
    """Return a plan with the trials that a launch recorded: a study's and a follow-up's are only known from there.

    Raises:
        BadInputError: it cannot be planned, or it is a follow-up that was never launched.
        StoreError: its `sweep.json` is damaged.
    """
    if request.name.startswith(follow_ups.PREFIX):
        return _followed(request)
    made = plans.make_plan(request)
    if isinstance(made.setting.sweep, Study):
        record = made.store.read(made.folder / "sweep.json", SweepRecord)
        if record is not None:
            return Plan(made.request, made.setting, record, made.store)
    return made


def _followed(request: Request) -> Plan:
    """Return the plan of a recovery test as it was launched."""
    parent = plans.make_plan(replace(request, name=request.name.removeprefix(follow_ups.PREFIX)))
    folder = parent.store.sweep(follow_ups.PREFIX + parent.folder.name)
    record = parent.store.read(folder / "sweep.json", SweepRecord)
    if record is None:
        raise SpecError(f"{folder} does not exist, but must; run make recovery NAME={parent.record.name}.")
    return Plan(request, parent.setting, record, parent.store)


def launched(request: Request) -> Plan:
    """Return the plan of what was launched, raising as `planned` does.

    Raises:
        SpecError: it never was.
    """
    made = planned(request)
    if not (made.folder / "sweep.json").is_file():
        raise SpecError(f"{made.folder} does not exist, but must before there is a report; run: {made.record.command}")
    return made
