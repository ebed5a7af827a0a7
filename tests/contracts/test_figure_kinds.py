"""What every kind of figure must do. A new kind needs one line in `figure_sweeps.MAKERS`, or these tests fail."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figure_kinds import KINDS, all_figures, write
from analysis.figures import (
    ACROSS,
    COLUMN_WIDTH_INCHES,
    STYLE,
    TEXT_WIDTH_INCHES,
    Venue,
    moved_aside,
    new_figure,
    width_inches,
    write_figure,
)
from analysis.opened import open_sweep
from analysis.points import FigureData
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.contracts import drawn
from tests.contracts.figure_sweeps import MAKERS, MODULES, all_of

every_kind = pytest.mark.parametrize("kind", MODULES)
BY_VALUE = {"slices", "parallel"}
"""Kinds whose colours repeat a place in the panel, which is the second cue."""
VENUES: tuple[Venue, ...] = ("neurips", "icml", "acl")
HOSTILE = ("<script>alert(1)</script>", "$\\frac{1}{0$ \\input{x} %&_#", "\x1b[31m\u202etxt\n=cmd()", "W" * 300, "")
TEXT_COLUMNS = ("label", "series", "arm", "panel", "place", "measure", "of", "trained", "asked")
Figures = dict[str, list[FigureData]]
Drawings = dict[str, list[tuple[FigureData, Figure]]]


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def figures(sweeps: Path) -> Figures:
    return all_of(sweeps)


@pytest.fixture(scope="module")
def written(figures: Figures, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Drawings]:
    """Every figure at the smallest width, drawn once: its files, and what they show."""
    path = tmp_path_factory.mktemp("written")
    kept: Drawings = {kind: [] for kind in figures}

    for kind, data in ((kind, data) for kind, made in figures.items() for data in made):

        def draw_and_keep(data: FigureData, width: float, kind: str = kind) -> Figure:
            kept[kind].append((data, MODULES[data.kind].draw(data, width)))
            return kept[kind][-1][1]

        write_figure(data, draw_and_keep, path, "acl")
    with mpl.rc_context(STYLE):
        for _, figure in (one for own in kept.values() for one in own):
            drawn.laid_out(figure)
    return path, kept


@pytest.fixture(scope="module")
def folder(written: tuple[Path, Drawings]) -> Path:
    return written[0]


@pytest.fixture(scope="module")
def drawings(written: tuple[Path, Drawings]) -> Drawings:
    return written[1]


def draw(data: FigureData, venue: Venue) -> Figure:
    with mpl.rc_context(STYLE):
        return drawn.laid_out(MODULES[data.kind].draw(data, width_inches(data, venue)))


def test_every_kind_has_a_sweep_with_its_data() -> None:
    assert sorted(kind for maker in MAKERS for kind in maker.kinds) == sorted(MODULES)
    assert len(MODULES) == len(KINDS)


@every_kind
def test_every_figure_has_its_four_files(kind: str, figures: Figures, folder: Path) -> None:
    for data in figures[kind]:
        for suffix in ("pdf", "png", "csv", "txt"):
            assert (folder / f"{data.name}.{suffix}").stat().st_size > 0


@every_kind
def test_pdf_is_vector_with_embedded_truetype_fonts_and_no_time(kind: str, figures: Figures, folder: Path) -> None:
    for data in figures[kind]:
        pdf = (folder / f"{data.name}.pdf").read_bytes()
        assert b"/FontFile2" in pdf
        assert not re.search(rb"/Subtype\s*/(Type3|Type1|Image)\b", pdf)
        assert not re.search(rb"CreationDate|ModDate", pdf)


@every_kind
def test_width_is_that_of_the_column_or_the_caption_says_so(kind: str, figures: Figures, folder: Path) -> None:
    for data in figures[kind]:
        box = re.search(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)", (folder / f"{data.name}.pdf").read_bytes())
        assert box is not None
        width = (TEXT_WIDTH_INCHES if data.is_wide else COLUMN_WIDTH_INCHES)["acl"]
        assert float(box[1]) == pytest.approx(72 * width, abs=0.01)
        assert (ACROSS in (folder / f"{data.name}.txt").read_text()) == data.is_wide
        for venue in VENUES:
            widths = TEXT_WIDTH_INCHES if data.is_wide else COLUMN_WIDTH_INCHES
            assert width_inches(data, venue) == widths[venue]


@every_kind
def test_every_mark_is_in_the_csv_file(kind: str, drawings: Drawings, folder: Path) -> None:
    for data, figure in drawings[kind]:
        assert drawn.unexplained(figure, pd.read_csv(folder / f"{data.name}.csv")) == []


@every_kind
def test_caption_states_items_seeds_intervals_and_correction(kind: str, figures: Figures) -> None:
    for data in figures[kind]:
        caption = data.caption.lower()
        assert re.search(r"n = [\d,]+", caption), data.caption
        assert re.search(r"seeds.*: [\d,]+", caption), data.caption
        assert "interval" in caption
        assert ("95 %" in caption and "not adjusted" in caption) or "no correction" in caption, data.caption


@every_kind
def test_colours_are_safe_and_never_the_only_cue(kind: str, drawings: Drawings) -> None:
    for _, figure in drawings[kind]:
        assert drawn.foreign_colours(figure) == set()
        assert kind in BY_VALUE or drawn.told_apart_by_colour_alone(figure) == []


@every_kind
def test_no_tick_labels_touch_and_nothing_is_cut_or_too_small(kind: str, drawings: Drawings) -> None:
    for data, narrow in drawings[kind]:
        for figure in (narrow, draw(data, "neurips")):
            assert (drawn.touching_tick_labels(figure), drawn.outside(figure)) == ([], [])
            assert (drawn.small(figure), drawn.cut(figure)) == ([], [])


@every_kind
def test_hostile_labels_break_nothing(kind: str, figures: Figures) -> None:
    for data in figures[kind]:
        figure = draw(hostile(data), "acl")
        assert (drawn.touching_tick_labels(figure), drawn.outside(figure)) == ([], [])
        assert "\x1b" not in "".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def hostile(data: FigureData) -> FigureData:
    """Return a figure whose every text is one that an attacker would choose; different ones stay different."""
    names: dict[str, str] = {}

    def changed(text: object) -> object:
        if not isinstance(text, str):
            return text
        return names.setdefault(text, f"{len(names)}{HOSTILE[len(names) % len(HOSTILE)]}")

    columns = {name: data.points[name].map(changed) for name in TEXT_COLUMNS if name in data.points}
    labels = {key: value if key == "iso" else str(changed(value)) for key, value in data.labels.items()}
    return replace(data, points=data.points.assign(**columns), labels=labels)


def test_files_are_the_same_in_another_process_with_another_hash_seed(
    sweeps: Path, folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(sweeps, tmp_path / "moved")
    command = [sys.executable, "-m", "tests.contracts.figure_sweeps", str(moved), str(tmp_path / "again")]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert again.keys() == first.keys()
    assert [name for name, content in first.items() if again[name] != content] == []


def test_files_are_the_same_when_drawn_twice(figures: Figures, folder: Path, tmp_path: Path) -> None:
    for path in write(figures["front"], tmp_path, "acl"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_sweep_without_any_score_has_reasons_and_no_chart(tmp_path: Path) -> None:
    outcomes = {(ARM, value, seed): "PENDING" for value in (25, 400) for seed in (0, 1)}
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1, outcomes=outcomes)
    made, missing = all_figures(Context(open_sweep(*build(tmp_path, plan))))
    assert made == []
    assert len(missing) == len(KINDS)
    assert all(len(reason) > 10 for reason in missing.values())


# -- the checks themselves --------------------------------------------------------------------------------------------


def broken(change: Callable[[Figure], None]) -> Figure:
    with mpl.rc_context(STYLE):
        figure, (axes,) = new_figure(3.03, 2.0)
        axes.plot([1, 2, 3], [0.1, 0.2, 0.3], color="#0072B2", marker="o")
        change(figure)
        return drawn.laid_out(figure)


def test_long_labels_that_lie_flat_are_caught() -> None:
    labels = ["prompt_loss_weight=0.0001", "prompt_loss_weight=0.001", "prompt_loss_weight=0.01"]
    flat = broken(lambda figure: figure.axes[0].set_xticks([1, 2, 3], labels))
    assert len(drawn.touching_tick_labels(flat)) == 2
    turned = broken(lambda f: f.axes[0].set_xticks([1, 2, 3], labels, rotation=40, ha="right", rotation_mode="anchor"))
    assert drawn.touching_tick_labels(turned) == []


def test_text_beyond_the_canvas_is_caught() -> None:
    assert drawn.outside(broken(lambda figure: None)) == []
    assert drawn.outside(broken(lambda figure: figure.axes[0].set_title("W" * 60))) == ["W" * 60]


def test_text_below_the_smallest_size_is_caught() -> None:
    assert drawn.small(broken(lambda figure: figure.axes[0].text(2, 0.2, "tiny", fontsize=5.4))) == ["tiny"]
    assert drawn.small(broken(lambda figure: figure.axes[0].text(2, 0.2, "fine", fontsize=5.5))) == []


def test_dot_beyond_the_limits_of_its_panel_is_caught() -> None:
    assert drawn.cut(broken(lambda figure: None)) == []

    def beside(figure: Figure) -> None:
        axes = figure.axes[0]
        axes.scatter([2], [0.9], transform=moved_aside(axes, 5))

    assert drawn.cut(broken(beside)) == [(2.0, 0.9)]


def test_mark_that_is_not_in_the_table_is_caught() -> None:
    table = pd.read_csv(io.StringIO("x,y\n1,0.1\n2,0.2\n3,0.3\n"))
    assert drawn.unexplained(broken(lambda figure: None), table) == []
    assert drawn.unexplained(broken(lambda f: f.axes[0].scatter([2.5], [0.77])), table) == [(2.5, 0.77)]


def test_colour_alone_and_unsafe_colours_are_caught() -> None:
    second = broken(lambda figure: figure.axes[0].plot([1, 2, 3], [3, 2, 1], color="#D55E00", marker="o"))
    assert len(drawn.told_apart_by_colour_alone(second)) == 1
    assert drawn.foreign_colours(second) == set()
    green = broken(lambda figure: figure.axes[0].plot([1, 2, 3], [3, 2, 1], color="#00ff00", marker="s"))
    assert drawn.foreign_colours(green) == {(0.0, 1.0, 0.0)}
