"""What a drawn figure shows, measured: texts that touch or leave the canvas, marks, and what tells colours apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import rgb_to_hsv, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from analysis.figures import OKABE_ITO

TOLERANCE_PIXELS = 1.0
"""Of a canvas of 100 pixels per inch: glyphs are hinted, boxes are not."""
SMALLEST_POINTS = 5.5


def laid_out(figure: Figure) -> Figure:
    """Return a figure after its layout has been computed."""
    FigureCanvasAgg(figure).draw()
    return figure


# -- texts ------------------------------------------------------------------------------------------------------------


def touching_tick_labels(figure: Figure) -> list[tuple[str, str]]:
    """Return pairs of neighbouring tick labels of one axis that overlap."""
    found: list[tuple[str, str]] = []
    for axes in _shown(figure):
        for axis in (axes.xaxis, axes.yaxis):
            for one, other in itertools.combinations(tick_labels(axis), 2):
                if _overlap(_corners(one), _corners(other)):
                    found.append((one.get_text(), other.get_text()))
    return found


def outside(figure: Figure) -> list[str]:
    """Return texts of which a part lies outside the canvas."""
    width, height = figure.bbox.width, figure.bbox.height
    found: list[str] = []
    for text in _texts(figure):
        corners = _corners(text)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (low < -TOLERANCE_PIXELS).any() or (high > np.array([width, height]) + TOLERANCE_PIXELS).any():
            found.append(text.get_text())
    return found


def small(figure: Figure) -> list[str]:
    """Return texts that are smaller than a reader can be asked to read in print."""
    return [text.get_text() for text in _texts(figure) if float(text.get_fontsize()) < SMALLEST_POINTS]


def cut(figure: Figure) -> list[tuple[float, float]]:
    """Return, in data units, dots and marks of which the centre lies outside its panel, where it is not drawn."""
    found: list[tuple[float, float]] = []
    for axes in _shown(figure):
        dots = [(np.asarray(one.get_offsets()), one.get_offset_transform()) for one in axes.collections
                if isinstance(one, PathCollection)]  # fmt: skip
        marks = [(np.column_stack([one.get_xdata(), one.get_ydata()]), one.get_transform()) for one in axes.lines
                 if one.get_marker() not in ("None", "", None)]  # fmt: skip
        box = axes.bbox.padded(TOLERANCE_PIXELS)
        for points, transform in dots + marks:
            places = transform.transform(points)
            found += [tuple(one) for one, (x, y) in zip(points, places, strict=True)
                      if np.isfinite([x, y]).all() and not box.contains(x, y)]  # fmt: skip
    return found


def tick_labels(axis: Axis) -> list[Text]:
    """Return the labels of an axis' ticks that are drawn."""
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * max(abs(low), abs(high), 1e-9)
    ticks = [tick for tick in axis.get_major_ticks() if low - room <= tick.get_loc() <= high + room]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]


def _shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible() and axes.axison]


def _texts(figure: Figure) -> Iterator[Text]:
    candidates = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    candidates += [legend.get_title() for legend in figure.legends]
    for axes in _shown(figure):
        candidates += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]  # type: ignore[attr-defined]
        candidates += [*tick_labels(axes.xaxis), *tick_labels(axes.yaxis)]
        legend = axes.get_legend()
        candidates += [*legend.get_texts(), legend.get_title()] if legend is not None else []
    yield from (text for text in candidates if text.get_visible() and text.get_text().strip())


def _corners(text: Text) -> np.ndarray:
    """Return the four corners, in pixels, of a text's box, turned as the text is."""
    turned = text.get_window_extent()
    angle = text.get_rotation()
    text.set_rotation(0)
    flat = text.get_window_extent()
    text.set_rotation(angle)
    half = np.array([flat.width, flat.height]) / 2
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    centre = np.array([(turned.x0 + turned.x1) / 2, (turned.y0 + turned.y1) / 2])
    return corners @ np.array([[cosine, sine], [-sine, cosine]]) + centre


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two rectangles share a point: no side of either separates them."""
    for corners in (one, other):
        for start, end in ((0, 1), (1, 2)):
            side = corners[end] - corners[start]
            if not side.any():
                return False
            a, b = one @ side, other @ side
            slack = 0.5 * float(np.hypot(*side))  # half a pixel
            if a.max() <= b.min() + slack or b.max() <= a.min() + slack:
                return False
    return True


# -- marks ------------------------------------------------------------------------------------------------------------


def unexplained(figure: Figure, table: pd.DataFrame) -> list[tuple[float, float]]:
    """Return marks none of whose coordinates is a number of a table; a percentage is its share, signs do not count."""
    numbers = table.select_dtypes("number").to_numpy(dtype=float).ravel()
    known = np.sort(np.abs(np.append(numbers[np.isfinite(numbers)], 0.0)))
    return [mark for axes in _shown(figure) for mark in _marks(axes) if not any(_is_in(known, value) for value in mark)]


def _is_in(known: np.ndarray, value: float) -> bool:
    sizes = np.array([abs(value), abs(value) / 100])
    places = np.searchsorted(known, sizes)
    near = np.stack([known[np.clip(places - 1, 0, len(known) - 1)], known[np.clip(places, 0, len(known) - 1)]])
    return bool((np.abs(near - sizes) <= 1e-9 + 1e-6 * sizes).any())


def _marks(axes: Axes) -> Iterator[tuple[float, ...]]:
    for line in axes.lines:
        if line.get_marker() not in ("None", "", None) or len(np.atleast_1d(line.get_xdata())) > 2:
            yield from _finite(np.column_stack([line.get_xdata(), line.get_ydata()]))  # type: ignore[arg-type]
    for collection in axes.collections:
        if isinstance(collection, PathCollection):
            yield from _finite(np.asarray(collection.get_offsets()))
        if isinstance(collection, LineCollection):
            yield from (point for part in collection.get_segments() for point in _finite(np.asarray(part)))
        if isinstance(collection, QuadMesh):
            yield from _finite(np.ma.filled(collection.get_array(), np.nan).reshape(-1, 1))  # type: ignore[union-attr]
    for bar in (bar for container in axes.containers for bar in container if isinstance(bar, Rectangle)):
        yield from _finite(np.array([[bar.get_width()]]))


def _finite(points: np.ndarray) -> Iterator[tuple[float, ...]]:
    yield from (tuple(map(float, point)) for point in points if np.isfinite(point.astype(float)).all())


# -- colours ----------------------------------------------------------------------------------------------------------


def foreign_colours(figure: Figure) -> set[tuple[float, ...]]:
    """Return colours of marks that are neither of Okabe and Ito's palette, nor of cividis, nor grey."""
    return {colour for axes in _shown(figure) for colour, _ in _styles(axes) if not _is_safe(colour)}


def told_apart_by_colour_alone(figure: Figure) -> list[object]:
    """Return what two colours of one panel share: the marker and line, or the hatch, of both."""
    found: list[object] = []
    for axes in _shown(figure):
        colours: dict[object, set[tuple[float, ...]]] = {}
        for colour, cue in _styles(axes):
            if not _is_grey(colour):
                colours.setdefault(cue, set()).add(colour)
        found += [cue for cue, own in colours.items() if len(own) > 1]
    return found


def _styles(axes: Axes) -> Iterator[tuple[tuple[float, ...], object]]:
    """Yield colour and second cue of each series: lines with marks or a course, dots, bars."""
    for line in axes.lines:
        if isinstance(line, Line2D) and len(np.atleast_1d(line.get_xdata())) > 1 and line.get_linestyle() != "None":
            yield _rgb(line.get_color()), ("line", line.get_marker(), line.get_linestyle())
    for dots in (one for one in axes.collections if isinstance(one, PathCollection)):
        shape = tuple(map(tuple, np.round(dots.get_paths()[0].vertices, 3).tolist())) if dots.get_paths() else ()  # type: ignore[union-attr]
        yield from ((_rgb(colour), ("dots", shape)) for colour in dots.get_facecolor())  # type: ignore[union-attr]
    for bar in (bar for container in axes.containers for bar in container if isinstance(bar, Rectangle)):
        yield _rgb(bar.get_facecolor()), ("bar", bar.get_hatch())


def _rgb(colour: Any) -> tuple[float, ...]:
    return tuple(round(float(part), 3) for part in to_rgba(colour)[:3])


def _is_grey(colour: tuple[float, ...]) -> bool:
    saturation = float(rgb_to_hsv(np.array(colour))[1])
    return max(colour) < 0.2 or saturation < 0.05 or (saturation < 0.35 and max(colour) < 0.95)


def _is_safe(colour: tuple[float, ...]) -> bool:
    safe = np.vstack([[to_rgb(one) for one in OKABE_ITO], mpl.colormaps["cividis"](np.linspace(0, 1, 256))[:, :3]])
    return _is_grey(colour) or bool((np.abs(safe - np.array(colour)).max(axis=1) < 0.02).any())
