"""Which axis mattered: importances of a study, shares of variance of a grid, each with its interval.

Invariant: the numbers are those of the section `search`; an interval of partial eta^2 is one of the population's value.
What does not live here: importances and analyses of variance (analysis/search.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from statsmodels.stats.oneway import confint_effectsize_oneway

from analysis.context import Context
from analysis.figures import (
    GAINED,
    LOST,
    STYLE,
    fitted,
    legend_above,
    new_figure,
    num_columns,
    panel_title,
    shared_label,
    shown,
    title,
)
from analysis.labels import short_fields
from analysis.points import FigureData, population, val_population
from analysis.sections import search

EVALUATORS = {"fanova": "fANOVA", "ped_anova": "PED-ANOVA", "anova": "partial η²"}


def points(context: Context) -> list[FigureData] | str:
    """Return one bar for each axis, measure and evaluator, or why there is none."""
    if not context.is_sampled and len(context.record.axis_fields) < 2:
        return "one field is varied: there is nothing to compare its importance with"
    section = context.once(search.compute)
    if isinstance(section, str):
        return section
    rows = _importances(section.content["importances"]) or _variances(section.content["variances"])
    table = pd.DataFrame(rows)
    if table.empty or table["value"].isna().all():
        notes = [str(row["note"]) for row in rows if row["note"]]
        return notes[0] if notes else "no axis has an importance"
    short = short_fields(context.record.axis_fields)
    known = table[table["value"].notna()]
    known = known.assign(
        label=[" x ".join(short.get(part, part) for part in term.split(" x ")) for term in known["term"]]
    )
    return [FigureData("importance", "importance", known, _caption(context), is_wide=known["of"].nunique() > 1)]


def eta2_interval(f: float, df: float, df_residual: float) -> tuple[float, float]:
    """Return the 95 % interval of the population's partial eta^2, by inversion of the noncentral F distribution.

    lambda / (lambda + df + df_residual + 1) at the ends of the interval of lambda; 0 where even lambda = 0 gives an F
    this large too often. The estimate is biased upwards and may lie above it. (nan, nan) for an unknown F.

    Source: Steiger, Psychological Methods 9(2), 2004, as statsmodels computes it.
    """
    if not (math.isfinite(f) and df_residual > 0):
        return math.nan, math.nan
    with np.errstate(divide="ignore"):  # an end of 0
        ends = confint_effectsize_oneway(f, (df, df_residual)).eta2
    low, high = (max(0.0, float(end)) if math.isfinite(end) else 0.0 for end in ends)
    return low, high


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a measure, one bar for each axis and evaluator."""
    names = list(dict.fromkeys(data.points["of"]))
    labels = list(dict.fromkeys(data.points["label"]))
    evaluators = list(dict.fromkeys(data.points["evaluator"]))
    columns = num_columns(width, len(names))
    rows = math.ceil(len(names) / columns)
    height = 0.75 + rows * (0.45 + 0.15 * len(labels) * len(evaluators))
    figure, panels = new_figure(width, height, rows, columns, sharey=True)
    for axes, name in zip(panels, names, strict=False):
        for place, evaluator in enumerate(evaluators):
            own = data.points[(data.points["of"] == name) & (data.points["evaluator"] == evaluator)]
            shift = (place - (len(evaluators) - 1) / 2) * 0.36
            y = [labels.index(label) + shift for label in own["label"]]
            axes.barh(y, own["value"], height=0.72 / len(evaluators), zorder=2, **_face(place))
            axes.hlines(y, own["low"], own["high"], color="#111827", linewidth=1.0, zorder=3)
        panel_title(axes, title(data, name))
        axes.set_xlim(0, 1)
        axes.set_yticks(
            range(len(labels)),
            [fitted(shown(label, 26), 72 * width * 0.25, STYLE["ytick.labelsize"]) for label in labels],
        )
        axes.grid(visible=False, axis="y")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    shared_label(figure, "share" if len(evaluators) > 1 else EVALUATORS[evaluators[0]])
    if len(evaluators) > 1:
        faces = [Patch(label=EVALUATORS[name], **_face(place)) for place, name in enumerate(evaluators)]
        legend_above(figure, faces, width)
    return figure


def _face(place: int) -> dict[str, object]:
    return {"color": GAINED} if place == 0 else {"facecolor": LOST, "hatch": "////", "edgecolor": "white"}


def _importances(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [
        {"of": row["of"], "term": row["axis"], "evaluator": row["evaluator"], "value": row["importance"]}
        | {name: row[name] for name in ("low", "high", "num_conditions", "num_left_out", "note")}
        for row in rows
    ]


def _variances(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    residual = {row["of"]: row.get("df") for row in rows if row["term"] == "residual"}
    found: list[dict[str, object]] = []
    for row in rows:
        if row["term"] not in ("residual", "replicate"):
            f, df, rest = (float(value) for value in (row["f"], row["df"], residual.get(row["of"], math.nan)))
            low, high = eta2_interval(f, df, rest)
            about = {"of": row["of"], "term": row["term"], "evaluator": "anova", "value": row["partial_eta2"]}
            found.append(about | {"low": low, "high": high, "f": f, "df": df, "df_residual": rest, "note": row["note"]})
    return found


def _caption(context: Context) -> str:
    if context.is_sampled:
        return (
            "Importance of each axis for the objectives on val items: fANOVA, the share of variance that a forest "
            "explains by the axis alone; PED-ANOVA (hatched), how much its distribution among the best conditions "
            "differs. Intervals: 95 %, percentiles over resamples of conditions, which a sampler chose, not adjusted "
            f"for the number of comparisons. {val_population(context)}"
        )
    return (
        "Partial η² of each axis and pair of axes: what it explains of the variance that the other terms leave, in an "
        "analysis of variance of scores after training with replicates as blocks. Intervals: 95 %, of the population's "
        "value by the noncentral F distribution, trials as observations, not adjusted for the number of comparisons; "
        f"the estimate is biased upwards and may lie above. {population(context.frame, context.effects)}"
    )
