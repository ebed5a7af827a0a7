"""Knowledge in bits against numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis.knowledge import bits, bits_table, chance_of_items


def test_bits_are_all_for_certainty_none_for_a_guess_and_never_negative() -> None:
    chance = np.full(5, 1 / 8)
    logprobs = np.log([1.0, 1 / 8, 1 / 2, 1e-6, math.nan])
    assert bits(logprobs, chance).tolist() == pytest.approx([3.0, 0.0, 2.0, 0.0, math.nan], nan_ok=True)
    assert math.isnan(bits(np.array([0.0]), np.array([math.nan]))[0])


def test_bits_without_the_floor_would_let_one_fact_cancel_another() -> None:
    logprobs, chance = np.log([1.0, 1 / 64]), np.full(2, 1 / 8)
    assert bits(logprobs, chance).sum() == pytest.approx(3.0)
    assert (-np.log2(chance) + logprobs / math.log(2)).sum() == pytest.approx(0.0)


def facts(
    before: list[float], after: list[float], seed: int = 0, chance: float | None = 1 / 4, **columns: Any
) -> pd.DataFrame:
    """Return the log-probability rows, and where chance is given the accuracy rows, of one trial."""
    shared = {"condition": "c", "arm": "a", "trial_id": f"t{seed}", "seed": seed, "world": None, "suite": "people"}
    shared |= {"task": "cloze", "split": "test", "item_id": [f"i{n}" for n in range(len(before))]} | columns
    shared |= {"cluster": shared["item_id"]}
    rows = pd.DataFrame(shared | {"metric": "gold_logprob", "before": np.log(before), "after": np.log(after)})
    if chance is None:
        return rows
    scores = pd.DataFrame(shared | {"metric": "acc", "before": 1.0, "after": 1.0, "chance": chance})
    return pd.concat([rows.assign(chance=math.nan), scores], ignore_index=True)


def test_bits_table_is_the_sums_by_hand() -> None:
    # Of 2 possible bits a fact: before 2, 1, 0, 0; after 1, 2, 0, 0.
    row = bits_table(facts([1.0, 0.5, 0.25, 0.1], [0.5, 1.0, 0.1, 0.25])).iloc[0]
    assert (row["slice"], row["num_facts"], row["num_seeds"]) == ("people/cloze", 4, 1)
    assert (row["bits_possible"], row["bits_before"], row["bits_after"]) == pytest.approx((8.0, 3.0, 3.0))
    assert row["retention"] == pytest.approx(1.0)
    assert row["kept"] == pytest.approx(2 / 3)  # what was gained elsewhere does not bring back what was lost


def test_bits_table_averages_seeds_and_has_their_interval() -> None:
    noise = np.random.default_rng(1)
    before = noise.uniform(0.3, 1.0, size=200)
    trials = [facts(before.tolist(), (before * (0.7 + 0.02 * seed)).tolist(), seed) for seed in range(3)]
    row = bits_table(pd.concat(trials, ignore_index=True)).iloc[0]
    held = [np.maximum(0, 2 + np.log2(before * (0.7 + 0.02 * seed))).sum() for seed in range(3)]
    assert row["bits_after"] == pytest.approx(np.mean(held))
    assert row["delta_per_fact"] == pytest.approx((np.mean(held) - np.maximum(0, 2 + np.log2(before)).sum()) / 200)
    assert row["low"] < row["delta_per_fact"] < row["high"] < 0
    seeds_alone = scipy.stats.sem(np.array(held) / 200)
    assert (row["high"] - row["low"]) / 2 > seeds_alone


def test_bits_table_without_a_number_of_values_is_unknown_unless_it_is_given() -> None:
    rows = facts([1.0, 0.5], [0.5, 0.5], chance=None)
    unknown = bits_table(rows).iloc[0]
    assert math.isnan(unknown["bits_before"])
    assert unknown["note"] == "the number of possible values is not recorded"
    assert bits_table(rows, {"people/cloze": 1 / 4}).iloc[0]["bits_before"] == pytest.approx(3.0)


def test_bits_retention_of_a_base_that_holds_nothing_is_unknown() -> None:
    row = bits_table(facts([0.25, 0.1], [1.0, 1.0])).iloc[0]
    assert (row["bits_before"], row["bits_after"]) == pytest.approx((0.0, 4.0))
    assert math.isnan(row["retention"])
    assert math.isnan(row["kept"])


def test_bits_table_leaves_out_facts_that_are_unknown_on_a_side() -> None:
    row = bits_table(facts([1.0, 1.0, 1.0], [1.0, math.nan, 0.5])).iloc[0]
    assert (row["num_facts"], row["bits_before"], row["bits_after"]) == (2, 4.0, 3.0)


def test_bits_table_adds_worlds_up() -> None:
    worlds = [facts([1.0, 0.5], [0.5, 0.5], world=world) for world in (0, 1)]
    both = pd.concat(worlds, ignore_index=True).assign(world=lambda rows: rows["world"].astype("Int64"))
    row = bits_table(both).iloc[0]
    assert (row["num_facts"], row["bits_before"], row["bits_after"]) == pytest.approx((4, 6.0, 4.0))
    assert row["bits_possible"] == pytest.approx(8.0)


def test_bits_table_of_nothing_is_empty() -> None:
    assert bits_table(facts([], [])).empty
    assert bits_table(facts([1.0], [1.0], split="val")).empty
    assert len(chance_of_items(facts([1.0], [1.0], chance=None))) == 0
