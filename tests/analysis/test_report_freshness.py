"""A report is written again when what it says may have changed, and leaves nothing behind that it no longer says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn

SIZES = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1)
RATES = Plan(name="learning_rate", axis="train.learning_rate", values=(1e-4, 3e-4), arms=(ARM,), seeds=(0,), scale=0.1)


@pytest.mark.parametrize(("base", "is_written"), [("pocket", True), ("another", False)])
def test_report_is_written_again_after_another_sweep_on_its_base_alone(
    tmp_path: Path, base: str, is_written: bool
) -> None:
    store, folder = build(tmp_path, SIZES)
    build(tmp_path, Plan(**{**vars(RATES), "base": base}))
    assert write_undrawn(store.root, folder).rebuilt
    assert not write_undrawn(store.root, folder).rebuilt
    trial = next(path for path in store.root.glob("trials/*/spec.json") if "0.0003" in path.read_text())
    (trial.parent / "result.json").unlink()
    assert write_undrawn(store.root, folder).rebuilt is is_written


def test_report_bears_a_damaged_plan_of_another_sweep(tmp_path: Path) -> None:
    store, folder = build(tmp_path, SIZES)
    damaged = store.sweep("broken@pocket") / "sweep.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"trials": [{"trial')
    assert write_undrawn(store.root, folder).rebuilt
    assert not write_undrawn(store.root, folder).rebuilt


def test_report_of_fewer_results_leaves_no_file_of_the_last_one(tmp_path: Path) -> None:
    store, folder = build(tmp_path, SIZES)
    first = set(write_undrawn(store.root, folder).files)
    own = store.sweep(folder) / "figures" / "mine.pdf"
    own.write_bytes(b"%PDF")
    for path in store.root.glob("trials/*/result.json"):
        path.unlink()
    second = write_undrawn(store.root, folder)
    there = {path for path in second.folder.rglob("*") if path.is_file()}
    assert there - set(second.files) == {own, second.folder / "sweep.json", second.folder / "report.json"}
    gone = {str(path.relative_to(second.folder)) for path in first - set(second.files)}
    assert {"seed_spread.csv", "tradeoff_series.csv", "figures/forest.pdf"} <= gone


def test_report_removes_nothing_outside_its_folder(tmp_path: Path) -> None:
    store, folder = build(tmp_path, SIZES)
    stamp = write_undrawn(store.root, folder).folder / "report.json"
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("mine")
    content = json.loads(stamp.read_text())
    names = [str(elsewhere), f"../../{elsewhere.name}"]
    stamp.write_text(json.dumps(content | {"inputs": "old", "files": content["files"] + names}))
    assert write_undrawn(store.root, folder).rebuilt
    assert elsewhere.is_file()
