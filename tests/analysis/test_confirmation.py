"""A study's winners on fresh seeds: named by numbers that nobody chose by, or not at all."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scipy.stats

from analysis.confirmation import confirmation_table, sentence
from analysis.context import Context
from analysis.opened import open_sweep
from analysis.report import write_report
from analysis.sections import confirmation, search
from analysis.view import build_view
from harness.records.schema import CONFIRM_ARM, SweepRecord
from harness.records.store import write_atomic
from tests.analysis.synthetic import Plan, build

FRESH = (100, 101, 102)
VALUES = (25, 100, 400, 800)


def study(root: Path, winners: tuple[int, ...] | None = (400, 800), **changes: Any) -> Context:
    """Return a study of four conditions, of which these sizes are run on fresh seeds."""
    shape: dict[str, Any] = {"values": VALUES, "arms": ("study",), "seeds": (0, 1), "kind": "study", "scale": 0.25}
    outcomes = changes.pop("outcomes", {})
    store, folder = build(root, Plan(**shape))
    searched = open_sweep(store, folder).record
    fresh: tuple[Any, ...] = ()
    if winners:
        again = shape | {"values": winners, "arms": (CONFIRM_ARM,), "seeds": FRESH, "outcomes": outcomes}
        build(root, Plan(**again))
        fresh = open_sweep(store, folder).record.trials
    ids = {trial.axes["data.num_examples"]: trial.condition_id for trial in searched.trials}
    known: dict[str, Any] = {
        "trials": (*searched.trials, *fresh),
        "objectives": (("learned/after", "maximize"), ("retained/delta", "maximize")),
        "confirm_seeds": FRESH,
        "winners": None if winners is None else tuple(ids[value] for value in winners),
    }
    record = searched.model_copy(update=known | changes)
    write_atomic(store.sweep(folder) / "sweep.json", record.model_dump_json(indent=1).encode())
    return Context(open_sweep(store, folder))


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return study(tmp_path_factory.mktemp("confirmed"))


def changed(context: Context, **changes: Any) -> Context:
    record: SweepRecord = context.record.model_copy(update=changes)
    return Context(replace(context.sweep, record=record))


def test_confirmation_is_of_fresh_seeds_on_test_items_and_beside_it_what_the_search_saw(confirmed: Context) -> None:
    table = confirmation_table(confirmed)
    frame = confirmed.frame
    assert table["is_confirmed"].all()
    assert list(table["best_of"].unique()) == [4]
    row = table[(table["condition"] == "num_examples=800") & (table["objective"] == "learned/after")].iloc[0]
    own = frame[frame["condition_id"] == row["condition_id"]]
    fresh, found = own[own["seed"].isin(FRESH)], own[~own["seed"].isin(FRESH)]
    assert row["estimate"] == pytest.approx(fresh["after/learned"].mean())
    assert row["found_val"] == pytest.approx(found["val_after/learned"].mean())
    assert row["found_test"] == pytest.approx(found["after/learned"].mean())
    assert row["regression"] == pytest.approx(fresh["val_after/learned"].mean() - found["val_after/learned"].mean())
    assert row["low"] < row["estimate"] < row["high"]
    delta = table[(table["condition"] == "num_examples=800") & (table["objective"] == "retained/delta")].iloc[0]
    assert delta["estimate"] == pytest.approx(fresh["delta/retained"].mean())


def test_confirmation_interval_of_seeds_that_items_do_not_explain_is_the_t_interval(confirmed: Context) -> None:
    context = changed(confirmed)
    context.__dict__["items"] = confirmed.items.iloc[:0]  # no items are at hand: scipy's t interval over seeds
    row = confirmation_table(context).iloc[0]
    own = context.frame[(context.frame["condition_id"] == row["condition_id"]) & context.frame["seed"].isin(FRESH)]
    values = own["after/learned"]
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


def test_winner_is_named_with_its_fresh_score_and_what_the_search_saw(confirmed: Context) -> None:
    text = sentence(confirmed)
    table = confirmation_table(confirmed)
    best = table[table["on_front"]].iloc[0]
    assert f"{best['condition']}: learned/after {best['estimate']:.3f}" in text
    assert f"(the search saw {best['found_val']:.3f} on val)" in text
    assert "over 3 fresh seeds; chosen on val from 4 conditions" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"winners": None}, "not confirmed: the search is not through"),
        ({"winners": ()}, "none: no condition has every score and keeps every constraint"),
        ({"confirm_seeds": ()}, "not confirmed: the study declares no confirm_seeds"),
        ({"confirm_seeds": (*FRESH, 103)}, "not confirmed: 3 of 4 fresh seeds of a condition"),
    ],
)
def test_winner_is_not_named_before_it_is_confirmed(confirmed: Context, changes: dict[str, Any], said: str) -> None:
    context = changed(confirmed, **changes)
    assert sentence(context).startswith(said)
    assert "num_examples=" not in sentence(context)
    assert not isinstance(confirmation.compute(context), str)


def test_winner_with_a_failed_and_a_diverged_fresh_seed_is_not_confirmed(tmp_path: Path) -> None:
    outcomes = {(CONFIRM_ARM, 800, 100): "FAILED", (CONFIRM_ARM, 800, 101): "DIVERGED"}
    context = study(tmp_path, winners=(800,), outcomes=outcomes)
    row = confirmation_table(context).iloc[0]
    assert not row["is_confirmed"]
    assert row["num_scored"] == 1
    assert "1 FAILED" in row["note"]
    assert "1 DIVERGED" in row["note"]
    assert sentence(context).startswith("not confirmed: 1 of 3 fresh seeds")


def test_confirmed_front_leaves_out_what_another_winner_beats(confirmed: Context) -> None:
    one = changed(confirmed, objectives=(("learned/after", "maximize"),))
    table = confirmation_table(one)
    best = table.loc[table["estimate"].idxmax(), "condition"]
    assert table.loc[table["on_front"], "condition"].tolist() == [best]
    assert sentence(one).endswith("1 more of the search's front fell behind these")


def test_winners_alone_have_intervals_in_tables_of_a_study_and_their_own_family(confirmed: Context) -> None:
    effects = confirmed.effects[confirmed.effects["level"] == "measure"]
    fresh = effects["arm"] == CONFIRM_ARM
    assert effects.loc[~fresh, "low"].isna().all()
    assert effects.loc[~fresh, "note"].str.contains("a sampler chose").all()
    assert effects.loc[fresh, "low"].notna().any()
    assert effects.loc[fresh, "family_size"].max() == effects.loc[fresh, "p_value"].notna().sum()


def test_search_counts_a_confirmed_condition_once(confirmed: Context) -> None:
    found = search.compute(confirmed)
    assert not isinstance(found, str)
    assert {row["arm"] for row in found.content["budgets"]} == {"study"}
    assert {row["num_conditions"] for row in found.content["importances"]} == {4}


def test_summary_of_a_study_names_no_condition_that_is_not_confirmed(confirmed: Context, tmp_path: Path) -> None:
    named = {card["where"] for card in build_view(confirmed, {}).highlights}
    assert named
    assert all("confirm" in name for name in named)
    alone = study(tmp_path, winners=None)
    assert {card["where"] for card in build_view(alone, {}).highlights} == {""}
    assert build_view(alone, {}).facts["Winner"].startswith("not confirmed")


def test_report_of_a_study_says_who_won_in_every_format(confirmed: Context) -> None:
    written = write_report(confirmed.sweep.store.root, confirmed.sweep.folder)
    assert sentence(confirmed) in " ".join(written.table.split())
    for name in ("report.html", "report.md"):
        assert "Confirmed on fresh seeds" in (written.folder / name).read_text()
    rows = pd.read_csv(written.folder / "confirmation.csv")
    assert len(rows) == 4
    assert math.isfinite(rows["estimate"].iloc[0])
