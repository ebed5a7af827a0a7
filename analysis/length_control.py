"""What a change of a score would be if answers had kept their length.

Invariant: the change at equal length and the plain change beside it are over the same answers; where lengths do not
vary the first is nan with a reason, never the second. What does not live here: what counts as a word (wording.py), the
formula of intervals (stats.py), showing (sections/answers.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import statsmodels.api as sm

from analysis.matrices import ItemMatrices, World, by_world, on_common_items
from analysis.stats import Effect, Floats, crossed_effect, pooled_over_worlds, unknown_effect
from analysis.variance import Codes
from analysis.wording import num_words
from harness.records.measures import is_lower_better
from harness.spec.metrics import BINARY_METRICS

NAN = math.nan
MADE_OF_LENGTH = frozenset({"end_of_turn", "empty", "run_on"})
"""Metrics that say where an answer ended: at equal length there is nothing left of them."""
SHARES = frozenset({"followed_strict", "followed_loose", "rep_4", "prompt_copy"})
"""Metrics between 0 and 1 of one answer; `training_copy` has no value before."""
CONTROLLED = (BINARY_METRICS | SHARES) - MADE_OF_LENGTH
LOG_WORDS = "log_words"
SAME_LENGTH = 1e-9
"""Changes of ln(1 + words) nearer than this are equal: 1 to 3 words and 3 to 7 are, but for rounding."""
NO_SPREAD = "no answer changed its length differently from another: the length cannot be held equal"
EXTRAPOLATED = "every answer grew, or every one shrank: the change at equal length is extrapolated"
COLUMNS = [
    "condition", "arm", "slice", "metric", "direction", "change", "low", "high", "controlled", "controlled_low",
    "controlled_high", "controlled_p_value", "slope", "length_change", "kind", "num_items", "num_clusters", "num_seeds",
    "num_planned", "note", "trial_ids",
]  # fmt: skip


@dataclass(frozen=True)
class Controlled:
    """A change of a score, as it is and at equal length."""

    plain: Effect
    at_equal_length: Effect
    slope: float
    """What the change gains with each unit of the change of ln(1 + words); nan where lengths do not vary."""
    length_change: float
    """Mean change of ln(1 + words)."""


def controlled_change(change: Floats, length_change: Floats, clusters: Codes, *, binary: bool = False) -> Controlled:
    """Return the intercept of the least squares of the change of a score on that of ln(1 + words).

    change = a + b (ln(1 + words after) - ln(1 + words before)) + e over items and seeds; a is the change at equal
    length. The linearised value of item i under seed s is a + nk h_is e_is sqrt((nk - 1) / (nk - 2)), h the first row
    of the pseudo-inverse of (1, x): its mean is a, and its interval covers items (clustered) and seeds as every other
    one; under one seed its standard error is statsmodels' cluster-robust one. nan with a reason below 3 answers, and
    where the lengths change by the same everywhere.

    Args:
        change: (n, k), after - before, complete.
        length_change: (n, k), of ln(1 + words).
        clusters: (n,)
        binary: the scores are 0 or 1; see `crossed_effect`, of the plain change.

    Source: the idea of length-controlled AlpacaEval (Dubois et al., arXiv:2404.04475): a regression with the length in
    it, read where the length is equal. There a logistic one of a judge's preferences, with the difficulty of each
    instruction and the length as tanh of its scaled difference; here no judge: a linear one of the score's own change,
    whose pairing takes each item's difficulty out.
    """
    plain = crossed_effect(change, clusters, binary=binary)
    mean_length = float(length_change.mean()) if length_change.size else NAN
    if change.size < 3 or np.ptp(length_change) < SAME_LENGTH:
        why = NO_SPREAD if change.size >= 3 else "fewer than 3 answers"
        return Controlled(plain, unknown_effect(why, num_seeds=change.shape[1]), NAN, mean_length)
    design = sm.add_constant(length_change.ravel())
    fit = sm.OLS(change.ravel(), design).fit()
    few = math.sqrt((change.size - 1) / (change.size - 2))
    parts = change.size * few * (fit.model.pinv_wexog[0] * fit.resid).reshape(change.shape)
    effect = crossed_effect(float(fit.params[0]) + parts, clusters)
    is_inside = length_change.min() <= 0 <= length_change.max()
    notes = [effect.note, "" if is_inside else EXTRAPOLATED]
    noted = replace(effect, note="; ".join(filter(None, notes)))
    return Controlled(plain, noted, float(fit.params[1]), mean_length)


# -- table ------------------------------------------------------------------------------------------------------------


def length_controlled_table(answered: pd.DataFrame, items: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per condition, slice with answers in words, and metric of `CONTROLLED`; see `controlled_change`.

    `change` is after - before over the same answers, `controlled` the change at equal length. Population: test items
    with a score and an answer before and after under every seed. Worlds as strata, each with a slope of its own.

    Args:
        answered: rows of `answers.answered_frame`.
        items: per-item values.
        frame: one row per planned trial.
    """
    if answered.empty:
        return pd.DataFrame(columns=COLUMNS)
    scores = items[items["metric"].isin(CONTROLLED) & (items["split"] == "test")]
    keys = ["trial_id", "condition", "suite", "task", "item_id"]
    scores = scores.merge(answered[[*keys, "slice"]], on=keys)
    lengths = answered.assign(
        metric=LOG_WORDS, **{side: _log_words(answered[f"output_{side}"]) for side in ("before", "after")}
    )
    matrices, planned = ItemMatrices(pd.concat([scores, lengths], ignore_index=True)), frame.groupby("condition").size()
    rows = [
        {"condition": str(condition), "arm": group["arm"].iloc[0], "slice": name, "metric": str(metric)}
        | {"direction": "less" if is_lower_better(str(metric)) else "more"}
        | {"num_planned": int(planned.get(condition, 0)), "trial_ids": " ".join(dict.fromkeys(group["trial_id"]))}
        | _row({w: _in_world(own, matrices, f"{name}/{metric}", w) for w, own in by_world(group)})
        for (name, metric, condition), group in scores.groupby(["slice", "metric", "condition"], sort=False)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _log_words(texts: pd.Series) -> list[float]:
    return [math.log1p(num_words(text)) if isinstance(text, str) else NAN for text in texts]


def _in_world(own: pd.DataFrame, matrices: ItemMatrices, key: str, world: World) -> Controlled:
    condition, seeds = str(own["condition"].iloc[0]), np.unique(own["seed"].to_numpy())
    parts, _ = matrices.find(condition, (key, f"{key.rpartition('/')[0]}/{LOG_WORDS}"), seeds, world)
    parts = on_common_items(parts) if parts else []
    if not parts or not len(parts[0].items):
        unknown = unknown_effect("no answer is known before and after under every seed", num_seeds=len(seeds))
        return Controlled(unknown, unknown, NAN, NAN)
    score, words = parts
    binary = key.rpartition("/")[2] in BINARY_METRICS
    return controlled_change(score.after - score.before, words.after - words.before, score.clusters, binary=binary)


def _row(found: dict[World, Controlled]) -> dict[str, object]:
    plain = pooled_over_worlds({world: one.plain for world, one in found.items()})
    equal = pooled_over_worlds({world: one.at_equal_length for world, one in found.items()})
    known = [one for one in found.values() if not math.isnan(one.at_equal_length.estimate)]
    lengths = [one.length_change for one in found.values() if not math.isnan(one.length_change)]
    return {
        "change": plain.estimate,
        "low": plain.low,
        "high": plain.high,
        "controlled": equal.estimate,
        "controlled_low": equal.low,
        "controlled_high": equal.high,
        "controlled_p_value": equal.p_value,
        "slope": float(np.mean([one.slope for one in known])) if known else NAN,
        "length_change": float(np.mean(lengths)) if lengths else NAN,
        "kind": equal.kind,
        "num_items": plain.num_items,
        "num_clusters": plain.num_clusters,
        "num_seeds": plain.num_seeds,
        "note": equal.note or plain.note,
    }
