"""Items gained and lost, as bars to either side of zero.

Invariant: shares of the items known before and after. What does not live here: counting them (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import GAINED, LOST, by_condition, panel_title, shared_label, title
from analysis.points import FigureData, path_label, row_labels, seeds_sentence


def points(context: Context) -> list[FigureData] | str:
    """Return the shares of items gained and lost per condition and measure, mean over primary slices and seeds."""
    record, frame, flips = context.record, context.frame, context.condition_flips
    if flips.empty:
        return "no binary item is known before and after"
    measure_of = {key: measure for measure, keys in record.measures.items() for key in keys}
    table = flips.assign(
        measure=[measure_of.get(str(key).rsplit("/", 1)[0]) for key in flips["key"]],
        gained_share=flips["gained"] / flips["num_items"],
        lost_share=flips["lost"] / flips["num_items"],
    ).dropna(subset=["measure"])
    ids = flips.drop_duplicates("condition").set_index("condition")["trial_ids"]
    shares = table.groupby(["condition", "measure"], sort=False)[["gained_share", "lost_share"]].mean().reset_index()
    shares["trial_ids"] = [ids[condition] for condition in shares["condition"]]
    shares = shares.merge(row_labels(record, frame)[["condition", "arm", "label"]], on="condition")
    figure = FigureData(
        "flips",
        "flips",
        shares,
        "Share of test items that became right (gained) and wrong (lost); mean over a measure's primary slices with "
        f"binary scores, and over seeds; no intervals, no correction. Items: {_num_items(flips)}. "
        f"{seeds_sentence(frame)}",
        {"rows": path_label(record)},
        is_wide=shares["measure"].nunique() > 1,
    )
    return [figure]


def _num_items(flips: pd.DataFrame) -> str:
    counts = flips.groupby("key", sort=False)["num_items"].max()
    return ", ".join(f"{key} n = {count:g}" for key, count in counts.items())


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a measure, one bar a condition to either side of zero."""
    places, measures, figure, panels = by_condition(data, width)
    for axes, measure in zip(panels, measures, strict=True):
        points = data.points[data.points["measure"] == measure]
        y = [places[condition] for condition in points["condition"]]
        axes.barh(y, 100 * points["gained_share"], height=0.62, color=GAINED, zorder=2)
        axes.barh(y, -100 * points["lost_share"], height=0.62, color=LOST, hatch="////", edgecolor="white", zorder=2)
        axes.axvline(0, color="#374151", linewidth=0.7, zorder=3)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        panel_title(axes, title(data, measure))
    shared_label(figure, "% of items:   ← lost   |   gained →")
    return figure
