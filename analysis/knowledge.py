"""Knowledge in bits: how much of closed-set facts a model holds, and how much of that is left.

Invariant: a fact is worth at most log2 of the number of its possible values, and never less than 0. What does not live
here: the bits of a pocket base before any training (bands.py), exact-match accuracies (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.matrices import ItemMatrices, World, by_world
from analysis.stats import Floats, crossed_effect, pooled_over_worlds, unknown_effect

NAN = math.nan
METRIC = "gold_logprob"
COLUMNS = [
    "condition", "arm", "slice", "num_facts", "num_seeds", "bits_possible", "bits_before", "bits_after", "retention",
    "kept", "delta_per_fact", "low", "high", "p_value", "note",
]  # fmt: skip


def bits(gold_logprob: Floats, chance: Floats) -> Floats:
    """Return the bits that a model holds of each fact: max(0, log2 |V| - cross-entropy of the value in bits).

    With chance = 1/|V| that is max(0, -log2 chance + gold_logprob / ln 2): 0 for a guess, -log2 chance for certainty.
    nan where either is unknown. The probability recorded is that of the value among all texts, not among the values of
    its set: what a model puts on anything else counts against it, so that this is a lower bound.

    Args:
        gold_logprob: natural-log probability of the right value.
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


def bits_table(items: pd.DataFrame, chance: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Return one row per condition and slice with log-probabilities of gold choices: its knowledge in bits.

    Sums over the slice's facts (test items known before and after under every seed), means over seeds: `bits_before`,
    `bits_after`, `bits_possible` = sum of log2 |V|; `retention` = after / before, which gains can raise; `kept` = sum
    of min(before, after) / before, which they cannot; both nan where the base holds nothing. `delta_per_fact` has the
    paired interval of items and seeds, clustered. More is better.

    Args:
        items: per-item values.
        chance: slice `suite/task` -> 1 / number of values, where the items do not say.
    """
    facts = items[(items["metric"] == METRIC) & (items["split"] == "test")]
    of_item = chance_of_items(items)
    rows = [
        {"condition": condition, "arm": arm, "slice": f"{suite}/{task}"}
        | _slice_bits(group, f"{suite}/{task}", of_item, (chance or {}).get(f"{suite}/{task}", NAN))
        for (condition, arm, suite, task), group in facts.groupby(
            ["condition", "arm", "suite", "task"], sort=False, observed=True
        )
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
