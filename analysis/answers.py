"""Generated answers beyond their score: right, abstained, hallucinated or empty; their language and style.

Invariant: the four shares of a slice are over the same answers and add up to 1; a right answer is never an abstention;
what cannot be told of an answer is nan with a reason, and its item is left out on both sides. Derived from outputs and
questions that the records hold: nothing is evaluated. What does not live here: the wordings (abstention.py), language
and style of one text (wording.py), formulas of intervals (stats.py), showing (sections/answers.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.abstention import is_abstention
from analysis.items import QUESTION_COLUMNS, questions_beside
from analysis.matrices import ItemMatrices, Matrix, World, by_world, on_common_items
from analysis.opened import OpenedSweep
from analysis.stats import Effect, Floats, crossed_effect, pooled_over_worlds, unknown_effect
from analysis.wording import is_empty, language_of, style_match
from harness.spec.metrics import primary_metric

NAN = math.nan
JUDGED = frozenset({"generate", "number"})
"""Task kinds whose answers have a reference."""
SPOKEN = JUDGED | {"instruct", "refusal", "open"}
"""Those whose answers are prose; programs have no language."""
OUTCOMES = ("right", "abstained", "hallucinated", "empty")
DIRECTIONS = {
    **{"right": "more", "abstained": "none", "hallucinated": "less", "empty": "less"},
    **{"language_match": "more", "style_match": "more", "instructions_strict": "more", "instructions_loose": "more"},
}
"""Metric -> which way is better; of abstaining neither is by itself."""
INSTRUCTION_LEVEL = {"instructions_strict": "followed_strict", "instructions_loose": "followed_loose"}
"""Metric -> the share of a prompt's instructions that it weighs by their number."""
WEIGHT = "num_instructions"
NO_OUTPUT = "the answer was not kept"
NO_QUESTION = "the question was not kept"
NO_REFERENCE = "there is no reference"
EMPTY = "the answer is empty"
NO_COUNT = "the number of instructions was not kept"
COLUMNS = [
    "condition", "arm", "slice", "metric", "direction", "before", "after", "delta", "low", "high", "p_value", "kind",
    "num_items", "num_clusters", "num_seeds", "num_planned", "note", "trial_ids",
]  # fmt: skip

Told = tuple[float, str | None]
"""A value and, where it is nan, why."""


def answered_frame(sweep: OpenedSweep, items: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial and test item with an answer in words: its outputs, score, question and reference.

    Columns of `items` for the slice's primary metric, and `slice`, `task_kind`, `prompt`, `reference`, `instructions`.
    A trial whose slice has no score as a whole has no rows there: what can still be told would flatter the model.

    Args:
        sweep: whose bases' questions are read.
        items: per-item values.
        frame: one row per planned trial.
    """
    tasks = {task.key: task for trial in sweep.trials for task in trial.planned.spec.evals.tasks}
    primary = {key: primary_metric(task) for key, task in tasks.items() if task.kind in SPOKEN}
    names = items["suite"].astype(str) + "/" + items["task"].astype(str)
    own = items.assign(slice=names)[(items["split"] == "test") & (items["metric"] == names.map(primary))]
    scored = {key: _scored_trials(frame, f"{key}/{metric}") for key, metric in primary.items()}
    is_scored = [trial in scored[key] for trial, key in zip(own["trial_id"], own["slice"], strict=True)]
    own = own[np.array(is_scored, dtype=bool)]
    return _with_questions(sweep, own.assign(task_kind=[tasks[key].kind for key in own["slice"]]))


def _scored_trials(frame: pd.DataFrame, key: str) -> set[str]:
    column = f"delta/{key}"
    return set(frame.loc[frame[column].notna(), "trial_id"]) if column in frame.columns else set()


def _with_questions(sweep: OpenedSweep, rows: pd.DataFrame) -> pd.DataFrame:
    read = cache(questions_beside)
    files = {trial.planned.trial_id: sweep.store.root / result.before.items_file for trial, result in sweep.finished}
    keys = QUESTION_COLUMNS[:3]
    nothing = pd.DataFrame(columns=QUESTION_COLUMNS, dtype=object)
    parts: list[pd.DataFrame] = []
    for trial_id, group in rows.groupby("trial_id", sort=False):
        found = read(files[str(trial_id)])
        asked = nothing if found is None else found.drop_duplicates(keys)
        parts.append(group.merge(asked.astype(object), on=keys, how="left"))
    if not parts:
        return rows.assign(**dict.fromkeys(QUESTION_COLUMNS[3:]))
    return pd.concat(parts, ignore_index=True)


# -- one answer -------------------------------------------------------------------------------------------------------


def outcome_of(score: float, output: str | None) -> tuple[str | None, str | None]:
    """Return which of `OUTCOMES` an answer is, or None and why that cannot be told.

    right: its score is 1. Of the others, empty: nothing is left without quotes and final punctuation; abstained: it
    says that the answer is not known (abstention.py); hallucinated: neither.
    """
    if math.isnan(score):
        return None, "the answer has no score"
    if score == 1.0:
        return "right", None
    if output is None:
        return None, NO_OUTPUT
    if is_empty(output):
        return "empty", None
    return ("abstained" if is_abstention(output) else "hallucinated"), None


def language_match(output: str | None, reference: str | None, prompt: str | None) -> Told:
    """Return 1 if an answer is in the language of its reference, else 0; of its prompt where the reference tells none.

    nan where the language of the answer, or of both others, cannot be told (wording.py). More is better.
    """
    if output is None:
        return NAN, NO_OUTPUT
    said = language_of(output)
    if said.code is None:
        return NAN, f"answer: {said.reason}"
    wanted = [language_of(text) for text in (reference, prompt) if text is not None]
    if not wanted:
        return NAN, NO_QUESTION
    expected = next((found.code for found in wanted if found.code is not None), None)
    return (float(said.code == expected), None) if expected else (NAN, f"question: {wanted[-1].reason}")


def style_of_pair(output: str | None, reference: str | None) -> Told:
    """Return `style_match` of an answer and its reference; nan without a reference or of an empty answer."""
    if output is None:
        return NAN, NO_OUTPUT
    if reference is None:
        return NAN, NO_REFERENCE
    return (NAN, EMPTY) if is_empty(output) else (style_match(output, reference), None)


# -- values of items --------------------------------------------------------------------------------------------------


def told_frame(answered: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return per-item values of every metric of `DIRECTIONS`: `metric`, `before`, `after`, and why one is nan.

    Args:
        answered: rows of `answered_frame`.
        items: per-item values, for the shares of instructions followed.
    """
    parts = [*_outcomes(answered[answered["task_kind"].isin(JUDGED)])]
    parts.append(
        _both(answered, "language_match", lambda r, side: language_match(r[side], r["reference"], r["prompt"]))
    )
    judged = answered[answered["task_kind"].isin(JUDGED)]
    parts.append(_both(judged, "style_match", lambda row, side: style_of_pair(row[side], row["reference"])))
    parts += _instructions(answered[answered["task_kind"] == "instruct"], items)
    return pd.concat(parts, ignore_index=True)


def _outcomes(judged: pd.DataFrame) -> Iterator[pd.DataFrame]:
    texts = _texts(judged)
    found = {
        side: [outcome_of(score, text) for score, text in zip(judged[side], texts[f"output_{side}"], strict=True)]
        for side in ("before", "after")
    }
    for name in OUTCOMES:
        values = {
            side: [NAN if outcome is None else float(outcome == name) for outcome, _ in told]
            for side, told in found.items()
        }
        reasons = {f"reason_{side}": [why for _, why in told] for side, told in found.items()}
        yield judged.assign(metric=name, **values, **reasons)


def _both(rows: pd.DataFrame, metric: str, tell: Callable[[dict[str, Any], str], Told]) -> pd.DataFrame:
    texts = _texts(rows).to_dict("records")
    told = {side: [tell(row, f"output_{side}") for row in texts] for side in ("before", "after")}
    values = {side: [value for value, _ in found] for side, found in told.items()}
    reasons = {f"reason_{side}": [why for _, why in found] for side, found in told.items()}
    return rows.assign(metric=metric, **values, **reasons)


def _texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the texts of rows, None where there is none: a column of texts says nan."""
    texts = rows[["output_before", "output_after", "reference", "prompt"]].astype(object)
    return texts.where(texts.notna(), None)


def _instructions(prompts: pd.DataFrame, items: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Return the shares of instructions followed, and the number of instructions as `WEIGHT`."""
    if prompts.empty:
        return
    keys = ["trial_id", "condition", "suite", "task", "item_id"]
    counts = [len(names.split()) if isinstance(names, str) else NAN for names in prompts["instructions"]]
    why = [None if count == count else NO_COUNT for count in counts]
    yield prompts.assign(metric=WEIGHT, before=counts, after=counts, reason_before=why, reason_after=why)
    for name, share in INSTRUCTION_LEVEL.items():
        shares = items.loc[items["metric"] == share, [*keys, "before", "after", "reason_before", "reason_after"]]
        others = prompts.drop(columns=["before", "after", "reason_before", "reason_after"])
        yield others.merge(shares, on=keys, how="left").assign(metric=name)


# -- tables -----------------------------------------------------------------------------------------------------------


def answers_table(told: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per condition, slice and metric: before, after, delta with a 95 % interval over items and seeds.

    Population: test items whose value is known before and after under every seed. Shares and matches are means over
    items; `instructions_strict` and `_loose` are instructions followed over instructions asked, the official score of
    IFEval, with the interval of a ratio (`ratio_change`). Worlds as strata. `note` counts what is left out, and why.

    Args:
        told: rows of `told_frame`.
        frame: one row per planned trial.
    """
    if told.empty:
        return pd.DataFrame(columns=COLUMNS)
    matrices, planned = ItemMatrices(told), frame.groupby("condition").size()
    texts = ["output_before", "output_after", "reference", "prompt"]
    shown = told[told["metric"] != WEIGHT].drop(columns=texts, errors="ignore")
    rows = [
        {"condition": str(condition), "arm": group["arm"].iloc[0], "slice": name, "metric": str(metric)}
        | {"direction": DIRECTIONS[str(metric)], "num_planned": int(planned.get(condition, 0))}
        | _change(group, matrices, f"{name}/{metric}")
        for (name, metric, condition), group in shown.groupby(["slice", "metric", "condition"], sort=False)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _change(group: pd.DataFrame, matrices: ItemMatrices, key: str) -> dict[str, object]:
    found = {world: _in_world(own, matrices, key, world) for world, own in by_world(group)}
    effect = pooled_over_worlds({world: one[2] for world, one in found.items()})
    notes = [effect.note, _left_out(group), _num_asked(group)]
    known = [one for one in found.values() if not math.isnan(one[2].estimate)]
    return {
        "before": float(np.mean([before for before, _, _ in known])) if known else NAN,
        "after": float(np.mean([after for _, after, _ in known])) if known else NAN,
        "delta": effect.estimate,
        **{name: getattr(effect, name) for name in COLUMNS if name in Effect.__annotations__ and name != "note"},
        "note": "; ".join(note for note in notes if note),
        "trial_ids": " ".join(dict.fromkeys(group["trial_id"])),
    }


def _in_world(own: pd.DataFrame, matrices: ItemMatrices, key: str, world: World) -> tuple[float, float, Effect]:
    """Return the score before and after and the change, of one condition in one world."""
    condition, seeds = str(own["condition"].iloc[0]), np.unique(own["seed"].to_numpy())
    slice_key, _, metric = key.rpartition("/")
    keys = (key, f"{slice_key}/{WEIGHT}") if metric in INSTRUCTION_LEVEL else (key,)
    parts, _ = matrices.find(condition, keys, seeds, world)
    parts = on_common_items(parts) if parts else []
    if not parts or not len(parts[0].items):
        return NAN, NAN, unknown_effect("no item is known before and after under every seed", num_seeds=len(seeds))
    part = parts[0]
    if metric in INSTRUCTION_LEVEL:
        return ratio_change(part, parts[1].after[:, 0])
    binary = metric != "style_match"
    effect = crossed_effect(part.after - part.before, part.clusters, binary=binary)
    return float(part.before.mean()), float(part.after.mean()), effect


def ratio_change(share: Matrix, weights: Floats) -> tuple[float, float, Effect]:
    """Return sum(w v) / sum(w) before and after, and its change with the interval of a ratio.

    With d = after - before of item i under seed s and R = sum(w_i d_is) / (k sum(w_i)), the linearised value of an item
    is R + w_i / mean(w) (d_is - R): its mean is R and its variance that of the ratio, to first order. Items and seeds
    as in every other interval.

    Args:
        share: shares v, (n, k) on each side.
        weights: (n,) positive.

    Source: Cochran, Sampling Techniques (1977), section 2.11; IFEval's instruction level, arXiv:2311.07911, section 3.
    """
    relative = (weights / weights.mean())[:, None]
    difference = share.after - share.before
    ratio = float((relative * difference).mean())
    effect = crossed_effect(ratio + relative * (difference - ratio), share.clusters)
    return float((relative * share.before).mean()), float((relative * share.after).mean()), effect


def _left_out(group: pd.DataFrame) -> str:
    """Return why values are unknown and how many, over items, seeds and both sides."""
    unknown = [
        str(why) if isinstance(why, str) else "no value"
        for side in ("before", "after")
        for why in group.loc[group[side].isna(), f"reason_{side}"]
    ]
    counts = Counter(unknown).most_common()
    return "unknown: " + ", ".join(f"{why} ({count})" for why, count in counts) if counts else ""


def _num_asked(group: pd.DataFrame) -> str:
    if str(group["metric"].iloc[0]) not in INSTRUCTION_LEVEL:
        return ""
    first = group[group["trial_id"] == group["trial_id"].iloc[0]]
    count = sum(len(names.split()) for names in first["instructions"] if isinstance(names, str))
    return f"{count} instructions in {len(first)} prompts" if count else NO_COUNT
