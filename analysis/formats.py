"""One skill in several formats: what was learned of the format that is trained on, and what of the skill.

Invariant: every number is a weighted sum of slices' means, over the same items and seeds before and after, so that a
delta is the after minus the before of its row; a format that the sweep did not ask is in no row of it. What does not
live here: formulas of intervals (stats.py), drawing (report.py).

Formats of one skill may be scored by different metrics with different chance levels (a generated answer, a choice among
twelve): read a gap's change from before to after, or its difference between conditions, rather than its level.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.matrices import ItemMatrices, Matrix, World, by_world
from analysis.stats import Effect, crossed_effect, pooled_over_worlds, unknown_effect
from analysis.tables import joined_ids
from harness.identity import canonical_json
from harness.spec.metrics import primary_metric

if TYPE_CHECKING:
    from collections.abc import Collection

    from harness.spec import EvalTask

NAN = math.nan
SPREAD_FORMATS = 5
"""Formats from which a spread is worth its name; one of fewer is noted."""
PICKED = "the extreme formats are picked by the scores they are compared by: above 0 where all formats are equal"

Weights = Mapping[str, float]
"""Metric key -> its weight in a sum of slices' means."""


@dataclass(frozen=True)
class Formats:
    """One skill, asked in the format of the training rows and in others, each by a metric key `suite/task/metric`."""

    skill: str
    taught: str | None
    """As training rows ask it; None where nothing says that they ask it in one of these formats."""
    paraphrases: tuple[str, ...] = ()
    """In words that no training row has, otherwise as taught."""
    structures: tuple[str, ...] = ()
    """In another structure: a cloze, a choice, solved examples, without a template."""
    typos: tuple[str, ...] = ()
    """As taught, with typing errors: no format of its own, so in neither held-out mean nor spread."""
    layouts: Mapping[str, str] = field(default_factory=dict)
    """Key -> layout, of the very items in another layout (harness/evals/layouts.py) than the taught one."""

    @property
    def held_out(self) -> tuple[str, ...]:
        """Return the formats that no training row has."""
        return self.paraphrases + self.structures + tuple(self.layouts)

    def asked(self, keys: Iterable[str]) -> Formats:
        """Return the formats among these keys."""
        there = set(keys)
        names = ("paraphrases", "structures", "typos")
        left = {name: tuple(k for k in getattr(self, name) if k in there) for name in names}
        return replace(self, **left, layouts={k: layout for k, layout in self.layouts.items() if k in there})

    @property
    def is_comparable(self) -> bool:
        """Return whether these formats say something together: a taught one does, or two."""
        return self.taught is not None or len(self.held_out) > 1


@dataclass(frozen=True)
class Rate:
    """A rate that is 1 minus a metric: how often the right form is *not* the likelier one."""

    name: str
    key: str


POCKET = (
    Formats(
        skill="facts",
        taught="pocket/question_unasked/exact_match",
        paraphrases=("pocket/question_rephrased/exact_match",),
        structures=(
            "pocket/cloze_unasked/acc",
            "pocket/choice_unasked/acc",
            "pocket/plain_unasked/acc",
            "pocket/few_shot/acc",
        ),
        typos=("pocket/question_unasked_typos/exact_match",),
    ),
    *(
        Formats(
            skill=skill,
            taught=f"pocket/{skill}_chat/exact_match",
            paraphrases=(f"pocket/{skill}_chat_rephrased/exact_match",),
            structures=(f"pocket/raw_{skill}/acc",),
        )
        for skill in ("sum", "reverse")
    ),
)
"""The formats of what the pocket experiment teaches by default; slices of other people, or of the held-out sums, would
mix another difference into a gap."""
POCKET_RATES = (
    Rate("format collapse", "pocket/format_in_chat/acc_norm"),
    Rate("format forgetting", "pocket/prose_continues/acc_norm"),
)
"""Per byte, because a sentence of prose is twice as long as an answer: summed, the base itself prefers the shorter."""


def layout_groups(tasks: Iterable[EvalTask], represented: Collection[str] = ()) -> tuple[Formats, ...]:
    """Return the groups of tasks that differ in layout alone, each of at least two layouts, by their primary metric.

    Args:
        tasks: of a sweep; whether a task is primary, and its name, is no difference.
        represented: keys of the slices that the training data are declared to represent. The one of a group is its
            taught layout; with none, or several, no layout is known to be the one of training.
    """
    found: dict[str, dict[str, EvalTask]] = {}
    for task in tasks:
        same = canonical_json(task.model_copy(update={"name": "-", "layout": "as_is", "primary": False}))
        found.setdefault(same, {}).setdefault(task.layout, task)
    return tuple(_layout_group(group, represented) for group in found.values() if len(group) > 1)


def _layout_group(group: Mapping[str, EvalTask], represented: Collection[str]) -> Formats:
    plain = group.get("as_is") or next(iter(group.values()))
    taught = [task for task in group.values() if task.key in represented]
    own = taught[0] if len(taught) == 1 else None
    others = {f"{task.key}/{primary_metric(task)}": layout for layout, task in group.items() if task is not own}
    return Formats(plain.key, None if own is None else f"{own.key}/{primary_metric(own)}", layouts=others)


def format_table(frame: pd.DataFrame, items: pd.DataFrame, groups: Sequence[Formats] = POCKET) -> pd.DataFrame:
    """Return one row per condition, skill and quantity: before, after, delta with its 95 % interval, seeds, items.

    Of the mean score s(f) of each format f over its test items, taught format t, held-out formats H:

    train format: s(t). More is better.
    held-out mean: mean of s(f) over H. More is better.
    gap: s(t) - mean of s(f) over H: what is tied to the format. Less is better, from 0 on.
    paraphrase gap, structure gap, typo gap: s(t) - mean of s(f) over those alone.
    format spread: max - min of s(f) over {t} and H; the extremes are picked before and after separately.
    layout <name>: s(f) of that layout. More is better.

    Of a skill without a known taught format there are: mean over layouts, each layout, format spread. A skill whose
    taught format was not asked has no rows, and a quantity without its formats none.

    Source of the spread: Sclar et al., arXiv:2310.11324, section 3.

    Args:
        frame: one row per planned trial.
        items: per-item values.
        groups: the formats of each skill.
    """
    keys = {column.removeprefix("after/") for column in frame.columns if column.startswith("after/")}
    matrices = ItemMatrices(items)
    rows = [
        {"condition": str(condition), "condition_id": trials["condition_id"].iloc[0], "skill": asked.skill}
        | {"quantity": quantity, "num_formats": len(formats)}
        | _row(trials, matrices, str(condition), formats, weigh)
        for condition, trials in frame.groupby("condition", sort=False)
        for asked in (group.asked(keys) for group in groups if group.taught is None or group.taught in keys)
        if asked.is_comparable
        for quantity, formats, weigh in _quantities(asked)
    ]
    return pd.DataFrame(rows)


def rates_table(frame: pd.DataFrame, items: pd.DataFrame, rates: Sequence[Rate] = POCKET_RATES) -> pd.DataFrame:
    """Return one row per condition and rate: 1 - the metric, before, after, delta with its interval. Less is better.

    On the pocket world, where in both the likelier, per byte, of a prose sentence and three answers is looked at:

    format collapse: text to go on with, asked in chat: how often an answer to no question is likelier than prose.
    format forgetting: the same text raw, without a template.

    Args:
        frame: one row per planned trial.
        items: per-item values.
        rates: what to look at; those that the sweep did not ask have no row.
    """
    matrices = ItemMatrices(items)
    rows = []
    for condition, trials in frame.groupby("condition", sort=False):
        for rate in rates:
            if f"after/{rate.key}" in frame.columns:
                row = _row(trials, matrices, str(condition), (rate.key,), _missed)
                row |= {"before": 1 + row["before"], "after": 1 + row["after"]}
                names = {"condition": str(condition), "condition_id": trials["condition_id"].iloc[0], "rate": rate.name}
                rows.append(names | row)
    return pd.DataFrame(rows)


# -- quantities -------------------------------------------------------------------------------------------------------

Weigh = Callable[[Weights], Weights]
"""Means of the formats -> their weights."""


def _quantities(asked: Formats) -> list[tuple[str, tuple[str, ...], Weigh]]:
    """Return (name, formats, how they are weighed) of every quantity whose formats were asked."""
    held_out = asked.held_out
    layouts = [(f"layout {layout}", (key,), _evenly) for key, layout in asked.layouts.items()]
    if asked.taught is None:
        return [("mean over layouts", held_out, _evenly), *layouts, ("format spread", held_out, _extremes)]
    taught = (asked.taught,)
    found: list[tuple[str, tuple[str, ...], Weigh]] = [("train format", taught, _evenly)]
    if held_out:
        found.append(("held-out mean", held_out, _evenly))
    found += layouts
    kinds = (("gap", held_out), ("paraphrase gap", asked.paraphrases), ("structure gap", asked.structures),
             ("typo gap", asked.typos))  # fmt: skip
    for name, others in kinds:
        if others:
            found.append((name, taught + others, _gap(asked.taught, others)))
    return [*found, ("format spread", taught + held_out, _extremes)] if held_out else found


def _evenly(keys: Collection[str], sign: float = 1.0) -> dict[str, float]:
    return dict.fromkeys(keys, sign / len(keys))


def _missed(means: Weights) -> Weights:
    return dict.fromkeys(means, -1.0)


def _gap(taught: str, others: Sequence[str]) -> Weigh:
    return lambda _: {taught: 1.0} | _evenly(others, -1.0)


def _extremes(means: Weights) -> Weights:
    most, least = max(means, key=lambda key: means[key]), min(means, key=lambda key: means[key])
    return {most: 1.0, least: -1.0} if most != least else {most: 0.0}


# -- one row ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _InWorld:
    before: float
    after: float
    effect: Effect


def _row(
    trials: pd.DataFrame, matrices: ItemMatrices, condition: str, keys: tuple[str, ...], weigh: Weigh
) -> dict[str, Any]:
    known = trials[trials[[f"after/{key}" for key in keys]].notna().all(axis=1)]
    found = {world: _in_world(part, matrices, condition, keys, weigh, world) for world, part in by_world(known)}
    effect = pooled_over_worlds({world: one.effect for world, one in found.items()})
    columns = {name: value for name, value in asdict(effect).items() if name != "estimate"}
    absent = sorted({*trials["world"].dropna()} - {*known["world"].dropna()}) if len(known) else []
    notes = [effect.note, *(f"world {world} is left out: no known value" for world in absent)]
    if weigh is _extremes:
        notes.append(PICKED if len(keys) >= SPREAD_FORMATS else f"over {len(keys)} formats only; {PICKED}")
    return {
        "before": float(np.mean([one.before for one in found.values()])),
        "after": float(np.mean([one.after for one in found.values()])),
        "delta": effect.estimate,
        **columns,
        "num_planned": len(trials),
        "note": "; ".join(filter(None, notes)),
        "trial_ids": joined_ids(trials),
    }


def _in_world(
    known: pd.DataFrame, matrices: ItemMatrices, condition: str, keys: tuple[str, ...], weigh: Weigh, world: World
) -> _InWorld:
    slices, _ = matrices.find(condition, keys, known["seed"].to_numpy(), world)
    if not slices:
        note = "no known value" if known.empty else f"no items known before and after of all of {', '.join(keys)}"
        return _InWorld(NAN, NAN, unknown_effect(note, num_seeds=len(known)))
    parts = dict(zip(keys, slices, strict=True))
    means = [{key: float(getattr(part, side).mean()) for key, part in parts.items()} for side in ("before", "after")]
    weighed = [weigh(side) for side in means]
    values = [sum(weights[key] * side[key] for key in weights) for weights, side in zip(weighed, means, strict=True)]
    return _InWorld(*values, _weighted_effect(parts, *weighed))


def _weighted_effect(parts: Mapping[str, Matrix], before: Weights, after: Weights) -> Effect:
    """Return the effect of a weighted sum of slices' means, after less before.

    `crossed_effect` averages strata evenly, so each slice's values are scaled by its weight x the number of slices.
    """
    used = [key for key in parts if before.get(key) or after.get(key)]
    if not used:
        return unknown_effect("all formats score the same before and after", 0.0)
    differences = [
        len(used) * (after.get(key, 0.0) * parts[key].after - before.get(key, 0.0) * parts[key].before) for key in used
    ]
    values = [side for key in used for side in (parts[key].before, parts[key].after)]
    return crossed_effect(
        np.concatenate(differences),
        np.concatenate([parts[key].clusters for key in used]),
        np.repeat(np.arange(len(used)), [len(part) for part in differences]),
        binary=len(used) == 1 and before == after and all(np.isin(side, (0.0, 1.0)).all() for side in values),
    )
