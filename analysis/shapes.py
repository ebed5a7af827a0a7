"""Claims about the shape of a number along an axis: whether it rises, has an extremum, or follows a power law.

Legend: n levels of the axis, k replicates. Invariant: every replicate counts as one curve over the same levels; a level
at which a trial DIVERGED is left out and said, and what it could undo is not decided. What does not live here: the fits
(fits.py), optima and lines between two numbers (curves.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.cells import MIN_SEEDS, Replicate, column_of, split_by_world, trials_at
from analysis.deciding import Ends, Ruling, all_of, by_band, by_sign, is_powered, mde_of, trial_ids
from analysis.fits import Fit, Parameter, Points, power_law, quadratic_log, spearman
from analysis.labels import format_value
from analysis.matrices import World
from analysis.replicates import replicate_of
from analysis.stats import Effect, Floats, pooled_over_worlds, seeds_effect
from analysis.verdicts import PartVerdict, WorldEstimate, part_text
from harness.spec import Hump, Monotone, PowerLaw
from harness.spec.claim import MIN_LEVELS, Along


@dataclass(frozen=True)
class _Curves:
    """A number along an axis, complete."""

    x: Floats
    """(n,) ascending levels."""
    y: dict[World, Floats]
    """world -> (k, n)"""
    seeds: dict[World, list[int]]
    num_left_out: int
    trial_ids: tuple[str, ...]
    censored: str
    """Where trials DIVERGED; empty where none did."""
    note: str


def shape(part: Along, frame: pd.DataFrame) -> PartVerdict:
    """Decide whether a number has a shape along an axis."""
    undecided = PartVerdict(part_text(part), part.kind, "undecided")
    curves = _curves(part, frame)
    if isinstance(curves, str):
        return replace(undecided, note=curves)
    undecided = replace(undecided, num_left_out=curves.num_left_out, note=_joined(curves.note, curves.censored))
    if not curves.y:
        reason = f"fewer than {MIN_SEEDS} replicates with every level known: {curves.num_left_out} left out"
        return replace(undecided, note=_joined(reason, curves.note, curves.censored))
    undecided = replace(undecided, trial_ids=curves.trial_ids)
    match part:
        case Monotone():
            return _monotone(part, curves, undecided)
        case Hump():
            return _hump(part, curves, undecided)
        case PowerLaw():
            return _power_law(part, curves, undecided)


# -- cells ------------------------------------------------------------------------------------------------------------


def _curves(part: Along, frame: pd.DataFrame) -> _Curves | str:
    """Return the curves of a part, or why there are none."""
    column, axis = column_of(part), f"axis.{part.axis}"
    if column not in frame.columns or axis not in frame.columns:
        return f"{part.metric} or {part.axis} is not here"
    trials = trials_at(frame, part.at, part.arm).drop_duplicates("trial_id")
    if not pd.api.types.is_numeric_dtype(trials[axis]):
        return f"{part.axis} has levels that are no numbers"
    kept = trials[trials[axis].notna() & ((trials[axis] > 0) | isinstance(part, Monotone))]
    if kept.duplicated([axis, "world", "seed"]).any():
        return f"several conditions have the same {part.axis}, but one must"
    gone = sorted({float(level) for level in kept.loc[kept["state"] == "DIVERGED", axis]})
    kept = kept[~kept[axis].isin(gone)]
    levels = sorted({float(level) for level in kept[axis]})
    if len(levels) < (needed := MIN_LEVELS[part.kind]):
        return (
            f"{len(levels)} levels of {part.axis} are too few: {needed} are needed{_at_levels('; DIVERGED at', gone)}"
        )
    zeros = sorted({float(level) for level in trials[axis].dropna()} - {*levels, *gone})
    return _complete(kept, axis, column, levels, (_at_levels("left out, without a logarithm:", zeros), gone))


def _complete(
    trials: pd.DataFrame, axis: str, column: str, levels: list[float], said: tuple[str, list[float]]
) -> _Curves:
    """Return the curves of the replicates that have every level."""
    found: dict[Replicate, dict[float, float]] = {}
    for world, seed, level, value in zip(*(trials[name] for name in ("world", "seed", axis, column)), strict=True):
        found.setdefault(replicate_of(world, seed), {})[float(level)] = float(value)
    complete = [key for key, own in found.items() if all(math.isfinite(own.get(x, math.nan)) for x in levels)]
    kept, num_left_out = split_by_world(complete, len(found))
    left_out = f"{num_left_out} replicates left out" if num_left_out and kept else ""
    return _Curves(
        x=np.array(levels),
        y={w: np.array([[found[(w, seed)][x] for x in levels] for seed in seeds]) for w, seeds in kept.items()},
        seeds=kept,
        num_left_out=num_left_out,
        trial_ids=trial_ids(trials, kept),
        censored=_at_levels("censored: trials DIVERGED at", said[1]),
        note=_joined(said[0], left_out),
    )


def _at_levels(what: str, levels: Sequence[float]) -> str:
    return f"{what} {', '.join(map(format_value, levels))}" if levels else ""


def _joined(*notes: str) -> str:
    return "; ".join(dict.fromkeys(note for note in notes if note))


# -- monotone ---------------------------------------------------------------------------------------------------------


def _monotone(part: Monotone, curves: _Curves, undecided: PartVerdict) -> PartVerdict:
    """Decide by the mean over replicates of Spearman's correlation with the axis, with a t interval over replicates."""
    by_replicate = {(w, seed): _rho(curves.x, y) for w, own in curves.y.items() for seed, y in _rows(curves, w, own)}
    known = [key for key, rho in by_replicate.items() if math.isfinite(rho)]
    kept, num_flat = split_by_world(known, len(by_replicate))
    flat = f"{num_flat} replicates left out: {part.metric} does not vary there" if num_flat else ""
    undecided = replace(undecided, num_left_out=curves.num_left_out + num_flat, note=_joined(flat, undecided.note))
    if not kept:
        return undecided
    effects = {w: _rank_effect([by_replicate[(w, seed)] for seed in own], len(curves.x)) for w, own in kept.items()}
    expect = "greater" if part.expect == "rising" else "less"
    pooled = pooled_over_worlds(effects)
    ruling = by_sign(expect, part.margin, _ends(pooled), map(_ends, effects.values()))
    if curves.censored:
        ruling = ("undecided", "")
    return _decided(undecided, ruling, _clipped(pooled), {w: _clipped(e) for w, e in effects.items()}, part.margin)


def _rows(curves: _Curves, world: World, values: Floats) -> list[tuple[int, Floats]]:
    return list(zip(curves.seeds[world], values, strict=True))


def _rho(x: Floats, y: Floats) -> float:
    return spearman(Points(x, y, np.zeros(len(x), dtype=np.int64))).parameters["rho"].value


def _rank_effect(rhos: Sequence[float], num_levels: int) -> Effect:
    """Return the mean correlation of one world with a t interval over its replicates.

    Where all are equal, most often 1, they have no spread, which is no certainty: then the interval is that of
    replicates of which one has two adjacent levels swapped, which moves a correlation by 12 / (n (n^2 - 1)).
    """
    effect = seeds_effect(rhos)
    if np.ptp(rhos) > 0:
        return effect
    swap = 12 / (num_levels * (num_levels**2 - 1))
    other = seeds_effect([rhos[0] - swap, *rhos[1:]])
    shift = effect.estimate - other.estimate
    note = "every replicate has this correlation: interval as if one had two levels swapped"
    return replace(other, estimate=effect.estimate, low=other.low + shift, high=other.high + shift, note=note)


def _clipped(effect: Effect) -> Effect:
    return replace(effect, low=max(effect.low, -1.0), high=min(effect.high, 1.0))


# -- hump -------------------------------------------------------------------------------------------------------------


def _hump(part: Hump, curves: _Curves, undecided: PartVerdict) -> PartVerdict:
    """Decide by the parabola in ln x of each replicate: its slopes at both ends and its bend, with t intervals.

    With u = ln x less its middle, |u| <= L and y = c0 + c1 u + c2 u^2, the slopes are c1 - 2 c2 L and c1 + 2 c2 L, the
    bend is -c2 L^2. An extremum between the ends is the same as slopes of two signs there, if the curve is a parabola:
    the one fitted to a curve that levels off has them too, so that a level inside must beat both ends as well.

    Source: Lind and Mehlum, doi:10.1111/j.1468-0084.2009.00569.x (a test for a U shape).
    """
    found = {world: _parabolas(curves.x, own) for world, own in curves.y.items()}
    first, last, bend = ({w: seeds_effect(own[:, place].tolist()) for w, own in found.items()} for place in range(3))
    expect, other = ("greater", "less") if part.expect == "peak" else ("less", "greater")
    rulings = [
        _named(_by_worlds(expect, 0.0, first), "the slope at the lowest level has the other sign"),
        _named(_by_worlds(other, 0.0, last), "the slope at the highest level has the other sign"),
        _by_worlds(expect, part.margin, bend),
    ]
    ruling = all_of(rulings)
    if ruling[0] == "supported":
        ruling = _beats_ends(curves, 1 if part.expect == "peak" else -1)
    if curves.censored and ruling[0] == "contradicted":
        ruling = ("undecided", "")
    with np.errstate(invalid="ignore"):  # resamples without a bend have their vertex at infinity
        fitted = quadratic_log(_points(curves)).parameters["vertex"]
    decided = _decided(undecided, ruling, pooled_over_worlds(bend), bend, part.margin)
    return replace(decided, detail=_vertex_text(fitted, curves.x))


def _vertex_text(fitted: Parameter, x: Floats) -> str:
    """Return the vertex; where it is not among the levels it is an extrapolation, and no number is said."""
    if math.isnan(fitted.value):
        return ""
    return f"vertex {_parameter(fitted)}" if x[0] <= fitted.value <= x[-1] else "vertex outside the levels"


def _parabolas(x: Floats, y: Floats) -> Floats:
    """Return (k, 3): slope at the lowest and at the highest level, and bend, of each replicate."""
    logs = np.log(x)
    middle, half = (logs[-1] + logs[0]) / 2, (logs[-1] - logs[0]) / 2
    c2, c1, _ = np.polyfit(logs - middle, y.T, 2)
    return np.stack([c1 - 2 * c2 * half, c1 + 2 * c2 * half, -c2 * half**2], axis=1)


def _beats_ends(curves: _Curves, sign: int) -> Ruling:
    """Return whether a level inside is shown to beat the lowest and the highest one, by paired t intervals."""
    found = {world: _above_ends(sign * own) for world, own in curves.y.items()}
    for place, end in enumerate(("lowest", "highest")):
        above = {world: seeds_effect(own[:, place].tolist()) for world, own in found.items()}
        if _by_worlds("greater", 0.0, above)[0] != "supported":
            return "undecided", f"it levels off: no level inside is shown to beat the {end} one"
    return "supported", ""


def _above_ends(y: Floats) -> Floats:
    """Return (k, 2): each replicate at the inner level that is best by the others, less its lowest and highest level.

    Chosen by the same values, the best of several equal levels would lie above both ends by chance.
    """
    inner = y[:, 1:-1]
    best = (inner.sum(axis=0) - inner).argmax(axis=1)
    return inner[np.arange(len(y)), best, None] - y[:, [0, -1]]


def _by_worlds(expect: str, margin: float, effects: Mapping[World, Effect]) -> Ruling:
    return by_sign(expect, margin, _ends(pooled_over_worlds(effects)), map(_ends, effects.values()))


def _named(ruling: Ruling, why: str) -> Ruling:
    return (ruling[0], why) if ruling[0] == "contradicted" else ruling


# -- power law --------------------------------------------------------------------------------------------------------


def _power_law(part: PowerLaw, curves: _Curves, undecided: PartVerdict) -> PartVerdict:
    """Decide by the exponent of y = c + a x^b over all replicates, with an interval from resampling them."""
    fit = power_law(_points(curves))
    worlds = {w: power_law(_points(curves, w)) for w in curves.y} if len(curves.y) > 1 else {None: fit}
    a, b = fit.parameters["a"], fit.parameters["b"]
    rises = (part.expect == "rising") == (part.low > 0)
    rulings = [
        by_band((part.low, part.high), (b.low, b.high), [_of_fit(own) for own in worlds.values()]),
        _named(by_sign("greater" if rises else "less", 0.0, (a.low, a.high)), "it goes the other way"),
    ]
    verdict, why = ("undecided", "") if curves.censored else all_of(rulings)
    mde = mde_of((b.low, b.high), fit.num_replicates - len(curves.y))
    fits = zip(curves.y.items(), worlds.values(), strict=True)
    return replace(
        undecided,
        verdict=verdict,
        note=_joined(why, fit.note, undecided.note),
        is_powered=is_powered(verdict, mde, (part.high - part.low) / 2),
        estimate=b.value,
        low=b.low,
        high=b.high,
        mde=mde,
        num_replicates=fit.num_replicates,
        detail=f"R^2 {numbers.score(fit.r2)}",
        worlds=tuple(WorldEstimate(w, f.parameters["b"].value, *_of_fit(f), len(y)) for (w, y), f in fits),
    )


def _of_fit(fit: Fit) -> Ends:
    return fit.parameters["b"].low, fit.parameters["b"].high


# -- all --------------------------------------------------------------------------------------------------------------


def _points(curves: _Curves, world: World = None) -> Points:
    """Return the points of all replicates, or of one world's."""
    chosen = {w: y for w, y in curves.y.items() if world in (None, w)}
    num_levels = len(curves.x)
    return Points(
        x=np.concatenate([np.tile(curves.x, len(y)) for y in chosen.values()]),
        y=np.concatenate([y.ravel() for y in chosen.values()]),
        replicates=np.concatenate([np.repeat(curves.seeds[w], num_levels) for w in chosen]),
        worlds=np.concatenate([np.full(y.size, -1 if w is None else w) for w, y in chosen.items()]),
    )


def _ends(effect: Effect) -> Ends:
    return effect.low, effect.high


def _parameter(fitted: Parameter) -> str:
    value, low, high = map(numbers.quantity, (fitted.value, fitted.low, fitted.high))
    return value if math.isnan(fitted.low) else f"{value} [{low}, {high}]"


def _decided(
    undecided: PartVerdict, ruling: Ruling, pooled: Effect, effects: Mapping[World, Effect], margin: float
) -> PartVerdict:
    verdict, why = ruling
    return replace(
        undecided,
        verdict=verdict,
        note=_joined(why, undecided.note, pooled.note),
        is_powered=is_powered(verdict, pooled.mde, margin),
        estimate=pooled.estimate,
        low=pooled.low,
        high=pooled.high,
        mde=pooled.mde,
        num_replicates=pooled.num_seeds,
        worlds=tuple(WorldEstimate(w, e.estimate, e.low, e.high, e.num_seeds) for w, e in effects.items()),
    )
