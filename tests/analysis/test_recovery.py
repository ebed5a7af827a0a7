from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis import recovery
from analysis.recovery import NOT_FORGOTTEN, SHARES
from harness.spec.recovery import OTHER, half_of


def values(
    seed: int, *, recovered: float, control: float, forgotten: float = 0.3, noise: float = 0.1
) -> recovery._Values:
    """Return values of 200 items of 50 people under 4 seeds, of which a share of the loss comes back."""
    draw = np.random.default_rng(seed)
    shape = (200, 4)
    clusters = np.repeat(np.arange(50), 4).astype(str)
    base = 0.9 + noise * draw.standard_normal(shape)
    tuned = base - forgotten + noise * draw.standard_normal(shape)
    followed = tuned + recovered * forgotten + noise * draw.standard_normal(shape)
    also = base + control * forgotten + noise * draw.standard_normal(shape)
    return recovery._Values(base, tuned, followed, also, clusters, np.array(["slice"] * 200))


def shares(found: recovery._Values) -> dict[str, float]:
    return {name: recovery._share(gain(found), found).estimate for name, gain in SHARES.items()}


def test_share_without_noise_is_the_ratio_by_hand() -> None:
    found = shares(values(0, recovered=0.8, control=-0.1, noise=1e-6))
    assert found["recovered"] == pytest.approx(0.8, abs=1e-4)
    assert found["control"] == pytest.approx(-0.1, abs=1e-4)
    assert found["net"] == pytest.approx(0.9, abs=1e-4)


def test_share_interval_covers_the_planted_share_about_as_often_as_it_says() -> None:
    covered = []
    for seed in range(150):
        found = values(seed, recovered=0.5, control=0.2)
        effect = recovery._share(SHARES["net"](found), found)
        covered.append(effect.low <= 0.3 <= effect.high)
    assert 0.9 <= np.mean(covered) <= 1.0  # 95 % of 150: two standard errors are 0.036


def test_share_arms_swapped_is_caught() -> None:
    found = values(0, recovered=0.8, control=0.0, noise=0.01)
    swapped = found._replace(followed=found.control, control=found.followed)
    assert shares(found)["recovered"] == pytest.approx(0.8, abs=0.02)
    assert abs(shares(swapped)["recovered"] - 0.8) > 0.1


def test_share_of_nothing_forgotten_is_unknown_with_a_reason() -> None:
    found = values(0, recovered=0.0, control=0.0, forgotten=0.0)
    effect = recovery._share(SHARES["net"](found), found)
    assert math.isnan(effect.estimate)
    assert effect.note == NOT_FORGOTTEN


def frame(arm: str, before: float, after: float, seeds: tuple[int, ...] = (0, 1, 2)) -> pd.DataFrame:
    """Return item rows of one condition, a little different by item and seed."""
    rows = [
        {
            "condition": arm, "arm": arm, "seed": seed, "world": pd.NA, "suite": "s", "task": "t",
            "item_id": f"i{item}", "metric": "acc", "split": "test", "cluster": f"p{item // 2}",
            "before": before + 0.01 * (item % 3), "after": after + 0.01 * ((item + seed) % 4),
        }
        for seed in seeds
        for item in range(20)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"world": "Int64"})


def test_recovery_pairs_items_and_seeds_that_both_follow_ups_have() -> None:
    followed, control = frame("from_tuned", 0.5, 0.8), frame("from_base", 0.9, 0.9, seeds=(2, 1))
    control.loc[control["item_id"] == "i3", "after"] = float("nan")
    one = recovery._recovery("from_tuned", followed, control)
    assert (one.forgotten.num_items, one.forgotten.num_seeds, one.forgotten.num_clusters) == (19, 2, 10)
    assert one.forgotten.estimate == pytest.approx(0.4)
    assert one.recovered.estimate == pytest.approx(0.75, abs=0.05)
    assert one.net.estimate == pytest.approx(one.recovered.estimate - one.control.estimate)


def test_recovery_without_any_result_is_unknown() -> None:
    nothing = frame("from_tuned", 0.5, 0.8).head(0)
    one = recovery._recovery("from_tuned", nothing, frame("from_base", 0.9, 0.9))
    assert math.isnan(one.net.estimate)
    assert one.net.note == "no follow-up trial has a result"


def test_half_of_divides_names_evenly_and_each_has_another() -> None:
    halves = [half_of(f"person_{number}") for number in range(2000)]
    assert halves.count("first_half") == pytest.approx(1000, abs=90)  # four standard deviations
    assert {OTHER[half] for half in halves} == set(halves)
