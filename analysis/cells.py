"""Finding a claim's cells in the frame: conditions by axis values, columns by quantity, replicates by world.

Invariant: nothing here computes a number. What does not live here: what is made of the cells (claims.py, curves.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.matrices import World, world_of
from harness.spec import Place, Quantity, Scalar
from harness.spec.claim import is_of_trained

Replicate = tuple[World, int]
"""World and seed."""
MIN_SEEDS = 2
"""Replicates that a world needs: the spread over seeds is not known from one."""


def trials_at(frame: pd.DataFrame, at: Place, arm: str | None) -> pd.DataFrame:
    """Return the planned trials with these axis values, in this arm (None is any)."""
    chosen = pd.Series(data=True, index=frame.index) if arm is None else frame["arm"] == arm
    for field, value in at:
        column = f"axis.{field}"
        chosen &= _holds(frame[column], value) if column in frame.columns else False
    return frame[chosen]


def _holds(values: pd.Series, value: Scalar) -> pd.Series:
    if value is None:
        return values.isna()
    if pd.api.types.is_numeric_dtype(values):
        return values == value if not isinstance(value, bool | str) else pd.Series(data=False, index=values.index)
    return values == str(value)


def column_of(quantity: Quantity) -> str:
    """Return the frame's column of a quantity."""
    return quantity.metric if is_of_trained(quantity.metric) else f"{quantity.value}/{quantity.metric}"


def keys_of(metric: str, metrics: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the metric keys of a quantity's slices; none for a number of the training."""
    if is_of_trained(metric):
        return ()
    return (metric,) if "/" in metric else metrics.get(metric, ())


def replicate_values(trials: pd.DataFrame, column: str) -> dict[Replicate, float]:
    """Return the value of each replicate of a condition."""
    rows = zip(trials["world"], trials["seed"], trials[column], strict=True)
    return {(world_of(world), int(seed)): float(value) for world, seed, value in rows}


def split_by_world(complete: Iterable[Replicate], num_planned: int) -> tuple[dict[World, list[int]], int]:
    """Return the seeds of each world that has enough of them, and how many planned replicates are left out.

    Args:
        complete: the replicates whose numbers are all known.
        num_planned: replicates planned.
    """
    seeds: dict[World, list[int]] = {}
    for world, seed in complete:
        seeds.setdefault(world_of(world), []).append(int(seed))
    worlds = sorted(seeds, key=lambda world: -1 if world is None else world)
    kept = {world: sorted(seeds[world]) for world in worlds if len(seeds[world]) >= MIN_SEEDS}
    return kept, num_planned - sum(map(len, kept.values()))
