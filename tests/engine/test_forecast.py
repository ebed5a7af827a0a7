"""What a plan promises about time, from what was measured before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.engine import forecast, launch, measurement, measuring
from harness.records.schema import TrialResult
from harness.records.store import Store, append_line
from harness.spec import Runtime, TrialSpec
from tests.engine.inline import inline
from tests.engine.stub import run_stub
from tests.engine.stub_launch import RUNTIME
from tests.engine.trials import of_spec, planned
from tests.specs import pinned_spec


def measure(store: Store, **row: float) -> None:
    """Add a measurement of the pinned spec's shape: 10 steps in 5 of 8 seconds, unless told otherwise."""
    path = store.root / "probes" / f"{measurement.shape(pinned_spec())}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = {"num_steps": 10, "num_tokens": 1000, "seconds_train": 5.0, "seconds_total": 8.0}
    append_line(path, measured | {"memory_bytes": 2**30, "disk_bytes": 500} | row)


def test_forecast_scales_with_steps_and_keeps_the_rest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    measure(store)
    longer = pinned_spec().replace({"train.num_epochs": None, "train.num_steps": 40})
    cost = forecast.Forecast(store).of(longer)
    assert (cost.num_steps, cost.num_tokens, cost.seconds) == (40, 4000, pytest.approx(0.5 * 40 + 3.0))
    assert (cost.memory_bytes, cost.disk_bytes) == (2**30, 500)


def test_forecast_is_a_median_so_that_one_slow_trial_does_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seconds in (5.0, 5.0, 500.0):
        measure(store, seconds_train=seconds, seconds_total=seconds + 3.0)
    assert forecast.Forecast(store).of(pinned_spec()).seconds == pytest.approx(0.5 * 19 + 3.0)


def test_forecast_counts_what_a_short_trial_paid_once_as_its_rest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    # Five steps of 0.1 s in 2 s of training: the first step and the validation took the rest.
    measure(store, num_steps=5, num_tokens=500, seconds_per_step=0.1, seconds_train=2.0, seconds_total=6.0)
    longer = pinned_spec().replace({"train.num_epochs": None, "train.num_steps": 75})
    assert forecast.Forecast(store).of(longer).seconds == pytest.approx(0.1 * 75 + 5.5)


def test_forecast_step_is_the_median_of_those_after_the_first(tmp_path: Path) -> None:
    store, how = Store(tmp_path), launch.Options(1, run=logs_steps, prepare=False, executor=inline)
    launch.launch(store, planned(1), RUNTIME, how)
    # The stub says 2 steps in .1 of .2 seconds, of which each step after the first took .01.
    assert forecast.Forecast(store).of(planned(2)[1].spec).seconds == pytest.approx(0.01 * 19 + 0.18)


def logs_steps(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """Run the stub, then log a validation, a slow first step and three quick ones."""
    finished = run_stub(spec, store, runtime, command, report)
    seconds = (None, 5.0, 0.01, 0.01, 0.02)
    rows = ({"step": step} | ({} if value is None else {"seconds": value}) for step, value in enumerate(seconds))
    (store.trial(finished.trial_id) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return finished


def test_forecast_shape_is_what_decides_cost() -> None:
    spec = pinned_spec()
    same = {"seed": 5, "train.learning_rate": 1.0, "method.rank": 2, "data.num_examples": 7, "train.num_epochs": 9}
    for field, value in same.items():
        assert measurement.shape(spec.replace({field: value})) == measurement.shape(spec)
    for field, value in {"train.batch_size": 3, "data.max_length": 64, "evals.items_seed": 9}.items():
        assert measurement.shape(spec.replace({field: value})) != measurement.shape(spec)


def test_forecast_of_a_finished_trial_knows_its_siblings(tmp_path: Path) -> None:
    store = Store(tmp_path)
    how = launch.Options(1, run=run_stub, prepare=False, executor=inline)
    assert forecast.unmeasured(store, planned(3), RUNTIME) == [planned(3)[0]]
    launch.launch(store, planned(1), RUNTIME, how)
    assert forecast.unmeasured(store, planned(3), RUNTIME) == []
    # The stub says 2 steps in .1 of .2 seconds; the pinned recipe takes ceil(300 / 16) = 19 steps.
    assert forecast.Forecast(store).of(planned(2)[1].spec).seconds == pytest.approx(0.05 * 19 + 0.1)


def test_forecast_probe_measures_each_unknown_shape_once_and_leaves_no_trial(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = of_spec(pinned_spec().replace({"train.batch_size": 4}))
    how = launch.Options(1, run=run_stub, prepare=False, executor=inline)
    summary = measuring.probe(store, [*planned(3), other], RUNTIME, how)
    assert (summary.num_ran, summary.exit_code) == (2, 0)
    assert len(list((tmp_path / "probes").glob("*.jsonl"))) == 2
    assert not (tmp_path / "trials").exists()
    assert not (tmp_path / "probes/scratch").exists()
    assert measuring.probe(store, [*planned(3), other], RUNTIME, how).num_ran == 0
    assert forecast.Forecast(store).of(other.spec).seconds is not None


def test_forecast_of_a_budget_counts_the_trials_that_end_within_it() -> None:
    costs = [forecast.Cost(1, 1, seconds, 1, 1) for seconds in (4.0, 1.0, 2.0, 3.0)]
    # Two workers: the first ends at 4, the others one after another at 1, 3 and 6.
    assert [forecast.num_within(costs, 2, budget) for budget in (0.5, 1.0, 3.5, 5.0, 6.0)] == [0, 1, 2, 3, 4]
    assert forecast.num_within([], 2, 1.0) == 0
    assert forecast.num_within([*costs, forecast.Cost(1, 1, None, 1, 1)], 2, 9.0) is None


def test_forecast_of_packed_rows_is_unknown_until_they_are_packed_and_has_a_shape_of_its_own(tmp_path: Path) -> None:
    store, packed = Store(tmp_path), pinned_spec().replace({"data.packing": "isolated"})
    measure(store)
    assert forecast.num_steps(packed) is None
    assert measurement.shape(packed) != measurement.shape(pinned_spec())
    assert forecast.num_steps(packed.replace({"train.num_epochs": None, "train.num_steps": 40})) == 40
    assert forecast.num_steps(pinned_spec().replace({"data.packing": "padding_free"})) == 19
