"""Memory by parts: what a trial takes at another rank, at another size of forward pass, and of several together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.engine import footprint, forecast, measurement, rates
from harness.engine.measurement import Measurement
from harness.records.schema import MemoryUse
from harness.records.store import Store, append_line
from harness.spec import Runtime, TrialSpec
from tests.engine.stub import stub_result
from tests.specs import pinned_spec

MEGABYTE = 10**6
RUNTIME = Runtime(num_threads=1, micro_batch_size=4, eval_batch_size=8)
LORA = {"kind": "lora", "rank": 8, "alpha": 16.0, "target_modules": "all_linear"}


def row(**more: Any) -> dict[str, Any]:
    """Return a measurement: 100 MB of process, 50 of weights, 8 of adapters and so on, rehearsed at 1, 2 and 4 rows."""
    memory = {"start_bytes": 100, "load_peak_bytes": 160, "train_peak_bytes": 300, "eval_peak_bytes": 190}
    held = {"weights_bytes": 50, "adapter_bytes": 8, "gradient_bytes": 8, "optimiser_bytes": 16}
    memory = {name: size * MEGABYTE for name, size in (memory | held).items()}
    # 100 + 50 + 8 + 8 + 16 = 182 are held; activations are then 40, 70 and 130.
    rehearsed = [[1, 222 * MEGABYTE], [2, 252 * MEGABYTE], [4, 312 * MEGABYTE]]
    seconds = {"seconds_train": 5.0, "seconds_total": 8.0, "num_steps": 10, "num_tokens": 1000}
    own = {"memory": memory, "rehearsed": rehearsed, "rank": 8, "rows_per_pass": 4, "memory_bytes": 312 * MEGABYTE}
    return seconds | own | {"disk_bytes": 500, "is_probe": True} | more


def measured(**more: Any) -> Measurement:
    """Return that as it is read."""
    return Measurement.model_validate_json(json.dumps(row(**more)))


def lora(rank: int, **more: Any) -> TrialSpec:
    """Return the pinned recipe with adapters of a rank."""
    return pinned_spec().replace({"method": LORA | {"rank": rank}} | more)


def store_with(root: Path, spec: TrialSpec, *rows: dict[str, Any]) -> Store:
    """Return a store with measurements of a spec's shape and setting."""
    path = measurement.path_of(Store(root), measurement.shape(spec))
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in rows:
        append_line(path, {"setting": measurement.setting(spec, RUNTIME)} | one)
    return Store(root)


def test_footprint_at_what_was_measured_is_the_peak_of_the_heaviest_step_and_not_of_the_few_that_ran() -> None:
    found = footprint.of([measured()], lora(8), 4)
    assert found is not None
    assert (found.total, found.activations, found.phase) == (312 * MEGABYTE, 130 * MEGABYTE, "train")
    assert found.above_process == 212 * MEGABYTE


def test_footprint_of_another_rank_has_its_own_adapters_gradients_and_optimiser() -> None:
    found = footprint.of([measured()], lora(32), 4)
    assert found is not None
    sizes = (found.weights, found.adapters, found.gradients, found.optimiser)
    assert sizes == tuple(size * MEGABYTE for size in (50, 32, 32, 64))
    assert found.total == (312 + 3 * (8 + 8 + 16)) * MEGABYTE


@pytest.mark.parametrize(("size", "activations"), [(1, 40), (2, 70), (3, 100), (4, 130), (8, 250)])
def test_footprint_activations_follow_the_rows_of_a_forward_pass(size: int, activations: int) -> None:
    found = footprint.of([measured()], lora(8), size)
    assert found is not None
    assert found.activations == activations * MEGABYTE


def test_footprint_of_a_size_that_one_measurement_says_nothing_of_is_unknown() -> None:
    alone = measured(rehearsed=[])
    assert footprint.of([alone], lora(8), 4) is not None
    assert footprint.of([alone], lora(8), 2) is None
    assert footprint.of([alone], lora(8), 8) is None
    assert footprint.of([measured(memory=None)], lora(8), 4) is None


def test_footprint_peak_may_be_in_scoring_or_loading() -> None:
    memory = row()["memory"]
    found = footprint.of([measured(memory=memory | {"eval_peak_bytes": 400 * MEGABYTE})], lora(8), 4)
    assert found is not None
    assert (found.total, found.phase, found.optimiser) == (400 * MEGABYTE, "eval", 0)
    found = footprint.of([measured(memory=memory | {"load_peak_bytes": 500 * MEGABYTE})], lora(8), 4)
    assert found is not None
    assert (found.total, found.phase) == (500 * MEGABYTE, "load")


def test_footprint_counts_the_best_weights_that_early_stopping_keeps() -> None:
    plain, stopping = lora(8), lora(8, **{"train.eval_every": 5, "train.early_stopping_patience": 2})
    one, other = (footprint.of([measured()], spec, 4) for spec in (plain, stopping))
    assert one is not None
    assert other is not None
    assert other.total - one.total == one.gradients


@pytest.mark.parametrize("forgotten", ["optimiser_bytes", "gradient_bytes", "adapter_bytes", "weights_bytes"])
def test_footprint_that_forgets_a_part_is_wrong_at_another_rank_or_names_it_activations(forgotten: str) -> None:
    """The check of the checks above: a part that is not told apart shows."""
    right, wrong = row(), row()
    wrong["memory"] = right["memory"] | {forgotten: 0}
    found, broken = (
        footprint.of([Measurement.model_validate_json(json.dumps(one))], lora(32), 4) for one in (right, wrong)
    )
    assert found is not None
    assert broken is not None
    assert broken.activations != found.activations
    assert forgotten == "weights_bytes" or broken.total != found.total


# -- forecasts --------------------------------------------------------------------------------------------------------


def test_forecast_of_another_setting_is_unknown(tmp_path: Path) -> None:
    store = store_with(tmp_path, lora(8), row())
    assert forecast.Forecast(store, RUNTIME).of(lora(8)).memory_bytes == 312 * MEGABYTE
    for change in ({"num_threads": 2}, {"eval_batch_size": 16}, {"device": "cpu"}):
        cost = forecast.Forecast(store, RUNTIME.replace(change)).of(lora(8))
        assert (cost.seconds, cost.memory_bytes, cost.footprint) == (None, None, None)
    for change in ({"method.target_modules": "mlp"}, {"method.dropout": 0.1}):
        assert forecast.Forecast(store, RUNTIME).of(lora(8).replace(change)).memory_bytes is None


def test_forecast_of_several_processes_has_the_peak_of_each_and_no_parts(tmp_path: Path) -> None:
    alone = RUNTIME.replace({"device": "cpu"})
    two = alone.replace({"num_processes": 2})
    shared, spec, store = two.replace({"sharding": "fsdp"}), lora(8), Store(tmp_path)
    finished = stub_result(spec, alone, "command")
    memory = MemoryUse.model_validate(row()["memory"])
    told = finished.provenance.model_copy(update={"device": "cpu", "peak_memory_bytes": 300, "memory": memory})
    for runtime in (alone, two):
        measurement.remember(store, spec, finished.model_copy(update={"provenance": told}), store, runtime)
    costs = [forecast.Forecast(store, runtime).of(spec) for runtime in (alone, two, shared)]
    assert costs[0].footprint is not None
    assert (costs[1].memory_bytes, costs[1].footprint) == (600, None)
    assert costs[2] == forecast.Cost(costs[0].num_steps, None, None, None, None)  # nothing is known of shares


def test_forecast_of_another_micro_batch_knows_the_memory_that_a_probe_tried_and_no_seconds(tmp_path: Path) -> None:
    store = store_with(tmp_path, lora(8), row())
    cost = forecast.Forecast(store, RUNTIME.replace({"micro_batch_size": 2})).of(lora(8))
    assert (cost.seconds, cost.memory_bytes) == (None, 252 * MEGABYTE)


def test_forecast_seconds_of_a_rank_lie_between_measured_ones_and_are_unknown_beyond(tmp_path: Path) -> None:
    slow = row(rank=24, seconds_per_step=0.9, seconds_train=9.0, seconds_total=12.0)
    store = store_with(tmp_path, lora(8), row(seconds_per_step=0.5), slow)
    known = forecast.Forecast(store, RUNTIME)
    assert known.of(lora(16)).seconds == pytest.approx(0.7 * 19 + 3.0)
    assert known.of(lora(8)).seconds == pytest.approx(0.5 * 19 + 3.0)
    assert known.of(lora(4)).seconds is None
    assert known.of(lora(64)).seconds is None
    assert known.of(lora(64)).memory_bytes is not None  # of its parts


def test_forecast_goes_through_measurements_once_for_conditions_that_they_do_not_tell_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    own = footprint.of
    monkeypatch.setattr(footprint, "of", lambda measured, spec, size: passes.append(size) or own(measured, spec, size))
    store = store_with(tmp_path, lora(8), *[row()] * 3)
    known = forecast.Forecast(store, RUNTIME)
    rates_of = [lora(8, **{"train.learning_rate": 1e-4 * number}) for number in range(1, 30)]
    kept = lora(8, **{"train.early_stopping_patience": 1, "train.eval_every": 1})
    others = [lora(8, **{"train.num_epochs": None, "train.num_steps": 7}), lora(4), kept]
    costs = [known.of(spec) for spec in rates_of + others]
    assert len(passes) == 3  # eval_every makes another shape, of which nothing is known
    assert costs == [forecast.Forecast(store, RUNTIME).of(spec) for spec in rates_of + others]
    assert len(set(costs)) == 4
    known.refresh()
    assert known.of(lora(8)) == costs[0]
    assert len(passes) > 3


def test_forecast_reads_rows_of_earlier_versions_without_parts(tmp_path: Path) -> None:
    spec, path = pinned_spec(), tmp_path / "probes" / f"{measurement.shape(pinned_spec())}.jsonl"
    path.parent.mkdir()
    old = {"num_steps": 10, "num_tokens": 1000, "seconds_train": 5.0, "seconds_total": 8.0, "disk_bytes": 500}
    append_line(path, old | {"memory_bytes": 2**30, "num_threads": 1, "micro_batch_size": 4, "num_halvings": 0})
    cost = forecast.Forecast(Store(tmp_path), RUNTIME).of(spec)
    assert (cost.seconds, cost.memory_bytes) == (pytest.approx(0.5 * 19 + 3.0), 2**30)
    assert cost.footprint is None
    for change in ({"num_threads": 2}, {"micro_batch_size": 2}):
        cost = forecast.Forecast(Store(tmp_path), RUNTIME.replace(change)).of(spec)
        assert (cost.seconds, cost.memory_bytes) == (None, None)


def test_forecast_counts_validations_by_their_number_and_leaves_the_rehearsal_out() -> None:
    # 10 steps of 0.5 s, 3 validations of 1 s, 4 s of scoring, 6 s of rehearsal, of 18 s.
    spec = pinned_spec().replace({"train.eval_every": 5, "train.num_epochs": None, "train.num_steps": 40})
    one = measured(
        rank=None, seconds_per_step=0.5, seconds_between=3.0, num_validations=3, seconds_rehearsal=6.0,
        seconds_train=14.0, seconds_total=18.0,
    )  # fmt: skip
    found = rates.Rates.of([one])
    assert found.seconds(spec, 40) == pytest.approx(0.5 * 40 + 9 * 1.0 + 4.0)


def test_forecast_prefers_trials_to_probes_for_seconds() -> None:
    probe, trial = measured(seconds_per_step=9.0), measured(seconds_per_step=0.5, is_probe=False)
    assert rates.Rates.of([probe, trial]).seconds_per_step == 0.5


# -- together ---------------------------------------------------------------------------------------------------------


def test_peak_together_is_of_the_largest() -> None:
    assert footprint.peak_together([1, 5, 3], 2) == 8
    assert footprint.peak_together([1, 5, 3], 9) == 9
    assert footprint.peak_together([1, None], 1) is None
    assert footprint.peak_together([], 2) == 0


def test_warning_names_how_many_workers_fit() -> None:
    peaks = [3 * 10**9] * 8
    assert footprint.warning(peaks, 3, 10 * 10**9) is None
    said = footprint.warning(peaks, 4, 10 * 10**9)
    assert said == "WARNING: WORKERS=4 takes 12.0 GB of memory, but there is 10.0 GB; WORKERS=3 fits"
    assert "not even one trial fits" in (footprint.warning(peaks, 2, 10**9) or "")
    assert footprint.warning([None], 2, 10**9) is None
    assert "must be at least 2.8" in (footprint.too_little(peaks, 2.0) or "")
    assert footprint.too_little(peaks, 4.0) is None


def test_unmeasured_is_a_trial_at_each_end_of_the_ranks_and_of_the_most_rows(tmp_path: Path) -> None:
    from tests.engine.trials import of_spec

    trials = [of_spec(lora(rank, **{"data.num_examples": size})) for rank in (4, 16, 64) for size in (100, 300)]
    chosen = forecast.unmeasured(Store(tmp_path), trials, RUNTIME)
    assert [trials.index(trial) for trial in chosen] == [1, 5]
    store = store_with(tmp_path, lora(4), row(rank=4), row(rank=64))
    assert forecast.unmeasured(store, trials, RUNTIME) == []
    other = RUNTIME.replace({"num_threads": 2})
    assert len(forecast.unmeasured(store, trials, other)) == 2


def test_footprint_total_is_the_sum_of_its_parts() -> None:
    found = footprint.of([measured()], lora(8), 4)
    assert found is not None
    parts = vars(found)
    assert found.total == sum(value for value in parts.values() if isinstance(value, int))
    assert replace(found, optimiser=0).total < found.total


def test_forecast_of_packed_rows_has_as_many_examples_a_step_as_were_measured(tmp_path: Path) -> None:
    packed = pinned_spec().replace({"data.packing": "isolated"})
    # 10 steps held 600 examples: the recipe's 300 take 5.
    store = store_with(tmp_path, packed, row(rank=None, num_examples_seen=600, seconds_per_step=0.5))
    cost = forecast.Forecast(store, RUNTIME).of(packed)
    assert (cost.num_steps, cost.seconds) == (5, pytest.approx(0.5 * 5 + 3.0))
    untold = store_with(tmp_path / "old", packed, row(rank=None))
    assert forecast.Forecast(untold, RUNTIME).of(packed).seconds is None
