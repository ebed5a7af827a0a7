"""What a plan says it could see: sizes read from the items, variances of earlier reports, assumptions said as such."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from analysis import report
from analysis.context import Context
from analysis.opened import open_sweep
from analysis.power import ASSUMED, NOT_POWERED, read_variances
from analysis.stats import minimum_detectable_effect
from harness.engine import catalog, powered
from harness.engine.plan import Plan, make_plan
from harness.engine.resolve import Request
from harness.evals.items import select
from harness.spec import Claim, Contrast
from tests.analysis import synthetic
from tests.analysis.synthetic import build
from tests.pocket.tiny import tiny_experiment

SMALL = {"seed": [0, 1, 2], "data.num_examples": [8, 16]}
VARIANCES = {"item_variance": 0.3, "seed_sd": 0.0, "churn": None}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every base mean the tiny experiment."""
    experiment = tiny_experiment()
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)


def planned(root: Path, **setting: object) -> Plan:
    return make_plan(Request(name="lima_size", set=json.dumps(SMALL | setting), out=root))


def left_behind(root: Path, folder: str, base: str, **variances: object) -> None:
    """Write what an earlier report leaves."""
    place = root / "sweeps" / folder
    place.mkdir(parents=True)
    (place / "sweep.json").write_text(json.dumps({"base": base}))
    content = {"retained": VARIANCES | {"source": f"the report of {folder}"} | variances}
    (place / "variances.json").write_text(json.dumps(content))


def retained(plan: Plan) -> tuple[powered.PowerRow, int, int]:
    """Return the forecast of one measure, and its test items and clusters counted here."""
    (row,) = [row for row in powered.of_plan(plan).measures if row.claim == "retained"]
    spec = plan.record.trials[0].spec
    (key,) = plan.record.measures["retained"]
    (chosen,) = [select(task, spec.evals) for task in spec.evals.tasks if task.key == key]
    test = [item for item, split in zip(chosen.items, chosen.splits, strict=True) if split == "test"]
    return row, len(test), len({item["cluster"] for item in test})


def test_power_of_a_measure_is_that_of_its_items_as_they_are_read(tmp_path: Path) -> None:
    row, num_items, num_clusters = retained(planned(tmp_path))
    assert (row.num_items, row.num_clusters, row.seeds) == (num_items, num_clusters, (3,))
    of_items, of_seeds = ASSUMED.churn / num_clusters, ASSUMED.seed_sd**2 / 3
    df = (of_items + of_seeds) ** 2 / (of_items**2 / (num_clusters - 1) + of_seeds**2 / 2)
    assert row.mde == pytest.approx(minimum_detectable_effect(math.sqrt(of_items + of_seeds), df))
    assert math.isnan(row.margin)
    lines = powered.of_plan(planned(tmp_path)).lines()
    assert lines[-1] == f"variances: {ASSUMED.source}"
    assert f"detectable from {row.mde:.3f} on" in next(line for line in lines if line.startswith("retained"))


def test_power_takes_variances_of_an_earlier_report_on_the_same_base_alone(tmp_path: Path) -> None:
    left_behind(tmp_path, "epochs@other", "other", seed_sd=0.9)
    assert retained(planned(tmp_path))[0].source == ASSUMED.source
    left_behind(tmp_path, "epochs@tiny", "tiny")
    (tmp_path / "sweeps/torn@tiny").mkdir()
    (tmp_path / "sweeps/torn@tiny/variances.json").write_text("{")
    row, _, num_clusters = retained(planned(tmp_path))
    assert row.source == "the report of epochs@tiny"
    assert row.se == pytest.approx(math.sqrt(0.3 / num_clusters))


def test_power_takes_the_plans_own_report_first(tmp_path: Path) -> None:
    own = planned(tmp_path)
    left_behind(tmp_path, own.folder.name, "tiny")
    left_behind(tmp_path, "newer@tiny", "tiny", seed_sd=0.9)
    assert retained(own)[0].source == f"the report of {own.folder.name}"


def test_power_of_one_condition_is_against_the_base(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    first = plan.record.trials[0].condition_id
    record = plan.record.model_copy(
        update={"trials": tuple(t for t in plan.record.trials if t.condition_id == first and t.arm == "equal_epochs")}
    )
    rows = powered.of_plan(dataclasses.replace(plan, record=record)).measures
    assert {row.part for row in rows} == {powered.FROM_THE_BASE}


def test_power_of_a_claim_with_a_small_margin_is_not_powered(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    part = Contrast(terms=powered._terms(plan.record, "retained"), expect="equal", margin=0.01)
    claim = Claim(id="X1", statement="s", source="s", published="p", parts=(part,))
    found = powered.of_plan(dataclasses.replace(plan, record=plan.record.model_copy(update={"claims": (claim,)})))
    assert [row.label for row in found.claims] == [NOT_POWERED]
    assert found.as_json()["claims"][0]["label"] == NOT_POWERED
    assert any(line.startswith("X1: ") and NOT_POWERED in line for line in found.lines())


def test_power_of_a_study_or_of_one_seed_says_nothing_it_does_not_know(tmp_path: Path) -> None:
    assert powered.of_plan(make_plan(Request(name="tune", out=tmp_path))).lines() == []
    rows = powered.of_plan(planned(tmp_path, seed=[0])).measures
    assert all(math.isnan(row.mde) and "fewer than 2 seeds" in row.note for row in rows)
    assert all("no forecast" in line for line in powered.of_plan(planned(tmp_path, seed=[0])).lines())


def test_variances_of_a_report_are_those_between_its_conditions(tmp_path: Path) -> None:
    store, folder = build(tmp_path, synthetic.Plan(values=(25, 400), arms=("equal_epochs",), scale=0.2))
    context = Context(open_sweep(store, folder))
    (tmp_path / "variances.json").write_bytes(report._variances(context))
    found = read_variances(tmp_path / "variances.json")
    row = context.contrasts.set_index("target").loc["learned"]
    assert found["learned"].item_variance == pytest.approx(row["se_items"] ** 2 * row["num_clusters"])
    assert found["learned"].source == "the report of lima_size@pocket"
    assert "people/question/exact_match" in found  # of a slice, only the difference from the base is in a report
    assert 0 < found["people/question/exact_match"].churn < 1
