"""The trade-off of learning and retention against numbers by hand and published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import tradeoff
from analysis.stats import Floats
from analysis.tradeoff import (
    attainment,
    auc_common_range,
    common_range,
    exchange_rate,
    front,
    hypervolume,
    learning_at,
    pairs_table,
    pareto,
    retention_at,
    series_names,
    series_of,
    series_table,
)

# Biderman et al., arXiv:2405.09673, tables S5 and S6: HumanEval and the mean of the forgetting suites after 1, 2, 4, 8
# and 16 epochs of code, each a run of its own.
FULL = np.array([(0.302, 0.595), (0.464, 0.579), (0.470, 0.512), (0.497, 0.446), (0.416, 0.414)])
RANK_256 = np.array([(0.299, 0.655), (0.385, 0.659), (0.498, 0.631), (0.437, 0.552), (0.466, 0.517)])
RANK_16 = np.array([(0.197, 0.653), (0.275, 0.648), (0.358, 0.652), (0.338, 0.646), (0.324, 0.609)])


def test_retention_at_matched_learning_is_the_published_pair() -> None:
    reached = min(FULL[:, 0].max(), RANK_256[:, 0].max())
    assert reached == 0.497
    assert retention_at(front(FULL), reached) == pytest.approx(0.446, abs=1e-12)
    assert retention_at(front(RANK_256), reached) == pytest.approx(0.631, abs=5e-4)
    assert math.isnan(retention_at(FULL, 0.498))  # full fine-tuning never got there: nothing is extrapolated
    assert math.isnan(retention_at(RANK_16, reached))


def test_front_of_the_published_runs_drops_the_overtrained_ones() -> None:
    assert front(FULL).tolist() == FULL[:4].tolist()
    assert front(RANK_256).tolist() == [[0.385, 0.659], [0.498, 0.631]]
    assert front(RANK_16).tolist() == [[0.197, 0.653], [0.358, 0.652]]


def test_learning_at_matched_retention_is_the_inverse_of_retention_at() -> None:
    for learned in (0.302, 0.35, 0.467, 0.49):
        assert learning_at(front(FULL), retention_at(front(FULL), learned)) == pytest.approx(learned, abs=1e-12)
    assert math.isnan(learning_at(front(RANK_256), 0.6))
    assert math.isnan(learning_at(front(RANK_256), 0.66))


def test_matched_values_keep_points_that_another_beats_where_they_are_measured() -> None:
    """A point that was chosen elsewhere counts for what it is here, also where that is worse than its neighbours."""
    points = np.array([(0.4, 0.6), (0.2, 0.5), (0.6, 0.4), (0.4, 0.5)])
    assert retention_at(points, 0.3) == pytest.approx((0.5 + 0.55) / 2)  # equal learning: the mean
    assert retention_at(points, 0.5) == pytest.approx((0.55 + 0.4) / 2)
    assert learning_at(points, 0.45) == pytest.approx((0.6 + 0.3) / 2)
    assert common_range([points]) == (0.2, 0.6)


def test_hypervolume_of_three_points_is_the_area_by_hand() -> None:
    points = np.array([(0.2, 0.9), (0.5, 0.6), (0.8, 0.1), (0.4, 0.5)])
    assert hypervolume(points, (0.0, 0.0)) == pytest.approx(0.2 * 0.9 + 0.3 * 0.6 + 0.3 * 0.1)
    # Reference (0.1, 0.2): the third point lies below it; the room is 0.9 x 0.8.
    assert hypervolume(points, (0.1, 0.2)) == pytest.approx((0.1 * 0.7 + 0.3 * 0.4) / (0.9 * 0.8))


def test_hypervolume_of_random_points_is_the_share_of_dominated_throws() -> None:
    noise = np.random.default_rng(4)
    points, throws = noise.uniform(size=(12, 2)), noise.uniform((0.2, 0.1), 1.0, size=(400_000, 2))
    dominated = (points[None, :, :] >= throws[:, None, :]).all(axis=2).any(axis=1)
    assert hypervolume(points, (0.2, 0.1)) == pytest.approx(dominated.mean(), abs=4 * 0.5 / math.sqrt(len(throws)))


@pytest.mark.parametrize(
    ("points", "reference", "expected"),
    [
        ([(1.0, 1.0)], (0.3, 0.2), 1.0),
        ([(1.4, 2.0)], (0.3, 0.2), 1.0),
        ([(0.3, 0.9)], (0.3, 0.2), 0.0),
        ([(0.9, 0.1)], (0.3, 0.2), 0.0),
        ([], (0.3, 0.2), math.nan),
        ([(0.5, math.nan)], (0.3, 0.2), math.nan),
        ([(0.5, 0.5)], (math.nan, 0.2), math.nan),
        ([(0.5, 0.5)], (1.0, 0.2), math.nan),
    ],
)
def test_hypervolume_at_the_ends_and_of_nothing(
    points: list[tuple[float, float]], reference: tuple[float, float], expected: float
) -> None:
    assert hypervolume(np.array(points).reshape(-1, 2), reference) == pytest.approx(expected, nan_ok=True)


def test_hypervolume_that_adds_dominated_points_is_caught() -> None:
    points = np.array([(0.5, 0.5), (0.4, 0.4)])
    assert hypervolume(points, (0.0, 0.0)) == pytest.approx(0.25)
    assert points.prod(axis=1).sum() != pytest.approx(0.25)  # rectangles added up, overlap counted twice


def test_pareto_keeps_equal_points_and_drops_unknown_ones() -> None:
    points = np.array([(0.5, 0.5), (0.5, 0.5), (0.5, 0.4), (0.4, 0.5), (0.9, math.nan)])
    assert pareto(points).tolist() == [True, True, False, False, False]
    assert front(np.empty((0, 2))).shape == (0, 2)


def test_auc_over_the_common_range_is_the_mean_by_hand() -> None:
    first, second = np.array([(0.0, 1.0), (1.0, 0.0)]), np.array([(0.5, 0.9), (2.0, 0.6)])
    # Common range 0.5 to 1.0: the first falls from 0.5 to 0, the second from 0.9 to 0.8.
    assert auc_common_range([first, second]) == pytest.approx([0.25, 0.85])
    assert all(map(math.isnan, auc_common_range([first, second + np.array([5.0, 0.0])])))
    assert all(map(math.isnan, auc_common_range([first, np.empty((0, 2))])))
    assert auc_common_range([]) == []


def test_auc_sees_a_corner_inside_the_range() -> None:
    bent = np.array([(0.0, 1.0), (0.5, 0.9), (1.0, 0.0)])
    assert auc_common_range([bent, np.array([(0.0, 1.0), (1.0, 0.0)])]) == pytest.approx([0.475 + 0.225, 0.5])


def test_exchange_rate_is_the_slope_of_the_front() -> None:
    points = np.array([(0.1, 0.8), (0.3, 0.7), (0.5, 0.6), (0.2, 0.1)])
    assert exchange_rate(front(points)) == pytest.approx(-0.5)
    assert exchange_rate(points) > -0.5  # with one that others beat
    assert math.isnan(exchange_rate(points[:1]))
    assert math.isnan(exchange_rate(np.empty((0, 2))))


def test_attainment_is_what_at_least_the_share_of_replicates_reaches() -> None:
    runs = [np.array([(0.6, 0.4)]), np.array([(0.5, 0.5)]), np.array([(0.2, 0.9)])]
    assert attainment(runs, share=0.5).tolist() == [[0.2, 0.5], [0.5, 0.4]]
    assert attainment(runs, share=1.0).tolist() == [[0.2, 0.4]]
    assert attainment(runs, share=0.1).tolist() == front(np.concatenate(runs)).tolist()
    assert attainment([], 0.5).shape == (0, 2)
    assert attainment([np.empty((0, 2)), runs[0]], share=1.0).shape == (0, 2)


# -- series -----------------------------------------------------------------------------------------------------------

Cell = tuple[str, float, int]
"""Method, learning rate, seed."""


def sweep(points: Mapping[Cell, tuple[float, float] | str], worlds: Sequence[int | None] = (None,)) -> pd.DataFrame:
    """Return the frame of a method x rate sweep; a state in place of a point is a trial without a score."""
    rows = [
        {
            "arm": "equal_epochs",
            "condition": f"{method} {rate}",
            "axis.method": method,
            "axis.train.learning_rate": rate,
            "seed": seed,
            "world": world,
            "state": point if isinstance(point, str) else "COMPLETE",
            "before/learned": 0.1,
            "after/learned": math.nan if isinstance(point, str) else point[0],
            "after/retained": math.nan if isinstance(point, str) else point[1],
            "val_after/learned": math.nan if isinstance(point, str) else point[0],
            "val_after/retained": math.nan if isinstance(point, str) else point[1],
        }
        for world in worlds
        for (method, rate, seed), point in points.items()
    ]
    frame = pd.DataFrame(rows)
    frame["world"] = frame["world"].astype("Int64")
    return frame


FIELDS = ("method", "train.learning_rate")


def two_methods(shift: Sequence[float] = (0.10, 0.12, 0.17)) -> dict[Cell, tuple[float, float] | str]:
    """Return points of two methods on parallel lines, lora retaining `shift[seed]` more at equal learning."""
    cells: dict[Cell, tuple[float, float] | str] = {}
    for seed, more in enumerate(shift):
        for rate, learned in ((1.0, 0.2), (2.0, 0.4), (3.0, 0.6)):
            cells[("full", rate, seed)] = (learned, 0.7 - 0.5 * learned)
            cells[("lora", rate, seed)] = (learned - 0.05, 0.7 - 0.5 * (learned - 0.05) + more)
    return cells


def row_of(table: pd.DataFrame, quantity: str) -> pd.Series:
    """Return the one row of a pair's quantity."""
    return table[table["quantity"] == quantity].iloc[0]


def test_pairs_find_the_planted_difference_with_a_paired_t_interval() -> None:
    table = pairs_table(series_of(sweep(two_methods()), FIELDS, chance=0.25))
    row = row_of(table, "retention at matched learning")
    ends = scipy.stats.ttest_1samp([0.10, 0.12, 0.17], 0.0)
    assert (row["first"], row["second"], row["at"]) == ("method=full", "method=lora", pytest.approx(0.55))
    assert row["difference"] == pytest.approx(0.13)
    assert row["p_value"] == pytest.approx(ends.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(ends.confidence_interval()))
    assert row_of(table, "auc")["difference"] == pytest.approx(0.13)
    assert row["second_value"] - row["first_value"] == pytest.approx(row["difference"])
    assert set(table["family_size"]) == {4}
    assert (table["p_holm"] >= table["p_value"]).all()


def noise_sweep(noise: np.random.Generator, num_full: int, num_lora: int) -> pd.DataFrame:
    """Return 4 seeds of two methods whose conditions are all alike: val and test scores are noise around one point."""
    cells = [("full", float(rate), seed) for rate in range(num_full) for seed in range(4)]
    cells += [("lora", float(rate), seed) for rate in range(num_lora) for seed in range(4)]
    frame = sweep(dict.fromkeys(cells, (0.5, 0.5)))
    columns = [f"{split}after/{side}" for split in ("", "val_") for side in tradeoff.SIDES]
    return frame.assign(**{name: noise.normal(0.5, 0.05, len(frame)) for name in columns})


def test_points_are_chosen_on_val_and_measured_on_test() -> None:
    frame = sweep({("full", rate, 0): (0.2 * rate, 0.5) for rate in (1.0, 2.0, 3.0)})
    # On val the first two are the front, on test the last one beats them.
    frame["val_after/learned"], frame["val_after/retained"] = [0.3, 0.6, 0.2], [0.6, 0.3, 0.2]
    (chosen,) = series_of(frame, FIELDS, chance=0.0)
    assert chosen.points[(None, 0)].tolist() == [[0.2, 0.5], [0.4, 0.5]]
    assert (chosen.num_conditions, chosen.note) == (3, "")
    (on_test,) = series_of(frame.drop(columns=["val_after/learned", "val_after/retained"]), FIELDS, chance=0.0)
    assert on_test.points[(None, 0)].tolist() == [[pytest.approx(0.6), 0.5]]
    assert "no val scores" in on_test.note
    frame.loc[0, "val_after/learned"] = math.nan
    assert series_of(frame, FIELDS, chance=0.0)[0].num_left_out == 1


def test_points_chosen_on_val_of_noise_are_not_better_than_noise() -> None:
    """Chosen on test, the mean retention of the front of alike conditions is above what every one of them has."""
    noise = np.random.default_rng(2)
    frames = [noise_sweep(noise, 8, 1) for _ in range(15)]

    def retained(frame: pd.DataFrame) -> float:
        return float(np.concatenate(list(series_of(frame, FIELDS, 0.0)[0].points.values()))[:, 1].mean())

    on_val = [retained(frame) for frame in frames]
    on_test = [retained(frame.drop(columns=["val_after/learned", "val_after/retained"])) for frame in frames]
    assert np.mean(on_val) == pytest.approx(0.5, abs=4 * np.std(on_val) / math.sqrt(len(on_val)))
    assert np.mean(on_test) > 0.52


def test_pairs_of_different_numbers_of_conditions_are_not_tested() -> None:
    table = pairs_table(series_of(noise_sweep(np.random.default_rng(1), 6, 2), FIELDS, chance=0.0))
    assert table[["low", "high", "p_value", "p_holm", "mde"]].isna().all(axis=None)
    assert math.isfinite(row_of(table, "hypervolume")["difference"])
    assert "chosen from 6 and from 2 conditions: no test" in row_of(table, "hypervolume")["note"]
    equal = pairs_table(series_of(noise_sweep(np.random.default_rng(1), 6, 6), FIELDS, chance=0.0))
    assert math.isfinite(row_of(equal, "hypervolume")["p_value"])


def test_pairs_of_equal_methods_show_no_difference() -> None:
    cells = two_methods((0.0, 0.0, 0.0))
    cells |= {("lora", rate, seed): cells[("full", rate, seed)] for _, rate, seed in list(cells)}
    table = pairs_table(series_of(sweep(cells), FIELDS, chance=0.25))
    assert table["difference"].abs().max() == pytest.approx(0.0, abs=1e-12)


def test_pairs_compared_at_equal_rates_would_mislead() -> None:
    """At the same rate lora learns less and keeps more: only matching shows how much of that is its own."""
    frame = sweep(two_methods())
    means = frame.groupby("axis.method")["after/retained"].mean()
    assert means["lora"] - means["full"] == pytest.approx(0.13 + 0.5 * 0.05)


def test_series_without_a_common_range_have_no_matched_value() -> None:
    cells = {("full", 1.0, seed): (0.5, 0.5 + seed / 100) for seed in (0, 1)}
    cells |= {("lora", 1.0, seed): (0.2, 0.8 + seed / 100) for seed in (0, 1)}
    table = pairs_table(series_of(sweep(cells), FIELDS, chance=0.0))
    row = row_of(table, "retention at matched learning")
    assert math.isnan(row["difference"])
    assert "no range in common" in row["note"]
    assert math.isfinite(row_of(table, "hypervolume")["difference"])


def test_series_leave_out_open_replicates_and_keep_diverged_ones() -> None:
    cells = two_methods()
    cells[("full", 3.0, 0)] = "DIVERGED"
    cells[("lora", 3.0, 1)] = "FAILED"
    full, lora = series_of(sweep(cells), FIELDS, chance=0.25)
    assert (len(full.points), full.num_left_out) == (3, 0)
    assert len(full.points[(None, 0)]) == 2
    assert (len(lora.points), lora.num_left_out) == (2, 1)
    assert "1 replicates" in lora.note
    assert "1 trials DIVERGED" in full.note
    row = row_of(pairs_table([full, lora]), "hypervolume")
    assert row["num_replicates"] == 2
    assert "left out" in row["note"]


def test_series_table_has_every_series_and_says_that_chance_is_unknown() -> None:
    known = series_table(series_of(sweep(two_methods()), FIELDS, chance=0.25))
    unknown = series_table(series_of(sweep(two_methods()), FIELDS))
    assert known["series"].tolist() == ["method=full", "method=lora"]
    assert known["exchange_rate"].tolist() == pytest.approx([-0.5, -0.5])
    assert not known["note"].str.contains("chance").any()
    assert unknown["note"].str.contains("0 is taken").all()
    full = np.array([two_methods()[("full", rate, 0)] for rate in (1.0, 2.0, 3.0)])
    assert known["hypervolume"].iloc[0] == pytest.approx(hypervolume(full, (0.1, 0.25)))
    assert unknown["hypervolume"].iloc[0] == pytest.approx(hypervolume(full, (0.1, 0.0)))


def test_series_of_a_search_have_no_interval() -> None:
    found = series_of(sweep(two_methods()), FIELDS, chance=0.25)
    tables = series_table(found, is_sampled=True), pairs_table(found, is_sampled=True)
    assert tables[0][["hypervolume_low", "auc_high"]].isna().all(axis=None)
    assert tables[1]["low"].isna().all()
    assert tables[0]["hypervolume_note"].str.contains("search").all()


def test_series_of_one_seed_have_values_and_no_interval() -> None:
    cells = {cell: point for cell, point in two_methods().items() if cell[2] == 0}
    row = row_of(pairs_table(series_of(sweep(cells), FIELDS, chance=0.25)), "auc")
    assert row["difference"] == pytest.approx(0.10)
    assert math.isnan(row["low"])
    assert "one seed" in row["note"]


def test_series_of_several_worlds_pool_them_as_strata() -> None:
    found = series_of(sweep(two_methods(), worlds=(0, 1)), FIELDS, chance=0.25)
    row = row_of(pairs_table(found), "auc")
    assert row["num_replicates"] == 6
    assert row["difference"] == pytest.approx(0.13)


def test_series_of_nothing_are_empty_tables() -> None:
    assert series_of(pd.DataFrame(), FIELDS) == []
    assert series_of(sweep(two_methods()).drop(columns="after/learned"), ()) == []
    assert series_table([]).empty
    assert pairs_table([]).empty
    assert "hypervolume" in series_table([]).columns


def test_series_run_along_the_longest_axis_where_all_are_numeric() -> None:
    frame = sweep(two_methods()).drop(columns="axis.method").assign(**{"axis.method.rank": [16, 256] * 9})
    names = series_names(frame, ("train.learning_rate", "method.rank"))
    assert set(names) == {"rank=16", "rank=256"}
    one_axis = series_names(frame, ("train.learning_rate",))
    assert set(one_axis) == {"equal_epochs"}


def test_nothing_is_extrapolated_in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken variant that clamps to the nearest end would give the disjoint series a matched retention."""
    cells = {("full", 1.0, seed): (0.5, 0.5) for seed in (0, 1)} | {("lora", 1.0, seed): (0.2, 0.8) for seed in (0, 1)}

    def clamped(points: Floats, learned: float) -> float:
        edge = front(points)
        return float(np.interp(0.3 if math.isnan(learned) else learned, edge[:, 0], edge[:, 1]))

    def difference() -> float:
        return row_of(pairs_table(series_of(sweep(cells), FIELDS, 0.0)), "retention at matched learning")["difference"]

    assert math.isnan(difference())
    monkeypatch.setattr(tradeoff, "retention_at", clamped)
    assert not math.isnan(difference())
