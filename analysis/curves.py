"""Claims about curves: where a metric is best along an axis, and whether two numbers lie on a line.

Invariant: a best value at the edge of its grid is a bound, and is said to be one; a DIVERGED trial is no optimum and no
point. What does not live here: contrasts (claims.py), the fit of a line (fits.py).
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

from analysis.cells import MIN_SEEDS, Replicate, column_of, keys_of, split_by_world, trials_at
from analysis.deciding import Ends, Ruling, by_band, is_powered, mde_of, trial_ids
from analysis.fits import Parameter, Points, straight_line
from analysis.labels import format_value
from analysis.matrices import World
from analysis.replicates import replicate_of
from analysis.stats import Effect, Floats, pooled_over_worlds, seeds_effect
from analysis.verdicts import Decision, PartVerdict, WorldEstimate, part_text
from harness.records.measures import is_lower_better
from harness.spec import Line, OptimumRatio, Scalar

# -- optimum ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Optimum:
    """The best value of an axis under one replicate."""

    log_x: float
    bound: int
    """0; +1 where the best is the largest value tried, so that the optimum is there or above; -1 for the smallest."""


def optimum(x: Sequence[float], y: Sequence[float]) -> Optimum | None:
    """Return where y is largest along log x, by the parabola through the best grid point and its neighbours.

    Equal best values: the middle one is taken. Next to a trial that diverged (y is nan) the best grid point itself is
    taken: what lies between is not known to be better. None where no y is known, or none is better than another: a
    method that learns nothing at any rate has no best one.

    Args:
        x: positive and ascending.
        y: more is better; nan where the trial diverged.
    """
    logs, values = np.log(np.asarray(x, dtype=float)), np.asarray(y, dtype=float)
    if np.isnan(values).all() or is_flat(values):
        return None
    ties = np.flatnonzero(values == np.nanmax(values))
    best = int(ties[(len(ties) - 1) // 2])
    if best in (0, len(values) - 1):
        return Optimum(float(logs[best]), -1 if best == 0 else 1)
    around = slice(best - 1, best + 2)
    return Optimum(_vertex(logs[around], values[around]), 0)


def is_flat(y: Floats) -> bool:
    """Return whether at least two values are known and all known ones are the same."""
    known = y[~np.isnan(y)]
    return len(known) > 1 and bool((known == known[0]).all())


def _vertex(x: Floats, y: Floats) -> float:
    """Return the vertex of the parabola through three points, between the outer two; the middle where there is none."""
    left, right = (y[1] - y[0]) * (x[1] - x[2]), (y[1] - y[2]) * (x[1] - x[0])
    if math.isnan(left) or math.isnan(right) or left == right:
        return float(x[1])
    shift = ((x[1] - x[0]) * right - (x[1] - x[2]) * left) / (2 * (right - left))
    return float(np.clip(x[1] - shift, x[0], x[2]))


def optima_of_replicates(trials: pd.DataFrame, x: str, y: str, sign: int) -> dict[Replicate, Optimum | None]:
    """Return the optimum of each planned replicate; None where a grid point has no result or none is better.

    Args:
        trials: one row per trial.
        x: the column of the axis.
        y: the column of what is best along it.
        sign: 1 where more of it is better, -1 where less is.
    """
    found: dict[Replicate, Optimum | None] = {}
    for (world, seed), grid in trials.groupby(["world", "seed"], dropna=False):
        grid = grid.sort_values(x)
        values = grid[y].to_numpy(dtype=float) * sign
        is_open = np.isnan(values) & (grid["state"] != "DIVERGED").to_numpy()
        best = None if is_open.any() else optimum(grid[x].tolist(), values.tolist())
        found[replicate_of(world, seed)] = best
    return found


def optimum_ratio(part: OptimumRatio, frame: pd.DataFrame, metrics: dict[str, tuple[str, ...]]) -> PartVerdict:
    """Decide how far apart the best values of an axis are between two levels of another."""
    undecided = PartVerdict(part_text(part), "optimum_ratio", "undecided")
    column = column_of(part)
    if column not in frame.columns or f"axis.{part.axis}" not in frame.columns:
        return replace(undecided, note=f"{part.metric} or {part.axis} is not here")
    tops, bottoms = (_optima(part, frame, metrics, level) for level in (part.numerator, part.denominator))
    planned = tops.keys() | bottoms.keys()
    known = {key: (top, bottom) for key in planned if (top := tops.get(key)) and (bottom := bottoms.get(key))}
    kept, num_left_out = split_by_world(list(known), len(planned))
    if not kept:
        note = f"fewer than {MIN_SEEDS} replicates with a best grid point: {num_left_out} left out"
        return replace(undecided, note=note, num_left_out=num_left_out)
    pairs = {world: [known[(world, seed)] for seed in seeds] for world, seeds in kept.items()}
    effects = {w: seeds_effect([top.log_x - bottom.log_x for top, bottom in own]) for w, own in pairs.items()}
    pooled = pooled_over_worlds(effects)
    bounds, censored = _censoring(part, [pair for own in pairs.values() for pair in own])
    left_out = f"{num_left_out} replicates left out" if num_left_out else ""
    low, high, estimate, mde = (math.exp(value) for value in (pooled.low, pooled.high, pooled.estimate, pooled.mde))
    worlds = tuple(_world_ratio(world, effect) for world, effect in effects.items())
    verdict, why = _ratio_decision(part, (low, high), [(world.low, world.high) for world in worlds], bounds)
    return replace(
        undecided,
        verdict=verdict,
        note="; ".join(note for note in (why, censored, left_out, pooled.note) if note),
        is_powered=is_powered(verdict, mde, math.sqrt(part.high / part.low)),
        estimate=estimate,
        low=low,
        high=high,
        mde=mde,
        num_replicates=pooled.num_seeds,
        num_left_out=num_left_out,
        worlds=worlds,
        trial_ids=trial_ids(pd.concat([_at_level(part, frame, x) for x in (part.numerator, part.denominator)]), kept),
    )


def _at_level(part: OptimumRatio, frame: pd.DataFrame, level: Scalar) -> pd.DataFrame:
    return trials_at(frame, (*part.at, (part.between, level)), part.arm)


def _optima(
    part: OptimumRatio, frame: pd.DataFrame, metrics: dict[str, tuple[str, ...]], level: Scalar
) -> dict[Replicate, Optimum | None]:
    """Return the optimum of each planned replicate at a level of `between`."""
    keys = keys_of(part.metric, metrics)
    lower = all(is_lower_better(key) for key in keys) if keys else True  # numbers of the training are losses
    trials = _at_level(part, frame, level)
    return optima_of_replicates(trials, f"axis.{part.axis}", column_of(part), -1 if lower else 1)


def _censoring(part: OptimumRatio, pairs: Sequence[tuple[Optimum, Optimum]]) -> tuple[set[int], str]:
    """Return which way the ratio is bounded (+1: it is at least this), and that in words."""
    notes: list[str] = []
    bounds: set[int] = set()
    for side, level, sign in ((0, part.numerator, 1), (1, part.denominator, -1)):
        for bound, edge in ((1, "largest"), (-1, "smallest")):
            count = sum(pair[side].bound == bound for pair in pairs)
            if count:
                notes.append(f"{format_value(level)} is best at the {edge} value tried in {count} of {len(pairs)}")
                bounds.add(sign * bound)
    words = {frozenset({1}): "the ratio is at least this", frozenset({-1}): "the ratio is at most this"}
    end = words.get(frozenset(bounds), "the ratio is not bounded")
    return bounds, f"censored: {', '.join(notes)} replicates; {end}" if notes else ""


def _ratio_decision(part: OptimumRatio, ends: Ends, worlds: Sequence[Ends], bounds: set[int]) -> Ruling:
    verdict, why = by_band((part.low, part.high), ends, worlds)
    harmless = {1} if ends[0] > part.high else {-1}  # a bound that only takes the ratio farther from the band
    if bounds and (verdict == "supported" or (verdict == "contradicted" and not bounds <= harmless)):
        return "undecided", ""
    return verdict, why


def _world_ratio(world: World, effect: Effect) -> WorldEstimate:
    ends = (math.exp(value) for value in (effect.estimate, effect.low, effect.high))
    return WorldEstimate(world, *ends, effect.num_seeds)


# -- line -------------------------------------------------------------------------------------------------------------


def line(part: Line, frame: pd.DataFrame) -> PartVerdict:
    """Decide whether one number lies on a straight line against another, by the fit of fits.py.

    Points are conditions x replicates. The minimum detectable effect is that of R^2 against its limit; where it exceeds
    1 - min_r2, even a perfect line could have been missed.
    """
    undecided = PartVerdict(part_text(part), "line", "undecided")
    x, y = column_of(part.x), column_of(part.y)
    if not {x, y} <= set(frame.columns):
        return replace(undecided, note=f"{part.x.metric} or {part.y.metric} is not here")
    trials = trials_at(frame, part.at, part.arm)
    kept, num_left_out, note = _whole_replicates(trials, x, y)
    undecided = replace(undecided, num_left_out=num_left_out, note=note)
    if not kept:
        few = f"fewer than {MIN_SEEDS} replicates with every number known in each world"
        return replace(undecided, note="; ".join(filter(None, [few, note])))
    fit = straight_line(_points(trials, kept, x, y))
    slope = fit.parameters["slope"]
    verdict = _line_decision(part, (fit.r2_low, fit.r2_high), slope)
    mde = mde_of((fit.r2_low, fit.r2_high), fit.num_replicates - len(kept))
    return replace(
        undecided,
        verdict=verdict,
        note="; ".join(filter(None, [fit.note, note])),
        is_powered=is_powered(verdict, mde, 1 - part.min_r2),
        mde=mde,
        trial_ids=trial_ids(trials, kept),
        estimate=fit.r2,
        low=fit.r2_low,
        high=fit.r2_high,
        num_replicates=fit.num_replicates,
        slope=slope.value,
        slope_low=slope.low,
        slope_high=slope.high,
        worlds=tuple(_world_line(world, _points(trials, {world: seeds}, x, y)) for world, seeds in kept.items()),
    )


def _whole_replicates(trials: pd.DataFrame, x: str, y: str) -> tuple[dict[World, list[int]], int, str]:
    """Return the seeds of each world that lack no point but those that DIVERGED, how many do, and both in words."""
    known = trials[[x, y]].notna().all(axis=1)
    diverged = trials["state"] == "DIVERGED"
    replicates = trials.assign(is_open=~known & ~diverged).groupby(["world", "seed"], dropna=False)["is_open"].any()
    kept, num_left_out = split_by_world(replicates[~replicates].index, len(replicates))
    notes = [f"{int(diverged.sum())} trials DIVERGED and are no points"] if diverged.any() else []
    notes += [f"{num_left_out} replicates left out"] if num_left_out else []
    return kept, num_left_out, "; ".join(notes)


def _points(trials: pd.DataFrame, kept: Mapping[World, Sequence[int]], x: str, y: str) -> Points:
    rows = zip(trials["world"], trials["seed"], trials[x], trials[y], strict=True)
    points = [(*replicate_of(world, seed), float(a), float(b)) for world, seed, a, b in rows]
    found = [
        (-1 if world is None else world, seed, a, b)
        for world, seed, a, b in points
        if seed in kept.get(world, ()) and not math.isnan(a + b)
    ]
    worlds, seeds, xs, ys = (np.array(column) for column in zip(*found, strict=True)) if found else ([],) * 4
    return Points(xs, ys, seeds, worlds)


def _line_decision(part: Line, r2: Ends, slope: Parameter) -> Decision:
    sign = 1 if part.slope == "positive" else -1
    if r2[1] < part.min_r2 or max(sign * slope.low, sign * slope.high) < 0:
        return "contradicted"
    return "supported" if r2[0] > part.min_r2 and sign * slope.value > 0 else "undecided"


def _world_line(world: World, points: Points) -> WorldEstimate:
    fit = straight_line(points)
    return WorldEstimate(world, fit.r2, fit.r2_low, fit.r2_high, fit.num_replicates)
