"""The report's tables as frames: effects, contrasts, flips, what was not held equal.

Invariant: every condition of the plan has its rows, in plan order; before, after and delta of one row are over the same
items, so that delta = after - before. What does not live here: formulas (stats.py), text and colours (render.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import is_lower_better
from analysis.stats import (
    Codes,
    Effect,
    Floats,
    crossed_effect,
    flips,
    holm,
    seeds_effect,
    unknown_effect,
    unpaired_effect,
)

NAN = math.nan
AGREE_TO = 1e-6
"""Aggregates come from float32 sums in places; a larger gap to the items' mean means another weighting."""

HELD_QUANTITIES = (
    "steps", "num_epochs", "num_examples_seen", "num_tokens", "num_loss_tokens", "loss_tokens_per_step",
    "learning_rate", "learning_rate_integral", "batch_size", "trainable_parameters",
)  # fmt: skip
SAME_EXPECTED = ("host", "cpu", "device", "num_threads", "git_commit", "git_dirty", "libraries")


@dataclass(frozen=True)
class Target:
    """A row of the effects table: one metric of one slice, or a measure over its primary slices."""

    name: str
    level: str
    """`measure`, `primary` (the metric that stands for a primary slice), or `other`."""
    keys: tuple[str, ...]

    @property
    def lower_is_better(self) -> bool:
        """Whether less is better; decided by its metrics."""
        return bool(self.keys) and all(is_lower_better(key) for key in self.keys)


def targets(metrics: dict[str, tuple[str, ...]], frame: pd.DataFrame) -> list[Target]:
    """Return what effects are computed for: measures, their primary slices, then every other metric scored."""
    found = [Target(measure, "measure", keys) for measure, keys in metrics.items()]
    primaries = list(dict.fromkeys(key for keys in metrics.values() for key in keys))
    found += [Target(key, "primary", (key,)) for key in primaries]
    scored = [name.removeprefix("after/") for name in frame.columns if name.startswith("after/")]
    named = {target.name for target in found}
    return found + [Target(key, "other", (key,)) for key in scored if key not in named]


# -- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matrix:
    """Test items of one metric key under one condition, as complete rows over its seeds."""

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
    num_left_out: int
    """Items without a known value on both sides for every seed."""


class ItemMatrices:
    """Every item x seed matrix of a sweep, by condition and metric key; test items only."""

    def __init__(self, items: pd.DataFrame) -> None:
        test = items[items["split"] == "test"]
        key = test["suite"].astype(str) + "/" + test["task"].astype(str) + "/" + test["metric"].astype(str)
        conditions, condition_names = pd.factorize(test["condition"])
        keys, key_names = pd.factorize(key)
        columns = {
            "items": pd.factorize(test["suite"].astype(str) + "\0" + test["task"].astype(str) + "\0" + test["item_id"])[0],
            # A cluster name means one thing within a suite; slices of a suite may share people.
            "clusters": pd.factorize(test["suite"].astype(str) + "\0" + test["cluster"].astype(str))[0],
            "seeds": test["seed"].to_numpy(),
            "before": test["before"].to_numpy(dtype=float),
            "after": test["after"].to_numpy(dtype=float),
        }
        self._matrices: dict[tuple[str, str], Matrix] = {}
        group = conditions * max(len(key_names), 1) + keys
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            if len(rows):
                name = str(condition_names[conditions[rows[0]]]), str(key_names[keys[rows[0]]])
                self._matrices[name] = _matrix({column: values[rows] for column, values in columns.items()})

    def find(self, condition: str, keys: tuple[str, ...]) -> list[Matrix] | None:
        """Return one matrix per key, or None where one has no complete row."""
        found = [self._matrices.get((condition, key)) for key in keys]
        complete = [matrix for matrix in found if matrix is not None and len(matrix.items)]
        return complete if complete and len(complete) == len(found) else None

    def num_left_out(self, condition: str, keys: tuple[str, ...]) -> int:
        """Return how many items of these keys are not known on both sides for every seed."""
        found = (self._matrices.get((condition, key)) for key in keys)
        return sum(matrix.num_left_out for matrix in found if matrix is not None)


def _matrix(columns: dict[str, Any]) -> Matrix:
    items, first, rows = np.unique(columns["items"], return_index=True, return_inverse=True)
    seeds, places = np.unique(columns["seeds"], return_inverse=True)
    sides = {side: np.full((len(items), len(seeds)), NAN) for side in ("before", "after")}
    for side, values in sides.items():
        values[rows, places] = columns[side]
    complete = ~(np.isnan(sides["before"]) | np.isnan(sides["after"])).any(axis=1)
    return Matrix(
        items=items[complete],
        clusters=columns["clusters"][first][complete],
        seeds=seeds,
        before=sides["before"][complete],
        after=sides["after"][complete],
        num_left_out=int((~complete).sum()),
    )


def effects_table(frame: pd.DataFrame, items: pd.DataFrame, metrics: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """Return one row per condition and target: before, after, delta with its interval, seeds, items, p, MDE.

    `p_holm` is adjusted over the family of all conditions x measures, separately from all conditions x primary slices.
    """
    matrices = ItemMatrices(items)
    rows = [
        {"condition": str(condition), "condition_id": trials["condition_id"].iloc[0], "arm": trials["arm"].iloc[0]}
        | _effect_row(trials, matrices, str(condition), target)
        for condition, trials in frame.groupby("condition", sort=False)
        for target in targets(metrics, frame)
    ]
    table = pd.DataFrame(rows)
    table["p_holm"] = NAN
    table["family_size"] = 0
    for level, group in table.groupby("level"):
        if level != "other":
            table.loc[group.index, "p_holm"] = holm(group["p_value"].tolist())
            table.loc[group.index, "family_size"] = int(group["p_value"].notna().sum())
    return table


def _effect_row(trials: pd.DataFrame, matrices: ItemMatrices, condition: str, target: Target) -> dict[str, object]:
    known = trials[trials[f"delta/{target.name}"].notna()]
    slices = matrices.find(condition, target.keys)
    if slices is not None:
        effect = _paired([part.before for part in slices], [part.after for part in slices], slices)
        means = _mean_of_means([part.before for part in slices]), _mean_of_means([part.after for part in slices])
    else:
        effect = seeds_effect(known[f"delta/{target.name}"].tolist())
        means = _mean(known[f"before/{target.name}"]), _mean(known[f"after/{target.name}"])
    notes = [effect.note, _weighting_note(effect, known[f"delta/{target.name}"])]
    if left_out := matrices.num_left_out(condition, target.keys):
        notes.append(f"{left_out} items not known on both sides for every seed are left out")
    return {
        "target": target.name,
        "level": target.level,
        "lower_is_better": target.lower_is_better,
        "before": means[0],
        "after": means[1],
        "delta": effect.estimate,
    } | _effect_columns(effect, notes) | {"num_planned": len(trials)}


def _effect_columns(effect: Effect, notes: list[str]) -> dict[str, object]:
    columns = asdict(effect)
    columns.pop("estimate")
    return columns | {"note": "; ".join(note for note in notes if note)}


def _paired(first: list[Floats], second: list[Floats], slices: list[Matrix]) -> Effect:
    """Return the effect of second minus first, slice by slice over the same items and seeds."""
    if len({values.shape[1] for values in first}) > 1:
        return unknown_effect("the slices were not scored under the same seeds")
    differences = np.concatenate([b - a for a, b in zip(first, second, strict=True)])
    clusters = np.concatenate([part.clusters for part in slices])
    strata = np.repeat(np.arange(len(slices)), [len(values) for values in first])
    binary = all(np.isin(values, (0.0, 1.0)).all() for values in [*first, *second])
    return crossed_effect(differences, clusters, strata, binary=binary)


def _mean_of_means(values: list[Floats]) -> float:
    return float(np.mean([part.mean() for part in values]))


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if len(values) else NAN


def _weighting_note(effect: Effect, recorded: pd.Series) -> str:
    if not len(recorded) or math.isnan(effect.estimate) or effect.kind == "seeds only":
        return ""
    gap = abs(float(recorded.mean()) - effect.estimate)
    return f"mean over items; the recorded aggregate gives {recorded.mean():+.4f}" if gap > AGREE_TO else ""


# -- contrasts --------------------------------------------------------------------------------------------------------


def contrasts_table(frame: pd.DataFrame, items: pd.DataFrame, metrics: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """Return each condition's after minus that of its arm's first condition, paired by item and seed.

    Conditions without a common seed are compared unpaired by seed. Holm over all rows.
    """
    matrices = ItemMatrices(items)
    rows: list[dict[str, object]] = []
    for arm, reference, condition in _pairs(frame):
        for target in targets(metrics, frame):
            if target.level == "measure":
                effect = _contrast(frame, matrices, (reference, condition), target)
                rows.append(
                    {"arm": arm, "reference": reference, "condition": condition, "target": target.name}
                    | {"lower_is_better": target.lower_is_better, "difference": effect.estimate}
                    | _effect_columns(effect, [effect.note])
                )
    table = pd.DataFrame(rows)
    if rows:
        table["p_holm"] = holm(table["p_value"].tolist())
        table["family_size"] = int(table["p_value"].notna().sum())
    return table


def _pairs(frame: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    for arm, trials in frame.groupby("arm", sort=False):
        reference, *others = dict.fromkeys(trials["condition"])
        for condition in others:
            yield str(arm), reference, condition


def _contrast(frame: pd.DataFrame, matrices: ItemMatrices, pair: tuple[str, str], target: Target) -> Effect:
    column = f"after/{target.name}"
    by_seed = [frame[frame["condition"] == name].set_index("seed")[column].dropna() for name in pair]
    first, second = (matrices.find(name, target.keys) for name in pair)
    if first is None or second is None:
        common = by_seed[0].index.intersection(by_seed[1].index)
        return seeds_effect((by_seed[1].loc[common] - by_seed[0].loc[common]).tolist())
    common = [_on_common_items(a, b) for a, b in zip(first, second, strict=True)]
    if any(not len(a.items) for a, _ in common):
        return unknown_effect("no common items")
    if len(common[0][0].seeds):
        return _paired([a.after for a, _ in common], [b.after for _, b in common], [a for a, _ in common])
    means = [[part.mean(axis=1, keepdims=True) for part in side] for side in _afters(first, second, common)]
    items_only = _paired(means[0], means[1], [a for a, _ in common])
    return unpaired_effect(by_seed[0].tolist(), by_seed[1].tolist(), items_only.se_items)


def _on_common_items(first: Matrix, second: Matrix) -> tuple[Matrix, Matrix]:
    """Return both on the items and seeds that they share; on no seed where they share none."""
    _, rows_a, rows_b = np.intersect1d(first.items, second.items, return_indices=True)
    _, seeds_a, seeds_b = np.intersect1d(first.seeds, second.seeds, return_indices=True)
    return _cut(first, rows_a, seeds_a), _cut(second, rows_b, seeds_b)


def _cut(matrix: Matrix, rows: Codes, seeds: Codes) -> Matrix:
    return replace(
        matrix,
        items=matrix.items[rows],
        clusters=matrix.clusters[rows],
        seeds=matrix.seeds[seeds],
        before=matrix.before[np.ix_(rows, seeds)],
        after=matrix.after[np.ix_(rows, seeds)],
    )


def _afters(
    first: list[Matrix], second: list[Matrix], common: list[tuple[Matrix, Matrix]]
) -> tuple[list[Floats], list[Floats]]:
    """Return the after values of every seed on the common items, for conditions that share no seed."""
    a = [whole.after[np.isin(whole.items, part.items)] for whole, (part, _) in zip(first, common, strict=True)]
    b = [whole.after[np.isin(whole.items, part.items)] for whole, (_, part) in zip(second, common, strict=True)]
    return a, b


# -- flips ------------------------------------------------------------------------------------------------------------


def flips_table(items: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return one row per trial and binary metric key: kept, lost, gained, net, churn, retention, McNemar's p."""
    test = items[items["split"] == "test"]
    name = test["suite"].astype(str) + "/" + test["task"].astype(str) + "/" + test["metric"].astype(str)
    rows: list[dict[str, object]] = []
    for (condition, arm, seed, trial_id, key), group in test.assign(key=name).groupby(
        ["condition", "arm", "seed", "trial_id", "key"], sort=False, observed=True
    ):
        before, after = group["before"].to_numpy(dtype=float), group["after"].to_numpy(dtype=float)
        values = np.concatenate([before, after])
        if key not in keys or not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
            continue
        counts = flips(before, after)
        rows.append(
            {"condition": condition, "arm": arm, "seed": seed, "trial_id": trial_id, "key": key}
            | asdict(counts)
            | {"net": counts.net, "churn": counts.churn, "retention": counts.retention, "p_value": counts.p_value}
        )
    return pd.DataFrame(rows)


def flips_by_condition(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of each count and rate; `p_value` is that of the least significant seed."""
    if trials.empty:
        return trials
    means = ["num_items", "kept", "lost", "gained", "net", "churn", "retention"]
    table = trials.groupby(["condition", "key"], sort=False)[means].mean()
    table["p_value"] = trials.groupby(["condition", "key"], sort=False)["p_value"].max()
    table["num_seeds"] = trials.groupby(["condition", "key"], sort=False)["seed"].nunique()
    return table.reset_index()


# -- what was not held equal ------------------------------------------------------------------------------------------


def held_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return per condition the mean over its finished seeds of every quantity that could move with a knob unseen."""
    table = frame.groupby(["arm", "condition"], sort=False)[list(HELD_QUANTITIES)].mean()
    return table.reset_index()


def not_held_equal(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return arm -> quantities that differ between its conditions by more than 1 in 1000."""
    table = held_table(frame)
    unequal: dict[str, list[str]] = {}
    for arm, group in table.groupby("arm", sort=False):
        spread = {name: group[name].dropna() for name in HELD_QUANTITIES}
        unequal[str(arm)] = [
            name for name, values in spread.items() if len(values) and values.max() - values.min() > 1e-3 * abs(values.max())
        ]
    return unequal


def mixed_provenance(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return provenance column -> its values, for those that differ between finished trials."""
    found = {name: sorted({str(value) for value in frame[name].dropna()}) for name in SAME_EXPECTED}
    return {name: values for name, values in found.items() if len(values) > 1}


