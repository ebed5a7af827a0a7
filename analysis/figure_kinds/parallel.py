"""Parallel coordinates: every condition as a line across all varied fields to its value on val.

Invariant: the conditions and the value are those of slices.py; each field is scaled to its own range. What does not
live here: which value that is (slices.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figure_kinds.slices import chosen_by
from analysis.figures import LOST, STYLE, Scale, level_text, new_figure, shown
from analysis.labels import short_fields
from analysis.points import FigureData, is_number, val_population

BEST_SHARE = 0.1
MOST_LEVELS = 5
"""Levels of a field that are written beside its line; of more the first and the last."""
CLOSEST = 0.06
"""Texts nearer than this share of the line would touch: the upper one is not written."""


def points(context: Context) -> list[FigureData] | str:
    """Return each condition's place on every field's line, in [0, 1], and its value; or why there is none."""
    found = chosen_by(context)
    if isinstance(found, str):
        return found
    table, name, direction = found
    known = table["value"].dropna().sort_values(ascending=direction == "minimize")
    num_best = max(1, round(BEST_SHARE * len(known)))
    table = table.assign(is_best=table.index.isin(known.index[:num_best]))
    for column in [column for column in table.columns if column.startswith("axis.")]:
        table[f"place/{column}"] = _places(table[column])
    table["place/value"] = _places(table["value"])
    fields = short_fields(context.record.axis_fields)
    caption = (
        f"Every condition (mean over its seeds) as a line across the varied fields to {name} on val items; each "
        "field from its smallest to its largest value, in logarithms where that is a factor of 8. Lighter is a larger "
        f"value, thick lines are the best {num_best} of {len(known)}; dashed: no value, ends before the last line; a "
        f"field that a condition lacks breaks its line. No intervals, no correction: val is for choosing. "
        f"{val_population(context)}"
    )
    labels = {"value": name} | {f"axis.{field}": short for field, short in fields.items()}
    return [FigureData("parallel", "parallel", table, caption, labels, is_wide=True)]


def _places(values: pd.Series) -> np.ndarray:
    """Return where values lie between the smallest (0) and the largest (1) of them; nan where there is none."""
    found = np.full(len(values), np.nan)
    known = values.notna().to_numpy()
    if not known.any():
        return found
    scale = Scale(values[known])
    places = scale.places(values[known])
    places = np.log(places) if scale.kind == "log" else places
    extent = np.ptp(places)
    found[known] = (places - places.min()) / extent if extent > 0 else 0.5
    return found


def draw(data: FigureData, width: float) -> Figure:
    """Draw one vertical line a field, and one across for each condition."""
    names = [column for column in data.points.columns if column.startswith("axis.")]
    figure, (axes,) = new_figure(width, 2.6 if width >= 4 else 2.9)
    values = data.points["value"]
    norm = Normalize(values.min(), values.max() if values.nunique() > 1 else values.min() + 1)
    colours = ScalarMappable(norm, mpl.colormaps["cividis"])
    for _, row in data.points.sort_values("is_best", kind="stable").iterrows():
        y = [row[f"place/{name}"] for name in [*names, "value"]]
        lacks = pd.isna(row["value"])
        style = {"color": LOST, "linestyle": "--"} if lacks else {"color": colours.to_rgba(row["value"])}
        axes.plot(
            range(len(y)), y, linewidth=1.6 if row["is_best"] else 0.6, zorder=3 if row["is_best"] else 2, **style
        )
    for place, name in enumerate([*names, "value"]):
        axes.axvline(place, color="#374151", linewidth=0.7, zorder=1)
        _write_levels(axes, place, data.points[name], data.points[f"place/{name}"])
    labels = [shown(data.labels[name], 24) for name in [*names, "value"]]
    room = width * 72 * 0.9 / len(labels)
    is_crowded = max(map(len, labels)) * 0.62 * STYLE["xtick.labelsize"] > room
    slant = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if is_crowded else {}
    axes.set_xticks(range(len(labels)), labels, **slant)
    axes.set_xlim(-0.12, len(labels) - 1 + 0.45)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _write_levels(axes: Axes, at: int, values: pd.Series, places: pd.Series) -> None:
    levels = pd.DataFrame({"value": values, "place": places}).dropna().drop_duplicates("place").sort_values("place")
    chosen = levels if len(levels) <= MOST_LEVELS else levels.iloc[[0, -1]]
    last = -1.0
    for _, row in chosen.iterrows():
        if row["place"] - last < CLOSEST:
            continue
        last = row["place"]
        text = f"{row['value']:.3g}" if is_number(levels["value"]) else level_text(row["value"])
        axes.text(
            at + 0.03, last, text, fontsize=6, va="center", color="#111827", zorder=6,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
        )  # fmt: skip
