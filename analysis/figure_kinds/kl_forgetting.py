"""Drift against forgetting: does how far a model moved from its base say how much it forgot?

Invariant: a point is a trial, and the line is the least-squares one through all of them. What does not live here: a
verdict with an interval on R^2 (claims.py, part `line`).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import drift
from analysis.context import Context
from analysis.figures import BASE, MARKERS, OKABE_ITO, handle, new_figure, shown
from analysis.fits import Points, straight_line
from analysis.numbers import MINUS, score
from analysis.points import FigureData, dot_rows, seeds_sentence

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
    return [FigureData("kl_forgetting", "kl_forgetting", table, _caption(context, table), dict(PANELS))]


def _panel(context: Context, name: str) -> pd.DataFrame:
    frame = context.frame.drop_duplicates("trial_id")
    known = frame[frame[drift.PREFIX + name].notna() & frame["delta/retained"].notna()]
    table = dot_rows(known, context.record).assign(
        drift=name, x=known[drift.PREFIX + name].astype(float), y=-known["delta/retained"].astype(float)
    )
    return table.assign(**line(table)) if len(table) >= MIN_POINTS else table


def line(table: pd.DataFrame) -> dict[str, float | str]:
    """Return slope with its interval over replicates, intercept, R^2 and note of the line through points x and y."""
    worlds = None if table["world"].isna().any() else table["world"].to_numpy(dtype=int)
    fit = straight_line(Points(table["x"], table["y"], table["seed"].to_numpy(dtype=int), worlds))
    slope = fit.parameters["slope"]
    found: dict[str, float | str] = {"slope": slope.value, "slope_low": slope.low, "slope_high": slope.high}
    return found | {"intercept": fit.parameters["intercept"].value, "r2": fit.r2, "note": fit.note}


def _caption(context: Context, table: pd.DataFrame) -> str:
    fits = [
        f"{PANELS[name]}: R² = {rows['r2'].iloc[0]:.2f} over {len(rows)} trials, {_slope(rows.iloc[0])}"
        for name, rows in table.groupby("drift", sort=False)
    ]
    return (
        "Drift from the base against forgetting: base minus tuned score of the measure retained, test items. Drift is "
        "in nats per token, L_f the loss of the tuned model on the base's arg-max. A dot is a trial; the line is the "
        f"least-squares one through all, intervals are 95 % over resampled replicates. {'; '.join(fits)}. "
        f"{seeds_sentence(context.frame)}"
    )


def _slope(row: pd.Series) -> str:
    ends = f"[{score(row['slope_low'], signed=True)}, {score(row['slope_high'], signed=True)}]"
    return f"slope {score(row['slope'], signed=True)} " + (f"({row['note']})" if pd.isna(row["slope_low"]) else ends)


def draw(data: FigureData, width: float) -> Figure:
    panels = list(dict.fromkeys(data.points["drift"]))
    figure, found = new_figure(width, width * 0.42, 1, len(panels), sharey=True)
    series = list(dict.fromkeys(data.points["series"]))
    for axes, name in zip(found, panels, strict=True):
        rows = data.points[data.points["drift"] == name]
        _draw_dots(axes, rows, series)
        ends = np.array([rows["x"].min(), rows["x"].max()])
        axes.plot(ends, rows["intercept"].iloc[0] + rows["slope"].iloc[0] * ends, color=BASE, linewidth=0.9, zorder=2)
        axes.set_title(f"R² = {rows['r2'].iloc[0]:.2f}")
        axes.set_xlabel(shown(data.labels[name], 80))
    found[0].set_ylabel(f"forgotten: base {MINUS} tuned, retained")
    handles = [handle(name, OKABE_ITO[place % 7], MARKERS[place % 7]) for place, name in enumerate(series)]
    if len(series) > 1:
        figure.legend(handles=handles, loc="outside upper left", ncols=min(5, len(handles)))
    return figure


def _draw_dots(axes: Axes, rows: pd.DataFrame, series: list[str]) -> None:
    for place, name in enumerate(series):
        own = rows[rows["series"] == name]
        axes.scatter(
            own["x"], own["y"], s=14, color=OKABE_ITO[place % 7], marker=MARKERS[place % 7], linewidths=0, zorder=3
        )
