"""Whole sweeps, simulated: frames and item rows straight from arrays, decided as a report decides them.

Invariant: a simulated sweep has no records, and its truth is an argument. What does not live here: deciding
(analysis/claims.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false
# pandas has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.checks.scenario import Scenario
from analysis.claims import decide
from analysis.verdicts import PartVerdict, Verdict
from harness.spec import Claim, Contrast, Part, Term

AXIS = "train.learning_rate"
KEY = "people/question/exact_match"
METRICS = {"learned": (KEY,)}
Cell = tuple[float, int | None, int]
"""Axis value, world, seed."""
DETECTABLE = 0.0725
"""Mean minimum detectable effect of the sweeps that `noisy` makes."""


def tables(
    after: Mapping[Cell, Sequence[float] | NDArray[Any] | None],
    before: Mapping[int | None, Sequence[float]] | None = None,
    cluster_size: int = 1,
    **columns: Mapping[Cell, float],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the frame and the item rows of a sweep.

    Args:
        after: cell -> its items' values; None is a trial without a result.
        before: world -> its items' values under the base; 0 where left out.
        cluster_size: items in a row that share a cluster.
        columns: further columns of the frame, such as val_loss.
    """
    rows: list[dict[str, Any]] = []
    scored: list[tuple[dict[str, Any], Any, Any]] = []
    for (value, world, seed), values in after.items():
        row: dict[str, Any] = {"trial_id": f"{value}-{world}-{seed}", "condition": f"rate={value}", "arm": "a"}
        row |= {"condition_id": str(value), "seed": seed, "world": world, f"axis.{AXIS}": value}
        row |= {name: cells.get((value, world, seed), np.nan) for name, cells in columns.items()}
        base = None if before is None else before[world]
        row |= _scores(values, base)
        rows.append(row)
        if values is not None:
            scored.append((row, values, np.zeros(len(values)) if base is None else base))
    frame = pd.DataFrame(rows)
    frame["world"] = frame["world"].astype("Int64")
    return frame, _items(scored, cluster_size)


def _scores(values: Any, base: Any) -> dict[str, Any]:
    if values is None:
        return {"state": "FAILED", "after/learned": np.nan, "before/learned": np.nan, "delta/learned": np.nan}
    after, before = float(np.mean(values)), 0.0 if base is None else float(np.mean(base))
    scores = {"after/learned": after, "before/learned": before, "delta/learned": after - before}
    return {"state": "COMPLETE"} | scores | {f"after/{KEY}": after}


def _items(scored: Sequence[tuple[dict[str, Any], Any, Any]], cluster_size: int) -> pd.DataFrame:
    """Return the item rows of these trials: row of the frame, values after, values before."""
    counts = [len(values) for _, values, _ in scored]
    places = np.concatenate([np.arange(count) for count in counts])
    items, clusters = ([f"{name}-{index}" for index in range(max(counts))] for name in ("item", "cluster"))
    suite, task, metric = KEY.split("/")
    return pd.DataFrame(
        {
            "condition": pd.Series([row["condition"] for row, _, _ in scored]).repeat(counts).array,
            "seed": np.repeat([row["seed"] for row, _, _ in scored], counts),
            "world": pd.array([row["world"] for row, _, _ in scored], dtype="Int64").repeat(counts),
            "suite": suite,
            "task": task,
            "metric": metric,
            "item_id": pd.array(items, dtype="str").take(places),
            "cluster": pd.array(clusters, dtype="str").take(places // cluster_size),
            "split": "test",
            "before": np.concatenate([np.asarray(before, dtype=float) for _, _, before in scored]),
            "after": np.concatenate([np.asarray(values, dtype=float) for _, values, _ in scored]),
        }
    )


def difference(expect: Any = "greater", margin: float = 0.0, metric: str = "learned", value: Any = "after") -> Contrast:
    """Return the contrast of rate 2 against rate 1."""
    terms = tuple(
        Term(metric=metric, value=value, at=((AXIS, rate),), weight=sign) for rate, sign in ((2.0, 1.0), (1.0, -1.0))
    )
    return Contrast(terms=terms, expect=expect, margin=margin)


def decided(part: Part, frame: pd.DataFrame, items: pd.DataFrame) -> PartVerdict:
    """Return the verdict of one part."""
    return verdict_of((part,), frame, items).parts[0]


def verdict_of(parts: tuple[Part, ...], frame: pd.DataFrame, items: pd.DataFrame) -> Verdict:
    """Return the verdict of a claim of these parts."""
    claim = Claim(id="X", statement="s", source="s", published="p", parts=parts)
    return decide((claim,), frame, items, METRICS)[0]


def noisy(
    effect: float,
    noise: np.random.Generator,
    worlds: Sequence[int | None] = (0, 1),
    seeds: int = 5,
    items: int = 120,
    seed_sd: float = 0.03,
) -> dict[Cell, NDArray[Any]]:
    """Return binary item values of two conditions whose chance to be right differs by `effect`.

    An item's difficulty is common to all trials of its world; each trial has a shift of its own, as seeds do.
    """
    cells: dict[Cell, NDArray[Any]] = {}
    for world in worlds:
        difficulty = noise.normal(0, 0.25, size=items)
        for rate, extra in ((1.0, 0.0), (2.0, effect)):
            for seed in range(seeds):
                chance = np.clip(0.5 + extra + difficulty + noise.normal(0, seed_sd), 0.02, 0.98)
                cells[(rate, world, seed)] = (noise.uniform(size=items) < chance).astype(float)
    return cells


# -- scenarios --------------------------------------------------------------------------------------------------------


def scenarios() -> Iterator[Scenario]:
    """Yield sweeps without an effect, where items and where seeds dominate, and with one of the size of its MDE."""
    yield _sweep("A/A called supported", 0.0, 0.03, 0.025, (0.0, 0.025))
    yield _sweep("A/A called supported, seeds dominate", 0.0, 0.15, 0.025, (0.0, 0.025))
    yield _sweep("effect of its MDE's size called supported", DETECTABLE, 0.03, 0.8, (0.75, 0.85))


def _sweep(name: str, effect: float, seed_sd: float, nominal: float, bounds: tuple[float, float]) -> Scenario:
    def draw(noise: np.random.Generator) -> bool:
        return decided(difference(), *tables(noisy(effect, noise, seed_sd=seed_sd))).verdict == "supported"

    return Scenario("claim", f"{name}, 2 worlds", 120, 5, nominal, bounds, draw, "contrast", 0.125)
