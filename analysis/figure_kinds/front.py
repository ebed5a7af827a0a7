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
from analysis.figures import BASE, MARKERS, OKABE_ITO, handle, new_figure, shown
from analysis.numbers import MINUS
from analysis.points import FigureData, dot_rows, intervals_sentence, population
from analysis.tables import joined_ids
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
    figure = FigureData(
        "front",
        "front",
        pd.concat([dots, means], ignore_index=True),
        f"Learning against forgetting: change of the measures learned and retained, after minus before, on test items. "
        "Large marks are means over seeds, small dots are seeds, the dotted line joins the conditions that no other "
        f"beats on both. {intervals_sentence(context)} {population(frame, effects)}",
        {name: f"{measure}, after {MINUS} before" for name, measure in zip("xy", wanted, strict=True)},
        context.is_sampled,
    )
    return [figure]


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
    """Draw conditions with their paths, seeds as dots, and the front."""
    figure, (axes,) = new_figure(width, max(width * 0.62, 3.2))
    means = data.points[data.points["kind"] == "mean"]
    series = list(dict.fromkeys(data.points["series"]))
    axes.axhline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.axvline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for place, name in enumerate(series):
        points = data.points[data.points["series"] == name]
        line = "" if data.is_sampled else "-"
        _draw_path(axes, points, OKABE_ITO[place % 7], MARKERS[place % 7], line)
    on_front = means[means["on_front"].eq(True)].sort_values("learned")
    axes.plot(on_front["learned"], on_front["retained"], color="#111827", linewidth=1.0, linestyle=":", zorder=2)
    _label_points(axes, on_front if data.is_sampled else means, series)
    axes.plot(0, 0, marker="*", color=BASE, markersize=9, linestyle="", zorder=5)
    axes.set_xlabel(shown(data.labels["x"]) + "   (more learned →)")
    axes.set_ylabel(shown(data.labels["y"]) + "   (less forgotten →)")
    handles = [handle(name, OKABE_ITO[n % 7], MARKERS[n % 7]) for n, name in enumerate(series)]
    handles.append(Line2D([], [], color="#111827", linestyle=":", linewidth=1.0, label="front"))
    handles.append(Line2D([], [], color=BASE, marker="*", markersize=8, linestyle="", label="base"))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(5 if width >= 4 else 2, len(handles)),
        handletextpad=0.4,
        columnspacing=1.4,
    )
    return figure


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
    for _, row in means.iterrows():
        place = series.index(row["series"])
        below = place % 2 == 1
        axes.annotate(
            shown(row["place"], 24),
            (row["learned"], row["retained"]),
            xytext=(-3, -4) if below else (3, 4),
            ha="right" if below else "left",
            va="top" if below else "bottom",
            textcoords="offset points",
            fontsize=6.5,
            color=OKABE_ITO[place % 7],
            zorder=6,
        )
