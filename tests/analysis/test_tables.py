"""Tables: pairing by item and seed, what is left out, what was not held equal."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import tables
from analysis.context import Context
from analysis.figure_kinds import all_figures
from analysis.frames import metrics_of, sweep_frame
from analysis.items import items_frame
from analysis.opened import OpenedSweep, OpenedTrial, open_sweep
from harness.records.store import Store
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn


def _all(store: Store, folder: str) -> tuple[OpenedSweep, pd.DataFrame, pd.DataFrame, dict[str, tuple[str, ...]]]:
    sweep = open_sweep(store, folder)
    return sweep, sweep_frame(sweep), items_frame(sweep), metrics_of(sweep)


def _effect(table: pd.DataFrame, condition: str, target: str) -> pd.Series:
    return table[(table["condition"] == condition) & (table["target"] == target)].iloc[0]


def test_effects_agree_with_the_frame_and_with_items_by_hand(whole: tuple[Store, str]) -> None:
    _, frame, items, metrics = _all(*whole)
    effect = _effect(tables.effects_table(frame, items, metrics), "num_examples=100 (equal_steps)", "learned")
    trials = frame[frame["condition"] == "num_examples=100 (equal_steps)"]
    assert effect["delta"] == pytest.approx(trials["delta/learned"].mean())
    assert effect["after"] - effect["before"] == pytest.approx(effect["delta"])
    assert effect["seed_sd"] == pytest.approx(trials["delta/learned"].std())
    own = items[items["trial_id"].isin(trials["trial_id"]) & (items["split"] == "test") & (items["task"] == "question")]
    own = own[(own["metric"] == "exact_match") & (own["arm"] == "equal_steps")]
    by_item = own.groupby("item_id")["delta"].mean()
    clusters = own.groupby("item_id")["cluster"].first()
    sums = (by_item - by_item.mean()).groupby(clusters).sum()
    assert effect["num_clusters"] == len(sums)
    by_hand = math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum())) / len(by_item)
    assert effect["se_items"] == pytest.approx(by_hand)


def test_effects_known_truth_is_found_and_an_aa_sweep_is_not(tmp_path: Path) -> None:
    values = (25, 50, 100, 200, 400, 800)
    found = _all(*build(tmp_path / "effect", Plan(values=values, arms=(ARM,), scale=0.5)))
    planted = tables.effects_table(*found[1:])
    top = _effect(planted, "num_examples=800", "learned")
    assert top["low"] > 0.3
    assert top["p_holm"] < 0.05
    none = tables.effects_table(
        *_all(*build(tmp_path / "aa", Plan(values=values, arms=(ARM,), scale=0.5, effect=0.0)))[1:]
    )
    assert not (none.loc[none["level"] == "measure", "p_holm"] < 0.05).any()


def test_effects_slice_unknown_in_aggregate_stays_unknown_though_items_are_there(small: tuple[Store, str]) -> None:
    store, folder = small
    for trial in open_sweep(store, folder).trials[:2]:
        path = trial.folder / "result.json"
        result = json.loads(path.read_text())
        result["after"]["test"]["people/cloze/acc"] |= {"value": None, "reason": "3 items: the output is not finite"}
        path.write_text(json.dumps(result))
    _, frame, items, metrics = _all(store, folder)
    table = tables.effects_table(frame, items, metrics)
    first = str(frame["condition"].iloc[0])
    assert math.isnan(_effect(table, first, "people/cloze/acc")["delta"])
    assert math.isnan(_effect(table, first, "retained")["delta"])
    assert not math.isnan(_effect(table, first, "skills/addition/acc")["delta"])


def test_effects_items_known_under_some_seeds_only_are_left_out_and_counted(small: tuple[Store, str]) -> None:
    store, folder = small
    path = open_sweep(store, folder).trials[0].folder / "items.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["item_id"].isin(["question-0000", "question-0001"]), "value"] = np.nan
    rows.to_parquet(path)
    _, frame, items, metrics = _all(store, folder)
    effect = _effect(tables.effects_table(frame, items, metrics), str(frame["condition"].iloc[0]), "learned")
    whole = _effect(tables.effects_table(frame, items, metrics), str(frame["condition"].iloc[-1]), "learned")
    assert effect["num_items"] == whole["num_items"] - 2
    assert "2 items not known" in effect["note"]


def test_effects_without_item_files_rest_on_seeds_and_say_so(small: tuple[Store, str]) -> None:
    store, folder = small
    for trial in open_sweep(store, folder).trials:
        (trial.folder / "items.parquet").unlink()
    _, frame, items, metrics = _all(store, folder)
    assert items.empty
    effect = _effect(tables.effects_table(frame, items, metrics), str(frame["condition"].iloc[0]), "learned")
    assert effect["kind"] == "seeds only"
    assert effect["delta"] == pytest.approx(frame["delta/learned"].iloc[:2].mean())
    assert effect["df"] == pytest.approx(1.0)


def test_contrasts_are_paired_by_item_and_seed(whole: tuple[Store, str]) -> None:
    _, frame, items, metrics = _all(*whole)
    table = tables.contrasts_table(frame, items, metrics)
    row = table[(table["condition"] == "num_examples=400 (equal_epochs)") & (table["target"] == "learned")].iloc[0]
    by = frame[frame["arm"] == "equal_epochs"].set_index(["condition", "seed"])["after/learned"]
    gaps = by["num_examples=400 (equal_epochs)"] - by["num_examples=25 (equal_epochs)"]
    assert row["reference"] == "num_examples=25 (equal_epochs)"
    assert row["difference"] == pytest.approx(gaps.mean())
    assert row["seed_sd"] == pytest.approx(gaps.std())
    assert row["family_size"] == 2 * 2 * 4


def test_contrasts_say_how_often_the_condition_beats_the_first_one_whichever_way_is_better(
    whole: tuple[Store, str],
) -> None:
    _, frame, items, metrics = _all(*whole)
    table = tables.contrasts_table(frame, items, metrics)
    for _, row in table.iterrows():
        by = frame[frame["arm"] == row["arm"]].set_index(["condition", "seed"])[f"after/{row['target']}"]
        gaps = by[row["condition"]] - by[row["reference"]]
        gains = -gaps if row["target"] == "fluency" else gaps
        assert row["prob_better"] == pytest.approx((np.sign(gains).mean() + 1) / 2)
        if not (gains == 0).any():
            ends = scipy.stats.binomtest(int((gains > 0).sum()), 3).proportion_ci(method="wilson")
            assert (row["prob_better_low"], row["prob_better_high"]) == pytest.approx((ends.low, ends.high))
            assert row["sign_p"] == pytest.approx(scipy.stats.binomtest(int((gains > 0).sum()), 3).pvalue)
        assert (row["num_wins"], row["num_ties"], row["num_runs"]) == ((gains > 0).sum(), (gains == 0).sum(), 3)
        assert row["better"] == "not significant"  # three runs never tell
    # More training unlearns prose: without turning its sign it would seem to get better.
    assert table.loc[table["target"] == "fluency", "prob_better"].max() == 0


def test_contrasts_of_conditions_without_a_common_seed_are_unpaired(tmp_path: Path) -> None:
    outcomes = {(ARM, 25, 2): "PENDING", (ARM, 25, 3): "PENDING", (ARM, 400, 0): "PENDING", (ARM, 400, 1): "PENDING"}
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1, 2, 3), scale=0.25, outcomes=outcomes)
    _, frame, items, metrics = _all(*build(tmp_path, plan))
    row = tables.contrasts_table(frame, items, metrics).set_index("target").loc["learned"]
    after = frame.set_index(["condition", "seed"])["after/learned"].dropna()
    first, second = after["num_examples=25"], after["num_examples=400"]
    assert row["difference"] == pytest.approx(second.mean() - first.mean())
    assert row["se"] ** 2 == pytest.approx(row["se_items"] ** 2 + first.var() / 2 + second.var() / 2)
    assert np.isnan(row["prob_better"])
    assert np.isnan(row["sign_p"])
    assert (row["num_runs"], row["better"]) == (0, "unknown")


def test_flips_table_counts_one_trial_by_hand(whole: tuple[Store, str]) -> None:
    _, _, items, metrics = _all(*whole)
    table = tables.flips_table(items, list(metrics["retained"]))
    assert set(table["key"]) == {"people/cloze/acc", "skills/addition/acc"}
    row = table.iloc[0]
    own = items[(items["trial_id"] == row["trial_id"]) & (items["split"] == "test") & (items["arm"] == row["arm"])]
    own = own[(own["suite"] + "/" + own["task"] + "/" + own["metric"]) == row["key"]]
    assert row["lost"] == int(((own["before"] == 1) & (own["after"] == 0)).sum())
    assert row["gained"] == int(((own["before"] == 0) & (own["after"] == 1)).sum())
    assert row["num_items"] == len(own)


def test_not_held_equal_names_what_moved_with_the_axis(whole: tuple[Store, str]) -> None:
    unequal = tables.not_held_equal(sweep_frame(open_sweep(*whole)))
    assert set(unequal["equal_epochs"]) == {
        "steps",
        "num_examples_seen",
        "num_tokens",
        "num_loss_tokens",
        "learning_rate_integral",
    }
    assert unequal["equal_steps"] == []


def test_full_precision_table_is_against_the_unquantised_base(tmp_path: Path) -> None:
    plan = Plan(name="method", axis="method", values=("lora", "qlora"), arms=(ARM,), seeds=(0, 1), scale=0.25)
    store, folder = build(tmp_path, plan)
    full = store.artefact("before", "base_full") / "items.parquet"
    rows = pd.read_parquet(full)
    rows.loc[rows["metric"] == "acc", "value"] = 1.0
    rows.to_parquet(full)
    for trial in open_sweep(store, folder).trials:
        path = trial.folder / "result.json"
        result = json.loads(path.read_text())
        if result["before_full_precision"]:
            for key in ("people/cloze/acc", "skills/addition/acc"):
                result["before_full_precision"]["test"][key]["value"] = 1.0
            path.write_text(json.dumps(result))
    _, frame, items, metrics = _all(store, folder)
    table = tables.full_precision_table(frame, items, metrics)
    assert set(table["condition"]) == {"method=qlora"}
    retained = table[table["target"] == "retained"].iloc[0]
    assert retained["before"] == 1.0
    assert retained["before_quantised"] == pytest.approx(frame["before/retained"].iloc[-1])
    assert retained["delta"] == pytest.approx(retained["after"] - 1.0)


def test_trials_that_stand_in_two_arms_are_one_comparison(tmp_path: Path) -> None:
    once = tables.effects_table(*_all(*build(tmp_path / "once", Plan(values=(25, 400), arms=(ARM,), scale=0.25)))[1:])
    plan = Plan(values=(25, 400), arms=(ARM, "the_same_again"), scale=0.25)
    store, folder = build(tmp_path / "twice", plan)
    twice = tables.effects_table(*_all(store, folder)[1:])
    assert len(twice) == 2 * len(once)
    assert list(twice["family_size"]) == 2 * list(once["family_size"])
    np.testing.assert_array_equal(twice["p_holm"], 2 * list(once["p_holm"]))
    assert "6 COMPLETE" in write_undrawn(store.root, folder).table


def test_points_that_a_sampler_chose_are_not_joined_and_differ_by_name_alone(tmp_path: Path) -> None:
    sweep = open_sweep(*build(tmp_path, Plan(values=(25, 400), arms=(ARM,), scale=0.25)))
    planned = [one.planned.model_copy(update={"axes": one.planned.axes | _epochs(one)}) for one in sweep.trials]
    trials = tuple(replace(one, planned=plan) for one, plan in zip(sweep.trials, planned, strict=True))
    fields = ("data.num_examples", "train.num_epochs")
    for kind, joined, names in (("sweep", True, 3), ("study", False, 1)):
        record = sweep.record.model_copy(update={"kind": kind, "axis_fields": fields, "trials": tuple(planned)})
        figures, _ = all_figures(Context(replace(sweep, record=record, trials=trials)))
        shown = {figure.name: figure for figure in figures}
        front, axis = shown["front"], shown["axis_num_examples"]
        assert (front.is_sampled, axis.is_sampled) == (not joined, not joined)
        assert axis.points["series"].nunique() == names


def _epochs(trial: OpenedTrial) -> dict[str, float]:
    return {"train.num_epochs": float(trial.planned.seed)}
