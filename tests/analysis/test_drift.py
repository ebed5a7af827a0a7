from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import claims, drift, fits, load_drift, load_sweep
from analysis.context import Context
from analysis.figure_kinds import kl_forgetting, positions, write
from analysis.opened import OpenedSweep, open_sweep
from analysis.sections import drift as section
from analysis.stats import seeds_effect
from harness.records.store import Store
from harness.spec import Claim, Line, Quantity
from harness.spec.claim import drift_names, metric_keys
from tests.analysis import synthetic

PLAN = synthetic.Plan(values=(25, 100, 400), arms=("equal_epochs",), outcomes={("equal_epochs", 400, 2): "DIVERGED"})
KL = "base_answers/kl_base_tuned"


def divergence(level: int, seed: int) -> float:
    """Return a made-up divergence that grows with the level."""
    return 0.1 * (level + 1) + 0.01 * seed


@pytest.fixture
def sweep(tmp_path: Path) -> OpenedSweep:
    return with_panels(tmp_path, PLAN)


def with_panels(root: Path, plan: synthetic.Plan) -> OpenedSweep:
    """Return a sweep whose every trial that is COMPLETE has a drift panel."""
    store, folder = synthetic.build(root, plan)
    for trial in open_sweep(store, folder).trials:
        if trial.state == "COMPLETE":
            level = plan.values.index(trial.planned.axes["data.num_examples"])
            put_panel(store, trial.planned.trial_id, divergence(level, trial.planned.seed))
    return open_sweep(store, folder)


def put_panel(store: Store, trial_id: str, value: float) -> None:
    """Add a drift panel to a record."""
    path = store.trial(trial_id) / "result.json"
    record = json.loads(path.read_text())
    values = {KL: value, "neutral/argmax_loss": 2 * value, "neutral/kl_base_tuned": None}
    record["drift"] = {"values": values, "reasons": {"neutral/kl_base_tuned": "the model's output is not finite"}}
    path.write_text(json.dumps(record))
    rows = [
        {
            "text_set": "base_answers",
            "item_id": f"row-{item}",
            "position": place,
            "metric": metric,
            "value": value / place,
        }
        for item in range(6)
        for place in (range(1, 9) if item < 5 else range(1, 4))
        for metric in ("kl_base_tuned", "entropy_tuned")
    ]
    rows.append({"text_set": "weights", "item_id": "layer", "position": None, "metric": "stable_rank", "value": 2.0})
    pd.DataFrame(rows).astype({"position": "Int32"}).to_parquet(store.trial(trial_id) / "drift.parquet")


def test_load_sweep_has_the_means_and_says_why_one_is_unknown(sweep: OpenedSweep) -> None:
    frame = load_sweep(PLAN.name, out=sweep.store.root)
    seeds = frame[frame["axis.data.num_examples"] == 100].set_index("seed")
    assert seeds["drift/" + KL].to_dict() == {seed: pytest.approx(divergence(1, seed)) for seed in (0, 1, 2)}
    missing = [json.loads(text) for text in frame["missing"]]
    assert {reasons["drift/neutral/kl_base_tuned"] for reasons in missing[:3]} == {"the model's output is not finite"}
    diverged = frame[frame["state"] == "DIVERGED"].iloc[0]
    assert math.isnan(diverged["drift/" + KL])
    assert "nan at step 31" in json.loads(diverged["missing"])["drift/" + KL]


def test_load_drift_has_a_row_for_each_number_of_each_trial_with_a_panel(sweep: OpenedSweep) -> None:
    rows = load_drift(PLAN.name, out=sweep.store.root)
    assert rows["trial_id"].nunique() == 8
    assert len(rows) == 8 * (2 * (5 * 8 + 3) + 1)
    assert rows[rows["text_set"] == "weights"]["position"].isna().all()


def test_load_drift_damaged_and_missing_files_cost_their_own_rows_alone(sweep: OpenedSweep) -> None:
    first, second = [trial for trial in sweep.trials if trial.state == "COMPLETE"][:2]
    (first.folder / "drift.parquet").write_bytes(b"torn")
    (second.folder / "drift.parquet").unlink()
    assert load_drift(PLAN.name, out=sweep.store.root)["trial_id"].nunique() == 6


def test_drift_table_interval_is_that_over_the_known_seeds(sweep: OpenedSweep) -> None:
    table = drift.drift_table(Context(sweep).frame, [KL]).set_index("condition")
    last = table.iloc[-1]
    expected = seeds_effect([divergence(2, 0), divergence(2, 1)])
    assert (last["estimate"], last["low"], last["high"]) == pytest.approx(
        (expected.estimate, expected.low, expected.high)
    )
    assert (last["num_seeds"], last["num_unknown"]) == (2, 1)
    assert last["note"] == "1 of 3 replicates have no value and are left out"


def test_section_says_why_there_is_none_without_a_panel(tmp_path: Path) -> None:
    store, folder = synthetic.build(tmp_path, PLAN)
    context = Context(open_sweep(store, folder))
    assert section.compute(context) == drift.NO_PANEL
    assert kl_forgetting.points(context) == drift.NO_PANEL
    assert positions.points(context) == drift.NO_PANEL
    assert not [column for column in context.frame if str(column).startswith("drift/")]


def test_section_shows_every_condition_and_why_a_mean_is_unknown(sweep: OpenedSweep) -> None:
    made = section.compute(Context(sweep))
    assert not isinstance(made, str)
    first = made.content["tables"][0]
    assert len(first["rows"]) == 3
    assert first["rows"][0]["cells"][0]["estimate"] == pytest.approx(0.11)
    assert any("8 trials" in note for note in made.content["unknown"])
    assert section.files(made)["drift.csv"].startswith(b"condition,arm,name,estimate")


def test_kl_forgetting_line_is_scipys_over_all_trials(sweep: OpenedSweep) -> None:
    context = Context(sweep)
    (figure,) = kl_forgetting.points(context)
    rows = figure.points[figure.points["drift"] == KL]
    known = context.frame[context.frame["drift/" + KL].notna()]
    fit = scipy.stats.linregress(known["drift/" + KL], -known["delta/retained"])
    assert len(rows) == 8
    assert rows["r2"].iloc[0] == pytest.approx(fit.rvalue**2)
    assert rows["slope"].iloc[0] == pytest.approx(fit.slope)
    assert f"R² = {fit.rvalue**2:.2f} over 8 trials" in figure.caption


def test_line_r2_interval_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truth .8: slope 2 over levels of variance 2/3, noise of variance 2/3; percentiles of resamples hold it in 44."""
    monkeypatch.setattr(fits, "NUM_RESAMPLES", 20)  # those of the slope take time and are not looked at
    held = 0
    for number in range(60):
        seed, x = np.repeat(np.arange(5), 3), np.tile([0.0, 1.0, 2.0], 5)
        y = 2.0 * x + np.random.default_rng(number).normal(0, math.sqrt(2 / 3), 15)
        found = kl_forgetting.line(
            pd.DataFrame({"x": x, "y": y, "seed": seed, "world": pd.array([pd.NA] * 15, "Int64")})
        )
        held += found["r2_low"] <= 0.8 <= found["r2_high"]
    assert held >= 53  # of 60; 57 are expected, sd 1.7


def test_line_where_nothing_varies_is_unknown_and_says_so() -> None:
    table = pd.DataFrame(
        {"x": [1.0] * 3, "y": [1.0, 2.0, 3.0], "seed": [0, 1, 2], "world": pd.array([pd.NA] * 3, "Int64")}
    )
    found = kl_forgetting.line(table)
    assert math.isnan(found["r2"])
    assert found["note"] == "x or y does not vary"


def test_positions_reached_by_few_answers_are_left_out(sweep: OpenedSweep) -> None:
    (figure,) = positions.points(Context(sweep))
    assert set(figure.points["position"]) == set(range(1, 9))
    rows = figure.points[figure.points["panel"].str.startswith("KL")]
    first = rows[(rows["position"] == 1)].set_index("condition")["value"]
    assert sorted(first) == pytest.approx([0.11, 0.21, 0.305])
    assert rows[rows["position"] == 8]["num_answers"].tolist() == [15, 15, 10]
    assert rows[rows["position"] == 2]["num_answers"].tolist() == [18, 18, 12]


def test_figures_are_drawn(sweep: OpenedSweep, tmp_path: Path) -> None:
    context = Context(sweep)
    made = [*kl_forgetting.points(context), *positions.points(context)]
    files = write(made, tmp_path / "figures")
    assert {path.name for path in files if path.suffix == ".pdf"} == {"kl_forgetting.pdf", "positions.pdf"}


def test_claim_about_drift_is_decided_from_the_panels(tmp_path: Path) -> None:
    part = Line(
        x=Quantity(metric="drift/" + KL), y=Quantity(metric="retained", value="delta"), min_r2=0.5, slope="negative"
    )
    claim = Claim(id="E7", statement="it predicts", source="a paper", published="R2 .96", parts=(part,))
    plan = replace(PLAN, seeds=range(6), outcomes={}, scale=0.3)
    context = Context(with_panels(tmp_path, plan))
    (verdict,) = claims.decide((claim,), context.frame, context.items, context.primary_keys)
    known = context.frame
    fit = scipy.stats.linregress(known["drift/" + KL], known["delta/retained"])
    assert verdict.parts[0].estimate == pytest.approx(fit.rvalue**2)
    assert verdict.parts[0].slope == pytest.approx(fit.slope)
    assert metric_keys((claim,)) == frozenset()
    assert drift_names((claim,)) == (KL,)


def test_claim_about_drift_that_nothing_measured_is_open_and_has_its_column(tmp_path: Path) -> None:
    quantity = Quantity(metric="drift/" + KL)
    part = Line(x=quantity, y=Quantity(metric="retained", value="delta"), min_r2=0.5, slope="negative")
    claim = Claim(id="E7", statement="it predicts", source="a paper", published="R2 .96", parts=(part,))
    store, folder = synthetic.build(tmp_path, replace(PLAN, claims=(claim,)))
    context = Context(open_sweep(store, folder))
    assert context.frame["drift/" + KL].isna().all()
    assert json.loads(context.frame["missing"].iloc[0])["drift/" + KL] == "probes.drift is off"
    assert context.verdicts[0].verdict == "undecided"


def test_quantity_of_drift_has_no_delta() -> None:
    with pytest.raises(ValueError, match="must be 'after' for drift/neutral/argmax_loss"):
        Quantity(metric="drift/neutral/argmax_loss", value="delta")
