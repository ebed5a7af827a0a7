"""Learning against forgetting: what a series of conditions retains at the learning it reaches.

A point is (learned, retained) of one trial, more of both is better; a series is the conditions along one path, such as
the learning rates of a method. Arrays of points are (n, 2); a point with an unknown coordinate is no point.
Invariant: which points count is chosen on val items, what they are worth is measured on test items; nothing is
extrapolated: outside the range that its points span a series has no value. Intervals are over replicates, the items
held fixed. What does not live here: drawing the front (points.py, figures.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from analysis.cells import Replicate
from analysis.labels import format_value, short_fields
from analysis.replicates import over_replicates, paired_over_replicates, replicate_of, with_note
from analysis.stats import Effect, Floats, holm, unknown_effect

NAN = math.nan
SIDES = ("learned", "retained")
IDEAL = (1.0, 1.0)
"""The best that shares can be."""
Numbers = dict[Replicate, float]

# -- one set of points ------------------------------------------------------------------------------------------------


def pareto(points: Floats) -> NDArray[np.bool_]:
    """Return which points no other beats on one coordinate without losing on the other; equal ones are all on it."""
    known = np.isfinite(points).all(axis=1)
    no_worse = (points[None, :, :] >= points[:, None, :]).all(axis=2)
    better = (points[None, :, :] > points[:, None, :]).any(axis=2)
    return known & ~(no_worse & better & known[None, :]).any(axis=1)


def front(points: Floats) -> Floats:
    """Return the distinct non-dominated points, (m, 2), by ascending learning and therefore descending retention."""
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    return np.unique(points[pareto(points)], axis=0)


def hypervolume(points: Floats, reference: tuple[float, float], ideal: tuple[float, float] = IDEAL) -> float:
    """Return the share of the rectangle from reference to ideal that the points dominate.

    Area of the union of the rectangles from the reference to each point / area of the one to the ideal; a point beyond
    either is moved to it. More is better, 0 where no point beats the reference on both, 1 at the ideal; nan without
    points and where the reference is unknown or not below the ideal.

    Args:
        points: (n, 2) of learned, retained.
        reference: the base's learning, and the retention of guessing.
        ideal: the most that either can be.

    Source: Zitzler and Thiele 1998; in two dimensions a sum over the sorted front.
    """
    room = np.subtract(ideal, reference)
    edge = front(points)
    if not len(edge) or not (room > 0).all():
        return NAN
    edge = front(np.clip(edge, reference, ideal) - reference)
    return float((np.diff(edge[:, 0], prepend=0.0) * edge[:, 1]).sum() / room.prod())


def retention_at(points: Floats, learned: float) -> float:
    """Return the retention at this much learning, linear between the points in its order; nan outside their range."""
    return _between(_path(points), learned)


def learning_at(points: Floats, retained: float) -> float:
    """Return the learning at this much retention, linear between the points in its order; nan outside their range."""
    return _between(_path(points, side=1), retained)


def _path(points: Floats, side: int = 0) -> Floats:
    """Return, (m, 2), one coordinate of the known points, ascending, and the mean of the other one where it is equal.

    No point is dropped for what it is worth: what is chosen by the numbers that then measure it looks too good.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    known = points[np.isfinite(points).all(axis=1)]
    at, places = np.unique(known[:, side], return_inverse=True)
    return np.column_stack([at, np.bincount(places, weights=known[:, 1 - side]) / np.bincount(places)])


def _between(path: Floats, at: float) -> float:
    # With one point numpy gives its value for nan as well.
    if not len(path) or math.isnan(at):
        return NAN
    return float(np.interp(at, path[:, 0], path[:, 1], left=NAN, right=NAN))


def exchange_rate(points: Floats) -> float:
    """Return dR/dL: the least-squares slope of retention against learning.

    What a unit of learning costs in retention, nearer 0 is cheaper; of points that are non-dominated where it is
    measured it is never positive. nan below two points of different learning.
    """
    path = _path(points)
    return float(scipy.stats.linregress(path[:, 0], path[:, 1]).slope) if len(path) > 1 else NAN


def attainment(runs: Sequence[Floats], share: float = 0.5) -> Floats:
    """Return the corners, (m, 2), of what at least this share of the replicates attains.

    A replicate attains (l, r) where one of its points has at least that learning and at least that retention. Empty
    without points, and where fewer than the share have any.

    Args:
        runs: (n, 2) points of each replicate.
        share: of the replicates; 0.5 is the median surface.

    Source: Fonseca and Fleming 1996, empirical attainment surfaces.
    """
    edges = [front(points) for points in runs]
    levels = np.unique(np.concatenate([edge[:, 0] for edge in edges])) if edges else np.empty(0)
    num_needed = max(1, math.ceil(share * len(edges)))
    best = np.array([[max(edge[edge[:, 0] >= at, 1], default=-math.inf) for edge in edges] for at in levels])
    reached = np.sort(best.reshape(len(levels), len(edges)), axis=1)[:, -num_needed] if len(levels) else levels
    return front(np.column_stack([levels, np.where(np.isfinite(reached), reached, NAN)]))


# -- several sets -----------------------------------------------------------------------------------------------------


def common_range(sets: Sequence[Floats], side: int = 0) -> tuple[float, float]:
    """Return the range of learning (side 0) or retention (side 1) that all sets span; (nan, nan) where there is none.

    A range of one value is one.
    """
    ends = [(path[0, 0], path[-1, 0]) for path in (_path(points, side) for points in sets) if len(path)]
    if not ends or len(ends) < len(sets):
        return NAN, NAN
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    return (float(low), float(high)) if low <= high else (NAN, NAN)


def auc_common_range(sets: Sequence[Floats]) -> list[float]:
    """Return of each set the mean retention over the range of learning that all of them span.

    The area under the line through the points by ascending learning / the length of the range, so that it is a
    retention; more is better. nan for all where the sets have no range in common or one of a single value.
    """
    low, high = common_range(sets)
    if not high > low:
        return [NAN] * len(sets)
    found: list[float] = []
    for path in map(_path, sets):
        inner = path[(path[:, 0] > low) & (path[:, 0] < high), 0]
        at = np.array([low, *inner, high])
        found.append(float(np.trapezoid(np.interp(at, path[:, 0], path[:, 1]), at) / (high - low)))
    return found


# -- series of a sweep ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """A path of conditions: its points in each replicate."""

    name: str
    points: dict[Replicate, Floats]
    """Replicates whose every trial ended: test scores of the conditions that no other beats on val items there; a
    DIVERGED one is no point."""
    references: dict[Replicate, tuple[float, float]]
    num_conditions: int
    """Planned, from which the points are chosen."""
    num_left_out: int
    """Replicates with a trial that has no result yet, or a score that is unknown."""
    note: str


def series_names(frame: pd.DataFrame, axis_fields: Sequence[str]) -> pd.Series:
    """Return the series of each trial: its arm, and its level of every axis but those that the path runs along.

    The path runs along the numeric axes where others are named (methods, templates), else along the axis with the most
    levels.
    """
    columns = [f"axis.{field}" for field in axis_fields if f"axis.{field}" in frame.columns]
    named = [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if len(named) in (0, len(columns)):
        longest = max(columns, key=lambda name: frame[name].nunique(), default="")
        named = [name for name in columns if name != longest]
    short = short_fields(tuple(axis_fields))
    with_arm = frame["arm"].nunique() > 1 or not named
    return frame.apply(lambda row: _name(row, named, short, with_arm=with_arm), axis=1, result_type="reduce")


def _name(row: pd.Series, named: Sequence[str], short: Mapping[str, str], *, with_arm: bool) -> str:
    levels = [f"{short[name.removeprefix('axis.')]}={_level(row[name])}" for name in named]
    return ", ".join([*levels, *([str(row["arm"])] if with_arm else [])])


def _level(value: object) -> str:
    if value is None or pd.isna(value):
        return format_value(None)
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def series_of(frame: pd.DataFrame, axis_fields: Sequence[str], chance: float | None = None) -> list[Series]:
    """Return the series of a sweep: points chosen on val items, on test ones where there are none (noted).

    Args:
        frame: one row per planned trial, with the measures learned and retained, on test and on val items.
        axis_fields: the varied fields.
        chance: retention of guessing; None where it is not known: then 0, which the notes say.
    """
    if frame.empty or not {f"after/{side}" for side in SIDES} <= set(frame.columns):
        return []
    names, by = series_names(frame, axis_fields), choosing_columns(frame)
    return [_series(str(name), trials, by, chance) for name, trials in frame.groupby(names, sort=False)]


def choosing_columns(frame: pd.DataFrame) -> list[str]:
    """Return the scores that points are chosen by: those on val items, on test items where there are none."""
    on_val = [f"val_after/{side}" for side in SIDES]
    has_val = set(on_val) <= set(frame.columns) and bool(frame[on_val].notna().all(axis=1).any())
    return on_val if has_val else [f"after/{side}" for side in SIDES]


def chosen_points(trials: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> dict[Replicate, Floats]:
    """Return of each replicate whose every trial ended the points, (m, 2), that no other of it beats by other scores.

    Args:
        trials: of one series.
        by: the two columns that are chosen by, from `choosing_columns`.
        columns: the two that are returned, on test items.
    """
    points: dict[Replicate, Floats] = {}
    for (world, seed), own in trials.groupby(["world", "seed"], dropna=False):
        values, chosen_by = (own[list(names)].to_numpy(dtype=float) for names in (columns, by))
        is_known = np.isfinite(np.concatenate([values, chosen_by], axis=1)).all(axis=1)
        if (is_known | (own["state"] == "DIVERGED").to_numpy()).all():
            points[replicate_of(world, seed)] = values[is_known][pareto(chosen_by[is_known])]
    return points


def _series(name: str, trials: pd.DataFrame, by: list[str], chance: float | None) -> Series:
    """Return one series; the columns `by` say which points are chosen."""
    points = chosen_points(trials, by, [f"after/{side}" for side in SIDES])
    references: dict[Replicate, tuple[float, float]] = {}
    groups = list(trials.groupby(["world", "seed"], dropna=False))
    for (world, seed), own in groups:
        base = own["before/learned"].dropna()
        references[replicate_of(world, seed)] = (float(base.iloc[0]) if len(base) else NAN, chance or 0.0)
    num_left_out = len(groups) - len(points)
    notes = ["chance retention is not known: 0 is taken"] if chance is None else []
    notes += [] if by[0].startswith("val_") else ["no val scores: the points are chosen on test items, too"]
    notes += _trial_notes(trials, num_left_out)
    return Series(name, points, references, trials["condition"].nunique(), num_left_out, "; ".join(notes))


def _trial_notes(trials: pd.DataFrame, num_left_out: int) -> list[str]:
    num_diverged = int((trials["state"] == "DIVERGED").sum())
    notes = [f"{num_diverged} trials DIVERGED and are no points"] if num_diverged else []
    return notes + ([f"{num_left_out} replicates with a trial without a score are left out"] if num_left_out else [])


# -- tables -----------------------------------------------------------------------------------------------------------


def series_table(series: Sequence[Series], *, is_sampled: bool = False) -> pd.DataFrame:
    """Return one row per series: hypervolume, AUC over the range of all series, exchange rate, each with its interval.

    Every number is computed within a replicate and averaged over replicates, with a t interval over them; items are
    held fixed.

    Args:
        series: from `series_of`.
        is_sampled: the conditions were proposed by a search: its points are no sample, and there are no intervals.
    """
    areas = _areas(series)
    rows: list[dict[str, object]] = []
    for one in series:
        numbers = {
            "hypervolume": {name: hypervolume(points, one.references[name]) for name, points in one.points.items()},
            "auc": areas[one.name],
            "exchange_rate": {name: exchange_rate(points) for name, points in one.points.items()},
        }
        row: dict[str, object] = {"series": one.name, "num_replicates": len(one.points)}
        row |= {"num_left_out": one.num_left_out, "num_conditions": one.num_conditions}
        row |= {"num_points": sum(map(len, one.points.values()))}
        for name, values in numbers.items():
            effect = _withheld(over_replicates(values), SAMPLED if is_sampled else "")
            row |= {name: effect.estimate, f"{name}_low": effect.low, f"{name}_high": effect.high}
            row |= {f"{name}_note": effect.note}
        rows.append(row | {"note": one.note})
    return pd.DataFrame(rows, columns=None if rows else SERIES_COLUMNS)


SERIES_COLUMNS = [
    "series", "num_replicates", "num_left_out", "num_conditions", "num_points",
    *(name + end for name in ("hypervolume", "auc", "exchange_rate") for end in ("", "_low", "_high", "_note")),
    "note",
]  # fmt: skip


SAMPLED = "the conditions were proposed by a search: no interval"


def _withheld(effect: Effect, reason: str) -> Effect:
    """Return the estimate alone where there is a reason to test nothing."""
    return with_note(unknown_effect(reason, effect.estimate, effect.num_seeds), effect.note) if reason else effect


def _areas(series: Sequence[Series]) -> dict[str, Numbers]:
    """Return series -> replicate -> AUC over the range that all series span in that replicate."""
    found: dict[str, Numbers] = {one.name: {} for one in series}
    for name in dict.fromkeys(name for one in series for name in one.points):
        if all(name in one.points for one in series):
            for one, area in zip(series, auc_common_range([one.points[name] for one in series]), strict=True):
                found[one.name][name] = area
    return found


PAIR_COLUMNS = [
    "first", "second", "quantity", "at", "first_value", "second_value", "difference", "low", "high", "p_value", "mde",
    "num_replicates", "note", "p_holm", "family_size",
]  # fmt: skip


def pairs_table(series: Sequence[Series], *, is_sampled: bool = False) -> pd.DataFrame:
    """Return one row per pair of series and quantity: second - first, paired by replicate, Holm over all rows.

    `retention at matched learning`: at the largest learning that both reach in the replicate; `learning at matched
    retention`: at the smallest retention that both fall to; `auc`: mean retention over the range of learning that both
    span; `hypervolume`. `at` is the mean over replicates of the level matched at. Series of different numbers of
    conditions are not tested: more conditions to choose from reach further by themselves. `is_sampled` as in
    `series_table`.
    """
    pairs = [(pair, found) for pair in itertools.combinations(series, 2) for found in _quantities(*pair)]
    rows = [_pair_row(*pair, *found, is_sampled=is_sampled) for pair, found in pairs]
    table = pd.DataFrame(rows, columns=PAIR_COLUMNS[:-2])
    table["p_holm"] = holm(table["p_value"].tolist())
    return table.assign(family_size=int(table["p_value"].notna().sum()))


def _quantities(first: Series, second: Series) -> Iterator[tuple[str, Numbers, Numbers, Numbers]]:
    """Yield quantity, level matched at, the first's values, the second's."""
    both = [name for name in first.points if name in second.points]
    sets = {name: (first.points[name], second.points[name]) for name in both}
    learned = {name: common_range(pair)[1] for name, pair in sets.items()}
    retained = {name: common_range(pair, side=1)[0] for name, pair in sets.items()}
    areas = {name: auc_common_range(pair) for name, pair in sets.items()}
    volumes = [{name: hypervolume(one.points[name], one.references[name]) for name in both} for one in (first, second)]
    at_learned = [{name: retention_at(sets[name][side], learned[name]) for name in both} for side in (0, 1)]
    at_retained = [{name: learning_at(sets[name][side], retained[name]) for name in both} for side in (0, 1)]
    yield "retention at matched learning", learned, at_learned[0], at_learned[1]
    yield "learning at matched retention", retained, at_retained[0], at_retained[1]
    yield "auc", {}, {name: area[0] for name, area in areas.items()}, {name: area[1] for name, area in areas.items()}
    yield "hypervolume", {}, volumes[0], volumes[1]


def _pair_row(
    first: Series, second: Series, quantity: str, at: Numbers, a: Numbers, b: Numbers, *, is_sampled: bool
) -> dict[str, object]:
    planned = dict.fromkeys([*first.points, *second.points], NAN)
    numbers = first.num_conditions, second.num_conditions
    unequal = "" if numbers[0] == numbers[1] else f"chosen from {numbers[0]} and from {numbers[1]} conditions: no test"
    effect = _withheld(paired_over_replicates(planned | a, planned | b), SAMPLED if is_sampled else unequal)
    if math.isnan(effect.estimate):
        effect = with_note(effect, "the two have no range in common" if quantity != "hypervolume" else "")
    used = [name for name in planned if math.isfinite(a.get(name, NAN) + b.get(name, NAN))]
    shown = [over_replicates({name: side[name] for name in used if name in side}).estimate for side in (at, a, b)]
    return {
        "first": first.name,
        "second": second.name,
        "quantity": quantity,
        "at": shown[0],
        "first_value": shown[1],
        "second_value": shown[2],
        "difference": effect.estimate,
        "low": effect.low,
        "high": effect.high,
        "p_value": effect.p_value,
        "mde": effect.mde,
        "num_replicates": effect.num_seeds,
        "note": effect.note,
    }
