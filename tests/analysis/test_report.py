"""Reports: always come, say what is missing, hide nothing, execute nothing, and are not written twice."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import figures, last_report, write_figures, write_report
from analysis.escape import latex, markdown, visible
from analysis.files import csv as to_csv
from harness.errors import BadInputError
from harness.records.store import Store
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn

HOSTILE = {
    "html": "<script>document.title='executed'</script><img src=x onerror=\"document.title='executed'\">",
    "formula": '=HYPERLINK("http://evil.example","click")',
    "terminal": "\x1b[31mred\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 [bold red]markup[/]",
    "latex": r"\input{/etc/passwd} $x$ % & _ # \end{tabular}",
    "markdown": "| a | b |\n\n# head\n![x](http://evil.example/x.png) `code` <b>bold</b>",
    "bidi": "\u202egnp.exe\u2066",
    "long": "A" * 200_000,
}


@pytest.fixture(scope="module")
def whole_report(whole: tuple[Store, str]) -> Path:
    return write_report(whole[0].root, whole[1]).folder


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = list(HOSTILE.values())
    plan = Plan(
        name="hostile",
        axis="data.template",
        values=("<script>document.title='executed'</script>", "=1+1|`x`_$&%"),
        arms=(ARM,),
        seeds=(0, 1),
        scale=0.1,
        outcomes={(ARM, "=1+1|`x`_$&%", 1): "FAILED"},
        output=lambda item, phase: texts[(len(item) + sum(map(ord, item + phase))) % len(texts)],
    )
    store, folder = build(tmp_path_factory.mktemp("hostile"), plan)
    return write_undrawn(store.root, folder).folder


def test_report_writes_every_promised_file(whole_report: Path) -> None:
    names = {path.name for path in whole_report.iterdir()}
    assert {"trials.parquet", "trials.csv", "samples.parquet", "report.html", "report.md", "table.tex"} <= names
    figures = {path.name for path in (whole_report / "figures").iterdir()}
    for kind in ("front", "axis_num_examples", "forest", "flips", "loss"):
        assert {f"{kind}.pdf", f"{kind}.png", f"{kind}.csv", f"{kind}.txt"} <= figures


def test_report_tables_hold_one_row_per_planned_trial(whole_report: Path) -> None:
    assert len(pd.read_parquet(whole_report / "trials.parquet")) == 18
    assert len(list(csv.DictReader(io.StringIO((whole_report / "trials.csv").read_text())))) == 18


def test_report_says_the_same_number_in_every_format(whole_report: Path) -> None:
    effects = pd.read_csv(whole_report / "effects.csv")
    row = effects[(effects["condition"] == "num_examples=400 (equal_steps)") & (effects["target"] == "learned")].iloc[0]
    shown = f"{row['delta']:+.3f}"
    for name in ("report.html", "report.md", "table.tex", "report.json"):
        assert shown in (whole_report / name).read_text(), name
    front = pd.read_csv(whole_report / "figures" / "front.csv")
    mean = front[(front["kind"] == "mean") & (front["condition"] == row["condition"])].iloc[0]
    assert mean["learned"] == pytest.approx(row["delta"])
    assert (front["kind"] == "seed").sum() == 18


def test_report_names_the_condition_chosen_on_val_in_every_format(tmp_path: Path) -> None:
    choose = {"axis": "data.num_examples", "within": "method", "measure": "learned"}
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25, selection=choose))
    report = write_undrawn(store.root, folder)
    texts = [path.read_text() for path in report.files if path.name in ("report.html", "report.md", "table.tex")]
    # Not "chosen on val items", which the section on learning rates says of its own rule.
    assert [len(re.findall("chosen on val(?! items)", text)) for text in (*texts, report.table)] == [1, 1, 1, 1]


def test_report_of_an_open_choice_says_so_and_of_a_clear_one_nothing(tmp_path: Path) -> None:
    choose = {"axis": "data.num_examples", "within": "method", "measure": "learned"}
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1, selection=choose)
    for name, outcomes, num_told in (("clear", {}, 0), ("open", {(ARM, 25, 1): "FAILED"}, 1)):
        store, folder = build(tmp_path / name, replace(plan, outcomes=outcomes))
        text = (write_undrawn(store.root, folder).folder / "report.md").read_text()
        assert text.count("- open: num\\_examples=25 has trials without a result") == num_told
        assert "best of 2 conditions" not in text


def test_report_unchanged_is_not_written_again_and_a_new_result_is(small: tuple[Store, str]) -> None:
    store, folder = small
    first = write_undrawn(store.root, folder)
    assert first.rebuilt
    stamp = (store.sweep(folder) / "report.html").stat().st_mtime_ns
    again = write_undrawn(store.root, folder)
    assert not again.rebuilt
    assert again.table == first.table
    assert last_report(store.root, folder).paths == first.paths
    assert (store.sweep(folder) / "report.html").stat().st_mtime_ns == stamp
    next(store.root.glob("trials/*/result.json")).unlink()
    changed = write_undrawn(store.root, folder)
    assert changed.rebuilt
    assert "1 PENDING" in changed.table


def test_report_same_records_give_the_same_bytes_and_a_lost_file_comes_back(small: tuple[Store, str]) -> None:
    store, folder = small
    first = {path: path.read_bytes() for path in write_report(store.root, folder).files}
    (store.sweep(folder) / "figures" / "front.pdf").unlink()
    time.sleep(1.1)  # a time stamp in a PDF has seconds
    again = write_report(store.root, folder)
    assert again.rebuilt
    assert [path.name for path, content in first.items() if path.read_bytes() != content] == []


def test_report_unchanged_needs_neither_pandas_nor_matplotlib(whole_report: Path) -> None:
    code = (
        "import sys; from analysis.report import write_report;"
        "report = write_report(sys.argv[1], sys.argv[2]); assert not report.rebuilt;"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'statsmodels', 'transformers') if m in sys.modules])"
    )
    root = whole_report.parents[1]
    command = [sys.executable, "-c", code, root, whole_report.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_every_state_is_a_row_and_a_note(mixed: tuple[Store, str]) -> None:
    store, folder = mixed
    report = write_undrawn(store.root, folder)
    page = (report.folder / "report.html").read_text()
    text = (report.folder / "report.md").read_text()
    trials = pd.read_parquet(report.folder / "trials.parquet")
    assert len(trials) == 9
    for state in ("DIVERGED", "FAILED", "PENDING", "RUNNING"):
        assert state in report.table
        assert state in text
    assert "the micro-batch of 1 needs 9.1 GB" in page
    assert "python -m harness trial 0123" in page
    assert "interrupted at train, step 40 of 150" in page
    assert "one complete seed" in report.table
    assert "1 of 9 trials DIVERGED" in report.table


def test_report_of_nothing_yet_still_comes(tmp_path: Path) -> None:
    outcomes = {(ARM, value, seed): "PENDING" for value in (25, 400) for seed in (0, 1)}
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), outcomes=outcomes))
    report = write_undrawn(store.root, folder)
    assert "4 of 4 planned trials have no result" in report.table
    assert "No figure front: no trial has both measures known" in (report.folder / "report.md").read_text()
    assert re.search(r"! \d\d kinds of figures are not drawn", report.table)
    assert len(pd.read_parquet(report.folder / "trials.parquet")) == 4
    assert not list(report.folder.glob("figures/*.pdf"))


def test_report_of_one_seed_claims_items_only(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0,), scale=0.25))
    report = write_undrawn(store.root, folder)
    assert "the interval covers items only" in report.table
    assert "†" in (report.folder / "report.md").read_text()
    assert r"^{*\dagger}" in (report.folder / "table.tex").read_text()


def test_report_slice_at_floor_is_called_so(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25,), arms=(ARM,), seeds=(0, 1), scale=0.25))
    for path in [*store.root.glob("trials/*/items.parquet"), *store.root.glob("artefacts/before/*/items.parquet")]:
        items = pd.read_parquet(path)
        items.loc[items["metric"] == "exact_match", "value"] = 0.0
        items.to_parquet(path)
    table = write_undrawn(store.root, folder).table
    assert "people/question/exact_match is at floor (0) before and after" in table
    assert "people/cloze/acc is at" not in table


def test_report_unknown_sweep_or_venue_is_one_sentence(whole: tuple[Store, str]) -> None:
    with pytest.raises(BadInputError, match="must be one of lima_size@pocket"):
        write_report(whole[0].root, "lima_sise@pocket")
    with pytest.raises(BadInputError, match=r"VENUE is 'nurips'.*Did you mean 'neurips'"):
        write_figures(whole[0].root, whole[1], "nurips")
    with pytest.raises(BadInputError, match="must have a report"):
        last_report(whole[0].root, "absent@pocket")


def test_figures_for_a_venue_have_its_column_or_say_that_they_cross_both(small: tuple[Store, str]) -> None:
    store, folder = small
    report = write_figures(store.root, folder, "icml")
    for name, inches in (("front", 3.25), ("forest", 6.75)):
        path = next(path for path in report.paths if path.name == f"{name}.pdf")
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", path.read_bytes())
        assert box is not None
        assert float(box.group(1)) == pytest.approx(inches * 72, abs=0.5)
        assert ("across both columns" in path.with_suffix(".txt").read_text()) == (inches > 3.25)


# -- hostile text -----------------------------------------------------------------------------------------------------


def test_hostile_text_page_allows_no_foreign_content(hostile_report: Path) -> None:
    page = (hostile_report / "report.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy.group(1)
    assert "unsafe" not in policy.group(1)
    assert page.count("<script") == 1
    assert "<img src=x" not in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert len(page) < 3_000_000


def test_hostile_text_csv_holds_no_formula(hostile_report: Path) -> None:
    for path in [*hostile_report.glob("*.csv"), *(hostile_report / "figures").glob("*.csv")]:
        for row in csv.reader(io.StringIO(path.read_text())):
            assert not [cell for cell in row if cell.startswith(("=", "+", "@")) and not _is_number(cell)], path.name


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text) is not None


def test_hostile_text_terminal_table_has_no_escape(hostile_report: Path) -> None:
    table = json.loads((hostile_report / "report.json").read_text())["table"]
    assert "\x1b" not in table
    assert "<script>" in table  # shown as text


def test_hostile_text_latex_stays_text(hostile_report: Path) -> None:
    table = (hostile_report / "table.tex").read_text()
    assert r"\textless{}script\textgreater{}" in table
    assert table.count(r"\begin{tabular}") == table.count(r"\end{tabular}") == 1
    assert r"=1+1\textbar{}\textasciigrave{}x\textasciigrave{}\_\$\&\%" in table


@pytest.mark.parametrize("name", list(HOSTILE))
def test_escapes_leave_no_live_character(name: str) -> None:
    shown = visible(HOSTILE[name])
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert len(shown) < 2000
    line = markdown(HOSTILE[name])
    assert "\n" not in line
    assert not re.search(r"(?<!\\)[|`]", line)
    assert "<" not in line
    assert "](" not in line.replace(r"\](", "")
    assert not re.search(r"(?<!\\)[$&%#_]", latex(HOSTILE[name]).replace(r"\textbackslash{}", ""))


def test_csv_guard_leaves_numbers_alone() -> None:
    frame = pd.DataFrame({"text": ["-1+1", "plain", None], "number": [-0.5, 2.0, float("nan")]})
    assert to_csv(frame).decode() == "text,number\n'-1+1,-0.5\nplain,2.0\n,\n"


def test_tick_labels_of_close_values_never_touch() -> None:
    for values, crowded in (((1.5e-4, 5e-4, 9e-4, 1.5e-3, 3e-3, 9e-3), True), ((25, 100, 400), False)):
        axes = Figure(figsize=(2.7, 2)).subplots()
        figures.Scale(pd.Series(values)).apply(axes)
        assert {label.get_rotation() != 0 for label in axes.get_xticklabels()} == {crowded}
