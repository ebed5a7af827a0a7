"""Bad input: the report of whatever a sweep left comes in every format, says what is missing, executes nothing."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from analysis.escape import guard_cell, latex
from analysis.report import Report
from harness.records.store import Store
from tests.analysis.conftest import ARM, MIXED
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn
from tests.presence import program

ATTACK = (
    "<script>document.title='executed'</script>"
    '<img src="http://evil.example/x.png" onerror="document.title=\'executed\'">'
)
TEXTS = (
    ATTACK,
    '=HYPERLINK("http://evil.example","click")',
    " +cmd|' /C calc'!A0",
    "\x1b[31mred\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 [bold red]markup[/]",
    r"\input{/etc/passwd} $x$ % & _ # ~ ^ \end{tabular} -- ?` [4pt] *",
    "| a | b |\n\n# head\n![x](http://evil.example/x.png) `code` <b>bold</b>",
    "\u202egnp.exe\u2066 \u200b\u2028 \U0001f600 中文 é ñ ß Łódź",
    "</pre></details></section></main><style>*{display:none}</style>",
)
SIZES = {"values": (25, 400), "arms": (ARM,), "seeds": (0, 1), "scale": 0.1}
FORMATS = ("html", "md", "tex", "csv", "terminal")


def hostile_plan() -> Plan:
    """Return a sweep whose axis values, answers and failures are attacks."""
    return Plan(
        name="hostile",
        axis="data.template",
        values=("<script>document.title='executed'</script>", "=1+1|`x`_$&%", "[4pt]*\\\\\x1b[31m"),
        arms=(ARM,),
        seeds=(0, 1),
        scale=0.1,
        outcomes={(ARM, "=1+1|`x`_$&%", 1): "FAILED"},
        output=lambda item, phase: TEXTS[sum(map(ord, item + phase)) % len(TEXTS)],
        questions=True,
        audited=True,
    )


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _items(store: Store, which: str = "**") -> list[Path]:
    return sorted(store.root.glob(f"{which}/items.parquet"))


def _scores_at(value: float) -> Callable[[Store], None]:
    def change(store: Store) -> None:
        for path in _items(store):
            items = pd.read_parquet(path)
            items.loc[items["metric"] == "exact_match", "value"] = value
            items.to_parquet(path)

    return change


def _no_common_items(store: Store) -> None:
    for path in _items(store, "trials/*"):
        items = pd.read_parquet(path)
        items.assign(item_id="other-" + items["item_id"]).to_parquet(path)


def _nan_scores(store: Store) -> None:
    for path in _items(store, "trials/*"):
        items = pd.read_parquet(path)
        items.loc[items["task"] == "question", ["value", "reason"]] = [float("nan"), "no answer was cut out"]
        items.to_parquet(path)
    for path in store.root.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        for split in ("test", "val"):
            score = result["after"][split]["people/question/exact_match"]
            score |= {"value": None, "num_items": 0, "reason": "no answer was cut out"}
        path.write_text(json.dumps(result))


def _damaged(store: Store) -> None:
    folders = sorted(store.root.glob("trials/*"))
    (folders[0] / "result.json").write_bytes(b'{"trial_id": "\xff\xfe torn')
    (folders[1] / "items.parquet").write_bytes(b"PAR1 torn")
    (folders[2] / "metrics.jsonl").write_bytes(b"\xff\xfe{torn\n")
    (folders[2] / "samples.jsonl").write_bytes(b"[1, 2\n")
    (folders[3] / "items.parquet").unlink()


def _nothing(store: Store) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """One bad input and what every text format must say of it."""

    plan: Plan
    said: tuple[str, ...]
    """What report.html, report.md and the terminal say, in this wording."""
    break_it: Callable[[Store], None] = _nothing
    unknown: tuple[str, ...] = ()
    """Targets in effects.csv of which no difference may be given."""


CASES = {
    "missing": Case(MIXED, ("DIVERGED", "FAILED", "PENDING", "RUNNING")),
    "one_seed": Case(Plan(**SIZES | {"seeds": (0,)}), ("covers items only",)),
    "no_common_items": Case(Plan(**SIZES), ("without items that are scored before and after",), _no_common_items),
    "floor": Case(Plan(**SIZES), ("is at floor (0) before and after",), _scores_at(0.0)),
    "ceiling": Case(Plan(**SIZES), ("is at ceiling (1) before and after",), _scores_at(1.0)),
    "nan": Case(Plan(**SIZES), ("no answer was cut out",), _nan_scores, ("people/question/exact_match", "learned")),
    "hostile": Case(hostile_plan(), ("FAILED",)),
    "endless": Case(Plan(**SIZES, output=lambda item, phase: "A" * 10_000_000 if item[-2:] == "00" else "short"), ()),
    "damaged": Case(Plan(**SIZES), ("1 FAILED", "without a readable items file"), _damaged),
}


@cache
def _made(folder: Path, name: str) -> tuple[Report, float]:
    case = CASES[name]
    store, sweep = build(folder / name, case.plan)
    case.break_it(store)
    start = time.process_time()
    return write_undrawn(store.root, sweep), time.process_time() - start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


def _text(report: Report, form: str) -> str:
    """Return what one format says, as a reader sees it."""
    if form == "terminal":
        return report.table
    name = {"html": "report.html", "md": "report.md", "tex": "table.tex", "csv": "trials.csv"}[form]
    text = (report.folder / name).read_text()
    return html.unescape(text) if form == "html" else text


# -- every case in every format ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", list(CASES))
def test_report_of_bad_input_comes_says_what_is_missing_and_hides_no_row(name: str, form: str, folder: Path) -> None:
    report, _ = _made(folder, name)
    case, text = CASES[name], _text(report, form)
    frame = pd.read_parquet(report.folder / "trials.parquet")
    assert len(frame) == len(case.plan.values) * len(case.plan.arms) * len(case.plan.seeds)
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["trial_id"] for row in rows] == list(frame["trial_id"])
        assert [row["state"] for row in rows] == list(frame["state"])
        return
    if form in ("html", "md", "terminal"):
        plain = re.sub(r"\\(.)", r"\1", text)
        assert [phrase for phrase in case.said if phrase not in plain] == []
    for value in case.plan.values:
        # Of hostile values the letters that every format keeps.
        shown = {"<": "document.title", "=": "1+1", "[": "4pt"}.get(str(value)[0], str(value))
        assert shown in text, (name, form)
    complete = frame.groupby("condition", sort=False)["state"].agg(lambda states: (states == "COMPLETE").sum())
    planned = frame.groupby("condition", sort=False).size()
    for condition in planned.index:
        assert f"{complete[condition]}/{planned[condition]}" in text


@pytest.mark.parametrize("name", list(CASES))
def test_report_of_bad_input_is_bounded_in_time_and_size(name: str, folder: Path) -> None:
    report, seconds = _made(folder, name)
    assert seconds < 60  # of CPU, without drawing; about 2 here
    for path in report.files:
        if path.name not in ("samples.parquet", "items.parquet"):  # these keep whole texts, compressed
            assert path.stat().st_size < 2_000_000, path.name
    assert len(report.table) < 20_000


@pytest.mark.parametrize("name", list(CASES))
def test_report_of_bad_input_invents_no_number(name: str, folder: Path) -> None:
    report, _ = _made(folder, name)
    effects = pd.read_csv(report.folder / "effects.csv")
    frame = pd.read_parquet(report.folder / "trials.parquet")
    done = set(frame.loc[frame["state"] == "COMPLETE", "condition"])
    known = effects[effects["delta"].notna()]
    assert set(known["condition"]) <= done
    assert not known["target"].isin(CASES[name].unknown).any()
    assert (known["low"].isna() | (known["low"] <= known["delta"] + 1e-9)).all()
    assert frame.loc[frame["state"] != "COMPLETE", "delta/learned"].isna().all()


def test_report_of_unreadable_records_names_each_and_keeps_the_means(folder: Path) -> None:
    report, _ = _made(folder, "damaged")
    frame = pd.read_parquet(report.folder / "trials.parquet")
    assert sorted(frame["state"]) == ["COMPLETE"] * 3 + ["FAILED"]
    assert frame.loc[frame["state"] == "COMPLETE", "delta/learned"].notna().all()
    assert "2 COMPLETE trials without a readable items file" in report.table
    for form in ("html", "md"):
        assert "damaged record" in _text(report, form)
    assert pd.read_parquet(report.folder / "items.parquet")["trial_id"].nunique() == 1


# -- nothing executes -------------------------------------------------------------------------------------------------


def test_spreadsheets_get_no_formula_from_any_csv(folder: Path) -> None:
    report, _ = _made(folder, "hostile")
    paths = [path for path in report.files if path.suffix == ".csv"]
    assert len(paths) > 10
    guarded = 0
    csv.field_size_limit(10**7)
    for path in paths:
        for row in csv.reader(io.StringIO(path.read_text(), newline="")):
            assert [cell for cell in row if _is_formula(cell)] == [], path.name
            guarded += sum(cell.startswith("'") for cell in row)
    assert guarded > 0


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet would take a cell for a formula: numbers with a sign are none."""
    text = cell.lstrip(" \t\r\n\ufeff")
    return text[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") and not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?|-inf", text)


@pytest.mark.parametrize("text", ["=1", " =1", "\ufeff=1", "\uff1d1", "-1+1", "\t1", "@x", "\x00=1", "\n+1"])
def test_guard_puts_an_apostrophe_before_every_start_of_a_formula(text: str) -> None:
    assert guard_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a=1", "1-2", "", "x@y"])
def test_guard_leaves_other_text_alone(text: str) -> None:
    assert guard_cell(text) == text


@pytest.mark.parametrize("name", ["hostile", "endless"])
def test_terminal_text_has_no_control_character(name: str, folder: Path) -> None:
    table = _made(folder, name)[0].table
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", table) == []


def test_markdown_has_no_live_markup_of_a_model(folder: Path) -> None:
    text = _text(_made(folder, "hostile")[0], "md")
    assert "<script" not in text
    assert "<img" not in text
    assert re.findall(r"(?<!\\)\]\((?!figures/)", text) == []
    assert "\u202e" not in text
    assert re.findall(r"https?://evil", text) == []


# -- LaTeX ------------------------------------------------------------------------------------------------------------


def _compile(body: str, place: Path) -> subprocess.CompletedProcess[str]:
    source = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (place / "page.tex").write_text(source)
    command = [program("pdflatex"), "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, errors="replace", check=False)


def test_latex_text_is_ascii_and_loses_no_letter() -> None:
    assert latex("é ç ő ß") == r"\'{e} \c{c} \H{o} \ss{}"
    assert latex("中\U0001f600") == "{[}U+4E2D]{[}U+1F600]"
    assert latex("[4pt]*--") == "{[}4pt]{*}{-}{-}"
    assert all(latex(chr(code)).isascii() for code in range(0x20, 0x3000))
    assert all(latex(chr(code)) for code in range(0x20, 0x3000))


@pytest.mark.parametrize("name", list(CASES))
def test_latex_tables_compile(name: str, folder: Path, tmp_path: Path) -> None:
    report, _ = _made(folder, name)
    tables = [path for path in report.files if path.suffix == ".tex"]
    texts = [path.read_text() for path in tables]
    assert [path.name for path, text in zip(tables, texts, strict=True) if not text.isascii()] == []
    done = _compile("\n\n".join(texts), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_check_catches_what_pdflatex_cannot_take(tmp_path: Path) -> None:
    letters = [chr(code) for code in range(0x20, 0x2600)]
    assert _compile(latex("".join(letters), limit=100_000), tmp_path).returncode == 0
    assert _compile("中", tmp_path).returncode != 0
    assert _compile(r"\begin{tabular}{l}a\\ [x] \end{tabular}", tmp_path).returncode != 0
    assert _compile(rf"\begin{{tabular}}{{l}}a\\ {latex('[x]')} \end{{tabular}}", tmp_path).returncode == 0
