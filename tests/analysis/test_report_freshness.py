"""A report is written again when what another sweep on its base found may change what it says of optima."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.report import write_report
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build

SIZES = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1)
RATES = Plan(name="learning_rate", axis="train.learning_rate", values=(1e-4, 3e-4), arms=(ARM,), seeds=(0,), scale=0.1)


@pytest.mark.parametrize(("base", "is_written"), [("pocket", True), ("another", False)])
def test_report_is_written_again_after_another_sweep_on_its_base_alone(
    tmp_path: Path, base: str, is_written: bool
) -> None:
    store, folder = build(tmp_path, SIZES)
    build(tmp_path, Plan(**{**vars(RATES), "base": base}))
    assert write_report(store.root, folder).rebuilt
    assert not write_report(store.root, folder).rebuilt
    trial = next(path for path in store.root.glob("trials/*/spec.json") if "0.0003" in path.read_text())
    (trial.parent / "result.json").unlink()
    assert write_report(store.root, folder).rebuilt is is_written


def test_report_bears_a_damaged_plan_of_another_sweep(tmp_path: Path) -> None:
    store, folder = build(tmp_path, SIZES)
    damaged = store.sweep("broken@pocket") / "sweep.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"trials": [{"trial')
    assert write_report(store.root, folder).rebuilt
    assert not write_report(store.root, folder).rebuilt
