"""How much of what the base could do is left: retention, retention above chance, agreement, relative forgetting.

Invariant: what the base could not do cannot be forgotten: where it is at chance, retention has no value. What does not
live here: changes with intervals (tables.py), flips (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.items import metric_key
from analysis.opened import OpenedSweep
from analysis.stats import Effect, Floats, chance_corrected_retention, crossed_effect, flips
from analysis.tax import scale_of
from harness.records.measures import is_lower_better

NAN = math.nan


OPEN_ANSWERS = {"greedy": "acc", "generate": "exact_match", "number": "lenient_match"}
"""Task kind without choices -> its metric of right answers: guessing scores 0."""


def chances(sweep: OpenedSweep) -> dict[str, float]:
    """Return metric key -> what guessing scores on its test items, as far as that is known.

    The mean of 1 / number of choices, where the records say so, and 0 for right answers that are open.
    """
    found: dict[str, float] = {}
    for _, result in sweep.finished:
        open_keys = {f"{t.key}/{OPEN_ANSWERS[t.kind]}" for t in result.spec.evals.tasks if t.kind in OPEN_ANSWERS}
        for key, score in result.before.test.items():
            chance = getattr(score, "chance", None)  # records before schema version 2 have none
            if chance is not None or key in open_keys:
                found.setdefault(key, float(chance or 0.0))
    return found


def mean_chance(keys: Sequence[str], chance: Mapping[str, float]) -> float | None:
    """Return what guessing scores in a measure: the mean over its keys; None where it is unknown for one of them."""
    return float(np.mean([chance[key] for key in keys])) if keys and all(key in chance for key in keys) else None


# -- one number -------------------------------------------------------------------------------------------------------


def agreement(before: Sequence[str | None], after: Sequence[str | None]) -> float:
    """Return the share of items that get the same answer before and after, right or wrong; nan without answers.

    Population: items whose answer is recorded on both sides. Two models of equal accuracy may agree on few items.

    Source: Kalajdzievski, arXiv:2401.05605.
    """
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, str) and isinstance(b, str)]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else NAN


def luo_forgetting(before: Sequence[float], after: Floats, lower_is_better: Sequence[bool] | None = None) -> float:
    """Return FG: the mean over tasks and checkpoints of (R0 - Rm) / R0.

    Less is better, negative where the model improved. Of a task of which less is better the sign is turned. nan without
    tasks, and where R0 is 0 or a score unknown: a relative loss of nothing is undefined.

    Args:
        before: (tasks,) scores of the base.
        after: (tasks,) or (tasks, checkpoints) scores after training.
        lower_is_better: of each task; None is none.

    Source: Luo et al., arXiv:2308.08747, equation 1, there in percent.
    """
    base, scores = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if not scores.size:
        return NAN
    scores = scores.reshape(len(base), -1)
    if (base == 0).any() or np.isnan(base).any() or np.isnan(scores).any():
        return NAN
    signs = np.where(np.zeros(len(base), dtype=bool) if lower_is_better is None else lower_is_better, -1.0, 1.0)
    return float((signs[:, None] * (base[:, None] - scores) / base[:, None]).mean())


# -- tables -----------------------------------------------------------------------------------------------------------

COLUMNS = [
    "condition", "arm", "key", "num_seeds", "num_items", "chance", "before", "after", "retention", "corrected",
    "agreement", "num_corrected", "note",
]  # fmt: skip


def retention_table(items: pd.DataFrame, keys: Sequence[str], chance: Mapping[str, float]) -> pd.DataFrame:
    """Return one row per condition and metric key: what is left of the base's score, of its right items, its answers.

    Means over trials (seeds, worlds) of: `retention` = n11 / (n11 + n10), of metrics with values 0 and 1; `corrected`
    = (after - c) / (before - c), nan where c is unknown or the base is less than 2 SE (clustered over items) above it;
    `agreement`. Test items known on both sides. `num_seeds` counts the trials that have such items, `num_corrected`
    those of them with a value above chance.

    Args:
        items: per-item values.
        keys: metric keys of which more is better.
        chance: metric key -> what guessing scores.
    """
    named = items.assign(key=metric_key(items))
    columns = ["condition", "arm", "key", "trial_id", "cluster", "before", "after", "output_before", "output_after"]
    test = named.loc[(items["split"] == "test") & named["key"].isin(keys), columns]
    rows = [
        {"condition": condition, "arm": arm, "key": key} | _retained(group, chance.get(str(key), NAN))
        for (condition, arm, key), group in test.groupby(["condition", "arm", "key"], sort=False, observed=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _retained(group: pd.DataFrame, chance: float) -> dict[str, object]:
    trials = pd.DataFrame([_of_trial(own, chance) for _, own in group.groupby("trial_id", sort=False)])
    means = {name: float(trials[name].mean()) for name in ("before", "after", "retention", "corrected", "agreement")}
    notes = {note: None for note in trials["note"] if note}
    row: dict[str, object] = {
        "num_seeds": int(trials["after"].notna().sum()),
        "num_corrected": int(trials["corrected"].notna().sum()),
        "num_items": int(trials["num_items"].max()),
        "chance": chance,
    }
    return row | means | {"note": "; ".join(notes)}


def _of_trial(own: pd.DataFrame, chance: float) -> dict[str, object]:
    known = own[own["before"].notna() & own["after"].notna()]
    before, after = known["before"].to_numpy(dtype=float), known["after"].to_numpy(dtype=float)
    base = _mean(before, known["cluster"].astype(str).tolist())
    is_binary = len(known) > 0 and np.isin(np.concatenate([before, after]), (0.0, 1.0)).all()
    corrected = chance_corrected_retention(float(after.mean()) if len(after) else NAN, base.estimate, chance, base.se)
    return {
        "num_items": len(known),
        "before": base.estimate,
        "after": float(after.mean()) if len(after) else NAN,
        "retention": flips(before, after).retention if is_binary else NAN,
        "corrected": corrected,
        "agreement": agreement(own["output_before"].tolist(), own["output_after"].tolist()),
        "note": _why_uncorrected(base, chance, corrected),
    }


def _mean(values: Floats, clusters: Sequence[str]) -> Effect:
    return crossed_effect(values[:, None], clusters)


def _why_uncorrected(base: Effect, chance: float, corrected: float) -> str:
    if not math.isnan(corrected):
        return ""
    if math.isnan(chance):
        return "chance is not known"
    if math.isnan(base.estimate):
        return "no item known on both sides"
    return "the base is less than 2 SE above chance" if base.estimate > chance else "the base is not above chance"


LUO_COLUMNS = ["condition", "arm", "scale", "luo_fg", "bwt", "num_trials", "num_trials_fg", "num_keys", "note"]


def luo_table(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return one row per condition and scale: Luo's FG over its keys' test scores, and the mean change in place of BWT.

    Each is computed per trial and averaged over the trials that have it: `num_trials` have `bwt`, `num_trials_fg` have
    `luo_fg`. `bwt` is backward transfer of a base that stands for every earlier task: the mean over keys of after -
    before, turned where less is better; metrics of different units (`scale`) are never averaged. Keys that the base
    scores 0 in have no relative loss: they are left out of FG (`num_keys` are in it) and named.

    Source: Lopez-Paz and Ranzato, arXiv:1706.08840, equation 3 (BWT).
    """
    scales: dict[str, list[str]] = {}
    for key in keys:
        if {f"before/{key}", f"after/{key}"} <= set(frame.columns):
            scales.setdefault(scale_of(key), []).append(key)
    rows = (
        [
            {"condition": condition, "arm": arm, "scale": scale} | _luo(own, known)
            for (condition, arm), own in frame.groupby(["condition", "arm"], sort=False)
            for scale, known in scales.items()
        ]
        if scales
        else []
    )
    return pd.DataFrame(rows, columns=LUO_COLUMNS)


def _luo(own: pd.DataFrame, known: Sequence[str]) -> dict[str, object]:
    at_zero = [key for key in known if (own[f"before/{key}"] == 0).any()]
    used = [key for key in known if key not in at_zero]
    values = pd.DataFrame([_relative(row, used, known) for _, row in own.iterrows()])
    counts = {"num_trials": int(values["bwt"].notna().sum()), "num_trials_fg": int(values["fg"].notna().sum())}
    note = f"the base scores 0 in {', '.join(at_zero)}: no relative loss" if at_zero else ""
    means = {"luo_fg": values["fg"].mean(), "bwt": values["bwt"].mean()}
    return means | counts | {"num_keys": len(used), "note": note}


def _relative(row: pd.Series, used: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    def scores(side: str, keys: Sequence[str]) -> Floats:
        return row[[f"{side}/{key}" for key in keys]].to_numpy(dtype=float)

    sign = -1.0 if is_lower_better(known[0]) else 1.0
    return {
        "fg": luo_forgetting(scores("before", used), scores("after", used), [sign < 0] * len(used)) if used else NAN,
        "bwt": float((sign * (scores("after", known) - scores("before", known))).mean()),
    }
