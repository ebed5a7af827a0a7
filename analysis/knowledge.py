"""Knowledge in bits: how much of closed-set facts a model holds, and how much of that is left.

Two columns of it, side by side: `bits_*` from the value's probability among all texts, a lower bound, and
`closed_bits_*` from its share among the values of its set, where the choices were kept. Invariant: a fact is worth at
most log2 of the number of its possible values, and never less than 0. What does not live here: the bits of a pocket
base before any training (bands.py), exact-match accuracies (tables.py), rank and share (closed_set.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from analysis.closed_set import LOG_SHARE, SIDES, Complete, complete_by_world, why_left_out
from analysis.matrices import ItemMatrices, World, by_world
from analysis.stats import Floats, crossed_effect, pooled_over_worlds, unknown_effect

NAN = math.nan
METRIC = "gold_logprob"
KEYS = ["condition", "arm", "suite", "task"]
NO_CHOICES = "unknown: the slice has no choices"
COLUMNS = [
    "condition", "arm", "slice", "num_facts", "num_seeds", "bits_possible", "bits_before", "bits_after", "retention",
    "kept", "delta_per_fact", "low", "high", "p_value", "note", "closed_num_facts", "closed_num_seeds",
    "closed_bits_possible", "closed_bits_before", "closed_bits_after", "closed_retention", "closed_kept",
    "closed_delta_per_fact", "closed_low", "closed_high", "closed_note",
]  # fmt: skip


def bits(gold_logprob: Floats, chance: Floats) -> Floats:
    """Return the bits that a model holds of each fact: max(0, log2 |V| - cross-entropy of the value in bits).

    With chance = 1/|V| that is max(0, -log2 chance + gold_logprob / ln 2): 0 for a guess, -log2 chance for certainty.
    nan where either is unknown. Of the value's probability among all texts (`gold_logprob`) that is a lower bound: what
    a model puts on anything but the values of the set counts against it. Of its share among the values of its set
    (`gold_log_share`) it is none: it says how much the model knows of which value it is.

    Args:
        gold_logprob: natural-log probability, or share, of the right value.
        chance: 1 / number of values, of the same shape or broadcast to it.

    Source: Allen-Zhu and Li, arXiv:2404.05405, bounded below by 0 for each fact.
    """
    known = np.where(np.isnan(gold_logprob) | np.isnan(chance), NAN, 0.0)
    return known + np.maximum(0.0, -np.log2(chance) + gold_logprob / math.log(2))


def chance_of_items(items: pd.DataFrame) -> pd.Series:
    """Return (suite, task, item_id) -> what guessing scores on the item, as far as the records say."""
    names = ["suite", "task", "item_id"]
    if "chance" not in items.columns:
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], [], []], names=names))
    known = items[items["chance"].notna()]
    return known.drop_duplicates(names).set_index(names)["chance"].astype(float)


def bits_table(
    items: pd.DataFrame, chance: Mapping[str, float] | None = None, closed: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per condition and slice with log-probabilities of gold choices: its knowledge in bits.

    Sums over the slice's facts (test items known before and after under every seed), means over seeds: `bits_before`,
    `bits_after`, `bits_possible` = sum of log2 |V|; `retention` = after / before, which gains can raise; `kept` = sum
    of min(before, after) / before, which they cannot; both nan where the base holds nothing. `delta_per_fact` has the
    paired interval of items and seeds, clustered. More is better. `closed_*`: the same of the value's share in its set,
    where the choices were kept; of other slices and trials `closed_note` says why they are nan.

    Args:
        items: per-item values.
        chance: slice `suite/task` -> 1 / number of values, where the items do not say.
        closed: rows of `closed_set.closed_set_frame`; None is none.
    """
    sets = {} if closed is None else {tuple(key): own for key, own in closed.groupby(KEYS, sort=False, observed=True)}
    facts = items[(items["metric"] == METRIC) & (items["split"] == "test")]
    of_item = chance_of_items(items)
    rows = [
        {"condition": condition, "arm": arm, "slice": f"{suite}/{task}"}
        | _slice_bits(group, f"{suite}/{task}", of_item, (chance or {}).get(f"{suite}/{task}", NAN))
        | closed_bits(sets.get((condition, arm, suite, task)))
        for (condition, arm, suite, task), group in facts.groupby(KEYS, sort=False, observed=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _slice_bits(group: pd.DataFrame, name: str, of_item: pd.Series, otherwise: float) -> dict[str, object]:
    index = pd.MultiIndex.from_frame(group[["suite", "task", "item_id"]])
    guess = of_item.reindex(index).fillna(otherwise).to_numpy(dtype=float)
    if np.isnan(guess).any():
        return {"num_facts": group["item_id"].nunique(), "note": "the number of possible values is not recorded"}
    held = group.assign(
        before=bits(group["before"].to_numpy(dtype=float), guess),
        after=bits(group["after"].to_numpy(dtype=float), guess),
        possible=-np.log2(guess),
    )
    matrices = ItemMatrices(held)
    found = {world: _in_world(own, matrices, name, world) for world, own in by_world(held)}
    sums = {part: sum(one[part] for one in found.values()) for part in ("facts", "before", "after", "kept")}
    effect = pooled_over_worlds({world: one["effect"] for world, one in found.items()})
    possible = float(held.drop_duplicates(["world", "item_id"])["possible"].mean()) * sums["facts"]
    return {
        "num_facts": sums["facts"],
        "num_seeds": effect.num_seeds,
        "bits_possible": possible,
        "bits_before": sums["before"],
        "bits_after": sums["after"],
        "retention": sums["after"] / sums["before"] if sums["before"] else NAN,
        "kept": sums["kept"] / sums["before"] if sums["before"] else NAN,
        "delta_per_fact": effect.estimate,
        "low": effect.low,
        "high": effect.high,
        "p_value": effect.p_value,
        "note": effect.note,
    }


def _in_world(own: pd.DataFrame, matrices: ItemMatrices, name: str, world: World) -> dict[str, object]:
    condition, seeds = str(own["condition"].iloc[0]), np.unique(own["seed"].to_numpy())
    found, _ = matrices.find(condition, (f"{name}/{METRIC}",), seeds, world)
    if not found:
        return {"facts": 0, "before": NAN, "after": NAN, "kept": NAN, "effect": unknown_effect("no fact is known")}
    part = found[0]
    effect = crossed_effect(part.after - part.before, part.clusters)
    kept = np.minimum(part.before, part.after).mean(axis=1).sum()
    sums = {"before": float(part.before.mean(axis=1).sum()), "after": float(part.after.mean(axis=1).sum())}
    return sums | {"facts": len(part.items), "kept": float(kept), "effect": effect}


# -- closed sets ------------------------------------------------------------------------------------------------------


def closed_bits(rows: pd.DataFrame | None) -> dict[str, object]:
    """Return the `closed_*` columns of one condition and slice: max(0, log2 |V| + log2 share of the right value).

    Population: facts whose set is known before and after under every seed, of trials that kept their choices. Sums over
    facts and worlds, means over seeds; retention and kept as in `bits_table`. More is better; nan where there are none.

    Args:
        rows: of `closed_set.closed_set_frame`; None is a slice without choices.
    """
    if rows is None:
        return {"closed_num_facts": 0, "closed_note": NO_CHOICES}
    worlds = complete_by_world(rows)
    note = why_left_out(rows, worlds)
    held = {world: _held(own) for world, own in worlds.items()}
    if not sum(len(before) for before, _ in held.values()):
        return {"closed_num_facts": 0, "closed_note": note}
    effect = pooled_over_worlds({world: own.effect(*held[world]) for world, own in worlds.items()})
    before, after = (_summed(side) for side in zip(*held.values(), strict=True))
    kept = _summed([np.minimum(*sides) for sides in held.values()])
    return {
        "closed_num_facts": sum(len(own.num_choices) for own in worlds.values()),
        "closed_num_seeds": effect.num_seeds,
        "closed_bits_possible": float(sum(np.log2(own.num_choices).sum() for own in worlds.values())),
        "closed_bits_before": before,
        "closed_bits_after": after,
        "closed_retention": after / before if before else NAN,
        "closed_kept": kept / before if before else NAN,
        "closed_delta_per_fact": effect.estimate,
        "closed_low": effect.low,
        "closed_high": effect.high,
        "closed_note": "; ".join(filter(None, (note, effect.note))),
    }


def _held(own: Complete) -> tuple[Floats, Floats]:
    """Return the bits of each fact before and after, (n, k) each."""
    guess = 1 / own.num_choices[:, None]
    before, after = (bits(own.values[f"{LOG_SHARE}_{side}"], guess) for side in SIDES)
    return before, after


def _summed(worlds: Iterable[Floats]) -> float:
    """Return the sum over facts and worlds of means over seeds."""
    return float(sum(own.mean(axis=1).sum() for own in worlds if own.size))
