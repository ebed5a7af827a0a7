"""Aggregates over tasks against numbers by hand and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from analysis.aggregate import iqm, iqm_interval, performance_profile, probability_of_improvement


def tasks(num_replicates: int, seed: int = 0) -> dict[str, list[float]]:
    noise = np.random.default_rng(seed)
    return {f"task-{place}": (0.1 * place + noise.normal(0, 0.05, num_replicates)).tolist() for place in range(6)}


def test_iqm_by_hand() -> None:
    assert iqm([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm([1.0, 2.0, 3.0, 4.0, 90.0]) == pytest.approx(3.0)  # one of five is cut on each side


def test_iqm_of_nothing_and_of_the_unknown_is_unknown() -> None:
    assert math.isnan(iqm([]))
    assert math.isnan(iqm([1.0, math.nan, 2.0]))


def test_iqm_interval_holds_its_estimate_and_is_the_same_again() -> None:
    found = iqm_interval(tasks(5))
    assert found.low < found.estimate < found.high
    assert found.estimate == pytest.approx(iqm(np.concatenate(list(tasks(5).values()))))
    assert found == iqm_interval(tasks(5))
    assert (found.num_tasks, found.num_replicates) == (6, 5)


def test_iqm_interval_of_one_task_is_near_the_t_interval_of_its_trimmed_mean() -> None:
    values = np.random.default_rng(1).normal(size=20)
    found = iqm_interval({"one": values.tolist()})
    ends = scipy.stats.trimmed_mean_ci(values, limits=(0.25, 0.25)) if hasattr(scipy.stats, "trimmed_mean_ci") else None
    spread = scipy.stats.mstats.trimmed_stde(values, limits=(0.25, 0.25)) if ends is None else None
    half = float(spread) * scipy.stats.t.ppf(0.975, 9) if spread is not None else (ends[1] - ends[0]) / 2  # type: ignore[index]
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.25)


def test_iqm_interval_shared_seeds_are_drawn_together() -> None:
    shift = np.random.default_rng(2).normal(0, 0.1, 10)
    together = {f"task-{place}": (place + shift).tolist() for place in range(8)}
    apart, joint = iqm_interval(together), iqm_interval(together, shared_seeds=True)
    assert joint.high - joint.low > 1.5 * (apart.high - apart.low)


def test_iqm_interval_shared_seeds_of_different_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        iqm_interval({"a": [1.0] * 5, "b": [1.0] * 6}, shared_seeds=True)


@pytest.mark.parametrize(
    ("by_task", "note"),
    [
        ({}, "no value"),
        ({"a": []}, "no value"),
        (tasks(4), "no interval: 4 replicates, 5 are needed"),
        ({"a": [0.5] * 6}, "no interval: the replicates do not vary"),
        ({"a": [0.5, math.nan, 0.4, 0.3, 0.2]}, "a value is unknown"),
    ],
)
def test_iqm_interval_without_enough_says_why(by_task: dict[str, list[float]], note: str) -> None:
    found = iqm_interval(by_task)
    assert found.note == note
    assert math.isnan(found.low)


def test_performance_profile_by_hand_counts_tasks_alike() -> None:
    profile = performance_profile({"a": [0.1, 0.6, 0.9, 0.9], "b": [0.5]}, [0.0, 0.5, 0.8, 1.0])
    assert profile.tolist() == pytest.approx([1.0, 0.375, 0.25, 0.0])
    assert np.isnan(performance_profile({}, [0.5])).all()
    assert np.isnan(performance_profile({"a": [math.nan]}, [0.5])).all()


def test_probability_of_improvement_by_hand() -> None:
    # Pairs where the second is above: a: 2 of 4 and one equal; b: all.
    first, second = {"a": [1.0, 3.0], "b": [0.0]}, {"a": [2.0, 3.0], "b": [1.0], "c": [9.0]}
    assert probability_of_improvement(first, second) == pytest.approx(((2 + 0.5) / 4 + 1.0) / 2)
    assert probability_of_improvement(first, first) == pytest.approx(0.5)
    assert math.isnan(probability_of_improvement(first, {"c": [1.0]}))
    assert math.isnan(probability_of_improvement({"a": [1.0]}, {"a": [math.nan]}))
