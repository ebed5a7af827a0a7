"""Deciding the claims of a sweep: contrasts here, optima and lines in curves.py, shapes along an axis in shapes.py.

Invariant: a verdict is a function of the frame and the item rows of the sweep. A replicate (world, seed) that lacks a
number is left out and counted, one number of it never stands for another; below two replicates in every world nothing
is decided. What does not live here: what a claim is (harness/spec/claim.py), the rules by interval (deciding.py),
formulas of intervals (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import curves, shapes
from analysis.cells import MIN_SEEDS, Replicate, column_of, keys_of, replicate_values, split_by_world, trials_at
from analysis.deciding import Ruling, by_sign, is_powered
from analysis.matrices import ItemMatrices, Matrix, World, matrices_of, on_common_items
from analysis.replicates import replicate_of
from analysis.stats import Effect, Floats, crossed_effect, pooled_over_worlds, seeds_effect, unknown_effect
from analysis.verdicts import PartVerdict, Verdict, WorldEstimate, part_text
from harness.spec import Claim, Contrast, Line, OptimumRatio, Part, Term
from harness.spec.claim import EDL_NUMBERS, training_numbers

Metrics = dict[str, tuple[str, ...]]


def decide(
    claims: Sequence[Claim], frame: pd.DataFrame, items: pd.DataFrame | ItemMatrices, metrics: Metrics
) -> tuple[Verdict, ...]:
    """Return the verdict of each claim.

    Args:
        claims: with absolute axis values, as in `SweepRecord.claims`.
        frame: one row per planned trial.
        items: per-item values.
        metrics: measure -> its primary metric keys.
    """
    if not claims:
        return ()
    matrices = matrices_of(items)
    states = frame.drop_duplicates("trial_id")["state"]
    return tuple(
        Verdict(
            claim=claim.id,
            statement=claim.statement,
            source=claim.source,
            published=claim.published,
            parts=tuple(_part(part, frame, matrices, metrics) for part in claim.parts),
            published_value=math.nan if claim.published_value is None else claim.published_value,
            published_unit=claim.published_unit or "",
            published_part=claim.published_part or 0,
            num_open=int(states.isin(["PENDING", "RUNNING"]).sum()),
            num_trials=len(states),
        )
        for claim in claims
    )


def _part(part: Part, frame: pd.DataFrame, matrices: ItemMatrices, metrics: Metrics) -> PartVerdict:
    if isinstance(part, Contrast):
        return contrast(part, frame, matrices, metrics)
    if isinstance(part, OptimumRatio):
        return curves.optimum_ratio(part, frame, metrics)
    return curves.line(part, frame) if isinstance(part, Line) else shapes.shape(part, frame)


def with_edl(frame: pd.DataFrame, claims: Sequence[Claim], table: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return the frame with the description lengths that claims name, as columns.

    Args:
        frame: one row per planned trial.
        claims: what is decided; where they name none, the table is not made.
        table: makes one row per trial, as `edl.edl_table` returns it.
    """
    named = [name for name in EDL_NUMBERS if name in training_numbers(tuple(claims))]
    if not named:
        return frame
    numbers = table().drop_duplicates("trial_id").set_index("trial_id")[named]
    return frame.drop(columns=named, errors="ignore").join(numbers.astype(float), on="trial_id")


# -- contrast ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A term with the condition it means and the number of each of its replicates."""

    term: Term
    condition: str
    values: dict[Replicate, float]
    """Of every planned replicate; nan where it is not known."""
    ids: dict[Replicate, str]
    """The trial of each replicate."""


def contrast(part: Contrast, frame: pd.DataFrame, matrices: ItemMatrices, metrics: Metrics) -> PartVerdict:
    """Decide a linear combination of condition means."""
    undecided = PartVerdict(part_text(part), "contrast", "undecided")
    found = [_find(term, frame) for term in part.terms]
    problems = [problem for problem in found if isinstance(problem, str)]
    if problems:
        return replace(undecided, note="; ".join(dict.fromkeys(problems)))
    terms = [one for one in found if isinstance(one, _Found)]
    planned = dict.fromkeys(key for one in terms for key in one.values)
    known = [key for key in planned if not any(math.isnan(one.values.get(key, math.nan)) for one in terms)]
    kept, num_left_out = split_by_world(known, len(planned))
    if not kept:
        note = f"fewer than {MIN_SEEDS} replicates with every number known in each world: {num_left_out} left out"
        return replace(undecided, note=note, num_left_out=num_left_out)
    effects = {world: _effect(terms, matrices, metrics, world, seeds) for world, seeds in kept.items()}
    pooled = pooled_over_worlds(effects)
    verdict, why = decision(part, pooled, list(effects.values()))
    left_out = f"{num_left_out} replicates left out" if num_left_out else ""
    return replace(
        undecided,
        verdict=verdict,
        note="; ".join(note for note in (why, left_out, pooled.note) if note),
        is_powered=is_powered(verdict, pooled.mde, part.margin),
        estimate=pooled.estimate,
        low=pooled.low,
        high=pooled.high,
        mde=pooled.mde,
        num_items=pooled.num_items,
        num_clusters=pooled.num_clusters,
        num_replicates=pooled.num_seeds,
        num_left_out=num_left_out,
        worlds=tuple(WorldEstimate(w, e.estimate, e.low, e.high, e.num_seeds) for w, e in effects.items()),
        trial_ids=_ids(terms, kept),
    )


def _ids(terms: Sequence[_Found], kept: dict[World, list[int]]) -> tuple[str, ...]:
    return tuple(sorted({one.ids[(w, seed)] for one in terms for w, seeds in kept.items() for seed in seeds}))


def _find(term: Term, frame: pd.DataFrame) -> _Found | str:
    """Return a term's condition and values, or why there are none."""
    trials = trials_at(frame, term.at, term.arm)
    conditions = list(dict.fromkeys(trials["condition"]))
    where = ", ".join(f"{name}={value}" for name, value in term.at)
    if len(conditions) != 1:
        return f"{len(conditions)} conditions have {where}, but one must"
    column = column_of(term)
    if column not in trials.columns:
        return f"{term.metric} is not scored here"
    values = replicate_values(trials, column)
    return _Found(term, str(conditions[0]), values, dict(zip(_keys(trials), trials["trial_id"].map(str), strict=True)))


def _keys(trials: pd.DataFrame) -> list[Replicate]:
    return [replicate_of(world, seed) for world, seed in zip(trials["world"], trials["seed"], strict=True)]


def _effect(
    terms: Sequence[_Found], matrices: ItemMatrices, metrics: Metrics, world: World, seeds: list[int]
) -> Effect:
    """Return the combination in one world: over items and seeds, over seeds alone where items are not at hand."""
    groups: dict[tuple[str, ...], list[_Found]] = {}
    for one in terms:
        groups.setdefault(keys_of(one.term.metric, metrics), []).append(one)
    strata: list[_Stratum] = []
    for keys, members in groups.items():
        slices = [matrices.find(one.condition, keys, np.asarray(seeds), world)[0] for one in members]
        if not keys or not all(slices):
            return seeds_effect([sum(one.term.weight * one.values[(world, seed)] for one in terms) for seed in seeds])
        by_slice = [on_common_items(sides) for sides in zip(*slices, strict=True)]
        strata += [_stratum([one.term for one in members], sides, 1 / len(keys)) for sides in by_slice]
    if any(not len(stratum.values) for stratum in strata):
        return unknown_effect("no common items", num_seeds=len(seeds))
    return _over_strata(strata, is_one_metric=len(groups) == 1)


@dataclass(frozen=True)
class _Stratum:
    """One slice: what the terms make of each of its items."""

    values: Floats
    """(n, k)"""
    clusters: Floats
    weight: float
    """What the mean over the slice counts in the combination."""
    reach: float
    """How far values of 0 and 1 can move the combination, either way."""
    is_binary: bool


def _stratum(terms: Sequence[Term], sides: list[Matrix], weight: float) -> _Stratum:
    pieces: list[tuple[float, Floats]] = []
    for term, side in zip(terms, sides, strict=True):
        pieces.append((term.weight, side.after))
        if term.value == "delta":
            pieces.append((-term.weight, side.before))
    # The before of two conditions is usually one and the same, and then cancels.
    merged: list[tuple[float, Floats]] = []
    for factor, values in pieces:
        same = next((place for place, (_, other) in enumerate(merged) if np.array_equal(values, other)), None)
        if same is None:
            merged.append((factor, values))
        else:
            merged[same] = (merged[same][0] + factor, values)
    up, down = (sum(max(0.0, sign * factor) for factor, _ in merged) for sign in (1, -1))
    return _Stratum(
        values=sum((factor * values for factor, values in merged), np.zeros_like(sides[0].after)),
        clusters=sides[0].clusters,
        weight=weight,
        reach=max(up, down),
        is_binary=all(np.isin(values, (0.0, 1.0)).all() for _, values in pieces),
    )


def _over_strata(strata: Sequence[_Stratum], *, is_one_metric: bool) -> Effect:
    """Return the sum over strata of weight x mean, as `crossed_effect` of values scaled so that its mean is that."""
    scale = max(stratum.reach for stratum in strata) if is_one_metric else 1.0
    if scale == 0:  # equal values cancelled: the terms name one and the same model
        scale = 1.0
    rows = [stratum.values * (stratum.weight * len(strata) / scale) for stratum in strata]
    effect = crossed_effect(
        np.concatenate(rows),
        np.concatenate([stratum.clusters for stratum in strata]),
        np.repeat(np.arange(len(strata)), [len(values) for values in rows]),
        binary=is_one_metric and all(stratum.is_binary for stratum in strata),
    )
    names = ("estimate", "low", "high", "se", "se_items", "seed_sd", "mde")
    return replace(effect, **{name: scale * getattr(effect, name) for name in names})


# -- decision ---------------------------------------------------------------------------------------------------------


def decision(part: Contrast, pooled: Effect, by_world: Sequence[Effect]) -> Ruling:
    """Return the verdict, and why where that is not plain from the interval."""
    return by_sign(part.expect, part.margin, (pooled.low, pooled.high), [(own.low, own.high) for own in by_world])
