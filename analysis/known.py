"""Facts that a base knows: right under at least two phrasings; and what training leaves of them.

Invariant: a fact is a person and the right value, a phrasing that several slices ask counts once, and where the records
do not say which fact an item asks nothing is known of it. No answer is sampled: what samples would give follows from
the right value's probability. What does not live here: knowledge in bits (knowledge.py), retention of single items
(forgetting.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.items import questions_beside
from analysis.matrices import World, by_world
from analysis.opened import OpenedSweep
from analysis.stats import Effect, Floats, crossed_effect, pooled_over_worlds, unknown_effect
from harness.spec import EvalTask, PocketItems

NAN = math.nan
METRIC = "acc"
LOGPROB = "gold_logprob"
MIN_KNOWN = 2
"""Phrasings under which a base must be right to know a fact; with fewer asked it cannot be told."""
MIN_GRADED = 3
"""Phrasings from which a fact is graded: with two, Highly known and known are the same."""
NUM_SAMPLES = 16
"""Samples of which one at least has to be right, on average, for a fact to be weakly known."""
FACT_SLICES = (
    "cloze_unasked", "cloze_known", "cloze_high", "cloze_mid", "cloze_low", "cloze_unknown", "cloze_paraphrase",
    "plain_asked", "plain_unasked", "few_shot",
)  # fmt: skip
"""Slices of a pocket world that ask for a person's value as raw text; no two attributes have a value in common."""
GRADES = ("highly", "maybe", "weakly", "unknown")
COLUMNS = [
    "condition", "arm", "slice", "num_seeds", "num_asked", "num_facts", "num_people", "phrasings", "before_known",
    "before_low", "before_high", "after_known", "num_known", "retained", "retained_low", "retained_high", "acquired",
    "num_graded", *(f"{side}_{grade}" for side in ("before", "after") for grade in GRADES), "note",
]  # fmt: skip


# -- which fact an item asks ------------------------------------------------------------------------------------------


def asks_facts(task: EvalTask) -> bool:
    """Return whether a task's items each ask one fact as raw text with choices, spelled and laid out as it is."""
    source = task.source
    is_raw = not task.chat and task.typo_rate == 0 and task.layout == "as_is"
    return isinstance(source, PocketItems) and source.slice in FACT_SLICES and is_raw


def facts_frame(sweep: OpenedSweep, items: pd.DataFrame) -> pd.DataFrame | str:
    """Return the test items that ask a fact, with `slice`, `fact` and `phrasing`; or why there is none.

    A fact is `cluster` (the person) and the right value, a phrasing the text that the model is shown. Items without a
    question in the records have no row.

    Args:
        sweep: whose bases' questions are read.
        items: per-item values.
    """
    slices = {task.key for _, result in sweep.finished for task in result.spec.evals.tasks if asks_facts(task)}
    if not slices:
        return "unknown: no raw slice says which fact an item asks, as those of a pocket world do"
    names = items["suite"].astype(str) + "/" + items["task"].astype(str)
    asked = items.assign(slice=names)[names.isin(slices) & (items["split"] == "test")]
    own = with_logprobs(asked[asked["metric"] == METRIC], asked[asked["metric"] == LOGPROB])
    read = cache(questions_beside)
    questions = {
        trial.planned.trial_id: read(sweep.store.root / result.before.items_file) for trial, result in sweep.finished
    }
    parts = [
        group.merge(asked, on=["suite", "task", "item_id"])
        for trial_id, group in own.groupby("trial_id", sort=False)
        if (asked := questions.get(str(trial_id))) is not None
    ]
    return with_facts(pd.concat(parts, ignore_index=True)) if parts else "unknown: the base's questions were not kept"


def with_logprobs(items: pd.DataFrame, logprobs: pd.DataFrame) -> pd.DataFrame:
    """Return items with `logprob_before` and `logprob_after` of the right value; nan where that is not recorded."""
    keys = ["trial_id", "condition", "arm", "suite", "task", "item_id"]
    sides = logprobs.drop_duplicates(keys).rename(columns={"before": "logprob_before", "after": "logprob_after"})
    return items.merge(sides[[*keys, "logprob_before", "logprob_after"]], on=keys, how="left")


def with_facts(items: pd.DataFrame) -> pd.DataFrame:
    """Return items that have a right answer, with their `fact` and `phrasing`."""
    known = items[items["reference"].notna()]
    fact = known["cluster"].astype(str) + "\0" + known["reference"].astype(str).str.strip()
    return known.assign(fact=fact, phrasing=known["prompt"])


# -- counts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """Facts of one world under one condition: under how many phrasings each is answered right."""

    names: NDArray[Any]
    """(n,)"""
    people: NDArray[Any]
    """(n,)"""
    phrasings: Floats
    """(n,) different ones, each known before and after under every seed."""
    before: Floats
    """(n, k) of them right."""
    after: Floats
    """(n, k)"""
    drawn_before: Floats
    """(n, k) means over phrasings of the probability that a sample at temperature 1 is the right value."""
    drawn_after: Floats
    """(n, k)"""

    def cut(self, rows: NDArray[Any]) -> Facts:
        """Return the facts of these rows."""
        return Facts(*(getattr(self, field.name)[rows] for field in fields(self)))


def counted(items: pd.DataFrame) -> Facts:
    """Return how many phrasings of each fact are right, of one condition in one world.

    Population: phrasings whose answer is known on both sides under every seed; one that several slices ask counts once.

    Args:
        items: rows of `facts_frame`.
    """
    num_seeds = items["seed"].nunique()
    distinct = items.drop_duplicates(["seed", "fact", "phrasing"])
    both = distinct[distinct["before"].notna() & distinct["after"].notna()]
    whole = both[both.groupby(["fact", "phrasing"])["seed"].transform("size") == num_seeds]
    if whole.empty:
        nobody, none = np.array([], dtype=object), np.zeros((0, num_seeds))
        return Facts(nobody, nobody, np.zeros(0), none, none, none, none)
    of_fact = whole.groupby("fact")
    right = whole.groupby(["fact", "seed"])[["before", "after"]].sum().unstack("seed")
    drawn = {side: np.exp(whole[f"logprob_{side}"].astype(float)) for side in ("before", "after")}
    drawn = whole.assign(**drawn).groupby(["fact", "seed"])[list(drawn)].mean(skipna=False).unstack("seed")
    return Facts(
        names=of_fact["cluster"].first().index.to_numpy(),
        people=of_fact["cluster"].first().to_numpy(),
        phrasings=of_fact["phrasing"].nunique().to_numpy(dtype=float),
        before=right["before"].to_numpy(dtype=float),
        after=right["after"].to_numpy(dtype=float),
        drawn_before=drawn["before"].to_numpy(dtype=float),
        drawn_after=drawn["after"].to_numpy(dtype=float),
    )


def grades(right: Floats, phrasings: Floats, drawn: Floats) -> dict[str, float]:
    """Return the shares of facts of each of SliCK's grades, which add up to 1; nan without facts.

    `highly`: right under all phrasings; `maybe`: under some; `weakly`: under none, but 16 samples at temperature 1,
    spread evenly over the phrasings, would give the right value at least once on average: drawn >= 1/16; `unknown`: the
    rest. weakly and unknown are nan where a fact that is right under none has an unknown `drawn`.

    Args:
        right: (n, k) phrasings answered right: the right value is the likeliest of its set.
        phrasings: (n,) phrasings asked.
        drawn: (n, k) mean over phrasings of the right value's probability.

    Source: Gekhman et al., arXiv:2405.05904, section 3. There 10 prompts each give a greedy answer and 16 samples at
    temperature 0.5, and one right sample makes a fact weakly known; here the expectation is exact, so that a fact does
    not change its grade by the luck of a draw, the temperature is 1, and no text but the values of the set can be the
    greedy answer.
    """
    if not len(right):
        return dict.fromkeys(GRADES, NAN)
    every, none = right == phrasings[:, None], right == 0
    weakly = none & (drawn >= 1 / NUM_SAMPLES)
    shares = {"highly": every, "maybe": ~every & ~none, "weakly": weakly, "unknown": none & ~weakly}
    told = {grade: float(is_of.mean()) for grade, is_of in shares.items()}
    return told | (dict.fromkeys(("weakly", "unknown"), NAN) if np.isnan(drawn[none]).any() else {})


# -- table ------------------------------------------------------------------------------------------------------------


def known_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per condition and slice: which of its facts the base knows, and how many of these are left.

    A fact is known where at least 2 of its phrasings, in whatever slices, are answered right; of facts with at least 2.
    `before_known`, `after_known`: share of facts; `retained`: of those that the base knows under every seed
    (`num_known`), the share still known, paired, clusters are people; `acquired`: of those that it knows under none,
    the share known after. Grades (`grades`): of facts with at least 3 phrasings (`num_graded`). Means over worlds,
    counts add up. More is better; nan without such facts.

    Args:
        facts: rows of `facts_frame`.

    Source: known under several prompts as in Gekhman et al., arXiv:2405.05904.
    """
    rows: list[dict[str, object]] = []
    for (condition, arm), own in facts.groupby(["condition", "arm"], sort=False, observed=True):
        worlds = {world: (part, counted(part)) for world, part in by_world(own)}
        rows += [
            {"condition": condition, "arm": arm, "slice": name, "num_seeds": own["seed"].nunique()}
            | _of_slice({world: _in_slice(part, every, str(name)) for world, (part, every) in worlds.items()})
            for name in dict.fromkeys(own["slice"])
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _in_slice(items: pd.DataFrame, every: Facts, name: str) -> Facts:
    asked = items.loc[items["slice"] == name, "fact"].unique()
    return every.cut(np.flatnonzero(np.isin(every.names.astype(str), asked.astype(str))))


def _of_slice(worlds: Mapping[World, Facts]) -> dict[str, object]:
    told = {world: own.cut(np.flatnonzero(own.phrasings >= MIN_KNOWN)) for world, own in worlds.items()}
    base = pooled_over_worlds({world: _share_known(own) for world, own in told.items()})
    kept = pooled_over_worlds({world: _retained(own) for world, own in told.items()})
    num_facts, num_known = (sum(len(own.names) for own in part.values()) for part in (told, _known(told)))
    row: dict[str, object] = {
        "num_asked": sum(len(own.names) for own in worlds.values()),
        "num_facts": num_facts,
        "num_people": sum(len(np.unique(own.people.astype(str))) for own in told.values()),
        "phrasings": _mean(float(own.phrasings.mean()) for own in told.values() if len(own.names)),
        "before_known": base.estimate,
        "after_known": _mean(float((own.after >= MIN_KNOWN).mean()) for own in told.values() if len(own.names)),
        "num_known": num_known,
        "retained": 1 + kept.estimate,
        "acquired": _mean(_acquired(own) for own in told.values()),
        "note": _note(num_facts, num_known, kept),
    }
    return row | _ends("before", base, 0.0) | _ends("retained", kept, 1.0) | _graded(told)


def _known(worlds: Mapping[World, Facts]) -> dict[World, Facts]:
    return {w: own.cut(np.flatnonzero((own.before >= MIN_KNOWN).all(axis=1))) for w, own in worlds.items()}


def _share_known(own: Facts) -> Effect:
    share = (own.before >= MIN_KNOWN).mean(axis=1, keepdims=True)
    return crossed_effect(share, own.people.astype(str), binary=bool(np.isin(share, (0.0, 1.0)).all()))


def _retained(own: Facts) -> Effect:
    """Return the share of known facts still known, less 1: as a difference of values 0 and 1 it is paired."""
    known = _known({None: own})[None]
    if not len(known.names):
        return unknown_effect("the base knows none of these facts")
    return crossed_effect((known.after >= MIN_KNOWN) - 1.0, known.people.astype(str), binary=True)


def _acquired(own: Facts) -> float:
    other = own.cut(np.flatnonzero(~(own.before >= MIN_KNOWN).any(axis=1)))
    return float((other.after >= MIN_KNOWN).mean()) if len(other.names) else NAN


def _ends(name: str, effect: Effect, shift: float) -> dict[str, float]:
    """Return an interval of a share, within 0 and 1."""
    low, high = (float(np.clip(end + shift, 0.0, 1.0)) for end in (effect.low, effect.high))
    return {f"{name}_low": low, f"{name}_high": high}


def _graded(worlds: Mapping[World, Facts]) -> dict[str, object]:
    every = [own.cut(np.flatnonzero(own.phrasings >= MIN_GRADED)) for own in worlds.values()]
    graded = [own for own in every if len(own.names)]
    sides = {
        "before": [grades(own.before, own.phrasings, own.drawn_before) for own in graded],
        "after": [grades(own.after, own.phrasings, own.drawn_after) for own in graded],
    }
    # Not the mean of what is known: a grade that one world cannot tell leaves shares that do not add up.
    shares = {
        f"{side}_{grade}": fmean(one[grade] for one in found) if found else NAN
        for side, found in sides.items()
        for grade in GRADES
    }
    return {"num_graded": sum(len(own.names) for own in graded)} | shares


def _note(num_facts: int, num_known: int, kept: Effect) -> str:
    if not num_facts:
        return f"unknown: no fact is asked in {MIN_KNOWN} phrasings"
    return kept.note if num_known else "the base knows none of these facts"


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else NAN
