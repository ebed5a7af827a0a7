"""The page in a real browser: sorts, filters, fits a phone, prints whole, asks for nothing and obeys no text in it."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.records.store import Store
from tests.analysis.chromium import Browser, Page, running
from tests.analysis.synthetic import build
from tests.analysis.test_bad_input import ATTACK, hostile_plan
from tests.analysis.undrawn import write_undrawn
from tests.presence import program

PHONE = 390
OPEN_ALL = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def page_file(whole: tuple[Store, str]) -> Path:
    """Two arms and three sizes, everything complete."""
    return write_undrawn(whole[0].root, whole[1]).folder / "report.html"


@pytest.fixture(scope="module")
def mixed_file(mixed: tuple[Store, str]) -> Path:
    """Every state that a trial can be in: many numbers are unknown."""
    return write_undrawn(mixed[0].root, mixed[1]).folder / "report.html"


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store, folder = build(tmp_path_factory.mktemp("hostile"), hostile_plan())
    return write_undrawn(store.root, folder).folder / "report.html"


# -- sorting ----------------------------------------------------------------------------------------------------------

READ_COLUMNS = """
[...document.querySelectorAll("table")].filter((table) => table.tHead).map((table) => {
  const read = (column) => [...table.tBodies[0].rows].map((row) => row.classList.contains("arm") ? null
    : row.cells[column].dataset.value ?? row.cells[column].textContent.trim());
  return [...table.tHead.rows[0].cells].map((head, column) => {
    head.click();
    const down = read(column), said = [head.getAttribute("aria-sort")];
    head.click();
    said.push(head.getAttribute("aria-sort"));
    return { name: `${table.closest("section").id}: ${head.textContent}`, down, up: read(column), said };
  });
}).flat()
"""


def test_every_column_of_every_table_sorts_numerically_with_unknown_last(browser: Browser, mixed_file: Path) -> None:
    columns = Page(browser, mixed_file.as_uri()).value(READ_COLUMNS)
    assert len(columns) > 60
    num_numeric = num_unknown = 0
    for column in columns:
        assert column["said"] == ["descending", "ascending"], column["name"]
        for cells, sign in ((column["down"], -1), (column["up"], 1)):
            for group in _groups(cells):
                numbers = [_number(cell) for cell in group]
                known = [number for number in numbers if number is not None]
                assert known == sorted(known, key=lambda number: sign * number), column["name"]
                words = [_is_unknown(cell) for cell in group]
                assert words == sorted(words), column["name"]
                num_numeric += len(set(known)) > 1
                num_unknown += any(words) and not all(words)
    assert num_numeric > 20  # the check has had something to check
    assert num_unknown > 2


def _groups(cells: list[str | None]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for cell in cells:
        if cell is None:
            groups.append([])
        else:
            groups[-1].append(cell)
    return groups


def _is_unknown(cell: str) -> bool:
    return cell in ("", "—", "-", "no interval")


def _number(cell: str) -> float | None:
    """Return a cell's number: written in full, as a count with commas, or an interval's lower end."""
    plain = cell.replace("\u2212", "-").replace(",", "") if re.fullmatch(r"[\u2212+-]?[\d,.]+", cell) else cell
    found = re.fullmatch(r"\[([^,]+), [^\]]+\]", plain.replace("\u2212", "-"))
    try:
        number = float(found.group(1) if found else plain)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def test_main_table_sorts_by_mouse_and_by_key_within_its_arms(browser: Browser, page_file: Path) -> None:
    page = Page(browser, page_file.as_uri())
    head = "document.querySelector('#conditions table').tHead.rows[0].cells[2]"
    rows = "[...document.querySelector('#conditions table').tBodies[0].rows]"
    values = f"{rows}.map((row) => row.classList.contains('arm') ? row.textContent.trim() : row.cells[2].dataset.value)"
    before = page.value(values)
    page.click(head)
    down = page.value(values)
    assert [name for name in down if name.startswith("equal")] == ["equal_epochs", "equal_steps"]
    for arm in (down[1:4], down[5:8]):
        assert [float(value) for value in arm] == sorted((float(value) for value in arm), reverse=True)
    assert down != before
    page.value(f"{head}.focus()")
    page.press("Enter", 13, "\r")
    assert page.value(values) == [down[0], *down[3:0:-1], down[4], *down[7:4:-1]]
    page.press(" ", 32, " ")
    assert page.value(values) == down
    assert page.value("scrollY") == page.value("scrollY")
    assert page.complaints() == []


def test_head_is_reached_by_tab(browser: Browser, page_file: Path) -> None:
    page = Page(browser, page_file.as_uri())
    page.value("document.querySelector('#conditions table').tHead.rows[0].cells[1].focus()")
    page.press("Tab", 9)
    assert page.value("document.activeElement.cellIndex") == 2


def test_filter_leaves_rows_with_all_words_and_finds_an_arm_by_name(browser: Browser, page_file: Path) -> None:
    page = Page(browser, page_file.as_uri())
    page.value(OPEN_ALL)
    shown = "[...document.querySelectorAll('{} tbody tr:not(.arm)')].filter((row) => row.offsetHeight > 0).length"
    wanted = {"#trials table": "EQUAL_STEPS num_examples=400", "#conditions .scroll:has(tr.arm) table": "equal_epochs"}
    for table, words in wanted.items():
        assert page.value(shown.format(table)) > 3
        page.click(f"document.querySelector('{table.split()[0]} input.filter')")
        page.type(words)
        assert page.value(shown.format(table)) == 3
    page.type(" nothing like it")
    assert page.value(shown.format("#conditions .scroll:has(tr.arm) table")) == 0
    assert page.complaints() == []


# -- nothing from elsewhere, nothing executed -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["page_file", "mixed_file", "hostile_file"])
def test_page_asks_for_nothing_and_complains_of_nothing(
    name: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    page = Page(browser, request.getfixturevalue(name).as_uri())
    page.value(OPEN_ALL)
    assert page.value("document.title").endswith(" on pocket")
    assert page.requests() == []
    assert page.complaints() == []


def test_detector_notices_what_a_live_text_would_do(browser: Browser, hostile_file: Path, tmp_path: Path) -> None:
    text = hostile_file.read_text()
    policy = re.search(r"<meta http-equiv=[^>]+>", text)
    assert policy is not None
    live = text.replace("<main>", "<main>" + ATTACK, 1)
    without_policy, without_escape = tmp_path / "bare.html", tmp_path / "policy.html"
    without_policy.write_text(live.replace(policy.group(0), ""))
    without_escape.write_text(live)
    bare = Page(browser, without_policy.as_uri())
    assert bare.value("document.title") == "executed"
    assert any("evil.example" in url for url in bare.requests())
    # The policy alone stops the same text, and says so.
    kept = Page(browser, without_escape.as_uri())
    assert kept.value("document.title") == "hostile on pocket"
    assert any("Content Security Policy" in text for text in kept.complaints())


# -- phone and paper --------------------------------------------------------------------------------------------------

MEASURE = """
(() => {
  const tables = [...document.querySelectorAll("table")].filter((table) => table.tHead);
  const narrow = tables.filter((table) => table.tBodies[0].rows[0].cells[0].getBoundingClientRect().width < 80);
  const out = [...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll, nav, svg")
    && one.getBoundingClientRect().right > innerWidth + 1);
  return { width: document.documentElement.scrollWidth, narrow: narrow.length, out: out.map((one) => one.outerHTML),
    scrolling: tables.filter((table) => table.closest(".scroll").scrollWidth > innerWidth).length };
})()
"""


@pytest.mark.parametrize("name", ["page_file", "mixed_file", "hostile_file"])
def test_page_fits_a_phone_and_wide_tables_scroll_inside(
    name: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    page = Page(browser, request.getfixturevalue(name).as_uri(), PHONE)
    page.value(OPEN_ALL)
    found = page.value(MEASURE)
    assert (found["width"], found["narrow"], found["out"]) == (PHONE, 0, [])
    assert found["scrolling"] > 3
    # The controls: a first column of one letter a line, and a table that does not scroll inside.
    page.value("document.styleSheets[0].insertRule('td, th { min-width: 0 !important }', 0)")
    assert page.value(MEASURE)["narrow"] > 0
    page.value("document.styleSheets[0].insertRule('.scroll { overflow: visible !important }', 0)")
    assert page.value(MEASURE)["width"] > PHONE


HEADS = """
(() => { const filled = (table) => table.tHead && table.tBodies[0]?.rows.length;
return [...document.querySelectorAll("table")].filter(filled).flatMap((table) => {
  const row = [...table.tBodies[0].rows].find((row) => row.cells.length === table.tHead.rows[0].cells.length);
  const left = (cell) => Math.round(cell.getBoundingClientRect().left);
  return row && [...row.cells].some((cell, place) => left(cell) !== left(table.tHead.rows[0].cells[place]))
    ? [table.closest("section").id] : [];
}); })()
"""
"""Sections with a table whose heads do not stand above their columns."""


@pytest.mark.parametrize("name", ["page_file", "mixed_file", "hostile_file"])
def test_heads_stand_above_their_columns(name: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    page = Page(browser, request.getfixturevalue(name).as_uri())
    page.value(OPEN_ALL)
    assert page.value(HEADS) == []
    # The control: a table that is laid out as a grid, as one with a class of another part's is.
    page.value("document.querySelector('#answers table, table').style.display = 'grid'")
    page.value("document.styleSheets[0].insertRule('table { grid-template-columns: 1fr 1fr }', 0)")
    assert len(page.value(HEADS)) == 1


def test_paper_holds_what_closed_details_hold_and_they_close_again(
    browser: Browser, page_file: Path, tmp_path: Path
) -> None:
    reader = program("pdftotext")
    page = Page(browser, page_file.as_uri())
    closed = page.value("document.querySelectorAll('details:not([open])').length")
    assert closed > 3
    (tmp_path / "page.pdf").write_bytes(page.pdf())
    done = subprocess.run([reader, "-layout", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True)
    seen = "const seen = document.body.innerText; "
    inside = "[...document.querySelectorAll('#trials details:not([open]) tbody code')].map((one) => one.textContent)"
    trial = page.value(f"(() => {{ {seen} return {inside}.find((id) => !seen.includes(id)); }})()")
    assert trial in re.sub(r"\s", "", done.stdout)
    assert page.value("document.querySelectorAll('details:not([open])').length") == closed
    # The control: without the page's own script and style, closed parts are not printed.
    bare = tmp_path / "bare.html"
    text = page_file.read_text()
    bare.write_text(re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL))
    (tmp_path / "bare.pdf").write_bytes(Page(browser, bare.as_uri()).pdf())
    done = subprocess.run([reader, "-layout", tmp_path / "bare.pdf", "-"], capture_output=True, text=True, check=True)
    assert trial not in re.sub(r"\s", "", done.stdout)
