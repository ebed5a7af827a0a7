"""Sections and figure kinds: registered whole, computed once, and part of what makes a report stale."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis import report
from analysis.context import Context
from analysis.figure_kinds import KINDS, all_figures
from analysis.opened import open_sweep
from analysis.render import TEMPLATES
from analysis.sections import SECTIONS, all_sections
from harness.records.store import Store


def context_of(made: tuple[Store, str]) -> Context:
    """Return the context of a sweep folder."""
    return Context(open_sweep(*made))


def test_sections_each_have_both_templates_and_no_template_is_left_over() -> None:
    names = {module.__name__.rsplit(".", 1)[-1] for module in SECTIONS}
    for ending in (".html.jinja", ".md.jinja"):
        assert {path.name.removesuffix(ending) for path in (TEMPLATES / "sections").glob(f"*{ending}")} == names


def test_sections_modules_on_disk_are_all_registered() -> None:
    folder = Path(report.PACKAGE)
    for package, modules in (("sections", SECTIONS), ("figure_kinds", KINDS)):
        found = {path.stem for path in (folder / package).glob("*.py")} - {"__init__"}
        assert {module.__name__.rsplit(".", 1)[-1] for module in modules} == found


def test_sections_are_made_or_say_why_not(mixed: tuple[Store, str]) -> None:
    made, missing = all_sections(context_of(mixed))
    assert len(made) + len(missing) == len(SECTIONS)
    assert all(missing.values())


def test_context_computes_each_table_once(small: tuple[Store, str]) -> None:
    context = context_of(small)
    assert context.effects is context.effects
    assert context.items is context.items


def test_figure_kinds_name_themselves_and_their_own_drawing(whole: tuple[Store, str]) -> None:
    figures, _ = all_figures(context_of(whole))
    assert {figure.kind for figure in figures} <= {module.__name__.rsplit(".", 1)[-1] for module in KINDS}
    assert len({figure.name for figure in figures}) == len(figures)


@pytest.mark.parametrize(
    "source",
    [
        "sections/held.py",
        "sections/new.py",
        "figure_kinds/front.py",
        "templates/sections/held.html.jinja",
        "templates/report.css",
    ],
)
def test_report_is_stale_after_a_change_of_its_source(
    source: str, whole: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "analysis"
    shutil.copytree(report.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    sweep = open_sweep(*whole)
    before = report._inputs_hash(sweep)
    monkeypatch.setattr(report, "PACKAGE", package)
    assert report._inputs_hash(sweep) == before
    with (package / source).open("a") as file:
        file.write("\n")
    assert report._inputs_hash(sweep) != before
