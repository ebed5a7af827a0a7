"""Where the right value stands among the values that it could be: rank, share, and how sure a model is when wrong.

Invariant: an item is its set of choices; one whose set was not measured as a whole is nan on that side, and a trial
whose choices were not kept is left out by name, never counted as wrong. What does not live here: reading the choices
(choices.py), bits (knowledge.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.choices import ITEM_KEYS, choices_beside
from analysis.items import TRIAL_KEYS
from analysis.matrices import World, by_world
from analysis.opened import OpenedSweep
from analysis.stats import Effect, Floats, crossed_effect, pooled_over_worlds

NAN = math.nan
KIND = "multiple_choice"
SURE = 0.5
"""Share of the set's probability above which the likeliest choice is one that a model is confident of."""
BETTER = {"gold_rank": "less", "gold_share": "more", "confident": "neither", "confident_wrong": "less"}
"""Measure of an item -> which way is better."""
BINARY = ("confident", "confident_wrong")
LOG_SHARE = "gold_log_share"
MEASURES = (*BETTER, LOG_SHARE)
SIDES = ("before", "after")
ITEM_COLUMNS = [
    *TRIAL_KEYS, *ITEM_KEYS, "cluster", "num_choices", *(f"{name}_{side}" for side in SIDES for name in MEASURES),
    "not_kept",
]  # fmt: skip
COLUMNS = [
    "condition", "arm", "slice", "measure", "better", "num_items", "num_choices", "num_seeds", "before", "after",
    "delta", "se", "low", "high", "p_value", "kind", "note", "trial_ids",
]  # fmt: skip


# -- one item ---------------------------------------------------------------------------------------------------------


def measures_of(choices: pd.DataFrame) -> pd.DataFrame:
    """Return one row per item: `num_choices` and what a model makes of the item's set of choices.

    gold_rank: place of the gold choice by summed log-probability, 1 is the likeliest; of equal ones the first counts,
    as in acc, so that rank 1 is acc = 1. Less is better. gold_log_share: natural log of the gold choice's share of the
    set's probability, log-softmax over the set; gold_share: the share itself. More is better. confident: 1 if the
    likeliest choice has more than half of the set's probability; neither is better. confident_wrong: 1 if moreover it
    is not the gold one; less is better. All nan where a log-probability is not finite or not one choice is gold.

    Args:
        choices: rows of one model, with the columns of `choices.WRITTEN`.
    """
    if choices.empty:
        return pd.DataFrame(columns=[*ITEM_KEYS, "num_choices", *MEASURES])
    codes = choices.groupby(ITEM_KEYS, sort=False, observed=True).ngroup().to_numpy()
    order = np.lexsort((choices["choice"].to_numpy(), codes))
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    found = _of_sets(
        choices["logprob"].to_numpy(dtype=float)[order], choices["is_gold"].to_numpy(dtype=bool)[order], starts
    )
    items = choices[ITEM_KEYS].iloc[order[starts]].astype(str).reset_index(drop=True)
    return items.assign(num_choices=np.diff(starts, append=len(order)), **found)


def _of_sets(logprobs: Floats, is_gold: NDArray[np.bool_], starts: NDArray[Any]) -> dict[str, Floats]:
    """Return the measures of sets that lie one after the other, each from its start."""
    places, finite = np.arange(len(logprobs)), np.isfinite(logprobs)
    known = np.logical_and.reduceat(finite, starts) & (np.add.reduceat(is_gold.astype(int), starts) == 1)
    owner = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(logprobs)))
    values = np.where(finite, logprobs, 0.0)
    gold = np.where(known, np.add.reduceat(np.where(is_gold, places, 0), starts), starts)
    top, of_gold = np.maximum.reduceat(values, starts), values[gold]
    total = np.add.reduceat(np.exp(values - top[owner]), starts)  # of the set, as a multiple of the likeliest choice
    is_ahead = (values > of_gold[owner]) | ((values == of_gold[owner]) & (places < gold[owner]))
    rank = 1 + np.add.reduceat(is_ahead.astype(int), starts)
    log_share = of_gold - top - np.log(total)
    confident = 1 / total > SURE
    found = {
        "gold_rank": rank,
        "gold_share": np.exp(log_share),
        "confident": confident,
        "confident_wrong": confident & (rank > 1),
        LOG_SHARE: log_share,
    }
    return {name: np.where(known, values_of, NAN) for name, values_of in found.items()}


# -- items of a sweep -------------------------------------------------------------------------------------------------


def closed_set_frame(sweep: OpenedSweep, items: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial and multiple-choice test item, with its measures before and after.

    `not_kept` says why a trial, or its base, has no choices; it is empty where both have, and a measure is then nan
    where the item's set was not measured as a whole.

    Args:
        sweep: whose choices are read, those of a base once for all its trials.
        items: per-item values: which items there are, and their clusters.
    """
    slices = {task.key for _, result in sweep.finished for task in result.spec.evals.tasks if task.kind == KIND}
    names = items["suite"].astype(str) + "/" + items["task"].astype(str)
    own = items[names.isin(slices) & (items["metric"] == "acc") & (items["split"] == "test")]
    own = own[[*TRIAL_KEYS, *ITEM_KEYS, "cluster"]]
    of_base, trials = cache(_measured), dict(tuple(own.groupby("trial_id", sort=False)))
    parts: list[pd.DataFrame] = []
    for trial, result in sweep.finished:
        rows = trials.pop(trial.planned.trial_id, None)
        if rows is not None and result.after is not None:
            root = sweep.store.root
            sides = (of_base(root / result.before.items_file), _measured(root / result.after.items_file))
            parts.append(_with_sides(rows, dict(zip(SIDES, sides, strict=True))))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=ITEM_COLUMNS)


def _measured(items_file: Path) -> pd.DataFrame | str:
    choices = choices_beside(items_file)
    return choices if isinstance(choices, str) else measures_of(choices)


def _with_sides(rows: pd.DataFrame, sides: Mapping[str, pd.DataFrame | str]) -> pd.DataFrame:
    reasons = dict.fromkeys(found for found in sides.values() if isinstance(found, str))
    for side, found in sides.items():
        if isinstance(found, str):
            continue
        renames = {name: f"{name}_{side}" for name in (*MEASURES, "num_choices")}
        rows = rows.merge(found.rename(columns=renames), on=ITEM_KEYS, how="left")
    counts = [rows[name] for side in SIDES if (name := f"num_choices_{side}") in rows]
    num_choices = counts[0].fillna(counts[-1]) if counts else NAN
    return rows.assign(num_choices=num_choices, not_kept="; ".join(reasons)).reindex(columns=ITEM_COLUMNS)


# -- complete items ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Complete:
    """Items of one slice, condition and world whose sets are known before and after under every seed."""

    clusters: NDArray[Any]
    """(n,)"""
    num_choices: Floats
    """(n,)"""
    num_left_out: int
    """Items that are unknown on a side under a seed."""
    num_seeds: int
    values: Mapping[str, Floats]
    """`<measure>_<side>` -> (n, k)."""

    def effect(self, before: Floats, after: Floats, *, binary: bool = False) -> Effect:
        """Return the paired effect over these items and seeds."""
        return crossed_effect(after - before, self.clusters.astype(str), binary=binary)


def complete(rows: pd.DataFrame) -> Complete:
    """Return the complete items of rows of one slice, condition and world, all of trials that kept their choices."""
    names = [f"{name}_{side}" for side in SIDES for name in MEASURES]
    distinct = rows.drop_duplicates(["item_id", "seed"])
    wide = distinct.pivot(index="item_id", columns="seed", values=names)
    whole = wide.dropna()
    about = distinct.drop_duplicates("item_id").set_index("item_id").loc[whole.index]
    return Complete(
        clusters=about["cluster"].to_numpy(dtype=object),
        num_choices=about["num_choices"].to_numpy(dtype=float),
        num_left_out=len(wide) - len(whole),
        num_seeds=distinct["seed"].nunique(),
        values={name: whole[name].to_numpy(dtype=float) for name in names},
    )


def complete_by_world(rows: pd.DataFrame) -> dict[World, Complete]:
    """Return world -> its complete items, of the trials that kept their choices; {} where none did."""
    kept = rows[rows["not_kept"] == ""]
    return {world: complete(own) for world, own in by_world(kept)} if len(kept) else {}


def why_left_out(rows: pd.DataFrame, worlds: Mapping[World, Complete]) -> str:
    """Return what of these rows is in no number, and why; "" where all is."""
    lost = rows[rows["not_kept"] != ""].drop_duplicates("trial_id")["not_kept"].value_counts(sort=False)
    num_trials = rows["trial_id"].nunique()
    said = [
        str(why) if count == num_trials else f"{count} of {num_trials} trials: {why}" for why, count in lost.items()
    ]
    num_items = sum(own.num_left_out for own in worlds.values())
    return "; ".join(
        [*said, *([f"{num_items} items are not known on both sides under every seed"] if num_items else [])]
    )


# -- table ------------------------------------------------------------------------------------------------------------


def closed_set_table(closed: pd.DataFrame) -> pd.DataFrame:
    """Return one row per condition, slice and measure of `BETTER`: before, after, and the paired difference.

    Population: test items known on both sides under every seed whose trial and base kept their choices. Means over
    items and seeds, then over worlds; the interval is the crossed one of items (clustered) and seeds, worlds as strata.
    `num_choices` is the mean size of a set. nan with a note where there is nothing.

    Args:
        closed: rows of `closed_set_frame`.
    """
    rows: list[dict[str, object]] = []
    for (condition, arm, suite, task), own in closed.groupby(
        ["condition", "arm", "suite", "task"], sort=False, observed=True
    ):
        worlds = complete_by_world(own)
        about = {"condition": condition, "arm": arm, "slice": f"{suite}/{task}"} | _about(own, worlds)
        rows += [about | _of_measure(name, worlds, str(about["note"])) for name in BETTER]
    return pd.DataFrame(rows, columns=COLUMNS)


def _about(rows: pd.DataFrame, worlds: Mapping[World, Complete]) -> dict[str, object]:
    sizes = np.concatenate([own.num_choices for own in worlds.values()]) if worlds else np.zeros(0)
    kept = rows.loc[rows["not_kept"] == "", "trial_id"].astype(str)
    return {
        "num_items": len(sizes),
        "num_choices": float(sizes.mean()) if len(sizes) else NAN,
        "note": why_left_out(rows, worlds),
        "trial_ids": " ".join(dict.fromkeys(kept)),
    }


def _of_measure(name: str, worlds: Mapping[World, Complete], note: str) -> dict[str, object]:
    before, after = f"{name}_before", f"{name}_after"
    effects = {
        world: own.effect(own.values[before], own.values[after], binary=name in BINARY) for world, own in worlds.items()
    }
    found: dict[str, object] = {"measure": name, "better": BETTER[name], "num_seeds": 0}
    if not effects:
        return found
    effect = pooled_over_worlds(effects)
    return found | {
        "num_seeds": effect.num_seeds,
        "before": over_worlds(worlds, lambda own: own.values[before].mean()),
        "after": over_worlds(worlds, lambda own: own.values[after].mean()),
        "delta": effect.estimate,
        "se": effect.se,
        "low": effect.low,
        "high": effect.high,
        "p_value": effect.p_value,
        "kind": effect.kind,
        "note": "; ".join(filter(None, (note, effect.note))),
    }


def over_worlds(worlds: Mapping[World, Complete], value: Callable[[Complete], float]) -> float:
    """Return the mean of a value over the worlds that have items; nan without any."""
    known = [float(value(own)) for own in worlds.values() if len(own.num_choices)]
    return float(np.mean(known)) if known else NAN
