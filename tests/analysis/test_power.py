"""Power before launch against numbers by hand, and against what a sweep of that size then finds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.checks.sweeps import tables
from analysis.power import (
    ASSUMED,
    NOT_POWERED,
    Size,
    Variances,
    churn_of,
    forecast,
    power_lines,
    read_variances,
    variances_of,
)
from analysis.stats import crossed_effect, minimum_detectable_effect
from harness.records.schema import SweepRecord
from harness.records.store import Store
from harness.spec import Claim, Contrast, OptimumRatio, Term
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn

AXIS = "data.num_examples"
NO_ITEMS = tables({(1.0, None, 0): [math.nan]}, before={None: [math.nan]})[1]


def claim(margin: float = 0.05, metric: str = "learned", weight: float = 1.0) -> Claim:
    terms = tuple(Term(metric=metric, at=((AXIS, size),), weight=weight * sign) for size, sign in ((400, 1), (25, -1)))
    part = Contrast(terms=terms, expect="greater", margin=margin)
    return Claim(id="B4", statement="s", source="s", published="p", parts=(part,))


def record(tmp_path: Path, *claims: Claim, seeds: int = 3, worlds: tuple[int, ...] = ()) -> SweepRecord:
    plan = Plan(values=(25, 400), arms=("equal_steps",), seeds=tuple(range(seeds)), worlds=worlds, claims=claims)
    store, folder = build(tmp_path, plan)
    found = store.read(store.sweep(folder) / "sweep.json", SweepRecord)
    assert found is not None
    return found


def test_forecast_by_hand_on_declared_assumptions(tmp_path: Path) -> None:
    planned = record(tmp_path, claim())
    (row,) = forecast(planned)
    num_test = 240 - round(240 * planned.trials[0].spec.evals.val_share)
    items, seeds = 0.2 / num_test, 0.02**2 / 3
    df = (items + seeds) ** 2 / (items**2 / (num_test - 1) + seeds**2 / 2)
    assert row.se == pytest.approx(math.sqrt(items + seeds))
    assert row.mde == pytest.approx(minimum_detectable_effect(row.se, df))
    assert (row.num_items, row.seeds, row.source) == (num_test, (3,), ASSUMED.source)
    assert row.label == NOT_POWERED
    assert forecast(record(tmp_path / "wide", claim(0.3)))[0].label == "powered"


def test_forecast_averages_slices_and_worlds(tmp_path: Path) -> None:
    planned = record(tmp_path, claim(metric="retained"), worlds=(0, 1))
    sizes = {"people/cloze": Size(200, 50), "skills/addition": Size(100, 100)}
    (row,) = forecast(planned, {"retained": Variances(0.3, 0.0, math.nan, "earlier")}, sizes)
    assert row.se**2 == pytest.approx((0.3 / 50 + 0.3 / 100) / 4 / 2)
    assert (row.num_items, row.num_clusters, row.seeds, row.source) == (600, 300, (3, 3), "earlier")


def test_forecast_scales_with_the_weights(tmp_path: Path) -> None:
    one, double = (forecast(record(tmp_path / str(w), claim(weight=w)))[0] for w in (1.0, 2.0))
    assert double.se == pytest.approx(2 * one.se)


def test_forecast_says_what_it_cannot(tmp_path: Path) -> None:
    ratio = OptimumRatio(metric="learned", axis=AXIS, between="method", numerator="a", denominator="b", low=1, high=2)
    optimum = Claim(id="D3", statement="s", source="s", published="p", parts=(ratio,))
    fluency, loss = claim(metric="fluency"), claim(metric="val_loss")
    rows = forecast(record(tmp_path, optimum, fluency, loss))
    assert [row.label for row in rows] == ["no forecast"] * 3
    reasons = ("no forecast for", "is not known", "has no items")
    assert all(reason in row.note for reason, row in zip(reasons, rows, strict=True))
    assert "fewer than 2 seeds" in forecast(record(tmp_path / "one", claim(), seeds=1))[0].note
    assert forecast(record(tmp_path / "none")) == []


def test_forecast_at_what_it_says_is_enough_is_powered_and_at_one_less_is_not(tmp_path: Path) -> None:
    """Through sizes and seeds of real plans, not through the design that the number was computed from."""
    planned, key = record(tmp_path / "three", claim(0.096)), "people/question"
    (row,) = forecast(planned)
    assert row.items_needed is not None
    assert row.seeds_needed is not None
    sized = [forecast(planned, None, {key: Size(n, n)})[0] for n in (row.items_needed, row.items_needed - 1)]
    assert [one.label for one in sized] == ["powered", NOT_POWERED]
    seeded = [
        forecast(record(tmp_path / str(k), claim(0.096), seeds=k))[0] for k in (row.seeds_needed, row.seeds_needed - 1)
    ]
    assert [one.label for one in seeded] == ["powered", NOT_POWERED]
    (line,) = power_lines([row])[:1]
    assert f"enough: {row.items_needed} test items a slice, or {row.seeds_needed} seeds)" in line


def test_forecast_says_where_no_number_is_enough_and_nothing_without_a_margin(tmp_path: Path) -> None:
    noisy = {"learned": Variances(0.2, 0.3, math.nan, "earlier")}
    (row,) = forecast(record(tmp_path / "noisy", claim(0.05)), noisy)
    assert (row.items_needed, row.seeds_needed) == (None, None)
    assert row.both_needed is not None
    assert f"enough: {row.both_needed[0]} seeds and {row.both_needed[1]} test items" in power_lines([row])[0]
    few = {"learned": Variances(0.001, 0.1, math.nan, "earlier")}
    assert "no number of items is" in power_lines(forecast(record(tmp_path / "few", claim(0.05)), few))[0]
    (none,) = forecast(record(tmp_path / "none", claim(0.0)))
    assert (none.items_needed, none.seeds_needed) == (None, None)
    assert "enough" not in power_lines([none])[0]


def test_power_lines_name_the_assumption_once(tmp_path: Path) -> None:
    lines = power_lines(forecast(record(tmp_path, claim(), claim(0.3))))
    assert "not powered as planned" in lines[0]
    assert "margin 0.050" in lines[0]
    assert lines[2:] == [f"variances: {ASSUMED.source}"]
    assert power_lines([]) == []


def test_variances_of_a_simulated_sweep_are_those_it_was_made_with() -> None:
    noise = np.random.default_rng(0)
    item, seeds = noise.normal(0, 0.5, (2000, 1)), noise.normal(0, 0.1, (1, 40))
    effect = crossed_effect(item + seeds + noise.normal(0, 0.3, (2000, 40)))

    changes = pd.DataFrame([{**vars(effect), "target": "learned"}])
    effects = changes.assign(difference=effect.estimate)
    frame, items = tables({(1.0, None, 0): [1.0, 0.0, 1.0, 1.0]}, before={None: [0.0, 0.0, 1.0, 0.0]})
    found = variances_of(effects, churn_of(items))["learned"]
    assert len(frame) == 1
    assert found["item_variance"] == pytest.approx(0.25 + 0.09 / 40, rel=0.1)
    assert found["seed_sd"] == pytest.approx(float(seeds.std(ddof=1)), rel=0.05)  # of 40 seeds, less noise
    assert found["churn"] is None
    of_changes = variances_of(changes, churn_of(items))["learned"]
    assert of_changes["item_variance"] == found["item_variance"]
    assert of_changes["seed_sd"] == pytest.approx(math.sqrt(2) * found["seed_sd"])


def test_variances_of_changes_from_the_base_forecast_a_difference_of_two_conditions(tmp_path: Path) -> None:
    """One model's seeds vary by .1: a difference of two by sqrt(2) x .1, a change from the base by .1."""
    noise = np.random.default_rng(1)
    models = [noise.normal(0, 0.1, (1, 400)) + noise.normal(0, 0.3, (500, 1)) for _ in range(2)]
    changes = pd.DataFrame([{**vars(crossed_effect(models[0])), "target": "learned"}])
    variances = {
        "learned": Variances(0.0, variances_of(changes, churn_of(NO_ITEMS))["learned"]["seed_sd"], math.nan, "earlier")
    }
    between = forecast(record(tmp_path / "two", claim(), seeds=3), variances)[0].se
    assert between == pytest.approx(crossed_effect(models[1] - models[0]).seed_sd / math.sqrt(3), rel=0.1)
    terms = (Term(metric="learned", value="delta", at=((AXIS, 400),)),)
    change = Claim.model_validate(
        claim().model_dump() | {"parts": (claim().parts[0].model_copy(update={"terms": terms}),)}
    )
    from_base = forecast(record(tmp_path / "one", change, seeds=3), variances)[0].se
    assert from_base == pytest.approx(crossed_effect(models[0]).seed_sd / math.sqrt(3), rel=0.05)


def test_variances_go_through_a_report_and_back(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25, 400), seeds=(0, 1, 2), scale=0.25))
    report = write_undrawn(store.root, folder)
    effects = pd.read_csv(report.folder / "effects.csv")
    items = pd.read_parquet(report.folder / "items.parquet")
    path = tmp_path / "variances.json"
    path.write_text(json.dumps(variances_of(effects, churn_of(items), "lima_size@pocket")))
    found = read_variances(path)
    assert found["learned"].source == "lima_size@pocket"
    assert found["learned"].item_variance > 0
    key = "people/question/exact_match"
    own = items[(items["task"] == "question") & (items["metric"] == "exact_match") & (items["split"] == "test")]
    assert found[key].churn == pytest.approx((own["before"] != own["after"]).mean())
    assert isinstance(store, Store)


@pytest.mark.parametrize("content", ["", "[1]", '{"learned": {}}', '{"learned": 3}'])
def test_damaged_variances_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "variances.json"
    assert read_variances(path) == {}
    path.write_text(content)
    assert read_variances(path) == {}
