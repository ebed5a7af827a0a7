"""Signal to noise against mean squares by hand and planted variances; where the data cannot tell, a reason."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.context import Context
from analysis.opened import open_sweep
from analysis.sections import seed_spread
from analysis.signal import SAMPLED, signal_columns, signal_of, telling_most
from harness.records.store import Store
from tests.analysis.synthetic import Plan, build


def trials(table: np.ndarray, world: int | None = None) -> pd.DataFrame:
    """Return the trials of conditions x seeds."""
    rows = [
        {"trial_id": f"{world}-{c}-{s}", "condition_id": f"c{c}", "seed": s, "world": world, "after/m": table[c, s]}
        for c, s in np.ndindex(*table.shape)
    ]
    return pd.DataFrame(rows).astype({"world": "Int64"})


def drawn(noise: np.random.Generator, num: int, seeds: int, signal: float, seed_sd: float = 0.02) -> np.ndarray:
    shared = noise.normal(0, 0.05, (1, seeds))  # what a seed moves in every condition alike is no signal
    return 0.5 + signal * noise.normal(size=(num, 1)) + shared + noise.normal(0, seed_sd, (num, seeds))


def test_signal_is_the_variance_component_of_conditions_by_hand() -> None:
    frame = trials(drawn(np.random.default_rng(0), 5, 4, 0.1))
    table = anova_lm(ols("value ~ C(condition_id) + C(seed)", frame.assign(value=frame["after/m"])).fit())
    squares = table["mean_sq"]
    expected = math.sqrt((squares["C(condition_id)"] - squares["Residual"]) / 4)
    found = signal_of(frame, "m")
    assert found.signal == pytest.approx(expected)
    assert (found.num_conditions, found.note) == (5, "")
    columns = signal_columns(frame, "m", 0.05, is_sampled=False)
    assert columns["snr"] == pytest.approx(expected / 0.05)


def test_planted_signal_is_found_and_none_is_none_where_the_spread_of_means_sees_one() -> None:
    noise = np.random.default_rng(1)
    planted = [signal_of(trials(drawn(noise, 12, 3, 0.1)), "m").signal ** 2 for _ in range(60)]
    assert np.mean(planted) == pytest.approx(0.01, rel=0.15)
    without = [drawn(noise, 12, 3, 0.0) for _ in range(60)]
    found = [signal_of(trials(table), "m").signal for table in without]
    assert np.mean(found) < 0.008
    assert min(found) == 0.0  # less than the seeds' share: never below 0
    assert np.mean([table.mean(axis=1).std(ddof=1) for table in without]) > 0.01  # the share not taken away


def test_worlds_are_pooled_and_their_levels_are_no_signal() -> None:
    noise = np.random.default_rng(2)
    tables = [drawn(noise, 4, 3, 0.1), 0.4 + drawn(noise, 6, 3, 0.1)]
    own = [signal_of(trials(table, world), "m").signal ** 2 for world, table in enumerate(tables)]
    both = pd.concat([trials(table, world) for world, table in enumerate(tables)])
    found = signal_of(both, "m")
    assert found.signal**2 == pytest.approx((3 * own[0] + 5 * own[1]) / 8)
    assert found.num_conditions == 6


def test_condition_without_a_seed_is_left_out_and_noted() -> None:
    frame = trials(drawn(np.random.default_rng(3), 5, 3, 0.1))
    whole = signal_of(frame[frame["condition_id"] != "c4"], "m")
    frame.loc[(frame["condition_id"] == "c4") & (frame["seed"] == 1), "after/m"] = math.nan
    found = signal_of(frame, "m")
    assert found.signal == whole.signal
    assert "1 conditions lack a seed" in found.note


@pytest.mark.parametrize(
    ("num", "seeds", "reason"), [(2, 4, "fewer than 3 conditions"), (5, 1, "fewer than 2 seeds"), (0, 0, "2 seeds")]
)
def test_few_conditions_or_seeds_have_a_reason_and_no_number(num: int, seeds: int, reason: str) -> None:
    frame = trials(np.ones((max(num, 1), max(seeds, 1)))).iloc[: num * seeds]
    found = signal_of(frame, "m")
    assert math.isnan(found.signal)
    assert reason in found.note


def test_study_and_score_that_no_seed_moves_have_no_ratio() -> None:
    frame = trials(np.repeat(np.arange(4.0)[:, None], 3, axis=1))
    still = signal_columns(frame, "m", 0.0, is_sampled=False)
    assert still["signal"] == pytest.approx(np.arange(4.0).std(ddof=1))
    assert math.isnan(float(str(still["snr"])))
    assert "no seed moves" in str(still["note"])
    study = signal_columns(frame, "m", 0.1, is_sampled=True)
    assert math.isnan(float(str(study["signal"])))
    assert study["note"] == SAMPLED


def test_metric_that_tells_most_is_one_of_the_answers() -> None:
    snr = {"s/t/acc": 1.0, "s/t/acc_norm": 2.0, "s/t/gold_logprob": 5.0, "s/t/num_tokens": 50.0, "s/t/end_of_turn": 9.0}
    rows = [{"target": name, "snr": value} for name, value in (snr | {"learned": 99.0, "s/u/acc": 3.0}).items()]
    rows.append({"target": "s/u/acc_norm", "snr": math.nan})
    (found,) = telling_most(rows, ["s/t/acc"])
    assert found == {"slice": "s/t", "metric": "gold_logprob", "snr": 5.0, "primary": "acc", "primary_snr": 1.0}


def test_section_has_every_metric_with_its_ratio(whole: tuple[Store, str], tmp_path: Path) -> None:
    section = seed_spread.compute(Context(open_sweep(*whole)))
    assert not isinstance(section, str)
    rows = {row["target"]: row for row in section.content["rows"]}
    assert {"learned", "people/cloze/acc", "people/cloze/gold_logprob"} <= set(rows)
    assert rows["learned"]["num_conditions"] >= 3
    row = rows["people/cloze/acc"]
    assert row["snr"] == pytest.approx(row["signal"] / row["seed_sd"])
    assert "people/cloze" in {one["slice"] for one in section.content["telling"]}
    few = seed_spread.compute(Context(open_sweep(*build(tmp_path, Plan(values=(25,), scale=0.1)))))
    assert not isinstance(few, str)
    assert all(math.isnan(row["snr"]) and "fewer than 3 conditions" in row["note"] for row in few.content["rows"])
