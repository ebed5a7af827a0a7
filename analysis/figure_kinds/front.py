"""Learning against forgetting: conditions as points, the front of those that no other beats on both.

Invariant: more is better on both axes. What does not live here: hypervolume and matched learning (tradeoff.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.context import Context
from analysis.figures import BASE, cue, fitted, handle, legend_above, new_figure, shown
from analysis.numbers import MINUS
from analysis.points import FigureData, dot_rows, intervals_sentence, population
from analysis.replicates import replicate_of
from analysis.tables import joined_ids
from analysis.tradeoff import SIDES as MEASURES
from analysis.tradeoff import attainment, choosing_columns, chosen_points
from harness.records.schema import SweepRecord


def points(context: Context) -> list[FigureData] | str:
    """Return points of change in `learned` against change in `retained`, seeds and condition means, or why not."""
    record, frame, effects = context.record, context.frame, context.effects
    wanted = ("learned", "retained")
    absent = [measure for measure in wanted if measure not in record.measures]
    if absent:
        return f"the sweep does not score the measure {absent[0]!r}"
    seeds = frame[[f"delta/{measure}" for measure in wanted]].notna().all(axis=1)
    if not seeds.any():
        return "no trial has both measures known"
    dots = dot_rows(frame[seeds], record).assign(
        kind="seed",
        learned=frame.loc[seeds, "delta/learned"],
        retained=frame.loc[seeds, "delta/retained"],
    )
    means = _means(record, frame, effects, wanted).dropna(subset=["learned", "retained"])
    means["on_front"] = _on_front(means["learned"].tolist(), means["retained"].tolist())
    attained = pd.DataFrame() if context.is_sampled else _attained(context)
    iso = "" if context.is_sampled else _iso_field(means, record)
    figure = FigureData(
        "front",
        "front",
        pd.concat([table for table in (dots, means, attained) if len(table)], ignore_index=True),
        f"Learning against forgetting: change of the measures learned and retained, after minus before, on test items. "
        "Large marks are means over seeds, small dots are seeds, the dotted line joins the conditions that no other "
        f"beats on both. {_attained_sentence(attained, frame)}{ISO if iso else ''}{intervals_sentence(context)} "
        f"{population(frame, effects)}",
        {name: f"{measure}, after {MINUS} before" for name, measure in zip("xy", wanted, strict=True)} | {"iso": iso},
        context.is_sampled,
    )
    return [figure]


RATE = "axis.train.learning_rate"
ATTAINED = (
    "Thin steps: what half of the replicates of a series attain, learning at least this with at least that kept, by "
    "points chosen on {} items. "
)
ISO = "Grey dashes join the series at equal learning rate. "
FEWEST_TO_ATTAIN = 3


def _iso_field(means: pd.DataFrame, record: SweepRecord) -> str:
    """Return the column of the learning rate where several series ran at the same one, else nothing."""
    if RATE.removeprefix("axis.") not in record.axis_fields or means.empty:
        return ""
    return RATE if means.groupby(RATE)["series"].nunique().max() > 1 else ""


def _attained_sentence(attained: pd.DataFrame, frame: pd.DataFrame) -> str:
    if attained.empty:
        return ""
    is_on_val = choosing_columns(frame)[0].startswith("val_")
    return ATTAINED.format("val" if is_on_val else "the very test")


def _attained(context: Context) -> pd.DataFrame:
    """Return the corners of what half of each series' replicates attain; of series with three that ended throughout.

    Points are chosen as `tradeoff_attained.csv` has them, on val items if there are any, and drawn as changes on test
    items.
    """
    frame, parts = context.frame, list[pd.DataFrame]()
    by = choosing_columns(frame)
    for series, trials in frame.groupby(dot_rows(frame, context.record)["series"], sort=False):
        points = chosen_points(trials, by, [f"delta/{side}" for side in MEASURES])
        if len(points) >= FEWEST_TO_ATTAIN:
            corners = pd.DataFrame(attainment(list(points.values())), columns=list(MEASURES))
            used = [replicate_of(world, seed) in points for world, seed in trials[["world", "seed"]].to_numpy()]
            ids = joined_ids(trials[used])
            parts.append(corners.assign(kind="attained", series=series, num_replicates=len(points), trial_ids=ids))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _means(record: SweepRecord, frame: pd.DataFrame, effects: pd.DataFrame, measures: tuple[str, ...]) -> pd.DataFrame:
    """Return one row per condition with each measure's delta, low and high."""
    first = frame.drop_duplicates("condition")
    ids = frame.groupby("condition", sort=False)[["trial_id"]].apply(joined_ids)
    table = dot_rows(first, record).assign(kind="mean", seed=None, world=None, trial_id=None)
    table["trial_ids"] = table["condition"].map(ids)
    for measure in measures:
        rows = effects[(effects["target"] == measure) & (effects["level"] == "measure")].set_index("condition")
        for source, column in (("delta", measure), ("low", f"{measure}_low"), ("high", f"{measure}_high")):
            table[column] = table["condition"].map(rows[source])
    return table


def _on_front(x: list[float], y: list[float]) -> list[bool]:
    """Return which points no other point beats on one coordinate without losing on the other; more is better."""
    pairs = list(zip(x, y, strict=True))
    return [not any((a >= p and b >= q) and (a > p or b > q) for a, b in pairs) for p, q in pairs]


def draw(data: FigureData, width: float) -> Figure:
    """Draw conditions with their paths, seeds as dots, the front, and what half of the replicates attain."""
    figure, (axes,) = new_figure(width, max(width * 0.62, 3.2))
    means = data.points[data.points["kind"] == "mean"]
    series = list(dict.fromkeys(means["series"]))
    axes.axhline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.axvline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for place, name in enumerate(series):
        points = data.points[data.points["series"] == name]
        line = "" if data.is_sampled else "-"
        _draw_path(axes, points, *cue(place), line)
        steps = points[points["kind"] == "attained"]
        axes.step(steps["learned"], steps["retained"], where="pre", color=cue(place)[0], linewidth=0.6, zorder=2)
    if data.labels["iso"]:
        for _, own in means.groupby(data.labels["iso"]):
            axes.plot(own["learned"], own["retained"], color=ISO_COLOUR, linewidth=0.7, linestyle="--", zorder=1.5)
    on_front = means[means["on_front"].eq(True)].sort_values("learned")
    axes.plot(on_front["learned"], on_front["retained"], color="#111827", linewidth=1.0, linestyle=":", zorder=2)
    _label_points(axes, on_front if data.is_sampled else means, series)
    axes.plot(0, 0, marker="*", color=BASE, markersize=9, linestyle="", zorder=5)
    axes.set_xlabel(shown(data.labels["x"], 28) + "   (more learned →)")
    axes.set_ylabel(shown(data.labels["y"], 28) + "   (less forgotten →)")
    legend_above(figure, _legend(data, series), width)
    return figure


ISO_COLOUR = "#9ca3af"


def _legend(data: FigureData, series: list[str]) -> list[Line2D]:
    handles = [handle(name, *cue(n)) for n, name in enumerate(series)]
    handles.append(Line2D([], [], color="#111827", linestyle=":", linewidth=1.0, label="front"))
    if (data.points["kind"] == "attained").any():
        handles.append(Line2D([], [], color=cue(0)[0], linewidth=0.6, label="attained by half"))
    if data.labels["iso"]:
        handles.append(Line2D([], [], color=ISO_COLOUR, linestyle="--", linewidth=0.7, label="equal rate"))
    handles.append(Line2D([], [], color=BASE, marker="*", markersize=8, linestyle="", label="base"))
    return handles


def _draw_path(axes: Axes, points: pd.DataFrame, colour: str, marker: str, line: str) -> None:
    dots, means = points[points["kind"] == "seed"], points[points["kind"] == "mean"]
    axes.scatter(
        dots["learned"], dots["retained"], s=9, color=colour, alpha=0.35, linewidths=0, marker=marker, zorder=2
    )
    axes.errorbar(
        means["learned"],
        means["retained"],
        xerr=_half_widths(means, "learned"),
        yerr=_half_widths(means, "retained"),
        color=colour,
        marker=marker,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=0.9,
        linestyle=line,
        alpha=0.95,
        elinewidth=0.7,
        zorder=4,
    )


def _half_widths(means: pd.DataFrame, measure: str) -> np.ndarray:
    low = (means[measure] - means[f"{measure}_low"]).to_numpy(dtype=float)
    high = (means[f"{measure}_high"] - means[measure]).to_numpy(dtype=float)
    return np.nan_to_num(np.vstack([low, high]), nan=0.0).clip(min=0)


def _label_points(axes: Axes, means: pd.DataFrame, series: list[str]) -> None:
    """Write each condition's place beside its mark, on the first of four sides where no other text or mark is.

    The sides towards the middle come first, so that a long text stays on the page.
    """
    axes.margins(0.14)
    points = axes.transData.transform(means[["learned", "retained"]].to_numpy(dtype=float)) * 72 / axes.figure.dpi
    (start, _), (end, _) = axes.transAxes.transform([(0, 0), (1, 1)]) * 72 / axes.figure.dpi
    taken = [(x - 3, y - 3, 6.0, 6.0) for x, y in points]
    for (_, row), (x, y) in zip(means.iterrows(), points, strict=True):
        text = fitted(shown(row["place"], 24), 90, LABEL_SIZE)
        width, height = max(1, len(text)) * 0.62 * LABEL_SIZE, LABEL_SIZE * 1.1
        boxes = [(x + 3 - (left * (width + 6)), y + 3 - below * (height + 6), width, height) for left, below in SIDES]
        below_first = series.index(row["series"]) % 2 == 1
        is_right = x > (start + end) / 2
        order = sorted(range(4), key=lambda n: (SIDES[n][0] != is_right, SIDES[n][1] != below_first))
        side = next((n for n in order if not any(_touch(boxes[n], other) for other in taken)), order[0])
        taken.append(boxes[side])
        left, below = SIDES[side]
        axes.annotate(
            text,
            (row["learned"], row["retained"]),
            xytext=(-3 if left else 3, -3 if below else 3),
            ha="right" if left else "left",
            va="top" if below else "bottom",
            textcoords="offset points",
            fontsize=LABEL_SIZE,
            color=cue(series.index(row["series"]))[0],
            zorder=6,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
        )


LABEL_SIZE = 6.5
SIDES = ((False, False), (True, True), (False, True), (True, False))
"""Left, below: where a text may stand."""


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    (x, y, width, height), (a, b, wide, high) = one, other
    return x < a + wide and a < x + width and y < b + high and b < y + height
