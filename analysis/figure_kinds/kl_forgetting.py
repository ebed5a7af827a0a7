"""Drift against forgetting: does how far a model moved from its base say how much it forgot?

Invariant: a point is a trial, and the line is the least-squares one through all of them. What does not live here: a
verdict with an interval on R^2 (claims.py, part `line`).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import drift
from analysis.context import Context
from analysis.figures import BASE, STYLE, cue, fitted, handle, legend_above, new_figure, num_columns, panel_title, shown
from analysis.fits import Points, straight_line
from analysis.numbers import MINUS, score
from analysis.points import FigureData, dot_rows, intervals_sentence, population

PANELS = {
    "base_answers/kl_base_tuned": "KL(base || tuned), new task",
    "neutral/argmax_loss": "L_f, neutral text",
}
"""Mean of drift -> what its axis says."""
MIN_POINTS = 3


def points(context: Context) -> list[FigureData] | str:
    """Return one point per trial and panel: drift, and base minus tuned score of the measure retained."""
    frame = context.frame
    if "retained" not in context.record.measures:
        return "the sweep does not score the measure 'retained'"
    present = [name for name in PANELS if drift.PREFIX + name in frame.columns]
    if not present or not any(result.drift for _, result in context.sweep.finished):
        return drift.NO_PANEL
    parts = [_panel(context, name) for name in present]
    table = pd.concat([part for part in parts if len(part) >= MIN_POINTS] or [pd.DataFrame()], ignore_index=True)
    if table.empty:
        return f"fewer than {MIN_POINTS} trials have both drift and forgetting known"
    table = context.shown(table)
    return [FigureData("kl_forgetting", "kl_forgetting", table, _caption(context, table), dict(PANELS))]


def _panel(context: Context, name: str) -> pd.DataFrame:
    frame = context.frame.drop_duplicates("trial_id")
    known = frame[frame[drift.PREFIX + name].notna() & frame["delta/retained"].notna()]
    table = dot_rows(known, context.record).assign(
        drift=name, x=known[drift.PREFIX + name].astype(float), y=-known["delta/retained"].astype(float)
    )
    return table.assign(**line(table)) if len(table) >= MIN_POINTS else table


def line(table: pd.DataFrame) -> dict[str, float | str]:
    """Return slope and R^2 with their intervals (fits.py), intercept and note of the line through points x and y."""
    worlds = None if table["world"].isna().any() else table["world"].to_numpy(dtype=int)
    fit = straight_line(Points(table["x"], table["y"], table["seed"].to_numpy(dtype=int), worlds))
    slope = fit.parameters["slope"]
    found: dict[str, float | str] = {"slope": slope.value, "slope_low": slope.low, "slope_high": slope.high}
    found |= {"intercept": fit.parameters["intercept"].value}
    found |= {"r2": fit.r2, "r2_low": fit.r2_low, "r2_high": fit.r2_high}
    return found | {"note": fit.note}


def _caption(context: Context, table: pd.DataFrame) -> str:
    fits = [
        f"{PANELS[name]}: {_r2(rows.iloc[0])} over {len(rows)} trials, {_slope(rows.iloc[0])}"
        for name, rows in table.groupby("drift", sort=False)
    ]
    intervals = (
        intervals_sentence(context)
        if context.is_sampled
        else "Intervals: 95 %, of the slope by resampling of replicates, of R² by leaving out each in turn, not "
        "adjusted for the number of comparisons."
    )
    return (
        "Drift from the base against forgetting: base minus tuned score of the measure retained, test items. Drift is "
        "in nats per token, L_f the loss of the tuned model on the base's arg-max. A dot is a trial; the line is the "
        f"least-squares one through all. {intervals} {'; '.join(fits)}. {population(context.frame, context.effects)}"
    )


def _r2(row: pd.Series) -> str:
    ends = "" if pd.isna(row["r2_low"]) else f" [{row['r2_low']:.2f}, {row['r2_high']:.2f}]"
    return f"R² = {row['r2']:.2f}{ends}"


def _slope(row: pd.Series) -> str:
    ends = f"[{score(row['slope_low'], signed=True)}, {score(row['slope_high'], signed=True)}]"
    return f"slope {score(row['slope'], signed=True)} " + (f"({row['note']})" if pd.isna(row["slope_low"]) else ends)


def draw(data: FigureData, width: float) -> Figure:
    panels = list(dict.fromkeys(data.points["drift"]))
    columns = num_columns(width, len(panels))
    rows_of_panels = math.ceil(len(panels) / columns)
    figure, found = new_figure(width, 0.4 + 1.9 * rows_of_panels, rows_of_panels, columns, sharey=True)
    series = list(dict.fromkeys(data.points["series"]))
    for axes, name in zip(found, panels, strict=True):
        rows = data.points[data.points["drift"] == name]
        _draw_dots(axes, rows, series)
        ends = np.array([rows["x"].min(), rows["x"].max()])
        axes.plot(ends, rows["intercept"].iloc[0] + rows["slope"].iloc[0] * ends, color=BASE, linewidth=0.9, zorder=2)
        panel_title(axes, _r2(rows.iloc[0]))
        axes.set_xlabel(fitted(shown(f"{data.labels[name]}, nats"), 150, STYLE["axes.labelsize"]))
    for axes in found[::columns]:
        axes.set_ylabel(f"retained: base {MINUS} tuned")
    handles = [handle(name, *cue(place)) for place, name in enumerate(series)]
    if len(series) > 1:
        legend_above(figure, handles, width)
    return figure


def _draw_dots(axes: Axes, rows: pd.DataFrame, series: list[str]) -> None:
    for place, name in enumerate(series):
        own = rows[rows["series"] == name]
        colour, marker = cue(place)
        axes.scatter(own["x"], own["y"], s=14, color=colour, marker=marker, linewidths=0, zorder=3)
