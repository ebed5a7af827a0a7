"""Approximate randomisation against scipy, enumeration and simulated truth; a variant without clusters is caught."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from analysis import randomisation, tables
from analysis.frames import metrics_of, sweep_frame
from analysis.items import items_frame
from analysis.opened import open_sweep
from analysis.randomisation import cluster_sums, randomised_p
from analysis.stats import crossed_effect
from harness.records.store import Store
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build


def by_enumeration(sums: np.ndarray) -> float:
    seen = abs(sums.sum())
    totals = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=len(sums))]
    return float(np.mean([total >= seen - 1e-9 for total in totals]))


@pytest.mark.parametrize("num_clusters", [1, 2, 5, 9])
def test_p_of_few_clusters_is_that_of_all_ways_to_turn_them(num_clusters: int) -> None:
    for seed in range(5):
        sums = np.random.default_rng(seed).normal(0.5, 1, num_clusters)
        assert randomised_p([sums]) == by_enumeration(sums)
    ties = np.round(np.random.default_rng(9).normal(0.3, 1, num_clusters), 0)
    assert randomised_p([ties]) == by_enumeration(ties)


def test_p_of_few_clusters_is_that_of_scipy() -> None:
    sums = np.random.default_rng(3).normal(0.6, 1, 11)
    found = scipy.stats.permutation_test(
        (sums,), lambda x, axis: np.abs(x.sum(axis=axis)), permutation_type="samples", alternative="greater"
    )
    assert randomised_p([sums]) == found.pvalue


def test_p_of_many_clusters_is_that_of_scipy_within_simulation() -> None:
    sums = np.random.default_rng(4).normal(0.03, 1, 300)
    found = scipy.stats.permutation_test(
        (sums,),
        lambda x, axis: np.abs(x.sum(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=10_000,
        batch=1000,
        rng=np.random.default_rng(0),
    )
    p_value = randomised_p([sums])
    assert 0.01 < p_value < 0.2
    assert p_value == pytest.approx(found.pvalue, abs=4 * math.sqrt(2 * p_value / 10_000))
    assert randomised_p([sums]) == p_value  # the same bytes again
    assert randomised_p([100 * sums]) == p_value


def test_p_says_nothing_without_clusters_and_one_where_nothing_moved() -> None:
    assert math.isnan(randomised_p([]))
    assert math.isnan(randomised_p([np.zeros(0)]))
    assert math.isnan(randomised_p([np.array([0.1, math.nan])]))
    assert randomised_p([np.zeros(40)]) == 1.0
    assert randomised_p([np.array([0.2, 0.0, 0.0])]) == 1.0  # one cluster: both ways are as far from 0
    assert [randomised_p([np.full(k, 0.1)]) for k in (5, 6)] == [2 / 32, 2 / 64]


def test_sums_add_up_to_the_estimate_of_the_interval() -> None:
    noise = np.random.default_rng(5)
    differences = noise.normal(0.2, 1, (60, 4))
    clusters, strata = np.arange(60) % 17, np.repeat([0, 1, 2], [10, 20, 30])
    sums = cluster_sums(differences, clusters, strata)
    assert len(sums) == 17
    assert sums.sum() == pytest.approx(crossed_effect(differences, clusters, strata).estimate)
    own = [d.mean() / 3 / size for d, size in zip(differences, np.repeat([10, 20, 30], [10, 20, 30]), strict=True)]
    assert sums[3] == pytest.approx(sum(value for value, c in zip(own, clusters, strict=True) if c == 3))


# -- calibration ------------------------------------------------------------------------------------------------------


def clustered_null(noise: np.random.Generator, num_clusters: int = 12, size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return differences of items without an effect, alike within a cluster, and their clusters; 3 seeds."""
    clusters = np.arange(num_clusters * size) // size
    shared = noise.standard_t(3, num_clusters)[clusters][:, None]
    return shared + noise.normal(0, 0.4, (len(clusters), 3)), clusters


def rejections(*, by_item: bool) -> float:
    noise, num = np.random.default_rng(11), 400
    found: list[bool] = []
    for _ in range(num):
        differences, clusters = clustered_null(noise)
        units = np.arange(len(clusters)) if by_item else clusters
        sums = cluster_sums(differences, units, np.zeros(len(units), dtype=np.int64))
        found.append(randomised_p([sums]) < 0.05)
    return float(np.mean(found))


def test_null_of_clusters_is_rejected_in_five_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rejections(by_item=False) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 400))
    monkeypatch.setattr(randomisation, "NUM_RESAMPLES", 500)
    monkeypatch.setattr(randomisation, "BATCH", 500)
    assert rejections(by_item=False) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 400))  # drawn ways
    assert rejections(by_item=True) > 0.2  # turning single items of a cluster


def test_planted_difference_is_found() -> None:
    noise = np.random.default_rng(12)
    found = [randomised_p([clustered_null(noise, 40, 1)[0].mean(axis=1) + 1.0]) < 0.05 for _ in range(40)]
    assert np.mean(found) > 0.8


# -- in the tables ----------------------------------------------------------------------------------------------------


def test_effects_have_p_of_metrics_that_are_not_0_or_1_alone(whole: tuple[Store, str]) -> None:
    sweep = open_sweep(*whole)
    frame, items, metrics = sweep_frame(sweep), items_frame(sweep), metrics_of(sweep)
    effects = tables.effects_table(frame, items, metrics).set_index(["condition", "target"])
    condition = str(frame["condition"].iloc[0])
    for target in ("fluency", "people/cloze/gold_logprob"):
        row = effects.loc[(condition, target)]
        key = "text/prose/bits_per_byte" if target == "fluency" else target
        suite, task, metric = key.split("/")
        own = items[(items["condition"] == condition) & (items["split"] == "test") & (items["suite"] == suite)]
        own = own[(own["task"] == task) & (own["metric"] == metric)]
        by_item = own.groupby("item_id")["delta"].mean()
        sums = by_item.groupby(own.groupby("item_id")["cluster"].first()).sum()
        assert row["p_randomised"] == pytest.approx(randomised_p([sums.to_numpy()]), abs=0.01)
    for target in ("learned", "retained", "people/cloze/acc"):
        assert math.isnan(effects.loc[(condition, target), "p_randomised"])
    contrasts = tables.contrasts_table(frame, items, metrics).set_index("target")["p_randomised"]
    assert contrasts["fluency"].between(0, 1).all()
    assert contrasts[["learned", "retained"]].isna().all()


def test_worlds_turn_sides_independently(tmp_path: Path) -> None:
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.2, worlds=(0, 1))
    sweep = open_sweep(*build(tmp_path, plan))
    effects = tables.effects_table(sweep_frame(sweep), items_frame(sweep), metrics_of(sweep))
    row = effects[effects["target"] == "fluency"].iloc[0]
    items = items_frame(sweep)
    own = items[(items["condition"] == row["condition"]) & (items["metric"] == "bits_per_byte")]
    own = own[own["split"] == "test"]
    sums = [
        part.groupby(["cluster", "item_id"])["delta"].mean().groupby("cluster").sum().to_numpy()
        / part["item_id"].nunique()
        for _, part in own.groupby("world")
    ]
    assert row["num_clusters"] == sum(map(len, sums))
    assert row["delta"] == pytest.approx(np.mean([one.sum() for one in sums]))
    assert row["p_randomised"] == randomised_p(sums) == by_enumeration(np.concatenate(sums))


def test_effects_without_items_or_seeds_in_common_have_none(small: tuple[Store, str], tmp_path: Path) -> None:
    store, folder = small
    for trial in open_sweep(store, folder).trials:
        (trial.folder / "items.parquet").unlink()
    sweep = open_sweep(store, folder)
    assert tables.effects_table(sweep_frame(sweep), items_frame(sweep), metrics_of(sweep))["p_randomised"].isna().all()
    outcomes = {(ARM, 25, 1): "PENDING", (ARM, 400, 0): "PENDING"}
    apart = open_sweep(*build(tmp_path / "apart", Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), outcomes=outcomes)))
    found = tables.contrasts_table(sweep_frame(apart), items_frame(apart), metrics_of(apart))
    assert found["p_randomised"].isna().all()


def test_forty_rows_of_400_items_and_5_seeds_take_less_than_two_seconds() -> None:
    noise = np.random.default_rng(6)
    differences = [noise.normal(0, 1, (400, 5)) for _ in range(40)]
    started = time.process_time()
    for one in differences:
        randomised_p([cluster_sums(one, np.arange(400), np.zeros(400, dtype=np.int64))])
    assert time.process_time() - started < 2


def test_fourteen_thousand_clusters_take_little_memory() -> None:
    sums = np.random.default_rng(7).normal(0, 1, 14_000)
    tracemalloc.start()
    try:
        randomised_p([sums])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # a batch of whole sign vectors as floats is 112 MB
