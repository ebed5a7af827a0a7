"""Declared shapes fitted to points: power law, exponential, parabola in a logarithm, line, ranks.

Legend: n points, each of a replicate (a seed) in a world; x and y are plain numbers. Invariant: intervals come from
resampling whole replicates within their worlds, because the points of one trained model move together; what cannot be
fitted is nan with a reason. What does not live here: verdicts on a curve (curves.py), drawing (figures.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# scipy has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
import scipy.stats

from analysis.resampling import MIN_RESAMPLED, interval_of, why_no_interval
from analysis.stats import ALPHA
from analysis.variance import Codes, Floats
from harness.seeding import numpy_stream

NUM_RESAMPLES = 1000
ROUNDING = 1e-24
"""A spread below this share of the squares is that of rounding: equal numbers have no other."""
NAN = math.nan


@dataclass(frozen=True)
class Parameter:
    """A fitted number with its 95 % interval; nan where there is none."""

    value: float
    low: float = NAN
    high: float = NAN


@dataclass(frozen=True)
class Fit:
    """A shape fitted to points."""

    shape: str
    """The formula."""
    parameters: Mapping[str, Parameter]
    r2: float
    """1 - squared error / squared spread about the mean (of its world, where each has an intercept); nan without spread
    and for ranks."""
    num_points: int
    num_replicates: int
    """Over all worlds."""
    note: str = ""
    r2_low: float = NAN
    r2_high: float = NAN
    """95 % interval of R^2, from leaving out each replicate in turn; of a straight line alone."""


@dataclass(frozen=True)
class Points:
    """What is fitted."""

    x: Sequence[float] | Floats
    y: Sequence[float] | Floats
    replicates: Sequence[int] | Codes
    """Of each point; the same number in two worlds is two replicates."""
    worlds: Sequence[int] | Codes | None = None
    """Of each point; None is one world."""


Solve = Callable[[Floats, Floats, Codes, Floats], Floats]
"""x, y, worlds and how often each point counts -> parameters; nan where there is no solution."""


@dataclass(frozen=True)
class _Shape:
    formula: str
    names: tuple[str, ...]
    solve: Solve
    rest: Callable[[Floats, Floats, Codes, Floats, Floats], Floats] | None
    """x, y, worlds, how often each point counts, and parameters -> what is left of y; None of ranks, which have no
    R^2."""
    positive_x: bool = False
    by_world: bool = False
    """Whether each world has a level of its own."""
    has_r2_interval: bool = False


def power_law(points: Points) -> Fit:
    """Fit y = c + a x^b by least squares; points with x <= 0 are left out and said.

    Source: P = a D^(1/b) of Raghavendra et al., arXiv:2410.03717, with a floor or ceiling c.
    """
    return _fit(_Shape("y = c + a x^b", ("a", "b", "c"), _solve_power, _rest_of_power, positive_x=True), points)


def exponential(points: Points) -> Fit:
    """Fit y = c + a exp(b x) by least squares; b above 0 is a curve that bends ever faster away from c.

    Source: Shenfeld et al. (RL's Razor), arXiv:2509.04259 (accuracy on earlier tasks against the new task's).
    """
    return _fit(_Shape("y = c + a exp(b x)", ("a", "b", "c"), _solve_exponential, _rest_of_exponential), points)


def quadratic_log(points: Points) -> Fit:
    """Fit y = c0 + c1 ln x + c2 (ln x)^2 by least squares: `curvature` is c2, `vertex` the x of its extremum.

    A weight of 0 has no logarithm: such points are left out and said.

    Source: Huerta-Enochian and Ko, arXiv:2401.13586 (prompt loss weight).
    """
    names = ("curvature", "vertex")
    formula = "y = c0 + c1 ln x + c2 ln^2 x"
    return _fit(_Shape(formula, names, _solve_quadratic, _rest_of_quadratic, positive_x=True), points)


def straight_line(points: Points) -> Fit:
    """Fit y = i_w + slope x by least squares, with an intercept i_w for each world; `intercept` is their mean.

    R^2 is then the squared correlation of x and y, both less their mean in their world.

    Source: Kalajdzievski, arXiv:2401.05605 (forgetting against the loss of fine-tuning).
    """
    names = ("slope", "intercept")
    shape = _Shape("y = intercept + slope x", names, _solve_line, _rest_of_line, by_world=True, has_r2_interval=True)
    return _fit(shape, points)


def spearman(points: Points) -> Fit:
    """Return Spearman's rank correlation `rho` of all points, worlds mixed: 1 where y always rises with x."""
    return _fit(_Shape("rank correlation", ("rho",), _solve_ranks, None), points)


# -- fitting ----------------------------------------------------------------------------------------------------------


def _fit(shape: _Shape, points: Points) -> Fit:
    x, y, worlds, blocks, note = _known(points, positive_x=shape.positive_x)
    num_replicates = len(blocks)
    empty = Fit(shape.formula, dict.fromkeys(shape.names, Parameter(NAN)), NAN, len(x), num_replicates, note)
    if len(np.unique(x)) < 2 or np.ptp(y) == 0:
        return replace(empty, note=_joined(note, "x or y does not vary" if len(x) else "no points"))
    once = np.ones(len(x))
    values = shape.solve(x, y, worlds, once)
    if np.isnan(values).any():
        return replace(empty, note=_joined(note, "no solution: too few distinct x, or the optimisation failed"))
    ends, why = _intervals(x, y, worlds, blocks, shape)
    r2_low, r2_high = _r2_interval(x, y, worlds, blocks, shape) if shape.has_r2_interval else (NAN, NAN)
    parameters = {name: Parameter(float(values[place]), *ends[place]) for place, name in enumerate(shape.names)}
    r2 = _r2(shape, x, y, worlds, once, values)
    flat = "y does not vary within a world" if shape.rest is not None and math.isnan(r2) else ""
    loose = shape.has_r2_interval and math.isnan(r2_low) and not (flat or why)
    note = _joined(note, flat, why, "no interval of R^2: one replicate in a world, or all alike" if loose else "")
    return replace(empty, parameters=parameters, r2=r2, r2_low=r2_low, r2_high=r2_high, note=note)


def _known(points: Points, *, positive_x: bool) -> tuple[Floats, Floats, Codes, list[Codes], str]:
    """Return the points that can be fitted, the places of each replicate's, and what was left out."""
    x, y = (np.asarray(values, dtype=float) for values in (points.x, points.y))
    worlds = (
        np.zeros(len(x), dtype=np.int64) if points.worlds is None else np.unique(points.worlds, return_inverse=True)[1]
    )
    known = np.isfinite(x) & np.isfinite(y)
    usable = known & (x > 0) if positive_x else known
    notes = [f"{int((~known).sum())} points unknown"] if not known.all() else []
    notes += [f"{int((known & ~usable).sum())} points at x <= 0 left out"] if (known & ~usable).any() else []
    labels = np.stack([worlds, np.asarray(points.replicates)])[:, usable]
    codes = np.unique(labels, axis=1, return_inverse=True)[1].ravel() if usable.any() else np.zeros(0, dtype=np.int64)
    blocks = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)] if len(codes) else []
    worlds = np.unique(worlds[usable], return_inverse=True)[1]
    return x[usable], y[usable], worlds, blocks, "; ".join(notes)


def _intervals(
    x: Floats, y: Floats, worlds: Codes, blocks: list[Codes], shape: _Shape
) -> tuple[list[tuple[float, float]], str]:
    """Return the interval of each parameter from resampled replicates, and why there is none.

    Each world takes one replicate's freedom, as its mean does.
    """
    none = [(NAN, NAN)] * len(shape.names)
    if len(blocks) < MIN_RESAMPLED:
        return none, why_no_interval(len(blocks))
    free = max(len(blocks) - int(worlds.max()), MIN_RESAMPLED)
    noise = numpy_stream(0, "analysis.fits")
    counts = np.zeros((NUM_RESAMPLES, len(x)))
    for world in np.unique(worlds):
        own = [block for block in blocks if worlds[block[0]] == world]
        drawn = noise.multinomial(len(own), np.full(len(own), 1 / len(own)), size=NUM_RESAMPLES)
        for place, block in enumerate(own):
            counts[:, block] = drawn[:, [place]]
    resampled = np.stack([shape.solve(x, y, worlds, count) for count in counts])
    ends = [interval_of(own, free) for own in resampled.T]
    failed = np.isnan(resampled).any(axis=1).sum()
    return ends, f"no interval: {failed} of {NUM_RESAMPLES} resamples have no solution" if failed else ""


def _r2_interval(x: Floats, y: Floats, worlds: Codes, blocks: list[Codes], shape: _Shape) -> tuple[float, float]:
    """Return the interval of a line's R^2 by the jackknife over replicates within worlds, on Fisher's z = atanh r.

    R^2 of few replicates is too large on average and that of their resamples is larger still, so that percentiles lie
    above the truth. With z_i where replicate i of the k of its world is left out: bias = sum over worlds of
    (k - 1)(mean z_i - z), SE^2 = sum over worlds of (k - 1)/k sum (z_i - mean z_i)^2, t with replicates less worlds
    degrees of freedom. (nan, nan) below `MIN_RESAMPLED` replicates, with one in a world, and without spread.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 11.
    """
    sizes = np.bincount([worlds[block[0]] for block in blocks])
    df = len(blocks) - len(sizes)
    if len(blocks) < MIN_RESAMPLED or sizes.min() < 2:
        return NAN, NAN
    z, bias, variance = _fisher_z(shape, x, y, worlds, np.ones(len(x))), 0.0, 0.0
    for world, size in enumerate(sizes):
        own = [block for block in blocks if worlds[block[0]] == world]
        left = np.array([_fisher_z(shape, x, y, worlds, ~np.isin(np.arange(len(x)), block) * 1.0) for block in own])
        bias += (size - 1) * (left.mean() - z)
        variance += (size - 1) * left.var()
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, df)) * math.sqrt(variance)
    if not half > 0:
        return NAN, NAN
    low, high = np.tanh([z - bias - half, z - bias + half])
    return 0.0 if low < 0 < high else float(min(low**2, high**2)), float(max(low**2, high**2))


def _fisher_z(shape: _Shape, x: Floats, y: Floats, worlds: Codes, counts: Floats) -> float:
    values = shape.solve(x, y, worlds, counts)
    r2 = min(_r2(shape, x, y, worlds, counts, values), 1 - 1e-12)
    return math.atanh(math.copysign(math.sqrt(max(r2, 0.0)), values[0]))


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


# -- shapes -----------------------------------------------------------------------------------------------------------


def _means(x: Floats, y: Floats, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Return distinct x with the mean of y and the number of points there, of those that count at all."""
    distinct, places = np.unique(x, return_inverse=True)
    weights = np.bincount(places, counts).astype(float)
    sums = np.bincount(places, counts * y)
    seen = weights > 0
    return distinct[seen], sums[seen] / weights[seen], weights[seen]


def _solve_power(x: Floats, y: Floats, worlds: Codes, counts: Floats) -> Floats:
    at, mean, weights = _means(x, y, counts)
    if len(at) < 3:
        return np.full(3, NAN)
    scale = math.exp(np.log(at).mean())  # x / scale is about 1, so that a and b are not one direction
    start = _power_start(at / scale, mean, weights)
    try:
        (a, b, c), _ = scipy.optimize.curve_fit(
            _power, at / scale, mean, p0=start, sigma=1 / np.sqrt(weights), jac=_power_slopes, maxfev=2000
        )
    except (RuntimeError, ValueError):
        return np.full(3, NAN)
    return np.array([a * scale**-b, b, c])


def _power(x: Floats, a: float, b: float, c: float) -> Floats:
    return c + a * x**b


def _power_slopes(x: Floats, a: float, b: float, c: float) -> Floats:
    return np.stack([x**b, a * np.log(x) * x**b, np.ones_like(x)], axis=1)


def _power_start(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Return the best of a grid of exponents; a and c are linear once b is known."""
    exponents = np.array([-4.0, -2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0, 4.0])
    powers = x ** exponents[:, None]
    total = weights.sum()
    centre_x, centre_y = (powers @ weights / total)[:, None], y @ weights / total
    slopes = ((powers - centre_x) * (y - centre_y) @ weights) / ((powers - centre_x) ** 2 @ weights)
    levels = centre_y - slopes * centre_x[:, 0]
    errors = (y - levels[:, None] - slopes[:, None] * powers) ** 2 @ weights
    best = int(errors.argmin())
    return np.array([slopes[best], exponents[best], levels[best]])


def _solve_exponential(x: Floats, y: Floats, worlds: Codes, counts: Floats) -> Floats:
    """c + a exp(b x) is a power law of exp(x); x begins at 0 and has a range of 1 for it."""
    begin, width = x.min(), np.ptp(x)
    a, b, c = _solve_power(np.exp((x - begin) / width), y, worlds, counts)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array([a * np.exp(-b * begin / width), b / width, c])


def _solve_quadratic(x: Floats, y: Floats, worlds: Codes, counts: Floats) -> Floats:
    at, mean, weights = _means(x, y, counts)
    if len(at) < 3:
        return np.full(2, NAN)
    c2, c1, _ = np.polyfit(np.log(at), mean, 2, w=np.sqrt(weights))
    with np.errstate(over="ignore", divide="ignore"):
        return np.array([c2, np.exp(-c1 / (2 * c2)) if c2 else NAN])


def _solve_line(x: Floats, y: Floats, worlds: Codes, counts: Floats) -> Floats:
    total = np.bincount(worlds, counts)
    mean_x, mean_y = (np.bincount(worlds, counts * values) / total for values in (x, y))
    from_mean = x - mean_x[worlds]
    spread = counts @ from_mean**2
    if not spread > ROUNDING * (counts @ x**2):
        return np.full(2, NAN)
    slope = float(counts @ (from_mean * y)) / float(spread)
    return np.array([slope, float((mean_y - slope * mean_x).mean())])


def _solve_ranks(x: Floats, y: Floats, worlds: Codes, counts: Floats) -> Floats:
    often = np.repeat(np.arange(len(x)), counts.astype(int))
    if np.ptp(x[often]) == 0 or np.ptp(y[often]) == 0:
        return np.full(1, NAN)
    ranks = scipy.stats.rankdata(np.stack([x[often], y[often]]), axis=1)
    return np.array([np.corrcoef(ranks)[0, 1]])


# -- what is left -----------------------------------------------------------------------------------------------------


def _r2(shape: _Shape, x: Floats, y: Floats, worlds: Codes, counts: Floats, values: Floats) -> float:
    if shape.rest is None or np.isnan(values).any():
        return NAN
    rest = shape.rest(x, y, worlds, counts, values)
    spread = counts @ _centred(y, worlds if shape.by_world else np.zeros_like(worlds), counts) ** 2
    return 1 - float(counts @ rest**2) / float(spread) if spread > ROUNDING * (counts @ y**2) else NAN


def _centred(values: Floats, worlds: Codes, counts: Floats) -> Floats:
    return values - (np.bincount(worlds, counts * values) / np.bincount(worlds, counts))[worlds]


def _rest_of_power(x: Floats, y: Floats, worlds: Codes, counts: Floats, values: Floats) -> Floats:
    return y - _power(x, *values)


def _rest_of_exponential(x: Floats, y: Floats, worlds: Codes, counts: Floats, values: Floats) -> Floats:
    a, b, c = values
    with np.errstate(over="ignore", invalid="ignore"):
        return y - (c + a * np.exp(b * x))


def _rest_of_quadratic(x: Floats, y: Floats, worlds: Codes, counts: Floats, values: Floats) -> Floats:
    return y - np.polyval(np.polyfit(np.log(x), y, 2, w=np.sqrt(counts)), np.log(x))


def _rest_of_line(x: Floats, y: Floats, worlds: Codes, counts: Floats, values: Floats) -> Floats:
    return _centred(y, worlds, counts) - values[0] * _centred(x, worlds, counts)
