"""Many tasks as one number: bars of interquartile means beside performance profiles.

Invariant: the numbers are those of the section `aggregate`. What does not live here: computing them.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import BASE, OKABE_ITO, STYLE, fitted, legend_of_levels, level_cue, new_figure, num_columns, shown
from analysis.points import FigureData, path_label, population, row_labels
from analysis.sections import aggregate


def points(context: Context) -> list[FigureData] | str:
    """Return IQM with its interval and performance profile of each condition, or why there is none."""
    section = context.once(aggregate.compute)
    if isinstance(section, str):
        return section
    names = row_labels(context.record, context.frame)[["condition", "label"]]
    bars = pd.DataFrame(section.content["rows"]).assign(kind="iqm")
    bars = bars[bars["iqm"].notna()]
    curves = pd.DataFrame(section.content["profiles"]).assign(kind="profile")
    curves = curves[curves["condition"].isin(bars["condition"])]
    with_interval = int(bars["low"].notna().sum())
    intervals = (
        f"Intervals ({with_interval} of {len(bars)} conditions, those with 5 replicates): 95 %, stratified bootstrap "
        "over replicates, items fixed, not adjusted for the number of comparisons"
        if with_interval
        else f"No intervals: {bars['note'].iloc[0] or 'none is due'}; no correction"
    )
    caption = (
        f"Left: interquartile mean of the scores after training over {len(section.content['keys'])} primary slices "
        f"({', '.join(section.content['keys'])}) and all seeds; dashed: that of the base. Right: share of seeds above "
        f"a score, mean over slices, without intervals. {intervals}. {population(context.frame, context.effects)}"
    )
    table = pd.concat([bars, curves], ignore_index=True).merge(names, on="condition")
    return [FigureData("aggregate", "aggregate", table, caption, {"rows": path_label(context.record)}, is_wide=True)]


def draw(data: FigureData, width: float) -> Figure:
    """Draw a bar and a profile for each condition."""
    bars, curves = (data.points[data.points["kind"] == kind] for kind in ("iqm", "profile"))
    columns = num_columns(width, 2)
    height = max(1.9, 0.5 + 0.16 * len(bars)) * (1 if columns == 2 else 1.7)
    figure, (left, right) = new_figure(width, height + 0.6, 3 - columns, columns)
    several = bars["arm"].nunique() > 1
    labels = [f"{one.label}, {one.arm}" if several else str(one.label) for one in bars.itertuples()]
    _draw_bars(left, bars, [fitted(shown(label, 36), 72 * width * 0.25, STYLE["ytick.labelsize"]) for label in labels])
    for place, condition in enumerate(bars["condition"]):
        colour, line = level_cue(place, len(bars))
        own = curves[curves["condition"] == condition]
        right.plot(own["threshold"], own["share"], color=colour, linestyle=line, linewidth=1.0)
    right.set_xlabel("score")
    right.set_ylabel("share of seeds above it")
    legend_of_levels(figure, labels, width, data.labels["rows"], is_marked=False)
    return figure


def _draw_bars(axes: Axes, bars: pd.DataFrame, labels: list[str]) -> None:
    heights = range(len(bars))
    axes.barh(heights, bars["iqm"], height=0.62, color=OKABE_ITO[0], zorder=2)
    known = bars["low"].notna().to_numpy()
    axes.hlines(
        [height for height, has in zip(heights, known, strict=True) if has], bars.loc[known, "low"],
        bars.loc[known, "high"], color="#111827", linewidth=1.0, zorder=3,
    )  # fmt: skip
    axes.vlines(
        bars["before"], [h - 0.4 for h in heights], [h + 0.4 for h in heights], color=BASE, linestyle="--", zorder=4,
        linewidth=0.9,
    )  # fmt: skip
    axes.set_yticks(heights, labels)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("interquartile mean")
