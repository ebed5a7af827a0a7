"""Sections of trade-off, optima, tax, forgetting, knowledge, axes and description length: content, page, reasons."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from analysis import numbers
from analysis.context import Context
from analysis.figure_kinds import front
from analysis.opened import open_sweep
from analysis.section import Section
from analysis.sections import edl, forgetting, knowledge, optima, search, tax, tradeoff
from analysis.tradeoff import attainment
from harness.records.store import Store
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn

ALL = (tradeoff, optima, tax, forgetting, knowledge, search, edl)


def context_of(made: tuple[Store, str]) -> Context:
    """Return the context of a sweep folder."""
    return Context(open_sweep(*made))


def section_of(module: ModuleType, context: Context) -> Section:
    """Return a section that must be there."""
    found = module.compute(context)
    assert not isinstance(found, str), found
    return found


def with_chance(made: tuple[Store, str], chance: float = 0.25) -> Context:
    """Return a context whose items say what guessing scores."""
    context = context_of(made)
    is_choice = context.items["metric"] == "acc"
    context.items["chance"] = is_choice.map({True: chance, False: math.nan})
    return context


@pytest.mark.parametrize("module", [tradeoff, optima, tax, forgetting, search])
def test_sections_of_a_whole_sweep_are_there_with_a_row_for_every_condition(
    module: ModuleType, whole: tuple[Store, str]
) -> None:
    context = context_of(whole)
    section = section_of(module, context)
    tables = module.files(section)
    assert tables
    assert all(name.endswith(".csv") for name in tables)
    if module in (optima, tax, forgetting):
        assert {row["condition"] for row in section.content["rows"]} == set(context.frame["condition"])


def test_sections_of_a_mixed_sweep_come_or_say_why_not(mixed: tuple[Store, str]) -> None:
    context = context_of(mixed)
    for module in ALL:
        found = module.compute(context)
        assert isinstance(found, Section) or found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Path]:
    """Return a small sweep, and the folder of its report."""
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25)
    made = build(tmp_path_factory.mktemp("written"), plan)
    return context_of(made), write_undrawn(made[0].root, made[1]).folder


def test_sections_are_in_page_and_text_with_their_numbers(written: tuple[Context, Path]) -> None:
    context, folder = written
    page, text = ((folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    for name in ("tradeoff", "optima", "tax", "forgetting", "search"):
        assert f'<section id="{name}">' in page
    first = section_of(tax, context).content["rows"][0]
    assert numbers.score(first["mean"], signed=True) in page
    assert numbers.score(first["mean"], signed=True) in text
    assert "no sweep of its learning rate is here" in page
    assert "chance retention is not known" in page
    assert (folder / "tax.csv").exists()


def test_page_and_text_show_unknown_as_a_dash_and_never_as_nan(written: tuple[Context, Path]) -> None:
    page, text = ((written[1] / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert ">nan" not in page
    assert "| nan" not in text
    assert "| — |" in text


def test_knowledge_needs_the_number_of_values_and_sums_bits_with_it(small: tuple[Store, str]) -> None:
    assert knowledge.compute(context_of(small)) == "the records do not say how many values a fact can have"
    section = section_of(knowledge, with_chance(small, 1 / 16))
    rows = pd.DataFrame(section.content["rows"])
    cloze = rows[rows["slice"] == "people/cloze"]
    assert (cloze["bits_before"] > cloze["bits_after"]).all()
    assert (cloze["bits_possible"] == 4 * cloze["num_facts"]).all()


def test_edl_says_why_there_is_none(small: tuple[Store, str]) -> None:
    assert "log lacks" in str(edl.compute(context_of(small)))


def test_tradeoff_of_a_sweep_without_the_measure_says_so(small: tuple[Store, str]) -> None:
    path = small[0].sweep(small[1]) / "sweep.json"
    record = json.loads(path.read_text())
    record["measures"].pop("retained")
    path.write_text(json.dumps(record))
    assert tradeoff.compute(context_of(small)) == "the sweep does not score the measure 'retained'"


def study(root: Path) -> Context:
    """Return the context of a study of 12 conditions."""
    rates = tuple(1e-4 * 1.7**place for place in range(12))
    store, folder = build(root, Plan(axis="train.learning_rate", values=rates, arms=(ARM,), seeds=(0, 1), scale=0.1))
    path = store.sweep(folder) / "sweep.json"
    record = json.loads(path.read_text()) | {"kind": "study", "objectives": [["learned/after", "maximize"]]}
    path.write_text(json.dumps(record))
    return context_of((store, folder))


def test_sections_of_a_study_have_importances_and_no_interval_of_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.search.NUM_RESAMPLES", 3)
    context = study(tmp_path)
    content = section_of(search, context).content
    assert {row["evaluator"] for row in content["importances"]} == {"fanova", "ped_anova"}
    assert {row["importance"] for row in content["importances"]} == {1.0}  # one axis: all there is
    assert content["variances"] == []
    assert [row["budget"] for row in content["budgets"]] == list(range(1, 13))
    assert all(math.isnan(row["hypervolume_low"]) for row in section_of(tradeoff, context).content["series"])
    assert all(math.isnan(row["mean_low"]) for row in section_of(tax, context).content["rows"])
    assert "proposes learning rates" in str(optima.compute(context))


def test_optima_of_a_rate_sweep_names_itself(tmp_path: Path) -> None:
    rates = (2.5e-4, 5e-4, 1e-3)
    made = build(tmp_path, Plan(name="rate", axis="train.learning_rate", values=rates, arms=(ARM,), scale=0.25))
    content = section_of(optima, context_of(made)).content
    assert {row["sweep"] for row in content["rows"]} == {"rate@pocket"}
    assert "best in" in content["rows"][0]["censored"]  # more is better along these levels: the largest rate
    assert content["answers"] == {"lora": "3 unknown"}


def test_tradeoff_writes_what_half_of_the_replicates_attain(small: tuple[Store, str]) -> None:
    context = context_of(small)
    section = section_of(tradeoff, context)
    corners = pd.DataFrame(section.content["attained"])
    points = context.frame[["after/learned", "after/retained"]].to_numpy()
    for learned, retained in corners[["learned", "retained"]].to_numpy():
        reached = context.frame.loc[(points[:, 0] >= learned) & (points[:, 1] >= retained), "seed"].nunique()
        assert reached >= 1  # half of two seeds
    assert "tradeoff_attained.csv" in tradeoff.files(section)


def test_front_draws_what_the_tradeoff_attains_as_changes_from_the_base(whole: tuple[Store, str]) -> None:
    context = context_of(whole)
    figures = front.points(context)
    assert not isinstance(figures, str)
    drawn = figures[0].points[figures[0].points["kind"] == "attained"]
    table = pd.DataFrame(section_of(tradeoff, context).content["attained"])
    base = context.frame[["before/learned", "before/retained"]].drop_duplicates().to_numpy()
    assert len(base) == 1
    assert set(drawn["series"]) == set(table["series"]) == {"equal_epochs", "equal_steps"}
    on_test: list[bool] = []
    for series, corners in table.groupby("series"):
        own = drawn.loc[drawn["series"] == series, ["learned", "retained"]].to_numpy(dtype=float)
        assert own == pytest.approx(corners[["learned", "retained"]].to_numpy() - base)
        trials = context.frame[context.frame["arm"] == series].groupby("seed")
        every = attainment([one[["delta/learned", "delta/retained"]].to_numpy() for _, one in trials])
        on_test.append(every.shape == own.shape and bool(np.allclose(every, own)))
    assert not all(on_test)  # points chosen by the scores that are drawn reach further
    assert "by points chosen on val items" in figures[0].caption


def test_front_of_a_sweep_without_val_scores_does_not_say_that_points_were_chosen_on_val(
    whole: tuple[Store, str],
) -> None:
    context = context_of(whole)
    on_val = [name for name in context.frame.columns if name.startswith("val_after/")]
    context.__dict__["frame"] = context.frame.drop(columns=on_val)
    figures = front.points(context)
    assert not isinstance(figures, str)
    assert "by points chosen on the very test items" in figures[0].caption
    assert "val items" not in figures[0].caption
