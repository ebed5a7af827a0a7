"""Item x seed matrices: the values that a paired estimate is made of.

Invariant: a matrix is of one world, because items of two worlds are different items; an unknown value is nan. What does
not live here: estimates (stats.py), tables (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.items import metric_key
from analysis.variance import Codes, Floats

NAN = math.nan
Before = Literal["before", "before_full_precision"]
World = int | None
"""Seed of the pocket world; None where the sweep is not repeated over worlds."""


def world_of(cell: object) -> World:
    """Return the world that a frame's cell names; None where it is empty."""
    return None if pd.isna(cell) else int(cell)


def by_world(trials: pd.DataFrame) -> Iterator[tuple[World, pd.DataFrame]]:
    """Yield the trials of each world, or all at once where the sweep is not repeated over worlds."""
    if not trials["world"].notna().any():
        yield None, trials
        return
    for world, group in trials.groupby("world"):
        yield int(world), group


@dataclass(frozen=True)
class Matrix:
    """Test items of one metric key under one condition; unknown values are nan."""

    items: Codes
    """(n,) item numbers, equal for the same item anywhere in the sweep."""
    clusters: Codes
    """(n,) cluster numbers."""
    seeds: Codes
    """(k,) ascending."""
    before: Floats
    """(n, k)"""
    after: Floats
    """(n, k)"""

    def cut(self, rows: NDArray[Any], seeds: NDArray[Any]) -> Matrix:
        """Return the given rows and seeds, both as positions."""
        return Matrix(
            items=self.items[rows],
            clusters=self.clusters[rows],
            seeds=self.seeds[seeds],
            before=self.before[np.ix_(rows, seeds)],
            after=self.after[np.ix_(rows, seeds)],
        )

    def known(self, seeds: Codes) -> Matrix:
        """Return the items known before and after under every one of these seeds, and only these seeds."""
        places = np.flatnonzero(np.isin(self.seeds, seeds))
        both = self.before[:, places] + self.after[:, places]
        return self.cut(np.flatnonzero(~np.isnan(both).any(axis=1)), places)


class ItemMatrices:
    """Every item x seed matrix of a sweep, by condition, world and metric key; test items only."""

    def __init__(self, items: pd.DataFrame, before: Before = "before") -> None:
        test = items[items["split"] == "test"]
        conditions, condition_names = pd.factorize(test["condition"])
        keys, key_names = pd.factorize(metric_key(test))
        worlds, world_names = pd.factorize(test["world"], use_na_sentinel=False)
        columns = {
            "items": pd.factorize(test["suite"].astype(str) + "\0" + test["task"].astype(str) + "\0" + test["item_id"])[
                0
            ],
            # A cluster name means one thing within a suite; slices of a suite may share people.
            "clusters": pd.factorize(test["suite"].astype(str) + "\0" + test["cluster"].astype(str))[0],
            "seeds": test["seed"].to_numpy(),
            "before": test[before].to_numpy(dtype=float),
            "after": test["after"].to_numpy(dtype=float),
        }
        self._matrices: dict[tuple[str, World, str], Matrix] = {}
        group = (conditions * max(len(world_names), 1) + worlds) * max(len(key_names), 1) + keys
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            if len(rows):
                first = rows[0]
                world = world_names[worlds[first]]
                name = (
                    str(condition_names[conditions[first]]),
                    world_of(world),
                    str(key_names[keys[first]]),
                )
                self._matrices[name] = _matrix({column: values[rows] for column, values in columns.items()})

    def find(
        self, condition: str, keys: tuple[str, ...], seeds: Codes, world: World = None
    ) -> tuple[list[Matrix], int]:
        """Return one complete matrix per key under these seeds, and how many items were left out to complete them.

        No matrices at all where one of the keys has no complete row or lacks a seed: a mean over the rest would be
        another quantity.
        """
        raw = [self._matrices.get((condition, world, key)) for key in keys]
        found = [(whole, whole.known(seeds)) for whole in raw if whole is not None]
        left_out = sum(len(whole.items) - len(part.items) for whole, part in found)
        whole = len(found) == len(keys) and all(len(part.items) and len(part.seeds) == len(seeds) for _, part in found)
        return ([part for _, part in found] if whole and len(seeds) else []), left_out


def matrices_of(items: pd.DataFrame | ItemMatrices, before: Before = "before") -> ItemMatrices:
    """Return the matrices of per-item values, or those that were made of them already."""
    return items if isinstance(items, ItemMatrices) else ItemMatrices(items, before)


def _matrix(columns: dict[str, Any]) -> Matrix:
    items, first, rows = np.unique(columns["items"], return_index=True, return_inverse=True)
    seeds, places = np.unique(columns["seeds"], return_inverse=True)
    sides = {side: np.full((len(items), len(seeds)), NAN) for side in ("before", "after")}
    for side, values in sides.items():
        values[rows, places] = columns[side]
    return Matrix(items, columns["clusters"][first], seeds, sides["before"], sides["after"])


def on_common_items(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Return matrices of one slice under several conditions, each cut to the items that all of them have."""
    common = matrices[0].items
    for other in matrices[1:]:
        common = np.intersect1d(common, other.items)
    # The items of a matrix ascend, so its cut is in the order of `common`.
    return [m.cut(np.flatnonzero(np.isin(m.items, common)), np.arange(len(m.seeds))) for m in matrices]
