"""The report's tables as frames: effects, contrasts, flips, what was not held equal.

Invariant: every condition of the plan has its rows, in plan order; before, after and delta of one row are over the same
items, so that delta = after - before. What does not live here: formulas (stats.py), text and colours (render.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from analysis.items import metric_key
from analysis.matrices import Before, ItemMatrices, Matrix, World, by_world, matrices_of, on_common_items
from analysis.randomisation import cluster_sums, randomised_p
from analysis.stats import (
    Effect,
    Floats,
    crossed_effect,
    flips,
    holm,
    item_part,
    pooled_over_worlds,
    seeds_effect,
    unknown_effect,
    unpaired_effect,
)
from analysis.wins import Wins, wins
from harness.records.measures import is_lower_better

NAN = math.nan
AGREE_TO = 1e-6
"""Aggregates come from float32 sums in places; a larger gap to the items' mean means another weighting."""

DELTA_OF: dict[Before, str] = {"before": "delta/", "before_full_precision": "delta_full_precision/"}

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


def joined_ids(trials: pd.DataFrame) -> str:
    """Return the ids of trials, each once: where a number comes from."""
    return " ".join(dict.fromkeys(trials["trial_id"]))


def targets(metrics: dict[str, tuple[str, ...]], frame: pd.DataFrame) -> list[Target]:
    """Return what effects are computed for: measures, their primary slices, then every other metric scored."""
    found = [Target(measure, "measure", keys) for measure, keys in metrics.items()]
    primaries = list(dict.fromkeys(key for keys in metrics.values() for key in keys))
    found += [Target(key, "primary", (key,)) for key in primaries]
    scored = [name.removeprefix("after/") for name in frame.columns if name.startswith("after/")]
    named = {target.name for target in found}
    return found + [Target(key, "other", (key,)) for key in scored if key not in named]


# -- effects ----------------------------------------------------------------------------------------------------------


def effects_table(
    frame: pd.DataFrame,
    items: pd.DataFrame | ItemMatrices,
    metrics: dict[str, tuple[str, ...]],
    against: Before = "before",
) -> pd.DataFrame:
    """Return one row per condition and target: before, after, delta with its interval, seeds, items, p, MDE.

    `p_holm` is adjusted over the family of all conditions x measures, separately from all conditions x primary slices.
    A condition that stands in two arms by the same trials is one comparison.

    Args:
        frame: one row per planned trial.
        items: per-item values, or their matrices.
        metrics: measure -> its primary metric keys.
        against: the base as it was trained, or without its quantisation.
    """
    matrices = matrices_of(items, against)
    rows = [
        {"condition": str(condition), "condition_id": trials["condition_id"].iloc[0], "arm": trials["arm"].iloc[0]}
        | _effect_row(trials, matrices, str(condition), target, against)
        for condition, trials in frame.groupby("condition", sort=False)
        for target in targets(metrics, frame)
    ]
    table = pd.DataFrame(rows)
    table["p_holm"] = NAN
    table["family_size"] = 0
    for level, group in table.groupby("level"):
        if level != "other":
            distinct = group.drop_duplicates(["condition_id", "target"])
            adjusted = dict(zip(_comparisons(distinct), holm(distinct["p_value"].tolist()), strict=True))
            table.loc[group.index, "p_holm"] = [adjusted[name] for name in _comparisons(group)]
            table.loc[group.index, "family_size"] = int(distinct["p_value"].notna().sum())
    return table


def _comparisons(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["condition_id"], rows["target"], strict=True))


def _effect_row(
    trials: pd.DataFrame, matrices: ItemMatrices, condition: str, target: Target, against: Before
) -> dict[str, object]:
    known = trials[trials[DELTA_OF[against] + target.name].notna()]
    found = {w: _effect_in_world(part, matrices, condition, target, against, w) for w, part in by_world(known)}
    effect = pooled_over_worlds({world: one.difference.effect for world, one in found.items()})
    return (
        {
            "target": target.name,
            "level": target.level,
            "lower_is_better": target.lower_is_better,
            "before": float(np.mean([one.before for one in found.values()])),
            "after": float(np.mean([one.after for one in found.values()])),
            "delta": effect.estimate,
        }
        | _effect_columns(effect, [effect.note, *_world_notes(trials, known, found.values())])
        | {"p_randomised": _randomised(one.difference for one in found.values())}
        | {"num_planned": len(trials), "trial_ids": joined_ids(trials)}
    )


@dataclass(frozen=True)
class _Difference:
    """A difference in one world."""

    effect: Effect
    sums: Floats | None = None
    """(clusters,) what each adds to the estimate; None where the items are 0 or 1, unknown or not paired by seed."""


def _randomised(differences: Iterable[_Difference]) -> float:
    """Return approximate randomisation's p over the worlds of a pooled effect; nan where one of them has no sums."""
    pooled = [one.sums for one in differences if not math.isnan(one.effect.estimate)]
    known = [sums for sums in pooled if sums is not None]
    return randomised_p(known) if len(known) == len(pooled) else NAN


@dataclass(frozen=True)
class _InWorld:
    """A condition's change in one world."""

    before: float
    after: float
    difference: _Difference
    notes: tuple[str, ...]


def _effect_in_world(
    known: pd.DataFrame, matrices: ItemMatrices, condition: str, target: Target, against: Before, world: World
) -> _InWorld:
    delta = DELTA_OF[against] + target.name
    # A slice whose aggregate is unknown stays unknown: the items that could still be scored would flatter the model.
    slices, left_out = matrices.find(condition, target.keys, known["seed"].to_numpy(), world)
    if slices:
        found = _paired([part.before for part in slices], [part.after for part in slices], slices)
        means = _mean_of_means([part.before for part in slices]), _mean_of_means([part.after for part in slices])
    else:
        found = _Difference(seeds_effect(known[delta].tolist()))
        means = _mean(known[f"{against}/{target.name}"]), _mean(known[f"after/{target.name}"])
    notes = [_weighting_note(found.effect, known[delta])]
    if slices and left_out:
        notes.append(f"{left_out} items not known on both sides for every seed are left out")
    return _InWorld(*means, found, tuple(notes))


def _world_notes(trials: pd.DataFrame, known: pd.DataFrame, found: Iterable[_InWorld]) -> list[str]:
    absent = sorted({*trials["world"].dropna()} - {*known["world"].dropna()}) if len(known) else []
    notes = [f"world {world} is left out: no known value" for world in absent]
    return [*dict.fromkeys(note for one in found for note in one.notes), *notes]


def _effect_columns(effect: Effect, notes: list[str]) -> dict[str, object]:
    columns = asdict(effect)
    columns.pop("estimate")
    return columns | {"note": "; ".join(note for note in notes if note)}


def _paired(first: list[Floats], second: list[Floats], slices: list[Matrix]) -> _Difference:
    """Return second minus first, slice by slice over the same items and seeds."""
    if len({values.shape[1] for values in first}) > 1:
        return _Difference(unknown_effect("the slices were not scored under the same seeds"))
    differences = np.concatenate([b - a for a, b in zip(first, second, strict=True)])
    clusters = np.concatenate([part.clusters for part in slices])
    strata = np.repeat(np.arange(len(slices)), [len(values) for values in first])
    binary = all(np.isin(values, (0.0, 1.0)).all() for values in [*first, *second])
    effect = crossed_effect(differences, clusters, strata, binary=binary)
    return _Difference(effect, None if binary else cluster_sums(differences, clusters, strata))


def _mean_of_means(values: list[Floats]) -> float:
    return float(np.mean([part.mean() for part in values]))


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if len(values) else NAN


def _weighting_note(effect: Effect, recorded: pd.Series) -> str:
    if not len(recorded) or math.isnan(effect.estimate) or effect.kind == "seeds only":
        return ""
    gap = abs(float(recorded.mean()) - effect.estimate)
    return f"mean over items; the recorded aggregate gives {recorded.mean():+.4f}" if gap > AGREE_TO else ""


def full_precision_table(frame: pd.DataFrame, items: pd.DataFrame, metrics: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """Return the effects on measures against the base without quantisation, for conditions that quantise it."""
    columns = [f"delta_full_precision/{measure}" for measure in metrics]
    if not set(columns) <= set(frame.columns):
        return pd.DataFrame()
    quantised = frame.loc[frame[columns].notna().any(axis=1), "condition"]
    rows, own_items = (table[table["condition"].isin(quantised)] for table in (frame, items))
    if rows.empty:
        return pd.DataFrame()
    table = effects_table(rows, own_items, metrics, "before_full_precision")
    table = table[table["level"] == "measure"]
    means = rows.groupby("condition")[[f"before/{measure}" for measure in metrics]].mean()
    names = zip(table["condition"], table["target"], strict=True)
    return table.assign(before_quantised=[means.loc[condition, f"before/{measure}"] for condition, measure in names])


# -- contrasts --------------------------------------------------------------------------------------------------------


def contrasts_table(
    frame: pd.DataFrame, items: pd.DataFrame | ItemMatrices, metrics: dict[str, tuple[str, ...]]
) -> pd.DataFrame:
    """Return each condition's after minus that of its arm's first condition, paired by item and seed.

    Conditions without a common seed are compared unpaired by seed. Holm over all rows. The columns of `Wins` say in how
    many of the common worlds and seeds the condition beats the first one.
    """
    matrices = matrices_of(items)
    measures = [target for target in targets(metrics, frame) if target.level == "measure"]
    rows = [
        {"arm": arm, "reference": pair[0], "condition": pair[1], "target": target.name}
        | _contrast_row(frame[frame["condition"].isin(pair)], matrices, pair, target)
        for arm, pair in _pairs(frame)
        for target in measures
    ]
    table = pd.DataFrame(rows)
    if rows:
        table["p_holm"] = holm(table["p_value"].tolist())
        table["family_size"] = int(table["p_value"].notna().sum())
    return table


def _pairs(frame: pd.DataFrame) -> Iterator[tuple[str, tuple[str, str]]]:
    for arm, trials in frame.groupby("arm", sort=False):
        reference, *others = dict.fromkeys(trials["condition"])
        for condition in others:
            yield str(arm), (reference, condition)


def _contrast_row(
    trials: pd.DataFrame, matrices: ItemMatrices, pair: tuple[str, str], target: Target
) -> dict[str, object]:
    found = {world: _contrast_in_world(part, matrices, pair, target, world) for world, part in by_world(trials)}
    effect = pooled_over_worlds({world: one.effect for world, one in found.items()})
    return (
        {"lower_is_better": target.lower_is_better, "difference": effect.estimate}
        | _effect_columns(effect, [effect.note])
        | {"p_randomised": _randomised(found.values())}
        | asdict(_how_often_better(trials, pair, target))
        | {"trial_ids": joined_ids(trials)}
    )


def _how_often_better(frame: pd.DataFrame, pair: tuple[str, str], target: Target) -> Wins:
    column = f"after/{target.name}"
    first, second = (frame.loc[frame["condition"] == name, ["world", "seed", column]] for name in pair)
    both = first.merge(second, on=["world", "seed"], suffixes=("_first", "_second"))
    gains = (both[f"{column}_second"] - both[f"{column}_first"]).to_numpy(dtype=float)
    return wins((-gains if target.lower_is_better else gains).tolist())


def _contrast_in_world(
    frame: pd.DataFrame, matrices: ItemMatrices, pair: tuple[str, str], target: Target, world: World
) -> _Difference:
    column = f"after/{target.name}"
    scores = [frame[frame["condition"] == name].set_index("seed")[column].dropna() for name in pair]
    common = scores[0].index.intersection(scores[1].index).to_numpy()
    own = [common, common] if len(common) else [side.index.to_numpy() for side in scores]
    first, second = (matrices.find(name, target.keys, seeds, world)[0] for name, seeds in zip(pair, own, strict=True))
    if not first or not second:
        return _Difference(seeds_effect((scores[1].loc[common] - scores[0].loc[common]).tolist()))
    shared = [on_common_items([a, b]) for a, b in zip(first, second, strict=True)]
    if any(not len(a.items) for a, _ in shared):
        return _Difference(unknown_effect("no common items"))
    parts, afters = [a for a, _ in shared], [[side.after for side in sides] for sides in zip(*shared, strict=True)]
    if len(common):
        return _paired(afters[0], afters[1], parts)
    means = [[values.mean(axis=1, keepdims=True) for values in side] for side in afters]
    of_items = item_part(_paired(means[0], means[1], parts).effect)
    return _Difference(unpaired_effect(scores[0].tolist(), scores[1].tolist(), [of_items]))


# -- flips ------------------------------------------------------------------------------------------------------------


def flips_table(items: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return one row per trial and binary metric key: kept, lost, gained, net, churn, retention, McNemar's p."""
    named = items.assign(key=metric_key(items))
    names = ["condition", "arm", "seed", "trial_id", "key"]
    test = named.loc[(items["split"] == "test") & named["key"].isin(keys), [*names, "before", "after"]]
    rows: list[dict[str, object]] = []
    for (condition, arm, seed, trial_id, key), group in test.groupby(names, sort=False, observed=True):
        before, after = group["before"].to_numpy(dtype=float), group["after"].to_numpy(dtype=float)
        values = np.concatenate([before, after])
        if not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
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
    groups = trials.groupby(["condition", "key"], sort=False)
    table["num_seeds"] = groups["trial_id"].nunique()
    table["trial_ids"] = groups["trial_id"].agg(lambda names: " ".join(dict.fromkeys(names)))
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
            name
            for name, values in spread.items()
            if len(values) and values.max() - values.min() > 1e-3 * abs(values.max())
        ]
    return unequal


def mixed_provenance(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return provenance column -> its values, for those that differ between finished trials."""
    found = {name: sorted({str(value) for value in frame[name].dropna()}) for name in SAME_EXPECTED}
    return {name: values for name, values in found.items() if len(values) > 1}
