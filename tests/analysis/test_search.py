"""Importance of planted axes, budgets against enumeration, analysis of variance against sums by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import search
from analysis.search import budget_curve, conditions_table, expected_best, factorial_anova, importance

# -- importance -------------------------------------------------------------------------------------------------------


def conditions(num: int, noise: np.random.Generator, weight: float = 1.0) -> pd.DataFrame:
    """Return conditions whose value depends on the rate (with this weight) and on nothing else."""
    rate = np.exp(noise.uniform(math.log(1e-5), math.log(1e-2), size=num))
    table = pd.DataFrame({"condition": [f"c{n}" for n in range(num)], "axis.train.learning_rate": rate})
    table["axis.method.rank"] = noise.integers(1, 65, size=num)
    table["axis.method"] = noise.choice(["full", "lora"], size=num)
    table["value"] = -weight * (np.log(rate) + 8) ** 2 + noise.normal(0, 0.3, size=num)
    return table.assign(is_lost=False)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resample less often: a forest takes a fifth of a second."""
    monkeypatch.setattr(search, "NUM_RESAMPLES", 6)
    monkeypatch.setattr(search, "NUM_TREES", 16)
    monkeypatch.setattr(search, "NUM_TREES_RESAMPLED", 8)


@pytest.mark.usefixtures("few")
def test_importance_finds_the_axis_that_matters_by_both_evaluators() -> None:
    table = importance(conditions(60, np.random.default_rng(3)), "maximize")
    for _, rows in table.groupby("evaluator"):
        shares = rows.set_index("axis")["importance"]
        assert shares["train.learning_rate"] > 0.6
        assert shares.sum() == pytest.approx(1.0)
        rate = rows[rows["axis"] == "train.learning_rate"].iloc[0]
        assert rate["low"] > shares["method.rank"]
    assert set(table["evaluator"]) == {"fanova", "ped_anova"}


@pytest.mark.usefixtures("few")
def test_importance_of_the_wrong_direction_is_another_question() -> None:
    """PED-ANOVA looks at the best conditions; a variant that forgot the direction would look at the worst."""
    table = conditions(60, np.random.default_rng(3))
    rows = [importance(table, way).query("evaluator == 'ped_anova'") for way in ("maximize", "minimize")]
    assert rows[0]["importance"].tolist() != pytest.approx(rows[1]["importance"].tolist())
    mirrored = importance(table.assign(value=-table["value"]), "minimize").query("evaluator == 'ped_anova'")
    assert mirrored["importance"].tolist() == pytest.approx(rows[0]["importance"].tolist())


@pytest.mark.usefixtures("few")
def test_importance_names_axes_that_have_none() -> None:
    table = conditions(14, np.random.default_rng(0))
    table.loc[0, "axis.method.rank"] = np.nan
    table.loc[1, "value"] = np.nan
    rows = importance(table.assign(**{"axis.data.packing": "off"}), "maximize")
    notes = rows[rows["evaluator"] == "fanova"].set_index("axis")
    assert notes.loc["method.rank", "note"] == "only some conditions have it"
    assert notes.loc["data.packing", "note"] == "it was tried at one value"
    assert notes.loc["method.rank", "importance"] != notes.loc["method.rank", "importance"]
    assert notes.loc["method", "importance"] >= 0
    assert set(rows["num_left_out"]) == {1}


def test_importance_of_few_conditions_is_unknown() -> None:
    rows = importance(conditions(6, np.random.default_rng(0)), "maximize")
    assert rows["importance"].isna().all()
    assert rows["note"].str.contains("6 conditions with a value are too few").all()
    assert importance(conditions_table(pd.DataFrame(), ("a",), "x"), "maximize").empty


def test_conditions_table_has_no_value_where_a_seed_lacks_one() -> None:
    frame = pd.DataFrame(
        [
            {"condition": name, "seed": seed, "axis.a": 1.0, "state": state, "val_after/learned": value}
            for name, seed, state, value in (
                ("x", 0, "COMPLETE", 0.2),
                ("x", 1, "COMPLETE", 0.4),
                ("y", 0, "COMPLETE", 0.9),
                ("y", 1, "DIVERGED", math.nan),
            )
        ]
    )
    table = conditions_table(frame, ("a", "absent"), "val_after/learned")
    assert table["value"].tolist() == pytest.approx([0.3, math.nan], nan_ok=True)
    assert table["is_lost"].tolist() == [False, True]


# -- budget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_expected_best_is_the_mean_over_all_subsets(direction: str) -> None:
    values = [0.3, 0.9, 0.5, 0.5, 0.1]
    best = max if direction == "maximize" else min
    means = [np.mean([best(chosen) for chosen in itertools.combinations(values, k)]) for k in range(1, 6)]
    assert expected_best(values, direction).tolist() == pytest.approx(means)
    assert len(expected_best([], direction)) == 0
    assert np.isnan(expected_best([0.1, math.nan], direction)).all()


def test_expected_best_of_many_values_stays_finite() -> None:
    curve = expected_best(np.linspace(0, 1, 2000).tolist())
    assert np.isfinite(curve).all()
    assert curve[0] == pytest.approx(0.5)
    assert curve[-1] == 1.0


def test_budget_curve_counts_diverged_conditions_as_spent() -> None:
    table = pd.DataFrame({"value": [0.2, math.nan, math.nan, 0.6], "is_lost": [False, True, False, False]})
    curve = budget_curve(table, "maximize")
    assert curve["budget"].tolist() == [1, 2, 3]
    assert curve["best_of_first"].tolist() == [0.2, 0.2, 0.6]
    assert curve["expected_best"].iloc[0] == pytest.approx((0.2 + 0.2 + 0.6) / 3)
    assert budget_curve(table.iloc[1:3], "maximize").empty


# -- grids ------------------------------------------------------------------------------------------------------------


def grid(effect: float, interaction: float = 0.0, seeds: int = 4) -> pd.DataFrame:
    """Return a 2 x 3 grid with these effects of the first axis and of the pair; seeds shift all conditions alike."""
    noise = np.random.default_rng(5)
    rows = [
        {"arm": "a", "axis.x": x, "axis.y": y, "seed": seed, "world": pd.NA, "state": "COMPLETE"}
        | {"after/learned": 0.5 + effect * x + interaction * x * y + 0.2 * seed + float(noise.normal(0, 0.01))}
        for x, y, seed in itertools.product((0, 1), (0, 1, 2), range(seeds))
    ]
    return pd.DataFrame(rows).assign(trial_id=lambda trials: [f"t{place}" for place in range(len(trials))])


def two_arms(noise: np.random.Generator) -> pd.DataFrame:
    """Return trials of three levels without any effect, all in both arms but those of the last level."""
    first = pd.DataFrame(
        [
            {"arm": "a", "axis.x": x, "seed": seed, "world": pd.NA, "trial_id": f"{x}-{seed}"}
            for x, seed in itertools.product((1, 2, 3), range(5))
        ]
    )
    first["after/learned"] = noise.normal(0, 1, len(first))
    own = first["axis.x"] == 3
    second = first.assign(arm="b", trial_id=first["trial_id"].where(~own, first["trial_id"] + "-b"))
    second.loc[own, "after/learned"] = noise.normal(0, 1, int(own.sum()))
    return pd.concat([first, second], ignore_index=True)


def rejections(frames: list[pd.DataFrame]) -> float:
    found = [factorial_anova(frame, ("x",), "after/learned").set_index("term") for frame in frames]
    return float(np.mean([table.loc["x", "p_value"] < 0.05 for table in found]))


def test_anova_of_trials_in_two_arms_finds_nothing_in_noise() -> None:
    noise = np.random.default_rng(7)
    frames = [two_arms(noise) for _ in range(200)]
    assert rejections(frames) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 200))
    # As if they were trials of their own: each value twice.
    copies = [frame.assign(trial_id=range(len(frame))) for frame in frames[:60]]
    assert rejections(copies) > 0.15


def test_anova_counts_a_trial_in_two_arms_once_and_says_so() -> None:
    table = factorial_anova(two_arms(np.random.default_rng(0)), ("x",), "after/learned").set_index("term")
    assert set(table["num_trials"]) == {20}
    assert set(table["num_left_out"]) == {0}
    assert table.loc["residual", "df"] == 20 - 1 - 2 - 1 - 4  # mean, levels, arms, seeds
    assert table["note"].str.contains("10 trials that stand in another arm, too, count once").all()
    assert not factorial_anova(grid(0.1), ("x", "y"), "after/learned")["note"].str.contains("arm").any()


def test_anova_of_one_axis_is_the_paired_t_test() -> None:
    frame = grid(0.02)
    frame = frame[frame["axis.y"] == 0]
    table = factorial_anova(frame, ("x", "y"), "after/learned").set_index("term")
    low, high = (frame[frame["axis.x"] == x].sort_values("seed")["after/learned"].to_numpy() for x in (0, 1))
    test = scipy.stats.ttest_rel(high, low)
    assert table.loc["x", "f"] == pytest.approx(test.statistic**2)
    assert table.loc["x", "p_value"] == pytest.approx(test.pvalue)
    assert table.loc["x", "partial_eta2"] == pytest.approx(test.statistic**2 / (test.statistic**2 + test.df))
    assert list(table.index) == ["x", "replicate", "residual"]


def test_anova_finds_planted_effects_and_not_others() -> None:
    table = factorial_anova(grid(0.1, interaction=0.05), ("x", "y"), "after/learned").set_index("term")
    assert table.loc["x", "p_value"] < 1e-6
    assert table.loc["x x y", "p_value"] < 1e-6
    alone = factorial_anova(grid(0.1), ("x", "y"), "after/learned").set_index("term")
    assert alone.loc["y", "p_value"] > 0.01
    assert alone.loc["x x y", "p_value"] > 0.01


def test_anova_without_blocks_would_drown_the_effect_in_seeds() -> None:
    frame = grid(0.02)
    blocked = factorial_anova(frame, ("x", "y"), "after/learned").set_index("term").loc["x", "p_value"]
    shuffled = frame.assign(seed=range(len(frame)))  # every trial a replicate of its own: nothing is paired
    assert blocked < 0.01
    assert factorial_anova(shuffled, ("x", "y"), "after/learned")["note"].str.contains("nothing to compare").all()


def test_anova_of_a_grid_with_an_empty_cell_has_main_effects_only() -> None:
    frame = grid(0.1)
    frame.loc[(frame["axis.x"] == 1) & (frame["axis.y"] == 2), "after/learned"] = np.nan
    table = factorial_anova(frame, ("x", "y"), "after/learned").set_index("term")
    assert "x x y" not in table.index
    assert table.loc["x", "num_left_out"] == 4
    assert "main effects only" in table.loc["x", "note"]


def test_anova_of_nothing_is_a_reason() -> None:
    assert factorial_anova(pd.DataFrame(), ("x",), "after/learned")["note"].tolist() == ["after/learned is not here"]
    one = grid(0.1)[lambda rows: (rows["axis.x"] == 0) & (rows["axis.y"] == 0)]
    assert factorial_anova(one, ("x",), "after/learned")["note"].tolist() == ["no axis has two levels with a value"]
    single = grid(0.1, seeds=1)[lambda rows: rows["axis.y"] == 0]
    assert "nothing to compare" in factorial_anova(single, ("x",), "after/learned")["note"].iloc[0]
