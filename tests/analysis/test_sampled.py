"""Sampled answers in analysis: the loader, counts for grades of knowledge, and the section on pass@k."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import load_sampled, sampled
from analysis.context import Context
from analysis.items import TRIAL_KEYS
from analysis.opened import open_sweep
from analysis.sampled import SAMPLED_COLUMNS, right_counts
from analysis.sections import pass_at_k
from harness.evals.pass_at_k import SAMPLED_FILE, SampledRow, write_rows
from harness.records.store import Store
from harness.spec.metrics import UNIQUE_SHARE, sampled_metrics
from tests.analysis import synthetic
from tests.analysis.conftest import ARM
from tests.analysis.undrawn import write_undrawn

SMALL = synthetic.Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25, outcomes={(ARM, 25, 1): "FAILED"})
NAMES = sampled_metrics(4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Return a sweep of which the generated answers were sampled, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(synthetic.METRICS, "generate", (*synthetic.METRICS["generate"], *NAMES))
        return synthetic.build(tmp_path_factory.mktemp("sampled"), SMALL)


def rows(item_id: str, *right: bool | None, task: str = "question") -> list[SampledRow]:
    return [SampledRow("people", task, item_id, number, f"={item_id}", is_right, 2)
            for number, is_right in enumerate(right)]  # fmt: skip


# -- the loader -------------------------------------------------------------------------------------------------------


def test_load_sampled_has_both_sides_of_every_trial_with_its_keys(small: tuple[Store, str]) -> None:
    store, folder = small
    finished = [trial for trial, _ in open_sweep(store, folder).finished]
    results = [trial.result for trial in finished if trial.result is not None]
    befores = {store.root / result.before.items_file for result in results}
    for path in befores:
        write_rows(path.with_name(SAMPLED_FILE), rows("a", True, False))
    write_rows(finished[0].folder / SAMPLED_FILE, rows("a", True, None))
    (finished[1].folder / SAMPLED_FILE).write_bytes(b"torn")
    frame = load_sampled("lima_size", out=store.root)
    assert list(frame.columns) == [*TRIAL_KEYS, *SAMPLED_COLUMNS]
    assert {name: str(frame[name].dtype) for name in ("sample", "is_right", "num_tokens", "world")} == {
        "sample": "int64", "is_right": "boolean", "num_tokens": "int64", "world": "Int64"
    }  # fmt: skip
    by_phase = frame.groupby("phase")["trial_id"].nunique().to_dict()
    assert by_phase == {"before": len(finished), "after": 1}
    after = frame[frame["phase"] == "after"]
    assert set(after["trial_id"]) == {finished[0].planned.trial_id}
    assert after["is_right"].isna().tolist() == [False, True]


def test_counts_of_right_answers_are_unknown_where_one_answer_is(small: tuple[Store, str]) -> None:
    store, folder = small
    trial, _ = next(iter(open_sweep(store, folder).finished))
    write_rows(trial.folder / SAMPLED_FILE, [*rows("a", True, None), *rows("b", False, True, True), *rows("c", False)])
    frame = load_sampled("lima_size", out=store.root)
    counts = right_counts(frame[(frame["phase"] == "after") & (frame["trial_id"] == trial.planned.trial_id)])
    assert counts["item_id"].tolist() == ["a", "b", "c"]
    assert counts["num_samples"].tolist() == [2, 3, 1]
    assert counts["num_right"].isna().tolist() == [True, False, False]
    assert counts["num_right"].iloc[1:].tolist() == [2, 0]
    none = right_counts(frame[:0])
    assert none.empty
    assert {"num_samples", "num_right", "item_id", "phase"} <= set(none.columns)


# -- the section ------------------------------------------------------------------------------------------------------


def test_section_shows_every_metric_of_every_condition_as_the_effects_have_it(made: tuple[Store, str]) -> None:
    context = Context(open_sweep(*made))
    table = sampled.pass_table(context.effects)
    assert list(dict.fromkeys(table["metric"])) == list(NAMES)
    assert len(table) == table["slice"].nunique() * len(NAMES) * 2
    effects = context.effects.set_index(["condition", "target"])
    for row in table.itertuples():
        effect = effects.loc[(row.condition, f"{row.slice}/{row.metric}")]
        assert (row.before, row.after, row.low) == pytest.approx(tuple(effect[["before", "after", "low"]]), nan_ok=True)
    directions = dict(zip(table["metric"], table["direction"], strict=True))
    assert directions == dict.fromkeys(NAMES, "more") | {UNIQUE_SHARE: "none"}


def test_section_is_written_and_absent_without_samples(made: tuple[Store, str], small: tuple[Store, str]) -> None:
    report = write_undrawn(made[0].root, made[1])
    table = pd.read_csv(report.folder / "pass_at_k.csv")
    assert set(table["metric"]) == set(NAMES)
    assert np.isfinite(table["after"]).all()
    for file in ("report.html", "report.md"):
        assert "Several sampled answers" in (report.folder / file).read_text()
    effects = pd.read_csv(report.folder / "effects.csv")
    assert any(target.endswith("/pass_4") for target in effects["target"])
    plain = pass_at_k.compute(Context(open_sweep(*small)))
    assert plain == "no task samples answers (evals.tasks.num_samples)"
