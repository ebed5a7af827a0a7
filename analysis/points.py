"""What a figure is: a frame of numbers and the words around it; and what the kinds of figures share in making them.

Invariant: a figure shows nothing that is not in its points, which are written beside it as CSV. What does not live
here: the kinds (figure_kinds/), drawing (figures.py), the estimates themselves (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pandas as pd

from analysis.items import metric_key
from analysis.labels import format_value, short_fields
from analysis.score_intervals import is_binary
from harness.records.schema import SweepRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.context import Context


def intervals_sentence(context: Context) -> str:
    """Return one sentence with the kind of a figure's intervals and their correction."""
    if context.is_sampled:
        return "No intervals: a sampler chose the conditions."
    return (
        "Intervals: 95 %, of the change, paired by item and seed (items clustered, seeds crossed), not adjusted for "
        "the number of comparisons."
    )


def around_score_sentence(context: Context) -> str:
    """Return `intervals_sentence` for marks that are scores instead of changes."""
    if context.is_sampled:
        return intervals_sentence(context)
    return (
        f"{intervals_sentence(context)} They are drawn around the score after training: the base's score plus the "
        "interval, cut at 0 and 1 where the score is a share."
    )


def around_score(context: Context, target: str, effect: pd.Series) -> dict[str, object]:
    """Return `low`, `high` and `is_cut` of the interval of a change, moved to the score after training.

    A change of a share that is near 0 or 1 has an interval that reaches beyond; it is cut there, as the score cannot.
    """
    ends = [float(effect["before"] + effect[name]) for name in ("low", "high")]
    if not is_share(context, target):
        return {"low": ends[0], "high": ends[1], "is_cut": False}
    low, high = (min(max(end, 0.0), 1.0) for end in ends)  # nan stays nan
    return {"low": low, "high": high, "is_cut": [low, high] != ends and not pd.isna(ends[0])}


def is_share(context: Context, target: str) -> bool:
    """Return whether a measure or metric key is a share of items: each of its metrics is 0 or 1 for an item."""
    keys = context.primary_keys.get(target, (target,))
    return bool(keys) and all(is_binary(key) for key in keys)


def measure_titles(effects: pd.DataFrame) -> dict[str, str]:
    """Return measure -> what its panel is called: an arrow says that less is better."""
    rows = effects[effects["level"] == "measure"].drop_duplicates("target")
    return {
        f"title/{name}": f"{name} ↓" if lower else str(name)
        for name, lower in zip(rows["target"], rows["lower_is_better"], strict=True)
    }


@dataclass(frozen=True)
class FigureData:
    """One figure: its points, what the axes say, and the caption."""

    name: str
    kind: str
    """Name of the module of figure_kinds/ that draws it."""
    points: pd.DataFrame
    caption: str
    labels: dict[str, str] = field(default_factory=dict)
    is_sampled: bool = False
    """Whether a sampler chose the points: no line runs through them, they differ in more than one thing."""
    is_wide: bool = False
    """Whether it needs the width of the text where a venue has two columns."""


@dataclass(frozen=True)
class Missing:
    """One of several figures of a kind that could not be made."""

    name: str
    reason: str


class KindModule(Protocol):
    """A module of figure_kinds/."""

    __name__: str

    def points(self, context: Context) -> Sequence[FigureData | Missing] | str:
        """Return the kind's figures, or why there is none; `Missing` where one of several is."""
        ...

    def draw(self, data: FigureData, width: float) -> Figure:
        """Draw one of them, so many inches wide."""
        ...


# -- conditions -------------------------------------------------------------------------------------------------------


def dot_rows(frame: pd.DataFrame, record: SweepRecord) -> pd.DataFrame:
    """Return each row's condition and axis values, its label, its place along a path, and the path's name."""
    table = frame[["condition", "arm", "seed", "world", "trial_id"]].copy()
    for name in record.axis_fields:
        table[f"axis.{name}"] = frame[f"axis.{name}"]
    numeric = [name for name in record.axis_fields if pd.api.types.is_numeric_dtype(frame[f"axis.{name}"])]
    named = [name for name in record.axis_fields if name not in numeric]
    table["label"] = [axis_label(row, record.axis_fields) for _, row in frame.iterrows()]
    # A path runs along the numeric axes; where there is none, along all of them.
    table["place"] = [axis_label(row, numeric or named) for _, row in frame.iterrows()]
    several_arms = table["arm"].nunique() > 1 or not (numeric and named)
    parts = [[axis_label(row, named)] if numeric and named else [] for _, row in frame.iterrows()]
    table["series"] = [
        ", ".join([*part, arm] if several_arms else part) for part, arm in zip(parts, table["arm"], strict=True)
    ]
    return table


def axis_label(row: pd.Series, fields: Sequence[str]) -> str:
    """Return the values of these fields as text."""
    return ", ".join(cell_text(row[f"axis.{name}"]) for name in fields)


def cell_text(value: object) -> str:
    """Return a cell of an axis as text: n/a where it is empty, a whole number without a point."""
    if value is None or pd.isna(value):
        return format_value(None)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return format_value(int(value))
    return format_value(value if isinstance(value, bool | int | float | str) else str(value))


def path_label(record: SweepRecord) -> str:
    """Return the names of the varied fields."""
    return ", ".join(short_fields(record.axis_fields).values())


def is_number(values: pd.Series) -> bool:
    """Return whether a column holds numbers, truth values excepted."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def series_of(trial: pd.Series, others: list[str], frame: pd.DataFrame) -> str:
    """Return the name of the line that a row belongs to: the values of the other axes, and its arm."""
    parts = [f"{name.rsplit('.', 1)[-1]}={cell_text(trial[name])}" for name in others if not pd.isna(trial[name])]
    if frame["arm"].nunique() > 1:
        parts.append(str(trial["arm"]))
    return ", ".join(parts)


def row_labels(record: SweepRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Return condition, arm and label of each condition."""
    first = frame.drop_duplicates("condition")
    return dot_rows(first, record)[["condition", "arm", "label"]]


def line_labels(record: SweepRecord, frame: pd.DataFrame) -> dict[str, str]:
    """Return condition -> the name of its line, in plan order; with its arm where there are several."""
    names = row_labels(record, frame)
    several = names["arm"].nunique() > 1
    labels = names["label"] + (", " + names["arm"] if several else "")
    return dict(zip(names["condition"], labels, strict=True))


def population(frame: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Return one sentence with the number of items and seeds behind the measures."""
    table = effects[(effects["level"] == "measure") & (effects["num_items"] > 0)]
    items = [f"{target} {counts(group['num_items'])}" for target, group in table.groupby("target", sort=False)]
    return f"Test items: {', '.join(items) or 'none'}. {seeds_sentence(frame)}"


def val_population(context: Context) -> str:
    """Return one sentence with the number of val items behind the measures, and of seeds."""
    items = context.items[context.items["split"] == "val"]
    names = metric_key(items)
    found = {
        measure: items[names.isin(keys)].groupby("trial_id").size() for measure, keys in context.primary_keys.items()
    }
    parts = [f"{measure} {counts(sizes)}" for measure, sizes in found.items() if len(sizes)]
    return f"Val items: {', '.join(parts) or 'none'}. {seeds_sentence(context.frame)}"


def rows_population(context: Context) -> str:
    """Return one sentence with the number of rows behind the losses, and of seeds."""
    summaries = [result.data for _, result in context.sweep.finished]
    parts = [
        f"{name} {counts(pd.Series(numbers))}"
        for name in ("train", "validation")
        if (numbers := [getattr(one, f"num_{name}") for one in summaries])
    ]
    return f"Rows of data: {', '.join(parts) or 'not known'}. {seeds_sentence(context.frame)}"


def counts(numbers: pd.Series) -> str:
    """Return `n = ` and the number, or the smallest and the largest."""
    low, high = numbers.min(), numbers.max()
    return f"n = {low:g}" if low == high else f"n = {low:g} to {high:g}"


def seeds_sentence(frame: pd.DataFrame) -> str:
    """Return one sentence with the number of seeds (and worlds) per condition, planned and complete."""
    num_worlds = frame["world"].nunique()
    planned = replicates_per_condition(frame)
    done = replicates_per_condition(frame[frame["state"] == "COMPLETE"]).reindex(planned.index, fill_value=0)
    k = f"{planned.min()}" if planned.min() == planned.max() else f"{planned.min()} to {planned.max()}"
    seeds = f"Seeds per condition: {k}" if num_worlds == 0 else f"Seeds x worlds per condition: {k}"
    over = f", over {num_worlds} world{'' if num_worlds == 1 else 's'}" if num_worlds else ""
    short = int((done < planned).sum())
    return seeds + over + (f"; {short} of {len(planned)} conditions lack some." if short else ".")


def replicates_per_condition(trials: pd.DataFrame) -> pd.Series:
    """Return condition -> number of its replicates: seeds, or pairs of world and seed."""
    return trials.drop_duplicates(["condition", "world", "seed"]).groupby("condition").size()


def file_name(text: str) -> str:
    """Return text as a part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in text)[:60]


# -- curves -----------------------------------------------------------------------------------------------------------

Panel = Callable[[pd.Series], str]
"""Row of the trial frame -> the panel it belongs to."""


def curve_rows(context: Context, target: str, column: str, panel: Panel, series: str) -> list[dict[str, object]]:
    """Return one target's score after training along a column: a row for each trial, and for each condition its mean.

    Args:
        context: the sweep.
        target: a measure or a metric key.
        column: of the trial frame; the x axis.
        panel: which panel a trial or condition belongs to.
        series: the line's name.
    """
    frame = context.frame
    known = frame[frame[f"after/{target}"].notna() & frame[column].notna()]
    dots = [
        {"kind": "seed", "panel": panel(trial), "series": series, "x": trial[column], "y": trial[f"after/{target}"]}
        | {"target": target, "condition": trial["condition"], "seed": trial["seed"], "trial_id": trial["trial_id"]}
        for _, trial in known.iterrows()
    ]
    return dots + _curve_means(context, known, target, column, panel, series)


def _curve_means(
    context: Context, known: pd.DataFrame, target: str, column: str, panel: Panel, series: str
) -> list[dict[str, object]]:
    effects = context.effects
    table = effects[(effects["target"] == target) & effects["delta"].notna()]
    first = known.drop_duplicates("condition").set_index("condition", drop=False)
    return [
        {"kind": "mean", "panel": panel(trial), "series": series, "x": trial[column], "y": effect["after"]}
        | around_score(context, target, effect)
        | {"before": effect["before"], "target": target, "condition": effect["condition"]}
        | {"num_items": effect["num_items"], "num_seeds": effect["num_seeds"], "trial_ids": effect["trial_ids"]}
        for _, effect in table[table["condition"].isin(first.index)].iterrows()
        for trial in [first.loc[effect["condition"]]]
    ]


def as_curves(
    context: Context,
    name: str,
    rows: list[dict[str, object]],
    caption: str,
    *,
    x: str,
    y: str,
    titles: dict[str, str] | None = None,
) -> list[FigureData] | str:
    """Return `curve_rows` of several targets as one figure that `figures.draw_curves` draws, or why there is none.

    `titles` names panels that are called otherwise than in the points: `title/<panel>` -> name.
    """
    if not rows:
        return "no trial has a known score"
    kind, labels = name, {"x": x, "y": y} | (titles or {})
    points = pd.DataFrame(rows)
    points = context.shown(points).assign(kind=points["kind"])  # of a mark, not of an effect
    is_wide = points["panel"].nunique() > 1
    return [FigureData(name, kind, points, caption, labels, context.is_sampled, is_wide)]
