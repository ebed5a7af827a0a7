"""A sweep's claims as they are on a base: axis values made absolute.

Invariant: a place of a claim names the axis value that the planned trial has. What does not live here: deciding a
claim (analysis/claims.py), running the sweeps that declare some (claims_run.py).
"""

from __future__ import annotations

from typing import Any

from harness.engine import axes
from harness.engine.resolve import Setting
from harness.errors import SpecError
from harness.spec import Claim, Contrast, Part, Place, Sweep


def on_base(setting: Setting) -> tuple[Claim, ...]:
    """Return a sweep's claims with absolute axis values in place of multiples of a reference learning rate.

    Raises:
        SpecError: which method's reference is meant is left open.
    """
    sweep = setting.sweep
    if not isinstance(sweep, Sweep):
        return ()
    return tuple(
        claim.model_copy(update={"parts": tuple(_part(setting, sweep, claim, part) for part in claim.parts)})
        for claim in sweep.claims
    )


def _part(setting: Setting, sweep: Sweep, claim: Claim, part: Part) -> Part:
    if isinstance(part, Contrast):
        terms = (term.model_copy(update={"at": _place(setting, sweep, claim, term)}) for term in part.terms)
        return part.model_copy(update={"terms": tuple(terms)})
    return part.model_copy(update={"at": _place(setting, sweep, claim, part)})


def _place(setting: Setting, sweep: Sweep, claim: Claim, part: Any) -> Place:
    """Return where a term or part looks, in absolute values."""
    relative = {axis.field for axis in sweep.axes if axis.relative_to == "reference_learning_rate"}
    at: Place = part.at
    if not relative & {field for field, _ in at}:
        return at
    arm = next(arm for arm in sweep.arms if part.arm in (None, arm.name))
    fields = setting.fields | dict(arm.set) | dict(at)
    named = "method" in fields
    if not named and any(axis.field == "method" for axis in sweep.axes):
        raise SpecError(f"claims {claim.id} at names a multiple of a learning rate, but must name its method as well.")
    method = axes.reference(setting.experiment, fields["method"]) if named else axes.own_reference(setting.experiment)
    rate = method.learning_rate
    return tuple((field, axes.rounded(value * rate) if field in relative else value) for field, value in at)  # type: ignore[operator]
