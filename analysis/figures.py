"""Drawing: points in, vector and raster files out.

Invariant: byte-stable - the same points give the same PDF and PNG; fonts are embedded; colours are told apart by
colour-blind readers (Okabe and Ito's palette, cividis for ordered levels), and never colour alone. What does not live
here: computing any number (points.py).
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
from matplotlib.transforms import ScaledTranslation

from analysis import files
from analysis.escape import visible
from analysis.numbers import MINUS
from analysis.points import FigureData

Venue = Literal["neurips", "icml", "acl"]
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


def write_figure(data: FigureData, folder: Path, venue: Venue = "neurips") -> list[Path]:
    """Write one figure as PDF and PNG, its points as CSV and its caption as text; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{data.name}.{suffix}" for suffix in ("pdf", "png", "csv", "txt")]
    with mpl.rc_context(STYLE):
        figure = DRAW[data.kind](data, TEXT_WIDTH_INCHES[venue])
        FigureCanvasAgg(figure)
        figure.savefig(paths[0], metadata={"CreationDate": None, "Producer": None, "Creator": None})
        figure.set_layout_engine("none")  # laid out by the first save; a second pass costs as much again
        figure.savefig(paths[1], dpi=PNG_DPI, metadata={"Software": None})
    paths[2].write_bytes(files.csv(data.points))
    paths[3].write_text(data.caption + "\n", encoding="utf-8")
    return paths


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def _text(value: object, limit: int = 60) -> str:
    return visible(str(value), limit=limit, single_line=True)


# -- front ------------------------------------------------------------------------------------------------------------


def _draw_front(data: FigureData, width: float) -> Figure:
    figure, (axes,) = _figure(width, width * 0.62)
    means = data.points[data.points["kind"] == "mean"]
    series = list(dict.fromkeys(data.points["series"]))
    axes.axhline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.axvline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for place, name in enumerate(series):
        points = data.points[data.points["series"] == name]
        line = "" if data.is_sampled else "-"
        _draw_path(axes, points, OKABE_ITO[place % 7], MARKERS[place % 7], line)
    on_front = means[means["on_front"].eq(True)].sort_values("learned")
    axes.plot(on_front["learned"], on_front["retained"], color="#111827", linewidth=1.0, linestyle=":", zorder=2)
    _label_points(axes, on_front if data.is_sampled else means, series)
    axes.plot(0, 0, marker="*", color=BASE, markersize=9, linestyle="", zorder=5)
    axes.set_xlabel(_text(data.labels["x"]) + "   (more learned →)")
    axes.set_ylabel(_text(data.labels["y"]) + "   (less forgotten →)")
    handles = [_handle(name, OKABE_ITO[n % 7], MARKERS[n % 7]) for n, name in enumerate(series)]
    handles.append(Line2D([], [], color="#111827", linestyle=":", linewidth=1.0, label="front"))
    handles.append(Line2D([], [], color=BASE, marker="*", markersize=8, linestyle="", label="base"))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=min(5, len(handles)), handletextpad=0.4, columnspacing=1.4
    )
    return figure


def _draw_path(axes: Axes, points: pd.DataFrame, colour: str, marker: str, line: str) -> None:
    dots, means = points[points["kind"] == "seed"], points[points["kind"] == "mean"]
    axes.scatter(
        dots["learned"], dots["retained"], s=9, color=colour, alpha=0.35, linewidths=0, marker=marker, zorder=2
    )
    axes.errorbar(
        means["learned"],
        means["retained"],
        xerr=_half_widths(means, "learned"),
        yerr=_half_widths(means, "retained"),
        color=colour,
        marker=marker,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=0.9,
        linestyle=line,
        alpha=0.95,
        elinewidth=0.7,
        zorder=4,
    )


def _half_widths(means: pd.DataFrame, measure: str) -> np.ndarray:
    low = (means[measure] - means[f"{measure}_low"]).to_numpy(dtype=float)
    high = (means[f"{measure}_high"] - means[measure]).to_numpy(dtype=float)
    return np.nan_to_num(np.vstack([low, high]), nan=0.0).clip(min=0)


def _label_points(axes: Axes, means: pd.DataFrame, series: list[str]) -> None:
    for _, row in means.iterrows():
        place = series.index(row["series"])
        below = place % 2 == 1
        axes.annotate(
            _text(row["place"], 24),
            (row["learned"], row["retained"]),
            xytext=(-3, -4) if below else (3, 4),
            ha="right" if below else "left",
            va="top" if below else "bottom",
            textcoords="offset points",
            fontsize=6.5,
            color=OKABE_ITO[place % 7],
            zorder=6,
        )


def _handle(label: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=0.9, label=_text(label, 40))


# -- axis -------------------------------------------------------------------------------------------------------------


def _draw_axis(data: FigureData, width: float) -> Figure:
    measures = list(dict.fromkeys(data.points["measure"]))
    columns = min(2, len(measures))
    rows = math.ceil(len(measures) / columns)
    figure, panels = _figure(width, 0.3 + 1.75 * rows, rows, columns)
    scale = _Scale(data.points["x"])
    series = list(dict.fromkeys(data.points["series"]))
    for axes, measure in zip(panels, measures, strict=False):
        points = data.points[data.points["measure"] == measure]
        for place, name in enumerate(series):
            shift = (place - (len(series) - 1) / 2) * (0.12 if scale.kind == "categories" else 0.0)
            line = "" if data.is_sampled or scale.kind == "categories" else "-"
            _draw_series(axes, points[points["series"] == name], scale, shift, place, line)
        axes.axhline(points["before"].mean(), color=BASE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.set_title(_title(data, measure))
        scale.apply(axes)
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    _shared_label(figure, _text(data.labels["x"]))
    handles = [_handle(name or "after", OKABE_ITO[n % 7], MARKERS[n % 7]) for n, name in enumerate(series)]
    handles.append(Line2D([], [], color=BASE, linestyle=(0, (4, 3)), linewidth=0.9, label="before"))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(4, len(handles)), columnspacing=1.4)
    return figure


def _draw_series(axes: Axes, points: pd.DataFrame, scale: _Scale, shift: float, place: int, line: str) -> None:
    colour, marker = OKABE_ITO[place % 7], MARKERS[place % 7]
    dots, means = points[points["kind"] == "seed"], points[points["kind"] == "mean"]
    # Dots stand beside their mean, else its marker hides them: series by turns left and right.
    beside = ScaledTranslation((5 if place % 2 else -5) / 72, 0, axes.figure.dpi_scale_trans)
    axes.scatter(
        scale.places(dots["x"]) + shift, dots["y"], s=8, color=colour, alpha=0.45, linewidths=0, marker=marker,
        zorder=2, transform=axes.transData + beside,
    )  # fmt: skip
    if means.empty:
        return
    x = scale.places(means["x"])
    order = np.argsort(x, kind="stable")
    y, low, high = (means[name].to_numpy(dtype=float)[order] for name in ("y", "low", "high"))
    half = np.nan_to_num(np.vstack([y - low, high - y]), nan=0.0).clip(min=0)
    axes.errorbar(
        x[order] + shift, y, yerr=half, color=colour, marker=marker, markersize=4.5, linewidth=1.1, linestyle=line,
        elinewidth=0.8, capsize=1.8, capthick=0.8, markeredgecolor="white", markeredgewidth=0.5, zorder=3,
    )  # fmt: skip


class _Scale:
    """Where the values of an axis lie: on a log or linear scale if numeric, else side by side in plan order."""

    def __init__(self, values: pd.Series) -> None:
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        self.levels: list[Any] = sorted(set(values)) if numeric else list(dict.fromkeys(values))
        positive = numeric and min(self.levels) > 0
        wide = positive and max(self.levels) / min(self.levels) >= 8
        self.kind = "log" if wide else "linear" if numeric else "categories"

    def places(self, values: pd.Series) -> np.ndarray:
        if self.kind == "categories":
            return np.array([self.levels.index(value) for value in values], dtype=float)
        return values.to_numpy(dtype=float)

    def apply(self, axes: Axes) -> None:
        if self.kind == "log":
            axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        if self.kind != "categories" and len(self.levels) > 9:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)) if self.kind == "log" else MaxNLocator(6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            return
        places = self.places(pd.Series(self.levels))
        shown = range(len(places)) if len(places) <= 9 else range(0, len(places), math.ceil(len(places) / 9))
        axes.xaxis.set_major_locator(FixedLocator([places[n] for n in shown]))
        labels = [_tick(self.levels[n]) for n in shown]
        if self._crowded(axes, places[list(shown)], labels):
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
    return _text(value, 16)


# -- forest, flips, loss ----------------------------------------------------------------------------------------------


def _draw_forest(data: FigureData, width: float) -> Figure:
    places, measures, figure, panels = _by_condition(data, width)
    for axes, measure in zip(panels, measures, strict=True):
        points = data.points[data.points["measure"] == measure]
        y = np.array([places[condition] for condition in points["condition"]])
        axes.hlines(y, points["low"], points["high"], color="#374151", linewidth=1.0, zorder=2)
        faces = np.where(points["kind"] == "items only", "white", OKABE_ITO[0])
        axes.scatter(points["delta"], y, s=14, c=faces, edgecolors=OKABE_ITO[0], linewidths=0.9, zorder=3)
        axes.axvline(0, color=BASE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.set_title(_title(data, measure))
    _shared_label(figure, f"after {MINUS} before")
    return figure


def _draw_flips(data: FigureData, width: float) -> Figure:
    places, measures, figure, panels = _by_condition(data, width)
    for axes, measure in zip(panels, measures, strict=True):
        points = data.points[data.points["measure"] == measure]
        y = [places[condition] for condition in points["condition"]]
        axes.barh(y, 100 * points["gained_share"], height=0.62, color=GAINED, zorder=2)
        axes.barh(y, -100 * points["lost_share"], height=0.62, color=LOST, hatch="////", edgecolor="white", zorder=2)
        axes.axvline(0, color="#374151", linewidth=0.7, zorder=3)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.set_title(_title(data, measure))
    _shared_label(figure, "% of items:   ← lost   |   gained →")
    return figure


def _title(data: FigureData, measure: object) -> str:
    return _text(data.labels.get(f"title/{measure}", measure))


def _shared_label(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=STYLE["axes.labelsize"], color=STYLE["axes.labelcolor"])


def _by_condition(data: FigureData, width: float) -> tuple[dict[str, float], list[str], Figure, list[Axes]]:
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
            ticks.append((height, _text(row["label"], 36)))
            height += 1
    measures = list(dict.fromkeys(data.points["measure"]))
    figure, panels = _figure(width, 0.7 + 0.155 * height, 1, len(measures), sharey=True)
    panels[0].set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    panels[0].set_ylim(height - 0.4, -0.6)
    panels[0].set_ylabel(_text(data.labels["rows"]))
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
        0.02, place, _text(arm, 30), transform=axes.get_yaxis_transform(), fontsize=6.5, va="center", color="#111827",
        zorder=6,
    )  # fmt: skip


def _draw_loss(data: FigureData, width: float) -> Figure:
    arms = list(dict.fromkeys(data.points["arm"]))
    figure, panels = _figure(width, width * 0.42, 1, len(arms), sharey=True)
    for axes, arm in zip(panels, arms, strict=True):
        rows = data.points[data.points["arm"] == arm]
        own = list(dict.fromkeys(rows["condition"]))
        for place, condition in enumerate(own):
            colour = mpl.colormaps["cividis"](0.05 + 0.85 * place / max(1, len(own) - 1))
            lines = rows[rows["condition"] == condition]
            train, val = lines[lines["kind"] == "train/loss"], lines[lines["kind"] == "val/loss"]
            axes.plot(
                train["step"], train["loss"], color=colour, linewidth=1.0, label=_text(lines["label"].iloc[0], 36)
            )
            axes.plot(val["step"], val["loss"], color=colour, marker="o", markersize=2.6, linestyle="", zorder=3)
        axes.set_xlabel("step")
        if len(arms) > 1:
            axes.set_title(_text(arm))
        if len(own) <= 12:
            axes.legend(
                title=_text(data.labels["rows"]), fontsize=6, title_fontsize=6, labelspacing=0.25, handlelength=1.4
            )
    panels[0].set_ylabel("loss per loss token")
    return figure


DRAW: dict[str, Callable[[FigureData, float], Figure]] = {
    "front": _draw_front,
    "axis": _draw_axis,
    "forest": _draw_forest,
    "flips": _draw_flips,
    "loss": _draw_loss,
}
