"""Scores along each varied field, one panel a measure.

Invariant: dots are trials, marks are means over them. What does not live here: optima along an axis (optima.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.context import Context
from analysis.figures import (
    BASE,
    Scale,
    aside_points,
    cue,
    draw_series,
    handle,
    legend_above,
    new_figure,
    num_columns,
    panel_title,
    shared_label,
    shown,
    title,
)
from analysis.labels import short_fields
from analysis.points import (
    FigureData,
    Missing,
    around_score,
    around_score_sentence,
    file_name,
    is_number,
    measure_titles,
    population,
    series_of,
)


def points(context: Context) -> Sequence[FigureData | Missing]:
    """Return one figure for each varied field."""
    made = ((name, _curve(context, name)) for name in context.record.axis_fields)
    return [Missing(f"axis_{name}", one) if isinstance(one, str) else one for name, one in made]


def _curve(context: Context, name: str) -> FigureData | str:
    """Return points of every measure, before and after, along one axis; one line per arm and level of the others."""
    record, frame, effects = context.record, context.frame, context.effects
    column = f"axis.{name}"
    others = [f"axis.{other}" for other in record.axis_fields if other != name]
    if context.is_sampled:  # hardly two of its conditions share a number
        others = [other for other in others if not is_number(frame[other])]
    rows: list[dict[str, object]] = []
    for measure in record.measures:
        known = frame[frame[f"after/{measure}"].notna()]
        for _, trial in known.iterrows():
            rows.append(
                {"kind": "seed", "measure": measure, "x": trial[column], "series": series_of(trial, others, frame)}
                | {"y": trial[f"after/{measure}"], "before": trial[f"before/{measure}"], "seed": trial["seed"]}
                | {"trial_id": trial["trial_id"], "condition": trial["condition"]}
            )
        rows += _axis_means(context, measure, column, others)
    if not rows:
        return "no trial has a known score"
    points = pd.DataFrame(rows)
    points = points[points["x"].notna()]
    if points.empty:
        return f"no scored trial has a value on {name}"
    short = short_fields(record.axis_fields)[name]
    return FigureData(
        f"axis_{file_name(short)}",
        "axis",
        points,
        f"Score after training along {short}; the dashed line is the base, dots are seeds. "
        f"{around_score_sentence(context)} {population(frame, effects)}",
        {"x": short} | measure_titles(effects),
        context.is_sampled,
    )


def _axis_means(context: Context, measure: str, column: str, others: list[str]) -> list[dict[str, object]]:
    frame, effects = context.frame, context.effects
    table = effects[(effects["target"] == measure) & (effects["level"] == "measure") & effects["delta"].notna()]
    first = frame.drop_duplicates("condition").set_index("condition")
    return [
        {
            "kind": "mean",
            "measure": measure,
            "x": first.loc[effect["condition"], column],
            "series": series_of(first.loc[effect["condition"]], others, frame),
            "y": effect["after"],
            "before": effect["before"],
            "condition": effect["condition"],
            "trial_ids": effect["trial_ids"],
        }
        | around_score(context, measure, effect)
        for _, effect in table.iterrows()
    ]


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a measure, one line for each level of the other axes."""
    measures = list(dict.fromkeys(data.points["measure"]))
    columns = num_columns(width, len(measures))
    rows = math.ceil(len(measures) / columns)
    figure, panels = new_figure(width, 0.3 + 1.75 * rows, rows, columns)
    scale = Scale(data.points["x"])
    series = list(dict.fromkeys(data.points["series"]))
    for axes, measure in zip(panels, measures, strict=False):
        points = data.points[data.points["measure"] == measure]
        for place, name in enumerate(series):
            line = "" if data.is_sampled or scale.kind == "categories" else "-"
            own = points[points["series"] == name]
            draw_series(axes, own, scale, place, line, aside=aside_points(place, len(series)))
        axes.axhline(points["before"].mean(), color=BASE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        panel_title(axes, title(data, measure))
        scale.apply(axes)
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    shared_label(figure, shown(data.labels["x"]))
    handles = [handle(name or "after", *cue(n)) for n, name in enumerate(series)]
    handles.append(Line2D([], [], color=BASE, linestyle=(0, (4, 3)), linewidth=0.9, label="before"))
    legend_above(figure, handles, width)
    return figure
