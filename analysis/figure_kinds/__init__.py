"""The kinds of figures, a module each, in the order in which a report shows them.

Invariant: a kind is one module here and one line in `KINDS`. `points` returns its figures or the reason why there is
none, `draw` draws one of them and computes nothing. What does not live here: what they share (points.py, figures.py).
"""

from __future__ import annotations

from pathlib import Path

from analysis.context import Context
from analysis.figure_kinds import (
    aggregate,
    axis,
    during,
    flips,
    forest,
    forest_slices,
    front,
    importance,
    interpolation,
    kl_forgetting,
    known_unknown,
    learning_rates,
    loss,
    packing,
    parallel,
    positions,
    replay,
    size_slices,
    slices,
    template_matrix,
)
from analysis.figures import Venue, write_figure
from analysis.points import FigureData, KindModule, Missing

KINDS: tuple[KindModule, ...] = (
    front,
    axis,
    forest,
    forest_slices,
    flips,
    loss,
    template_matrix,
    size_slices,
    packing,
    known_unknown,
    replay,
    learning_rates,
    kl_forgetting,
    positions,
    during,
    interpolation,
    aggregate,
    importance,
    slices,
    parallel,
)


def all_figures(context: Context) -> tuple[list[FigureData], dict[str, str]]:
    """Return every figure that the sweep has data for, and name -> why for those that it has not."""
    made: list[FigureData] = []
    missing: dict[str, str] = {}
    for module in KINDS:
        found = module.points(context)
        figures = [Missing(_name(module), found)] if isinstance(found, str) else found
        made += [one for one in figures if isinstance(one, FigureData)]
        missing |= {one.name: one.reason for one in figures if isinstance(one, Missing)}
    return made, missing


def write(figures: list[FigureData], folder: Path, venue: Venue = "neurips") -> list[Path]:
    """Draw figures into a folder, at a venue's width, and return their files."""
    draw = {_name(module): module.draw for module in KINDS}
    return [path for data in figures for path in write_figure(data, draw[data.kind], folder, venue)]


def _name(module: KindModule) -> str:
    return module.__name__.rsplit(".", 1)[-1]
