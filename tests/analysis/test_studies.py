"""A study's conditions were chosen by their scores: no section and no figure shows an interval of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from analysis.context import Context
from analysis.figure_kinds import KINDS
from analysis.opened import open_sweep
from analysis.points import FigureData, KindModule
from analysis.section import SectionModule
from analysis.sections import SECTIONS
from analysis.studies import is_withheld, without_intervals
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.contracts.figure_sweeps import with_panels

OF_NO_CONDITION = {"seed_spread"}
"""The spread over seeds within conditions, which no choice among conditions flatters."""
OF_CONDITIONS = {
    "drift", "tax", "exploration", "aggregate", "tradeoff", "interpolation", "kl_forgetting", "front", "axis", "forest",
}  # fmt: skip
"""Some that show intervals of the very same trials where a sweep planned them."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A sweep with a drift panel, scores between base and tuned, and five seeds, which every interval has enough of."""
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1, 2, 3, 4), scale=0.1, audited=True)
    store, folder = build(tmp_path_factory.mktemp("study"), plan)
    with_panels(store, folder)
    context = Context(open_sweep(store, folder))
    context.items["chance"] = (context.items["metric"] == "acc").map({True: 0.0625, False: math.nan})
    return context


@pytest.fixture(scope="module")
def study(sweep: Context) -> Context:
    """The same trials as those of a study."""
    record = sweep.record.model_copy(update={"kind": "study", "objectives": (("learned/after", "maximize"),)})
    context = Context(replace(sweep.sweep, record=record))
    context.__dict__["items"] = sweep.items
    return context


def intervals(value: object) -> Iterator[str]:
    """Yield the name of every known interval's end, error and p in a section's content or a figure's points."""
    if isinstance(value, pd.DataFrame):
        yield from intervals(value.to_dict("records"))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            if is_withheld(str(name)) and isinstance(one, int | float) and math.isfinite(one):
                yield str(name)
            yield from intervals(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from intervals(one)


def name_of(module: Any) -> str:
    return module.__name__.rsplit(".", 1)[-1]


@pytest.mark.parametrize("module", SECTIONS, ids=name_of)
def test_section_of_a_study_shows_no_interval_of_a_condition(
    module: SectionModule, study: Context, sweep: Context
) -> None:
    found, planned = module.compute(study), module.compute(sweep)
    known = [] if isinstance(planned, str) else list(intervals(planned.content))
    assert known or name_of(module) not in OF_CONDITIONS
    if not isinstance(found, str) and name_of(module) not in OF_NO_CONDITION:
        assert list(intervals(found.content)) == []


@pytest.mark.parametrize("module", KINDS, ids=name_of)
def test_figure_of_a_study_shows_no_interval_and_claims_none(
    module: KindModule, study: Context, sweep: Context
) -> None:
    found, planned = module.points(study), module.points(sweep)
    known = [] if isinstance(planned, str) else list(intervals([getattr(one, "points", None) for one in planned]))
    assert known or name_of(module) not in OF_CONDITIONS
    for figure in [] if isinstance(found, str) else found:
        if isinstance(figure, FigureData):
            assert list(intervals(figure.points)) == []
            assert "95 %" not in figure.caption


def test_table_of_a_study_keeps_estimates_and_the_base_and_says_why_nothing_else_is_there() -> None:
    table = pd.DataFrame([{"delta": 0.1, "se": 0.2, "r2_low": 0.3, "before_low": 0.4, "kind": "crossed", "note": ""}])
    row = without_intervals(table).iloc[0]
    assert (row["delta"], row["before_low"], row["kind"]) == (0.1, 0.4, "sampled")
    assert math.isnan(row["se"])
    assert math.isnan(row["r2_low"])
    assert row["note"].startswith("no interval: a sampler chose")
    assert "kind" not in without_intervals(table.drop(columns=["kind", "note"])).columns
    tested = table.assign(sign_p=0.01, p_randomised=0.01, prob_better=0.9, better="significant and meaningful")
    row = without_intervals(tested).iloc[0]
    assert (row["prob_better"], row["better"]) == (0.9, "unknown")
    assert math.isnan(row["sign_p"])
    assert math.isnan(row["p_randomised"])


def test_table_of_a_study_keeps_the_direction_of_a_measure_and_loses_every_p() -> None:
    table = pd.DataFrame([{"measure": "gold_rank", "better": "less", "controlled": 0.1, "controlled_p_value": 0.01}])
    row = without_intervals(table).iloc[0]
    assert (row["better"], row["controlled"]) == ("less", 0.1)
    assert math.isnan(row["controlled_p_value"])
