"""What all kinds of parts share in being decided: the rules by interval, and the trials behind a number.

Invariant: a rule sees ends of intervals alone, so that nothing is decided by an estimate; no interval decides nothing.
What does not live here: where intervals come from (claims.py, curves.py, shapes.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pandas has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pandas as pd
import scipy.stats

from analysis.matrices import World
from analysis.replicates import replicate_of
from analysis.stats import ALPHA, minimum_detectable_effect
from analysis.verdicts import Decision

Ends = tuple[float, float]
"""Of a 95 % interval; nan where there is none."""
Ruling = tuple[Decision, str]
"""The verdict, and why where that is not plain from the interval."""
Expect = Literal["greater", "less", "equal"]


def by_sign(expect: Expect, margin: float, ends: Ends, worlds: Iterable[Ends] = ()) -> Ruling:
    """Return the verdict on a number that is expected above, below or at 0.

    Args:
        expect: `greater`, `less`: supported when the interval has that sign, contradicted when it has the other or lies
            wholly within the margin. `equal`: supported within the margin, contradicted wholly outside.
        margin: the smallest effect that matters.
        ends: of the interval over all worlds.
        worlds: of each world alone; one that wholly says the opposite leaves it undecided.
    """
    if expect == "equal":
        return by_band((-margin, margin), ends, worlds)
    if math.isnan(ends[0]):
        return "undecided", "there is no interval"
    sign = -1 if expect == "less" else 1
    low, high = _turned(ends, sign)
    each = [_turned(world, sign) for world in worlds]
    if -margin < low and high < margin:
        return _unless(any(own > margin for own, _ in each), "contradicted", "shown to be smaller than the margin")
    if low > 0:
        return _unless(any(own < 0 for _, own in each), "supported", "")
    if high < 0:
        return _unless(any(own > 0 for own, _ in each), "contradicted", "")
    return "undecided", ""


def by_band(band: Ends, ends: Ends, worlds: Iterable[Ends] = ()) -> Ruling:
    """Return the verdict on a number that is expected in a band: supported inside, contradicted wholly outside."""
    (lowest, highest), (low, high) = band, ends
    if math.isnan(low):
        return "undecided", "there is no interval"
    if lowest <= low and high <= highest:
        return _unless(any(a > highest or b < lowest for a, b in worlds), "supported", "")
    if low > highest or high < lowest:
        return _unless(any(lowest <= a and b <= highest for a, b in worlds), "contradicted", "")
    return "undecided", ""


def all_of(rulings: Sequence[Ruling]) -> Ruling:
    """Return the verdict on several things that must hold at once: contradicted by any, supported by all."""
    decisions = {decision for decision, _ in rulings}
    verdict: Decision = "undecided"
    if decisions == {"supported"} or "contradicted" in decisions:
        verdict = "contradicted" if "contradicted" in decisions else "supported"
    notes = dict.fromkeys(why for decision, why in rulings if decision == verdict and why)
    return verdict, "; ".join(notes)


def is_powered(verdict: Decision, mde: float, margin: float) -> bool:
    """Return False where a part is undecided and its minimum detectable effect exceeds its margin."""
    return verdict != "undecided" or not mde > margin


def mde_of(ends: Ends, df: int) -> float:
    """Return the difference that such an interval would show in four of five cases; nan where there is none.

    Args:
        ends: of an interval from resampled replicates, whose half width is taken for t times a standard error.
        df: replicates less one for each world.
    """
    if math.isnan(ends[0]) or df < 1:
        return math.nan
    half = (ends[1] - ends[0]) / 2
    return minimum_detectable_effect(half / float(scipy.stats.t.ppf(1 - ALPHA / 2, df)), df)


def trial_ids(trials: pd.DataFrame, kept: Mapping[World, Sequence[int]]) -> tuple[str, ...]:
    """Return the ids of the trials of the replicates that are kept, each once, sorted."""
    known = {(world, seed) for world, seeds in kept.items() for seed in seeds}
    rows = zip(trials["world"], trials["seed"], trials["trial_id"], strict=True)
    return tuple(sorted({str(name) for world, seed, name in rows if replicate_of(world, seed) in known}))


def _turned(ends: Ends, sign: int) -> Ends:
    return ends if sign > 0 else (-ends[1], -ends[0])


def _unless(worlds_disagree: bool, verdict: Decision, why: str) -> Ruling:
    return ("undecided", "worlds disagree") if worlds_disagree else (verdict, why)
