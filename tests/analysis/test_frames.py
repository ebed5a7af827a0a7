"""Frames: no row lost, unknown with its reason, choices on val."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis import load_items, load_metrics, load_rows, load_samples, load_sweep, why_missing
from analysis.frames import sweep_frame
from analysis.items import questions_frame
from analysis.opened import open_sweep
from harness.errors import BadInputError
from harness.evals.table import QuestionRow, write_questions
from harness.records.schema import ROW_COLUMNS, TrialResult
from harness.records.seal import sealed
from harness.records.store import Store, file_sha256
from tests.analysis.conftest import ARM, MIXED
from tests.analysis.synthetic import Plan, build

METRICS_DOC = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_load_sweep_every_planned_trial_has_its_row_and_state(mixed: tuple[Store, str]) -> None:
    frame = load_sweep("mixed", out=mixed[0].root)
    assert len(frame) == 9
    states = {(row["axis.data.num_examples"], row["seed"]): row["state"] for _, row in frame.iterrows()}
    assert states[(25, 0)] == "DIVERGED"
    assert states[(25, 1)] == "FAILED"
    assert states[(100, 0)] == "PENDING"
    assert states[(100, 1)] == "PENDING"
    assert states[(100, 2)] == "FAILED"
    assert states[(400, 2)] == "RUNNING"
    assert set(frame["condition"]) == {"num_examples=25", "num_examples=100", "num_examples=400"}


def test_load_sweep_unknown_is_nan_with_its_reason(mixed: tuple[Store, str]) -> None:
    frame = load_sweep("mixed", out=mixed[0].root).set_index(["axis.data.num_examples", "seed"])
    diverged, pending, killed = frame.loc[(25, 0)], frame.loc[(100, 0)], frame.loc[(100, 1)]
    assert math.isnan(diverged["after/learned"])
    assert not math.isnan(diverged["before/learned"])
    assert "DIVERGED" in str(why_missing(diverged, "delta/learned"))
    assert math.isnan(pending["steps"])
    assert why_missing(pending, "steps") == "PENDING: not started"
    assert "interrupted at train, step 40 of 150" in str(why_missing(killed, "before/learned"))
    assert "damaged record" in frame.loc[(100, 2)]["cause"]
    assert frame.loc[(25, 1)]["rerun"] == "python -m harness trial 0123"
    assert pending["rerun"] == "make sweep NAME=mixed BASE=pocket"


def test_load_sweep_delta_is_after_minus_before_on_test_items(whole: tuple[Store, str]) -> None:
    frame = load_sweep("lima_size", out=whole[0].root)
    for name in ("learned", "fluency", "people/cloze/acc"):
        difference = frame[f"after/{name}"] - frame[f"before/{name}"]
        assert frame[f"delta/{name}"].tolist() == pytest.approx(difference.tolist())
    assert (frame["val_after/learned"] != frame["after/learned"]).any()


def test_load_sweep_measure_is_the_mean_of_its_primary_slices(whole: tuple[Store, str]) -> None:
    frame = load_sweep("lima_size", out=whole[0].root)
    expected = (frame["after/people/cloze/acc"] + frame["after/skills/addition/acc"]) / 2
    assert frame["after/retained"].tolist() == pytest.approx(expected.tolist())


def test_load_sweep_lower_is_better_keeps_its_own_direction(whole: tuple[Store, str]) -> None:
    frame = load_sweep("lima_size", out=whole[0].root)
    assert (frame["delta/fluency"] > 0).all()  # bits per byte grew: worse, and not sign-flipped


def test_load_sweep_one_unknown_slice_makes_its_measure_unknown(small: tuple[Store, str]) -> None:
    store, folder = small
    path = store.trial(open_sweep(store, folder).trials[0].planned.trial_id) / "result.json"
    result = json.loads(path.read_text())
    score = {"value": None, "num_items": 0, "num_clusters": None, "reason": "no test items"}
    result["after"]["test"]["skills/addition/acc"] = score
    path.write_text(json.dumps(result))
    row = load_sweep("lima_size", out=store.root).iloc[0]
    assert math.isnan(row["after/retained"])
    assert why_missing(row, "after/retained") == "unknown: skills/addition/acc"
    assert why_missing(row, "after/skills/addition/acc") == "no test items"
    assert not math.isnan(row["after/people/cloze/acc"])


def test_load_sweep_full_precision_only_where_the_base_is_quantised(tmp_path: Path) -> None:
    build(tmp_path, Plan(name="method", axis="method", values=("lora", "qlora"), arms=(ARM,), seeds=(0,), scale=0.2))
    frame = load_sweep("method", out=tmp_path).set_index("method")
    assert math.isnan(frame.loc["lora", "before_full_precision/learned"])
    assert "not quantised" in str(why_missing(frame.loc["lora"], "before_full_precision/learned"))
    qlora = frame.loc["qlora"]
    assert qlora["delta_full_precision/learned"] == pytest.approx(
        qlora["after/learned"] - qlora["before_full_precision/learned"]
    )


def test_load_sweep_mixed_resolved_identity_is_flagged(small: tuple[Store, str]) -> None:
    store, folder = small
    assert not load_sweep("lima_size", out=store.root)["identity_mixed"].any()
    path = store.trial(open_sweep(store, folder).trials[0].planned.trial_id) / "result.json"
    result = json.loads(path.read_text())
    result["resolved"]["weights_sha256"] = "99" * 32
    path.write_text(json.dumps(result))
    frame = load_sweep("lima_size", out=store.root)
    assert frame["identity_mixed"].all()
    assert "weights 999999999999, others 111111111111" in frame["identity_note"].iloc[0]


def test_load_sweep_several_overrides_are_refused_until_one_is_named(tmp_path: Path) -> None:
    seeds = {"a1b2": (0,), "c3d4": (0, 1), None: (0, 1, 2)}
    for set_hash in ("a1b2", "c3d4"):
        build(tmp_path, Plan(values=(25,), arms=(ARM,), seeds=seeds[set_hash], scale=0.1, set_hash=set_hash))
    with pytest.raises(BadInputError, match="lima_size@pocket-a1b2, lima_size@pocket-c3d4") as caught:
        load_sweep("lima_size", out=tmp_path)
    assert "\n" not in str(caught.value)
    # The one without overrides is what the plain name means.
    build(tmp_path, Plan(values=(25,), arms=(ARM,), seeds=seeds[None], scale=0.1))
    for set_hash, expected in seeds.items():
        assert len(load_sweep("lima_size", out=tmp_path, set_hash=set_hash)) == len(expected)
    assert len(load_sweep("lima_size", out=tmp_path, set_hash="")) == 3


def test_load_sweep_unknown_name_says_the_nearest(whole: tuple[Store, str]) -> None:
    with pytest.raises(BadInputError, match="Did you mean 'lima_size@pocket'"):
        load_sweep("lima_sise", out=whole[0].root)


def test_load_sweep_same_trial_in_two_arms_has_two_rows(tmp_path: Path) -> None:
    # The arms differ by name only, so that their cells are the same trials.
    build(tmp_path, Plan(values=(25,), arms=("a", "b"), seeds=(0, 1), scale=0.2))
    frame = load_sweep("lima_size", out=tmp_path)
    assert len(frame) == 4
    assert frame["trial_id"].nunique() == 2
    assert set(frame["condition"]) == {"num_examples=25 (a)", "num_examples=25 (b)"}


# -- choice -----------------------------------------------------------------------------------------------------------

CHOOSE = {"axis": "data.num_examples", "within": "method", "measure": "learned"}


def _set_val(store: Store, trial_id: str, value: float) -> None:
    path = store.trial(trial_id) / "result.json"
    result = json.loads(path.read_text())
    result["after"]["val"]["people/question/exact_match"]["value"] = value
    path.write_text(json.dumps(result))


def test_chosen_is_the_best_on_val_even_if_test_says_otherwise(tmp_path: Path) -> None:
    plan = Plan(values=(25, 100, 400), arms=(ARM,), seeds=(0, 1), scale=0.25, selection=CHOOSE)
    store, folder = build(tmp_path, plan)
    for trial in open_sweep(store, folder).trials:
        if trial.planned.axes["data.num_examples"] == 100:
            _set_val(store, trial.planned.trial_id, 0.999)
    frame = load_sweep("lima_size", out=tmp_path)
    assert frame.groupby("condition")["after/learned"].mean().idxmax() == "num_examples=400"
    assert set(frame.loc[frame["chosen"].fillna(False), "condition"]) == {"num_examples=100"}
    assert frame["chosen_clear"].all()


def test_chosen_is_open_while_a_trial_is_missing_and_never_a_survivor(tmp_path: Path) -> None:
    outcomes = {(ARM, 400, 0): "DIVERGED"}
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25, selection=CHOOSE, outcomes=outcomes)
    build(tmp_path / "diverged", plan)
    frame = load_sweep("lima_size", out=tmp_path / "diverged")
    assert set(frame.loc[frame["chosen"].fillna(False), "condition"]) == {"num_examples=25"}
    open_plan = Plan(
        values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25, selection=CHOOSE, outcomes={(ARM, 25, 1): "FAILED"}
    )
    build(tmp_path / "open", open_plan)
    frame = load_sweep("lima_size", out=tmp_path / "open")
    assert frame["chosen"].isna().all()
    assert frame["chosen_clear"].eq(False).all()
    assert frame["chosen_note"].iloc[0] == "open: num_examples=25 has trials without a result"


def test_chosen_on_a_tie_says_so(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25, 100), arms=(ARM,), seeds=(0,), scale=0.25, selection=CHOOSE))
    for trial in open_sweep(store, folder).trials:
        _set_val(store, trial.planned.trial_id, 0.5)
    frame = load_sweep("lima_size", out=tmp_path)
    assert frame["chosen"].tolist() == [True, False]
    assert frame["chosen_note"].iloc[0].startswith("tie of 2 conditions on val")
    assert not frame["chosen_clear"].any()


# -- items, samples, logs ----------------------------------------------------------------------------------------------


def test_load_items_joins_before_and_after_and_reproduces_the_aggregates(whole: tuple[Store, str]) -> None:
    items = load_items("lima_size", out=whole[0].root)
    frame = load_sweep("lima_size", out=whole[0].root).set_index("trial_id")
    test = items[(items["split"] == "test") & (items["task"] == "cloze") & (items["metric"] == "acc")]
    means = test.groupby("trial_id")["delta"].mean()
    assert means.to_dict() == pytest.approx(frame["delta/people/cloze/acc"].to_dict())


def test_load_items_one_sided_item_keeps_its_row_with_the_reason(small: tuple[Store, str]) -> None:
    store, folder = small
    trial_id = open_sweep(store, folder).trials[0].planned.trial_id
    path = store.trial(trial_id) / "items.parquet"
    table = pd.read_parquet(path)
    gone = table["item_id"] == "question-0000"
    table[~gone].to_parquet(path)
    items = load_items("lima_size", out=store.root)
    row = items[(items["trial_id"] == trial_id) & (items["item_id"] == "question-0000")].iloc[0]
    assert math.isnan(row["after"])
    assert math.isnan(row["delta"])
    assert row["reason_after"] == "not asked"
    assert not math.isnan(row["before"])
    assert row["cluster"] == "person-0"


def test_load_items_that_are_not_as_committed_are_left_out(small: tuple[Store, str]) -> None:
    store, folder = small
    first, second = (trial for trial in open_sweep(store, folder).trials[:2])
    for trial in (first, second):
        assert trial.result is not None
        path = trial.folder / "items.parquet"
        named = trial.result.model_copy(update={"files": {path.name: file_sha256(path)}})
        (trial.folder / "result.json").write_bytes(sealed(named))
    table = pd.read_parquet(path)
    table.assign(value=table["value"] + 0.1).to_parquet(path)  # a whole file, of other numbers
    read = set(load_items("lima_size", out=store.root)["trial_id"])
    assert first.planned.trial_id in read
    assert second.planned.trial_id not in read


def test_load_items_of_records_without_chance_have_none_and_others_their_own(small: tuple[Store, str]) -> None:
    store, folder = small
    assert load_items("lima_size", out=store.root)["chance"].isna().all()
    trial = open_sweep(store, folder).trials[0]
    path = store.trial(trial.planned.trial_id) / "items.parquet"
    pd.read_parquet(path).assign(chance=0.25).to_parquet(path)
    items = load_items("lima_size", out=store.root)
    own = items["trial_id"] == trial.planned.trial_id
    assert (items[own]["chance"] == 0.25).all()
    assert items[~own]["chance"].isna().all()


def test_questions_are_read_beside_a_before_and_a_damaged_table_costs_its_own_rows(small: tuple[Store, str]) -> None:
    store, folder = small
    sweep = open_sweep(store, folder)
    assert len(questions_frame(sweep)) == 0
    (before,) = {result.before.items_file for _, result in sweep.finished}
    path = (store.root / before).with_name("questions.parquet")
    rows = [
        QuestionRow("people", "cloze", f"cloze-{n}", f"Question {n}", "Paris", "punctuation:no_comma") for n in range(3)
    ]
    write_questions(path, rows)
    assert list(questions_frame(sweep).itertuples(index=False, name=None)) == [tuple(row) for row in rows]
    path.write_bytes(path.read_bytes()[:40])
    assert len(questions_frame(sweep)) == 0


def test_load_samples_and_metrics_are_the_logs(whole: tuple[Store, str]) -> None:
    samples = load_samples("lima_size", out=whole[0].root)
    assert set(samples["phase"]) == {"before", "after"}
    assert len(samples) == 18 * 4
    metrics = load_metrics("lima_size", out=whole[0].root)
    assert metrics["train/loss"].notna().any()
    assert {"trial_id", "condition", "seed", "step"} <= set(metrics.columns)


def test_load_rows_are_the_tables_of_the_trials_that_have_one(small: tuple[Store, str]) -> None:
    store, folder = small
    assert load_rows("lima_size", out=store.root).empty
    first, second = (trial.folder for trial in open_sweep(store, folder).trials[:2])
    written = pd.DataFrame([dict.fromkeys(ROW_COLUMNS) | {"row_id": "r1", "use": "train", "num_tokens": 7}])
    written.to_parquet(first / "rows.parquet")
    (second / "rows.parquet").write_bytes(b"PAR1 torn")
    (row,) = load_rows("lima_size", out=store.root).to_dict("records")
    assert (row["row_id"], row["num_tokens"], row["trial_id"]) == ("r1", 7, first.name)
    assert set(ROW_COLUMNS) < set(row)
    assert set(ROW_COLUMNS) <= set(re.findall(r"^\| `([^`]+)`", METRICS_DOC.read_text(), flags=re.MULTILINE))


def test_frame_columns_are_all_documented(tmp_path: Path) -> None:
    build(tmp_path, Plan(name="method", axis="method", values=("qlora",), arms=(ARM,), seeds=(0,), scale=0.1))
    documented = set(re.findall(r"^\| `([^`]+)`", METRICS_DOC.read_text(), flags=re.MULTILINE))
    names = set()
    for column in load_sweep("method", out=tmp_path).columns:
        prefix, slash, _ = column.partition("/")
        names.add(f"{prefix}/*" if slash else "axis.*" if column.startswith("axis.") else column)
    assert names - documented == set()
    assert set(load_items("method", out=tmp_path).columns) - documented == set()


def test_sweep_frame_survives_parquet(mixed: tuple[Store, str], tmp_path: Path) -> None:
    frame = sweep_frame(open_sweep(*mixed))
    frame.to_parquet(tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    assert len(read) == len(MIXED.values) * len(MIXED.seeds)
    assert read["state"].tolist() == frame["state"].tolist()


def test_result_of_the_synthetic_sweep_is_a_valid_record(whole: tuple[Store, str]) -> None:
    store, folder = whole
    trial = open_sweep(store, folder).trials[0]
    assert isinstance(store.read(trial.folder / "result.json", TrialResult), TrialResult)
