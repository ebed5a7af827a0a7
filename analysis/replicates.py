"""Numbers of which each replicate has one: their mean with a t interval, and the difference of two such sets.

Invariant: worlds are strata, seeds their replicates; a replicate without a value is left out and counted in the note.
What does not live here: numbers that items stand behind (tables.py), the intervals themselves (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from analysis.cells import Replicate
from analysis.matrices import World, world_of
from analysis.stats import Effect, pooled_over_worlds, seeds_effect, unknown_effect


def over_replicates(values: Mapping[Replicate, float]) -> Effect:
    """Return the mean over replicates with a 95 % t interval over seeds, worlds as fixed strata.

    Unknown values are left out and counted in the note; without any known one the effect is unknown.

    Args:
        values: (world, seed) -> the replicate's number; nan where it has none.
    """
    by_world: dict[World, list[float]] = {}
    for (world, _), value in values.items():
        if math.isfinite(value):
            by_world.setdefault(world, []).append(value)
    num_left_out = len(values) - sum(map(len, by_world.values()))
    left_out = f"{num_left_out} of {len(values)} replicates have no value and are left out" if num_left_out else ""
    if not by_world:
        return unknown_effect(left_out or "no replicates")
    effect = pooled_over_worlds({world: seeds_effect(own) for world, own in by_world.items()})
    return with_note(effect, left_out)


def paired_over_replicates(first: Mapping[Replicate, float], second: Mapping[Replicate, float]) -> Effect:
    """Return the mean of second - first over the replicates of either; one that lacks a side is left out."""
    names = dict.fromkeys([*first, *second])
    return over_replicates({name: second.get(name, math.nan) - first.get(name, math.nan) for name in names})


def with_note(effect: Effect, note: str) -> Effect:
    """Return an effect with one more note."""
    return replace(effect, note="; ".join(part for part in (effect.note, note) if part))


def replicate_of(world: object, seed: object) -> Replicate:
    """Return the replicate that two cells of a frame name."""
    return world_of(world), int(seed)
