"""Sections beside the classic ones: examples, audit, exploration, spread over seeds, single scores; and studies."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analysis.context import Context
from analysis.opened import open_sweep
from analysis.sections import audit, exploration, flip_examples, seed_spread
from harness.records.store import Store
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn

SMALL = {"values": (25, 400), "arms": (ARM,), "seeds": (0, 1, 2), "scale": 0.25}


def _context(root: Path, **plan: object) -> Context:
    return Context(open_sweep(*build(root, Plan(**(SMALL | plan)))))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Audited, with questions."""
    return _context(tmp_path_factory.mktemp("sections"), audited=True, questions=True)


# -- examples ---------------------------------------------------------------------------------------------------------


def test_flip_examples_are_items_that_most_seeds_turned(context: Context) -> None:
    section = flip_examples.compute(context)
    assert not isinstance(section, str)
    rows = pd.DataFrame(section.content["rows"])
    assert rows.groupby(["key", "direction"]).size().max() <= 3
    items = context.items[context.items["split"] == "test"]
    for row in section.content["rows"]:
        suite, task, metric = row["key"].split("/")
        own = items[(items["suite"] == suite) & (items["task"] == task) & (items["metric"] == metric)]
        before, after = (0.0, 1.0) if row["direction"] == "gained" else (1.0, 0.0)
        turned = own[(own["before"] == before) & (own["after"] == after)]
        counts = turned.groupby(["condition", "item_id"])["trial_id"].nunique()
        assert row["num_flipped"] == counts[(row["condition"], row["item_id"])]
        assert row["num_seeds"] == 3
    gained = rows[(rows["key"] == "people/question/exact_match") & (rows["direction"] == "gained")]
    assert list(gained["num_flipped"]) == [3, 3, 3]


def test_flip_examples_show_the_question_where_it_is_at_hand_and_come_without(context: Context, tmp_path: Path) -> None:
    section = flip_examples.compute(context)
    assert not isinstance(section, str)
    assert all(row["prompt"] == f"What of {row['item_id']}?" for row in section.content["rows"])
    without = flip_examples.compute(_context(tmp_path))
    assert not isinstance(without, str)
    assert [row["prompt"] for row in without.content["rows"]] == [None] * len(without.content["rows"])


def test_flip_examples_of_a_broken_questions_file_come_without_questions(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(**SMALL, questions=True))
    for path in store.root.glob("artefacts/before/*/questions.parquet"):
        path.write_bytes(b"torn")
    section = flip_examples.compute(Context(open_sweep(store, folder)))
    assert not isinstance(section, str)
    assert section.content["rows"][0]["prompt"] is None


def test_flip_examples_where_nothing_changed_say_so(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(**SMALL))
    before = pd.read_parquet(store.artefact("before", "base") / "items.parquet")
    for path in store.root.glob("trials/*/items.parquet"):
        before.to_parquet(path)
    reason = flip_examples.compute(Context(open_sweep(store, folder)))
    assert reason == "no item of a primary slice with scores of 0 and 1 changed"


def test_flip_examples_in_latex_are_text(tmp_path: Path) -> None:
    context = _context(tmp_path, output=lambda item, phase: r"\input{x} & $y$ </pre><script>1</script>")
    section = flip_examples.compute(context)
    assert not isinstance(section, str)
    table = flip_examples.files(section)["flip_examples.tex"].decode()
    assert r"\input{" not in table
    assert r"\textbackslash{}input\{x\} \& \$y\$" in table
    page = (write_undrawn(context.sweep.store.root, context.sweep.folder).folder / "report.html").read_text()
    assert "<script>1" not in page
    assert "&lt;script&gt;1" in page


# -- audit ------------------------------------------------------------------------------------------------------------


def test_audit_has_one_row_per_distinct_data_set(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(**SMALL, audited=True))
    section = audit.compute(Context(open_sweep(store, folder)))
    assert not isinstance(section, str)
    # The synthetic rows' hash names the seed alone, so that both sizes share a data set.
    assert [row["seeds"] for row in section.content["rows"]] == ["0", "1", "2"]
    row = section.content["rows"][0]
    assert row["ends_trained_share"] == 1.0
    assert row["contaminated"] == ["people/question 9/200"]
    assert row["num_near_duplicates"] is None
    assert len(row["trial_ids"].split()) == 2
    table = audit.files(section)["audit.csv"].decode()
    assert "tokens/user" in table
    assert "loss_tokens/end_of_turn" in table


def test_audit_of_trials_without_a_result_is_told_apart_by_its_counts(tmp_path: Path) -> None:
    outcomes = {(ARM, value, seed): "FAILED" for value in (25, 400) for seed in (0, 1, 2)}
    store, folder = build(tmp_path, Plan(**SMALL, outcomes=outcomes))
    trials = open_sweep(store, folder).trials
    for number, trial in enumerate(trials):
        found = {"tokens": {"user": 5 if number < 3 else 6}, "base_loss": number, "problems": ["no loss"]}
        (trial.folder / "audit.json").write_text(json.dumps(found))
    (trials[5].folder / "audit.json").write_text("{torn")
    section = audit.compute(Context(open_sweep(store, folder)))
    assert not isinstance(section, str)
    assert [len(row["trial_ids"].split()) for row in section.content["rows"]] == [3, 2]
    assert section.content["num_without"] == 1


def test_audit_shows_test_items_that_stand_in_val_items_once_a_slice_the_worst_first(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(**SMALL, audited=True))
    section = audit.compute(Context(open_sweep(store, folder)))
    assert not isinstance(section, str)
    worst, other = section.content["splits"]
    assert (worst["slice"], worst["num_overlapping"], worst["share"], worst["is_large"]) == (
        *("people/question", 9, 0.06, True),
    )
    assert (other["slice"], other["share"]) == ("skills/addition", None)  # none was checked: unknown, not 0
    assert len(worst["trial_ids"].split()) == 6
    table = pd.read_csv(io.BytesIO(audit.files(section)["val_overlap.csv"]))
    assert table["num_overlapping"].tolist() == [9, 0]
    assert table["share"].isna().tolist() == [False, True]
    written = write_undrawn(store.root, folder).folder
    page, text = (written / "report.html").read_text(), (written / "report.md").read_text()
    assert "<b>Above 2 %: people/question.</b>" in page
    assert "| **people/question** | 60 | 180 | 9 / 150 | 6.0%" in text.replace(" %", "%")


def test_audit_of_other_versions_or_with_torn_counts_has_no_false_overlap(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(**SMALL, audited=True))
    for number, trial in enumerate(open_sweep(store, folder).trials):
        found = json.loads((trial.folder / "audit.json").read_text())
        found["split_overlaps"] = [None, 3, {"a/b": None}, {"a/b": {"share": "x", "num_val": [1]}}, {}, {}][number]
        (trial.folder / "audit.json").write_text(json.dumps(found))
    section = audit.compute(Context(open_sweep(store, folder)))
    assert not isinstance(section, str)
    assert all(row["share"] is None and row["is_large"] is None for row in section.content["splits"])
    write_undrawn(store.root, folder)


def test_audit_absent_is_a_reason(small: tuple[Store, str]) -> None:
    assert audit.compute(Context(open_sweep(*small))) == "no trial has written an audit of its data"


# -- exploration, seeds, single scores --------------------------------------------------------------------------------


def test_exploration_adjusts_every_other_metric_together(context: Context) -> None:
    section = exploration.compute(context)
    assert not isinstance(section, str)
    others = context.effects[context.effects["level"] == "other"]
    known = others["p_value"].notna()
    assert section.content["num_tests"] == known.sum() == len(section.content["rows"])
    expected = multipletests(others.loc[known, "p_value"], method="fdr_bh")[1]
    assert sorted(row["p_bh"] for row in section.content["rows"]) == pytest.approx(sorted(expected))


def test_exploration_counts_trials_that_stand_in_two_arms_once(tmp_path: Path) -> None:
    once = exploration.compute(_context(tmp_path / "once"))
    twice = exploration.compute(_context(tmp_path / "twice", arms=(ARM, "the_same_again")))
    assert not isinstance(once, str)
    assert not isinstance(twice, str)
    assert once.content["num_tests"] == twice.content["num_tests"]
    assert len(twice.content["rows"]) == 2 * len(once.content["rows"])


def test_seed_spread_pools_variances_within_conditions() -> None:
    frame = pd.DataFrame(
        {
            "trial_id": list("abcdef"),
            "condition_id": ["x", "x", "x", "y", "y", "z"],
            "world": [None] * 6,
            "after/m": [0.1, 0.2, 0.3, 0.9, 0.7, 0.5],
        }
    )
    row = seed_spread.spread(frame, "m")
    assert row is not None
    pooled = (2 * 0.01 + 1 * 0.02) / 3
    assert row["seed_sd"] == pytest.approx(math.sqrt(pooled))
    assert row["low"] == pytest.approx(math.sqrt(3 * pooled / chi2.ppf(0.975, 3)))
    assert (row["num_groups"], row["num_seeds"], row["df"], row["trial_ids"]) == (2, 5, 3, "a b c d e")
    assert seed_spread.spread(frame.iloc[[0, 3, 5]], "m") is None


def test_seed_spread_interval_covers_the_true_spread() -> None:
    noise = np.random.default_rng(0)
    ids = [f"c{n // 3}" for n in range(12)]
    covered = 0
    for _ in range(300):
        values = noise.normal(0, 0.05, size=12) + np.repeat(noise.normal(0, 1, size=4), 3)
        frame = pd.DataFrame({"trial_id": range(12), "condition_id": ids, "world": None, "after/m": values})
        row = seed_spread.spread(frame.astype({"trial_id": str}), "m")
        assert row is not None
        covered += float(str(row["low"])) <= 0.05 <= float(str(row["high"]))
    assert 0.91 <= covered / 300 <= 0.985  # three binomial standard errors around 95 %


def test_scores_of_few_binary_items_have_wilson_intervals_and_others_none(context: Context) -> None:
    effects = context.effects[context.effects["condition"] == "num_examples=400"].set_index("target")
    row = effects.loc["people/cloze/acc"]
    right = row["before"] * row["num_items"]
    assert right == pytest.approx(round(right))
    low, high = proportion_confint(round(right), row["num_items"], method="wilson")
    assert (row["before_low"], row["before_high"]) == pytest.approx((low, high))
    assert row["after_low"] < row["after"] < row["after_high"]
    assert effects.loc[["retained", "text/prose/bits_per_byte"], "before_low"].isna().all()


def test_scores_of_many_items_have_no_wilson_interval(tmp_path: Path) -> None:
    effects = _context(tmp_path, scale=1.3).effects.set_index("target")
    rows = effects.loc["people/cloze/acc"]
    assert (rows["num_items"] >= 300).all()
    assert rows["before_low"].isna().all()


# -- studies and traces -----------------------------------------------------------------------------------------------


def test_study_prints_no_interval_of_a_sampled_condition(tmp_path: Path) -> None:
    context = _context(tmp_path, kind="study")
    for table in (context.effects, context.contrasts):
        assert table[["low", "high", "p_value", "p_holm", "mde", "se"]].isna().all().all()
        assert table["note"].str.contains("a sampler chose the conditions").all()
    assert context.effects["delta"].notna().any()
    report = write_undrawn(context.sweep.store.root, context.sweep.folder)
    assert "no interval" in (report.folder / "report.md").read_text()
    assert "A sampler" in report.table or "a sampler chose" in report.table
    assert "paired by item and seed (items" not in (report.folder / "figures" / "forest.txt").read_text()


def test_every_table_names_the_trials_of_its_numbers(context: Context) -> None:
    frame = context.frame
    own = frame.groupby("condition")["trial_id"].agg(set)
    for table in (context.effects, context.condition_flips):
        for condition, ids in zip(table["condition"], table["trial_ids"], strict=True):
            assert set(ids.split()) == own[condition]
    for _, row in context.contrasts.iterrows():
        assert set(row["trial_ids"].split()) == own[row["condition"]] | own[row["reference"]]


def test_front_means_name_their_trials_and_no_seed(context: Context) -> None:
    folder = write_undrawn(context.sweep.store.root, context.sweep.folder).folder
    front = pd.read_csv(folder / "figures" / "front.csv")
    means = front[front["kind"] == "mean"]
    assert means[["trial_id", "seed", "world"]].isna().all().all()
    assert {len(ids.split()) for ids in means["trial_ids"]} == {3}
    assert front.loc[front["kind"] == "seed", "trial_id"].notna().all()


def test_flip_examples_files_hold_no_endless_text(tmp_path: Path) -> None:
    section = flip_examples.compute(_context(tmp_path, output=lambda item, phase: "A" * 200_000))
    assert not isinstance(section, str)
    assert len(section.content["rows"]) > 0
    for content in flip_examples.files(section).values():
        assert len(content) < 4_000 * len(section.content["rows"])
