"""Trained in one template, asked in another: a heat map of scores.

Invariant: a cell is one condition's mean after training; the diagonal is asked as trained. What does not live here:
what a template edit changes (harness/spec).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.context import Context
from analysis.figures import STYLE, fitted, new_figure, panel_title, shown, title
from analysis.points import FigureData, intervals_sentence, measure_titles, population
from harness.spec import TrialSpec

TEMPLATES = ("data.template", "evals.template", "evals.template_edit")
MOST_PANELS = 4


def points(context: Context) -> list[FigureData] | str:
    """Return the score of every pair of templates, one panel a measure, or why the sweep has no such pairs."""
    pairs = _pairs(context)
    if isinstance(pairs, str):
        return pairs
    effects = context.effects
    rows = [
        pairs[effect["condition"]]
        | {"measure": effect["target"], "condition": effect["condition"]}
        | {name: effect[name] for name in ("after", "before", "low", "high", "num_seeds", "num_items", "trial_ids")}
        for _, effect in effects[effects["level"] == "measure"].iterrows()
        if effect["condition"] in pairs and pd.notna(effect["after"])
    ]
    if not rows:
        return "no pair of templates has a known score"
    table = pd.DataFrame(rows).drop_duplicates(["measure", "trained", "asked"])
    figure = FigureData(
        "template_matrix",
        "template_matrix",
        table,
        "Score after training by the template of training (rows) and of asking (columns), mean over seeds; outlined: "
        "asked as trained. Low and high in the CSV file are of the change from before to after. "
        f"{intervals_sentence(context)} {population(context.frame, effects)}",
        measure_titles(effects),
        context.is_sampled,
        is_wide=True,
    )
    return [figure]


def draw(data: FigureData, width: float) -> Figure:
    """Draw one heat map a measure, each cell with its number."""
    trained, asked = (list(dict.fromkeys(data.points[name])) for name in ("trained", "asked"))
    asked.sort(key=lambda name: (name not in trained, "+" in name))
    measures = list(dict.fromkeys(data.points["measure"]))[:MOST_PANELS]
    height = (0.75 + 0.24 * len(trained)) * len(measures)
    figure, panels = new_figure(width, height + 0.4, len(measures), 1, sharex=True)
    for axes, measure in zip(panels, measures, strict=True):
        rows = data.points[data.points["measure"] == measure]
        grid = rows.pivot(index="trained", columns="asked", values="after").reindex(index=trained, columns=asked)
        values = grid.to_numpy(dtype=float)
        # Not imshow: an image is not vector.
        axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", linewidth=0, **_limits(values))
        _write_cells(axes, values, trained, asked)
        axes.set_yticks(
            np.arange(len(trained)) + 0.5,
            [fitted(shown(name, 20), 72 * width * 0.25, STYLE["ytick.labelsize"]) for name in trained],
        )
        axes.set_xticks(np.arange(len(asked)) + 0.5, [shown(name, 20) for name in asked], rotation=30, ha="right")
        axes.grid(visible=False)
        axes.set_ylim(len(trained), 0)
        panel_title(axes, title(data, measure))
        axes.set_ylabel("trained in")
    panels[-1].set_xlabel("asked in")
    return figure


def _limits(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    shares = bool(len(known)) and known.min() >= 0 and known.max() <= 1
    return {"vmin": 0.0, "vmax": 1.0} if shares else {}


def _write_cells(axes: Axes, values: np.ndarray, trained: list[str], asked: list[str]) -> None:
    known = values[np.isfinite(values)]
    limits = _limits(values) or {"vmin": known.min(initial=np.inf), "vmax": known.max(initial=-np.inf)}
    middle = (limits["vmin"] + limits["vmax"]) / 2
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            text = f"{value:.2f}" if np.isfinite(value) else "—"
            colour = "white" if np.isfinite(value) and value < middle else "black"
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=6.5, color=colour)
            if trained[y] == asked[x]:
                axes.add_patch(_outline(x, y))


def _outline(x: int, y: int) -> Rectangle:
    return Rectangle((x, y), 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.2)


def _pairs(context: Context) -> dict[str, dict[str, str]] | str:
    """Return condition -> the templates that it is trained and asked in; each pair once, by its first condition."""
    found: dict[str, dict[str, str]] = {}
    for trial in context.sweep.trials:
        found.setdefault(trial.condition, _templates(trial.planned.spec))
    seen = {(pair["trained"], pair["asked"]) for pair in found.values()}
    if len({asked for _, asked in seen}) < 2 or all(trained == asked for trained, asked in seen):
        return "no model is asked in another template than it was trained in"
    frame = context.frame
    varied = [
        name for name in context.record.axis_fields if name not in TEMPLATES and frame[f"axis.{name}"].nunique() > 1
    ]
    if varied:
        return f"{varied[0]} is varied as well, so that a pair of templates is not one condition"
    return found


def _templates(spec: TrialSpec) -> dict[str, str]:
    trained = spec.data.template
    asked, edit = spec.evals.template or trained, spec.evals.template_edit
    if edit != "none":
        asked = f"as trained + {edit}" if asked == trained else f"{asked} + {edit}"
    return {"trained": trained, "asked": asked}
