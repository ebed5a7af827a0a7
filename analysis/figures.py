"""Drawing: points in, vector and raster files out.

Invariant: byte-stable - the same points give the same PDF and PNG; fonts are embedded; colours are told apart by
colour-blind readers (Okabe and Ito's palette, cividis for ordered levels), and never colour alone. What does not live
here: computing any number (points.py), the kinds of figures (figure_kinds/).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from analysis import files
from analysis.escape import visible
from analysis.points import FigureData

Venue = Literal["neurips", "icml", "acl"]
Draw = Callable[[FigureData, float], Figure]
"""Points and a width in inches -> the figure."""
TEXT_WIDTH_INCHES: dict[Venue, float] = {"neurips": 5.5, "icml": 6.75, "acl": 6.3}
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GAINED, LOST, BASE = "#0072B2", "#D55E00", "#6b7280"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[str, Any] = {
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8.5,  # larger, not bold: a second font would double the time to embed fonts
    "axes.titlecolor": "#111827",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.labelcolor": "#374151",
    "axes.edgecolor": "#9ca3af",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.5,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.parse_math": False,
}
PNG_DPI = 200


def write_figure(data: FigureData, draw: Draw, folder: Path, venue: Venue = "neurips") -> list[Path]:
    """Write one figure as PDF and PNG, its points as CSV and its caption as text; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{data.name}.{suffix}" for suffix in ("pdf", "png", "csv", "txt")]
    with mpl.rc_context(STYLE):
        figure = draw(data, TEXT_WIDTH_INCHES[venue])
        FigureCanvasAgg(figure)
        figure.savefig(paths[0], metadata={"CreationDate": None, "Producer": None, "Creator": None})
        figure.set_layout_engine("none")  # laid out by the first save; a second pass costs as much again
        figure.savefig(paths[1], dpi=PNG_DPI, metadata={"Software": None})
    paths[2].write_bytes(files.csv(data.points))
    paths[3].write_text(data.caption + "\n", encoding="utf-8")
    return paths


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many inches and its panels, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def shown(value: object, limit: int = 60) -> str:
    """Return text that a figure may show: controls visible, length bounded."""
    return visible(str(value), limit=limit, single_line=True)


def handle(label: str, colour: str, marker: str) -> Line2D:
    """Return an entry of a legend."""
    return Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=0.9, label=shown(label, 40))


class Scale:
    """Where the values of an axis lie: on a log or linear scale if numeric, else side by side in plan order."""

    def __init__(self, values: pd.Series) -> None:
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        self.levels: list[Any] = sorted(set(values)) if numeric else list(dict.fromkeys(values))
        positive = numeric and min(self.levels) > 0
        wide = positive and max(self.levels) / min(self.levels) >= 8
        self.kind = "log" if wide else "linear" if numeric else "categories"

    def places(self, values: pd.Series) -> np.ndarray:
        """Return where values lie on the axis."""
        if self.kind == "categories":
            return np.array([self.levels.index(value) for value in values], dtype=float)
        return values.to_numpy(dtype=float)

    def apply(self, axes: Axes) -> None:
        """Set an axis to this scale, with ticks at its levels."""
        if self.kind == "log":
            axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        if self.kind != "categories" and len(self.levels) > 9:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)) if self.kind == "log" else MaxNLocator(6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            return
        places = self.places(pd.Series(self.levels))
        labelled = range(len(places)) if len(places) <= 9 else range(0, len(places), math.ceil(len(places) / 9))
        axes.xaxis.set_major_locator(FixedLocator([places[n] for n in labelled]))
        labels = [_tick(self.levels[n]) for n in labelled]
        if self._crowded(axes, places[list(labelled)], labels):
            axes.set_xticklabels(labels, rotation=40, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticklabels(labels)
        if self.kind == "categories":
            axes.set_xlim(-0.5, len(places) - 0.5)

    def _crowded(self, axes: Axes, places: np.ndarray, labels: list[str]) -> bool:
        """Return whether two neighbours of these labels would touch if they lay flat."""
        along = np.log(places) if self.kind == "log" else places
        if len(along) < 2:
            return False
        extent = axes.get_window_extent().width * 72 / axes.figure.dpi
        room = np.diff(along) / (along[-1] - along[0]) * extent * 0.9  # the ends have margins
        size = STYLE["xtick.labelsize"]
        needed = [(len(left) + len(right)) / 2 * size * 0.62 + size / 2 for left, right in itertools.pairwise(labels)]
        return bool((room < needed).any())


def _tick(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value):g}"
    return shown(value, 16)


# -- panels of conditions --------------------------------------------------------------------------------------------


def title(data: FigureData, measure: object) -> str:
    """Return what the panel of a measure is called."""
    return shown(data.labels.get(f"title/{measure}", measure))


def shared_label(figure: Figure, text: str) -> None:
    """Write one label under all panels."""
    figure.supxlabel(text, fontsize=STYLE["axes.labelsize"], color=STYLE["axes.labelcolor"])


def by_condition(data: FigureData, width: float) -> tuple[dict[str, float], list[str], Figure, list[Axes]]:
    """Return row -> height, measures, and one panel each; with several arms, each arm's rows under its name."""
    rows = data.points.drop_duplicates("condition")
    arms = list(dict.fromkeys(rows["arm"]))
    places: dict[str, float] = {}
    ticks: list[tuple[float, str]] = []
    heads: list[tuple[float, str]] = []
    height = 0.0
    for arm in arms:
        if len(arms) > 1:
            heads.append((height, arm))
            height += 1
        for _, row in rows[rows["arm"] == arm].iterrows():
            places[row["condition"]] = height
            ticks.append((height, shown(row["label"], 36)))
            height += 1
    measures = list(dict.fromkeys(data.points["measure"]))
    figure, panels = new_figure(width, 0.7 + 0.155 * height, 1, len(measures), sharey=True)
    panels[0].set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    panels[0].set_ylim(height - 0.4, -0.6)
    panels[0].set_ylabel(shown(data.labels["rows"]))
    for axes in panels:
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        for place, arm in heads:
            axes.axhspan(place - 0.5, place + 0.5, color="#f3f4f6", zorder=0)
            if axes is panels[0]:
                _arm_head(axes, place, arm)
    return places, measures, figure, panels


def _arm_head(axes: Axes, place: float, arm: str) -> None:
    axes.text(
        0.02, place, shown(arm, 30), transform=axes.get_yaxis_transform(), fontsize=6.5, va="center", color="#111827",
        zorder=6,
    )  # fmt: skip
