"""Every condition's change of every primary slice, for measures that stand on several.

Invariant: the same rows as the forest of measures, one figure a measure. What does not live here: the margins
(forest.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figure_kinds.forest import forest
from analysis.figures import draw_forest
from analysis.points import FigureData, Missing

MOST_PANELS = 4
"""Slices of one figure; a measure with more has several."""


def points(context: Context) -> Sequence[FigureData | Missing] | str:
    """Return each condition's change of each primary slice, a figure for each measure that has several."""
    several = {measure: keys for measure, keys in context.primary_keys.items() if len(keys) > 1}
    if not several:
        return "every measure stands on one slice, which the forest of measures shows"
    return [one for measure, keys in several.items() for one in _of_measure(context, measure, keys)]


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a slice, one row a condition."""
    return draw_forest(data, width)


def _of_measure(context: Context, measure: str, keys: tuple[str, ...]) -> Iterator[FigureData | Missing]:
    titles = {f"title/{key}": key.split("/")[1] for key in keys}
    for start in range(0, len(keys), MOST_PANELS):
        name = f"forest_{measure}" + (f"_{start // MOST_PANELS + 1}" if len(keys) > MOST_PANELS else "")
        shown = keys[start : start + MOST_PANELS]
        about = f"Change of the primary slices of {measure}, after minus before: {', '.join(shown)}."
        found = forest(context, name, shown, about, titles)
        yield from [Missing(name, found)] if isinstance(found, str) else found
