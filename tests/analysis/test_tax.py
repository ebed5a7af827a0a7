"""The alignment tax against numbers by hand; its interval against simulated correlated slices."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import tax
from analysis.context import Context
from analysis.frames import metrics_of, sweep_frame
from analysis.items import items_frame
from analysis.opened import open_sweep
from analysis.sections import tax as tax_section
from analysis.tables import effects_table
from analysis.tax import RULE, declared_margins, represented_slices, slices_table, tax_table
from harness.records.store import Store
from harness.spec import Claim
from tests.analysis.simulated import difference
from tests.analysis.synthetic import Plan, build, spec_of


def effects(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """Return primary rows of one condition: metric key, delta, half width."""
    return pd.DataFrame(
        [
            {"condition": "c", "arm": "a", "target": key, "level": "primary", "delta": delta, "mde": 0.05, "note": ""}
            | {"low": delta - half, "high": delta + half}
            for key, delta, half in rows
        ]
    )


TABLE = effects(
    ("people/question/exact_match", 0.50, 0.02),
    ("people/cloze/acc", -0.10, 0.03),
    ("skills/addition/acc", 0.02, 0.01),
    ("text/prose/bits_per_byte", 0.20, 0.05),
)
REPRESENTED = {"people/question"}


def test_tax_is_mean_and_worst_over_slices_that_are_not_represented() -> None:
    row = tax_table(TABLE, REPRESENTED).set_index("scale").loc["score"]
    assert (row["mean"], row["worst"]) == (pytest.approx(-0.04), pytest.approx(-0.10))
    assert (row["worst_key"], row["num_slices"]) == ("people/cloze/acc", 2)
    assert (row["mean_low"], row["mean_high"]) == (pytest.approx(-0.06), pytest.approx(-0.02))


def test_tax_that_lets_trained_slices_pay_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean() -> float:
        return float(tax_table(TABLE, REPRESENTED).set_index("scale").loc["score", "mean"])

    assert mean() < 0
    whole = slices_table
    monkeypatch.setattr(tax, "slices_table", lambda *args: whole(*args).assign(represented=False))
    assert mean() > 0


def test_tax_of_losses_is_a_scale_of_its_own_with_its_sign_turned() -> None:
    row = tax_table(TABLE, REPRESENTED).set_index("scale").loc["bits_per_byte"]
    assert (row["mean"], row["worst_low"], row["worst_high"]) == pytest.approx((-0.2, -0.25, -0.15))


def test_tax_against_margins_counts_and_tests() -> None:
    margins = {"people/cloze/acc": 0.05, "skills/addition/acc": 0.05, "text/prose/bits_per_byte": 0.3}
    slices = slices_table(TABLE, REPRESENTED, margins).set_index("key")["non_inferior"]
    assert slices.to_dict() == {
        "people/question/exact_match": "unknown",
        "people/cloze/acc": "no",
        "skills/addition/acc": "yes",
        "text/prose/bits_per_byte": "yes",
    }
    row = tax_table(TABLE, REPRESENTED, margins).set_index("scale").loc["score"]
    assert (row["num_below_margin"], row["num_non_inferior"], row["num_with_margin"]) == (1, 1, 2)
    close = slices_table(effects(("s/a/acc", -0.04, 0.03)), (), {"s/a/acc": 0.05}).iloc[0]
    assert close["non_inferior"] == "undecided"
    without = tax_table(TABLE, REPRESENTED).set_index("scale").loc["score"]
    assert math.isnan(without["num_below_margin"])


def test_tax_with_an_unknown_slice_is_unknown_and_names_it() -> None:
    row = tax_table(effects(("s/a/acc", -0.1, 0.01), ("s/b/acc", math.nan, math.nan)), ()).iloc[0]
    assert math.isnan(row["mean"])
    assert math.isnan(row["worst"])
    assert (row["num_unknown"], row["note"]) == (1, "unknown: s/b/acc")


def test_tax_of_nothing_is_empty() -> None:
    assert tax_table(TABLE.iloc[:0], ()).empty
    assert tax_table(pd.DataFrame(), ()).empty
    assert tax_table(TABLE, {"people/question", "people/cloze", "skills/addition", "text/prose"}).empty


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_tax_interval_covers_whatever_the_correlation_of_slices(correlation: float) -> None:
    noise = np.random.default_rng(7)
    covariance = np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)
    keys = ("s/a/acc", "s/b/acc", "s/c/acc")
    hits = 0
    for deltas in noise.multivariate_normal(np.zeros(3), 0.01**2 * covariance, size=300):
        rows = [(key, float(delta), 1.96 * 0.01) for key, delta in zip(keys, deltas, strict=True)]
        row = tax_table(effects(*rows), ()).iloc[0]
        hits += row["mean_low"] <= 0 <= row["mean_high"]
    assert hits / 300 >= 0.92  # 0.95 less 2.4 standard errors of 300 draws


def test_represented_is_what_is_declared_or_the_rule() -> None:
    tasks = spec_of(Plan(), "equal_epochs", 400, 0).evals.tasks
    by_rule, why = represented_slices(tasks)
    assert by_rule == {"people/question", "people/ends_turn"}
    assert why == RULE
    declared, why = represented_slices(tasks, ("people", "text/prose"))
    assert declared == {"people/question", "people/cloze", "people/ends_turn", "text/prose"}
    assert why == "declared: people, text/prose"


def test_adjacent_slices_are_marked_and_count_as_not_represented() -> None:
    plain, marked = (tax_table(TABLE, REPRESENTED, None, near).set_index("scale") for near in ((), {"people/cloze"}))
    assert marked["num_adjacent"].to_dict() == {"score": 1, "bits_per_byte": 0}
    pd.testing.assert_frame_equal(plain.drop(columns="num_adjacent"), marked.drop(columns="num_adjacent"))
    labels = slices_table(TABLE, REPRESENTED, None, {"people/cloze", "people/question"}).set_index("key")["label"]
    assert labels.to_dict() == {
        "people/question/exact_match": "represented",
        "people/cloze/acc": "adjacent",
        "skills/addition/acc": "unrepresented",
        "text/prose/bits_per_byte": "unrepresented",
    }


def test_adjacent_of_a_sweep_is_in_its_section_and_a_record_without_it_has_none(whole: tuple[Store, str]) -> None:
    sweep = open_sweep(*whole)
    assert sweep.record.adjacent == ()
    record = sweep.record.model_copy(update={"adjacent": ("people/cloze",)})
    section = tax_section.compute(Context(replace(sweep, record=record)))
    assert not isinstance(section, str)
    found = {row["key"].rsplit("/", 1)[0] for row in section.content["slices"] if row["label"] == "adjacent"}
    assert found == {"people/cloze"}


def test_margins_come_from_the_claims_for_measures_and_keys(whole: tuple[Store, str]) -> None:
    record = open_sweep(*whole).record
    parts = (difference(margin=0.05, metric="retained"), difference(margin=0.03, metric="people/cloze/acc"))
    claim = Claim(id="X", statement="s", source="s", published="p", parts=parts)
    metrics = {"retained": ("people/cloze/acc", "skills/addition/acc")}
    found = declared_margins(record.model_copy(update={"claims": (claim,)}), metrics)
    assert found == {"people/cloze/acc": 0.03, "skills/addition/acc": 0.05}
    assert declared_margins(record, metrics) == {}


def test_tax_of_a_sweep_has_a_row_per_condition_and_falls_with_training(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sweep = open_sweep(
        *build(tmp_path_factory.mktemp("tax"), Plan(values=(25, 400), arms=("equal_epochs",), scale=0.5))
    )
    table = effects_table(sweep_frame(sweep), items_frame(sweep), metrics_of(sweep))
    chosen, _ = represented_slices(sweep.trials[0].planned.spec.evals.tasks)
    rows = tax_table(table, chosen)
    scores = rows[rows["scale"] == "score"].set_index("condition")["mean"]
    assert scores["num_examples=400"] < scores["num_examples=25"]
    assert set(rows["scale"]) == {"score", "bits_per_byte"}
