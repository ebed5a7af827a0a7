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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from analysis import files
from analysis.escape import visible
from analysis.numbers import MINUS
from analysis.points import FigureData

Venue = Literal["neurips", "icml", "acl"]
Draw = Callable[[FigureData, float], Figure]
"""Points and a width in inches -> the figure."""
TEXT_WIDTH_INCHES: dict[Venue, float] = {"neurips": 5.5, "icml": 6.75, "acl": 6.3}
COLUMN_WIDTH_INCHES: dict[Venue, float] = {"neurips": 5.5, "icml": 3.25, "acl": 3.03}
"""Of the venues' style files; NeurIPS sets one column."""
ACROSS = "Set across both columns."
"""What a caption says of a figure that is too wide for one of two columns."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GAINED, LOST, BASE = "#0072B2", "#D55E00", "#6b7280"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
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
        figure = draw(data, width_inches(data, venue))
        FigureCanvasAgg(figure)
        figure.savefig(paths[0], metadata={"CreationDate": None, "Producer": None, "Creator": None})
        figure.set_layout_engine("none")  # laid out by the first save; a second pass costs as much again
        figure.savefig(paths[1], dpi=PNG_DPI, metadata={"Software": None})
    paths[2].write_bytes(files.csv(data.points))
    across = data.is_wide and TEXT_WIDTH_INCHES[venue] > COLUMN_WIDTH_INCHES[venue]
    paths[3].write_text(data.caption + (f" {ACROSS}" if across else "") + "\n", encoding="utf-8")
    return paths


def width_inches(data: FigureData, venue: Venue) -> float:
    """Return a figure's width: that of a column, or of the text where it is wide."""
    return (TEXT_WIDTH_INCHES if data.is_wide else COLUMN_WIDTH_INCHES)[venue]


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many inches and its panels, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def shown(value: object, limit: int = 60) -> str:
    """Return text that a figure may show: controls visible, at most so many characters."""
    text = visible(str(value)[: 4 * limit], limit=4 * limit, single_line=True)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fitted(text: str, points: float, size: float) -> str:
    """Return text cut so that it is at most so many points wide at a font size."""
    font = FontProperties(family=STYLE["font.family"], size=size)
    while len(text) > 2 and TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] > points:
        text = text[:-2].removesuffix("…") + "…"
    return text


def panel_title(axes: Axes, text: str) -> None:
    """Write what a panel is called, cut to the panel's width."""
    size = STYLE["axes.titlesize"]
    axes.set_title(fitted(text, 0.85 * axes.get_window_extent().width * 72 / axes.figure.dpi, size))


def cue(place: int) -> tuple[str, str]:
    """Return the colour and the marker of a series; the first 49 pairs are all different."""
    return OKABE_ITO[place % 7], MARKERS[(place + place // 7) % 7]


def level_cue(place: int, num_levels: int) -> tuple[str, str]:
    """Return the colour of an ordered level, dark to light, and its line; neighbours differ in both."""
    red, green, blue, _ = mpl.colormaps["cividis"](0.05 + 0.85 * place / max(1, num_levels - 1))
    return to_hex((red, green, blue)), LINES[place % 4]


def handle(label: str, colour: str, marker: str, limit: int = 40) -> Line2D:
    """Return an entry of a legend."""
    return Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=0.9, label=shown(label, limit))


def legend_above(figure: Figure, handles: Sequence[Line2D | Patch], width: float, about: str | None = None) -> None:
    """Write a legend above the panels, in as many columns as its labels leave room for."""
    size = STYLE["legend.fontsize"]
    for one in handles:
        one.set_label(fitted(str(one.get_label()), width * 72 - 6 * size, size))
    about = None if about is None else fitted(about, width * 72 - 2 * size, size)
    longest = max(len(str(one.get_label())) for one in handles)
    num_fitting = int(width * 72 / ((longest * 0.62 + 4.5) * size))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=max(1, min(num_fitting, len(handles))), title=about,
        title_fontsize=size, alignment="left", columnspacing=1.2, handletextpad=0.5, labelspacing=0.3,
    )  # fmt: skip


def legend_of_levels(
    figure: Figure, labels: Sequence[str], width: float, about: str, *, is_marked: bool = True
) -> None:
    """Write the legend of ordered levels; of more than twelve every second, third ... is named."""
    step = math.ceil(len(labels) / 12)
    handles: list[Line2D] = []
    for place, label in list(enumerate(labels))[::step]:
        colour, line = level_cue(place, len(labels))
        marks: dict[str, Any] = {"marker": MARKERS[place % 7], "markersize": 3} if is_marked else {}
        handles.append(Line2D([], [], color=colour, linestyle=line, linewidth=1.0, label=shown(label, 30), **marks))
    legend_above(figure, handles, width, shown(about, 40))


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
        labels = [level_text(self.levels[n]) for n in labelled]
        if self._crowded(axes, places[list(labelled)], labels):
            labels = self._apart(axes, places[list(labelled)], labels)
            axes.set_xticklabels(labels, rotation=40, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticklabels(labels)
        if self.kind == "categories":
            axes.set_xlim(-0.5, len(places) - 0.5)

    def _apart(self, axes: Axes, places: np.ndarray, labels: list[str]) -> list[str]:
        """Return labels with those left blank that would touch the one before even though they slant."""
        along = np.log(places) if self.kind == "log" else places
        extent = axes.get_window_extent().width * 72 / axes.figure.dpi * 0.85
        needed = STYLE["xtick.labelsize"] * 2.0  # a line's height / sin 40 degrees
        last, kept = -math.inf, []
        for place, label in zip((along - along[0]) / max(along[-1] - along[0], 1e-12) * extent, labels, strict=True):
            kept.append(label if place - last >= needed else "")
            last = place if kept[-1] else last
        return kept

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


def level_text(value: object) -> str:
    """Return the text of a level of an axis."""
    if isinstance(value, float | np.floating):
        return f"{float(value):g}"
    return shown(value, 16)


# -- panels of conditions --------------------------------------------------------------------------------------------


def title(data: FigureData, measure: object) -> str:
    """Return what the panel of a measure is called."""
    return shown(data.labels.get(f"title/{measure}", measure))


def shared_label(figure: Figure, text: str, *, upright: bool = False) -> None:
    """Write one label under all panels, or upright beside them, cut to the room that is there."""
    room = 72 * figure.get_size_inches()[int(upright)] * (0.7 if upright else 0.95)
    write = figure.supylabel if upright else figure.supxlabel
    write(fitted(text, room, STYLE["axes.labelsize"]), fontsize=STYLE["axes.labelsize"], color=STYLE["axes.labelcolor"])


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
            ticks.append((height, fitted(shown(row["label"], 36), 72 * width * 0.3, STYLE["ytick.labelsize"])))
            height += 1
    measures = list(dict.fromkeys(data.points["measure"]))
    figure, panels = new_figure(width, 0.7 + 0.155 * height, 1, len(measures), sharey=True)
    panels[0].set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    panels[0].set_ylim(height - 0.4, -0.6)
    room = 72 * 0.155 * height - 6
    panels[0].set_ylabel(fitted(shown(data.labels["rows"]), room, STYLE["axes.labelsize"]))
    for axes in panels:
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        for place, arm in heads:
            axes.axhspan(place - 0.5, place + 0.5, color="#f3f4f6", zorder=1.5)  # no line runs through the name
            if axes is panels[0]:
                _arm_head(axes, place, arm)
    return places, measures, figure, panels


def _arm_text(axes: Axes, arm: str) -> str:
    return fitted(shown(arm, 30), 0.75 * axes.get_window_extent().width * 72 / axes.figure.dpi, 6.5)


def _arm_head(axes: Axes, place: float, arm: str) -> None:
    axes.text(
        0.02, place, _arm_text(axes, arm), transform=axes.get_yaxis_transform(), fontsize=6.5, va="center",
        color="#111827", zorder=6,
    )  # fmt: skip


def draw_forest(data: FigureData, width: float) -> Figure:
    """Draw changes with their intervals: one panel for each of `measure`, one row a condition."""
    places, measures, figure, panels = by_condition(data, width)
    for axes, measure in zip(panels, measures, strict=True):
        points = data.points[data.points["measure"] == measure]
        y = np.array([places[condition] for condition in points["condition"]])
        axes.hlines(y, points["low"], points["high"], color="#374151", linewidth=1.0, zorder=2)
        faces = np.where(points["kind"] == "items only", "white", OKABE_ITO[0])
        axes.scatter(points["delta"], y, s=14, c=faces, edgecolors=OKABE_ITO[0], linewidths=0.9, zorder=3)
        axes.axvline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        for margin in points["margin"].dropna().unique():
            for end in (-margin, margin):
                axes.axvline(end, color=LOST, linewidth=0.7, linestyle=":", zorder=1)
        panel_title(axes, title(data, measure))
    shared_label(figure, f"after {MINUS} before")
    return figure


# -- curves -----------------------------------------------------------------------------------------------------------


def num_columns(width: float, num_panels: int) -> int:
    """Return how many panels stand side by side: two, or one in a narrow column."""
    return min(2 if width >= 4 else 1, num_panels)


def draw_curves(data: FigureData, width: float) -> Figure:
    """Draw `points.as_curves`: one panel for each value of `panel`, one line for each of `series`."""
    curves = data.points[data.points["kind"].isin(["seed", "mean"])]
    names = list(dict.fromkeys(curves["panel"]))
    columns = num_columns(width, len(names))
    rows = math.ceil(len(names) / columns)
    series = list(dict.fromkeys(curves["series"]))
    figure, panels = new_figure(width, 0.5 + 0.13 * math.ceil(len(series) / columns) + 1.75 * rows, rows, columns)
    scale = Scale(curves["x"])
    for axes, name in zip(panels, names, strict=False):
        points = curves[curves["panel"] == name]
        for place, line in enumerate(series):
            style = "" if data.is_sampled or scale.kind == "categories" else "-"
            own = points[points["series"] == line]
            draw_series(axes, own, scale, place, style, aside=aside_points(place, len(series)))
        panel_title(axes, title(data, name) if len(names) > 1 or name else "")
        scale.apply(axes)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    shared_label(figure, shown(data.labels["x"]))
    if data.labels["y"]:
        shared_label(figure, shown(data.labels["y"]), upright=True)
    handles = [handle(line, *cue(n)) for n, line in enumerate(series) if line]
    if handles:
        legend_above(figure, handles, width)
    return figure


def aside_points(place: int, num_series: int) -> float:
    """Return how many points a line of several stands aside, so that none hides the intervals of another."""
    return (place - (num_series - 1) / 2) * min(2.5, 12 / num_series)


def moved_aside(axes: Axes, num_points: float) -> Transform:
    """Return the transform of a panel's data, so many points to the right."""
    return axes.transData + ScaledTranslation(num_points / 72, 0, axes.figure.dpi_scale_trans)


def draw_series(axes: Axes, points: pd.DataFrame, scale: Scale, place: int, line: str, *, aside: float) -> None:
    """Draw one line: its means (`kind` mean: x, y, low, high) with their intervals, its seeds as dots beside them."""
    colour, marker = cue(place)
    dots, means = points[points["kind"] == "seed"], points[points["kind"] == "mean"]
    axes.margins(x=0.08)  # what stands aside at either end is still within a panel of half a text's width
    # Dots stand beside their mean, else its marker hides them: series by turns left and right.
    beside = moved_aside(axes, aside + (5 if place % 2 else -5))
    at = scale.places(dots["x"])
    axes.scatter(
        at, dots["y"], s=8, color=colour, alpha=0.45, linewidths=0, marker=marker, zorder=2, transform=beside,
    )  # fmt: skip
    _make_room(axes, at, dots["y"].to_numpy(dtype=float))
    if means.empty:
        return
    x = scale.places(means["x"])
    order = np.argsort(x, kind="stable")
    y, low, high = (means[name].to_numpy(dtype=float)[order] for name in ("y", "low", "high"))
    half = np.nan_to_num(np.vstack([y - low, high - y]), nan=0.0).clip(min=0)
    axes.errorbar(
        x[order], y, yerr=half, color=colour, marker=marker, markersize=4.5, linewidth=1.1, linestyle=line,
        elinewidth=0.8, capsize=1.8, capthick=0.8, markeredgecolor="white", markeredgewidth=0.5, zorder=3,
        transform=moved_aside(axes, aside),
    )  # fmt: skip
    for edge in (y, y - half[0], y + half[1]):
        _make_room(axes, x[order], edge)


def _make_room(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Widen a panel's limits to hold points: matplotlib leaves out what is moved aside, and would cut it."""
    axes.update_datalim(np.column_stack([x, y]))
    axes.autoscale_view()
