"""Best rates on val: planted optima, planted contradictions between val and test, other sweeps in the same folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import optima
from analysis.frames import sweep_frame
from analysis.opened import open_sweep
from analysis.optima import (
    NO_OPTIMUM,
    RateOptimum,
    compared_at,
    compared_table,
    find_optima,
    is_lower_measure,
    optimum_of,
    training_key,
)
from tests.analysis.synthetic import Plan, build, spec_of

RATES = tuple(1e-4 * 2.0**power for power in range(7))
SHIFTS = (-0.2, 0.1, 0.4)
METRICS = {"learned": ("people/question/exact_match",), "fluency": ("text/prose/bits_per_byte",)}


def bowl(centre: float, shift: float, rate: float) -> float:
    """Return a parabola in log rate, best at exp(centre + shift)."""
    return 0.8 - 0.05 * (math.log(rate) - centre - shift) ** 2


def sweep(
    val: Callable[[str, float, int], float],
    test: Callable[[str, float, int], float],
    methods: tuple[str, ...] = ("full",),
    rates: tuple[float, ...] = RATES,
    measure: str = "learned",
) -> pd.DataFrame:
    """Return the frame of a rate sweep with these scores after training."""
    rows = [
        {"arm": "a", "condition": f"{method} {rate:g}", "method": method, "axis.method": method, "learning_rate": rate}
        | {"axis.train.learning_rate": rate, "seed": seed, "world": pd.NA, "state": "COMPLETE"}
        | {f"val_after/{measure}": val(method, rate, seed), f"after/{measure}": test(method, rate, seed)}
        for method in methods
        for rate in rates
        for seed in range(len(SHIFTS))
    ]
    frame = pd.DataFrame(rows)
    frame["world"] = frame["world"].astype("Int64")
    return frame


CENTRE = math.log(6e-4)
PLANTED = sweep(
    val=lambda method, rate, seed: bowl(CENTRE, SHIFTS[seed], rate),
    test=lambda method, rate, seed: bowl(math.log(2e-3), SHIFTS[seed], rate),
)


def test_optimum_is_the_planted_vertex_with_a_t_interval_in_log_rate() -> None:
    best = optimum_of(PLANTED, "learned", lower_is_better=False)
    ends = scipy.stats.ttest_1samp(SHIFTS, 0.0).confidence_interval()
    assert best.rate == pytest.approx(6e-4 * math.exp(np.mean(SHIFTS)), rel=1e-9)
    assert (best.low, best.high) == pytest.approx((6e-4 * math.exp(ends.low), 6e-4 * math.exp(ends.high)), rel=1e-9)
    assert (best.num_replicates, best.censored, best.step) == (3, "", pytest.approx(2.0))


def test_optimum_reads_val_though_test_contradicts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Val is best at 6e-4, test at 2e-3; a variant that reads test columns finds the other."""

    def found() -> float:
        return optima.optimum_of(PLANTED, "learned", lower_is_better=False).rate

    def reads_test(trials: pd.DataFrame, measure: str, *, lower_is_better: bool) -> RateOptimum:
        swapped = trials.assign(**{f"val_after/{measure}": trials[f"after/{measure}"]})
        return optimum_of(swapped, measure, lower_is_better=lower_is_better)

    def passes() -> bool:
        return abs(math.log(found() / 6e-4)) < abs(math.log(found() / 2e-3))

    assert passes()
    monkeypatch.setattr(optima, "optimum_of", reads_test)
    assert not passes()


def test_optimum_needs_no_test_column() -> None:
    val_only = PLANTED.drop(columns="after/learned")
    assert optimum_of(val_only, "learned", lower_is_better=False) == optimum_of(
        PLANTED, "learned", lower_is_better=False
    )


def test_optimum_of_a_loss_is_its_minimum() -> None:
    frame = sweep(lambda m, rate, s: -bowl(CENTRE, SHIFTS[s], rate), lambda m, rate, s: 0.0, measure="fluency")
    best = optimum_of(frame, "fluency", lower_is_better=is_lower_measure(METRICS, "fluency"))
    assert best.rate == pytest.approx(6e-4 * math.exp(np.mean(SHIFTS)), rel=1e-9)


def test_optimum_at_the_edge_is_censored_and_decides_nothing() -> None:
    frame = sweep(lambda m, rate, s: bowl(math.log(1.0), 0.0, rate), lambda m, rate, s: 0.0)
    best = optimum_of(frame, "learned", lower_is_better=False)
    assert best.censored == "the largest rate is best in 3 of 3 replicates"
    assert compared_at(RATES[-1], best) == "unknown"


def test_optimum_leaves_out_replicates_with_an_open_trial() -> None:
    frame = PLANTED.copy()
    frame.loc[(frame["seed"] == 2) & (frame["learning_rate"] == RATES[0]), ["val_after/learned", "state"]] = [
        math.nan,
        "FAILED",
    ]
    best = optimum_of(frame, "learned", lower_is_better=False)
    assert best.num_replicates == 2
    assert "1 of 3 replicates" in best.note
    assert best.rate == pytest.approx(6e-4 * math.exp(np.mean(SHIFTS[:2])), rel=1e-9)


def test_optimum_takes_diverged_trials_as_no_better() -> None:
    frame = PLANTED.copy()
    frame.loc[frame["learning_rate"] == RATES[-1], ["val_after/learned", "state"]] = [math.nan, "DIVERGED"]
    assert optimum_of(frame, "learned", lower_is_better=False).num_replicates == 3


def test_method_that_scores_the_same_at_every_rate_has_no_best_one() -> None:
    frame = sweep(lambda m, rate, s: 0.0, lambda m, rate, s: 0.0)
    frame.loc[frame["learning_rate"] == RATES[-1], ["val_after/learned", "state"]] = [math.nan, "DIVERGED"]
    best = optimum_of(frame, "learned", lower_is_better=False)
    assert math.isnan(best.rate)
    assert "3 of 3 replicates score the same at every rate: none is best" in best.note
    assert {compared_at(rate, best) for rate in RATES} == {"unknown"}


def test_optimum_leaves_out_a_replicate_that_scores_the_same_at_every_rate() -> None:
    frame = PLANTED.copy()
    frame.loc[frame["seed"] == 2, "val_after/learned"] = 0.25
    best = optimum_of(frame, "learned", lower_is_better=False)
    assert best.num_replicates == 2
    assert "1 of 3 replicates score the same" in best.note
    assert best.rate == pytest.approx(6e-4 * math.exp(np.mean(SHIFTS[:2])), rel=1e-9)


def test_optimum_of_nothing_is_unknown() -> None:
    assert math.isnan(optimum_of(PLANTED.iloc[:0], "learned", lower_is_better=False).rate)
    assert math.isnan(optimum_of(PLANTED, "retained", lower_is_better=False).rate)
    assert compared_at(1e-3, NO_OPTIMUM) == "unknown"


KNOWN = RateOptimum(1e-3, 0.8e-3, 1.3e-3, 2.0, "", 3, (5e-4, 1e-3, 2e-3))


@pytest.mark.parametrize(
    ("rate", "best", "expected"),
    [
        (1.0e-3, KNOWN, "yes"),
        (1.4e-3, KNOWN, "yes"),  # outside the interval, within half a grid step: a factor of sqrt 2
        (1.5e-3, KNOWN, "no"),
        (0.7e-3, KNOWN, "no"),
        (1.2e-3, replace(KNOWN, low=5e-4, high=3e-3), "yes"),
        (1.5e-3, replace(KNOWN, low=5e-4, high=3e-3), "unknown"),  # inside an interval too wide to tell
        (4.0e-3, replace(KNOWN, low=5e-4, high=3e-3), "no"),
        (1.0e-3, replace(KNOWN, censored="the largest rate is best in 1 of 3 replicates"), "unknown"),
        (1.0e-3, replace(KNOWN, low=math.nan, high=math.nan), "yes"),
        (4.0e-3, replace(KNOWN, low=math.nan, high=math.nan), "unknown"),
    ],
)
def test_compared_at_answers_by_interval_and_half_a_step(rate: float, best: RateOptimum, expected: str) -> None:
    assert compared_at(rate, best) == expected


def test_compared_at_of_an_interval_over_decades_does_not_say_yes_to_every_rate() -> None:
    """Three seeds whose optima lie anywhere: an interval far beyond the grid, in which every rate tried lies."""
    shifts = (-1.2, 0.0, 1.2)
    frame = sweep(lambda m, rate, s: bowl(math.log(8e-4), shifts[s], rate), lambda m, rate, s: 0.0)
    best = optimum_of(frame, "learned", lower_is_better=False)
    assert best.censored == ""
    assert best.low < RATES[0]
    assert best.high > RATES[-1]
    assert {rate: compared_at(rate, best) for rate in RATES} == dict.fromkeys(RATES, "unknown") | {RATES[3]: "yes"}


# -- other sweeps -----------------------------------------------------------------------------------------------------


def rate_sweep(root: Path, **changes: object) -> None:
    """Write a sweep over the rate of the synthetic recipe at 400 examples, best at 2e-3 by construction of levels."""
    plan = Plan(
        name="learning_rate",
        axis="train.learning_rate",
        values=(2.5e-4, 5e-4, 1e-3, 2e-3),
        arms=("equal_epochs",),
        scale=0.25,
    )
    build(root, replace(plan, **changes))  # pyright: ignore[reportArgumentType]


def test_find_optima_finds_the_sweep_of_the_same_recipe_alone(tmp_path: Path) -> None:
    rate_sweep(tmp_path)
    rate_sweep(tmp_path, name="of_another_base", base="elsewhere")
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=("equal_epochs",), scale=0.25))
    same, other = (spec_of(Plan(), "equal_epochs", value, 0) for value in (400, 25))
    assert list(find_optima(store, "pocket", [same], "learned")) == ["learning_rate@pocket"]
    assert find_optima(store, "pocket", [other], "learned") == {}
    opened = open_sweep(store, folder)
    table = compared_table(opened, sweep_frame(opened), "learned").set_index("condition")
    assert table.loc["num_examples=25", "compared_at_optimum"] == "unknown"
    assert table.loc["num_examples=25", "note"] == NO_OPTIMUM.note
    assert table.loc["num_examples=400", "sweep"] == "learning_rate@pocket"
    assert table["rate_used"].tolist() == [1e-3, 1e-3]


def test_compared_table_of_a_rate_sweep_uses_its_own_optimum(tmp_path: Path) -> None:
    rate_sweep(tmp_path)
    rate_sweep(tmp_path, name="again", seeds=(0, 1, 2, 3))
    store, folder = build(tmp_path, Plan(name="third", axis="train.learning_rate", values=(1e-3, 2e-3), scale=0.25))
    opened = open_sweep(store, folder)
    table = compared_table(opened, sweep_frame(opened), "learned")
    assert set(table["sweep"]) == {"third@pocket"}


def test_find_optima_passes_over_a_damaged_plan(tmp_path: Path) -> None:
    rate_sweep(tmp_path)
    broken = tmp_path / "sweeps" / "torn@pocket"
    broken.mkdir()
    (broken / "sweep.json").write_text(json.dumps({"name": "torn"})[:-2])
    store, _ = build(tmp_path, Plan(values=(400,), arms=("equal_epochs",), scale=0.25))
    assert list(find_optima(store, "pocket", [spec_of(Plan(), "equal_epochs", 400, 0)], "learned")) == [
        "learning_rate@pocket"
    ]


def test_training_key_forgets_rate_seed_and_what_is_scored_and_nothing_else() -> None:
    spec = spec_of(Plan(), "equal_epochs", 400, 0)
    same = spec.replace({"train.learning_rate": 3e-4, "seed": 7, "evals.items_seed": 5})
    assert training_key(same) == training_key(spec)
    for field, value in {"train.batch_size": 4, "method.rank": 4, "data.max_length": 64}.items():
        assert training_key(spec.replace({field: value})) != training_key(spec)
    kept_out = spec.replace({"data.decontaminate": True})
    assert training_key(kept_out.replace({"evals.items_seed": 5})) != training_key(kept_out)
