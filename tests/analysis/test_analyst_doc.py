"""The table of files in docs/analyst.md against the files that reports write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from analysis.report import PACKAGE
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.analysis.test_claims import claim_of
from tests.analysis.undrawn import write_undrawn

TABLE = (Path(__file__).parents[2] / "docs/analyst.md").read_text().split("## Files beside the report")[1]
OF_OTHERS = {"sweep.json", "compare/", "notebook.py", "study.json", "study.db"}
"""What lies beside a report and is not a part of it."""
READ = {"audit.json", "questions.parquet", "result.json", "sweep.json"}
"""What these modules read."""


def documented(table: str) -> dict[str, bool]:
    """Return pattern -> whether it is there in every report."""
    rows = [re.match(r"\| (`.+?`) (\* )?\|", line) for line in table.splitlines()]
    return {
        name.replace("<id>", "*"): row[2] is None
        for row in rows
        if row is not None
        for name in re.findall(r"`([^`]+)`", row[1])
    }


def undocumented(names: Iterable[str], table: str) -> list[str]:
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in in_folders(documented(table)))]


def in_folders(patterns: Iterable[str]) -> list[str]:
    """Return patterns with the folder of the one before where a row leaves it out: `figures/*.pdf`, `*.png`."""
    return [f"figures/{pattern}" if pattern.startswith("*.") else pattern for pattern in patterns]


def test_file_table_has_every_file_of_a_report_and_every_report_has_what_is_always_there(tmp_path: Path) -> None:
    plan = Plan(values=(25, 100, 400), arms=(ARM,), seeds=(0, 1), scale=0.1, audited=True, claims=(claim_of(),))
    nothing = {(ARM, value, 0): "PENDING" for value in (25, 400)}
    empty = Plan(values=(25, 400), arms=(ARM,), seeds=(0,), scale=0.1, outcomes=nothing)
    for place, one in enumerate((plan, empty)):
        store, folder = build(tmp_path / str(place), one)
        report = write_undrawn(store.root, folder)
        names = [str(path.relative_to(report.folder)) for path in report.files]
        assert undocumented(names, TABLE) == []
        always = {name for name, is_always in documented(TABLE).items() if is_always} - OF_OTHERS
        assert {name for name in always if "*" not in name} <= {*names, "report.json"}


def test_file_table_has_every_name_that_a_section_writes_and_no_other() -> None:
    sources = [*(PACKAGE / "sections").glob("*.py"), PACKAGE / "report.py", PACKAGE / "power.py"]
    written = {
        name
        for path in sources
        for name in re.findall(r"\"([\w.]+\.(?:csv|tex|parquet|json|html|md))\"", path.read_text())
    } - READ
    named = {name for name in documented(TABLE) if "*" not in name} - OF_OTHERS
    assert named == written


def test_file_table_without_a_row_is_caught() -> None:
    broken = "\n".join(line for line in TABLE.splitlines() if "tax.csv" not in line)
    assert undocumented(["tax.csv", "tax_slices.csv", "figures/front.pdf", "claims/B4.tex"], broken) == [
        "tax.csv",
        "tax_slices.csv",
    ]
