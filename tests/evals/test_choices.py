"""choices.parquet against items.parquet of the same model: the choices give every metric of every item again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.choices import choices_beside
from analysis.closed_set import measures_of
from harness import models
from harness.evals import score_after, score_before
from harness.evals.choices import CHOICES_FILE, SCHEMA, write_choices
from harness.records import result
from harness.records.schema import RESULT_FILES, EvalScores, TrainSummary
from harness.records.store import Store, verify_manifest, write_manifest
from harness.spec import EvalSpec
from tests.evals import small
from tests.models import tiny
from tests.specs import pinned_spec

ITEM = ["suite", "task", "item_id"]


def _scored(model: Any, spec: EvalSpec, context: small.Context, trial: str = "one") -> tuple[Path, EvalScores]:
    summary = TrainSummary(
        num_steps=1, num_epochs=1.0, num_examples_seen=1, num_tokens=1, num_loss_tokens=1, learning_rate_integral=0.1,
        trainable_parameters=1, total_parameters=1, train_loss_first=1.0, train_loss_last=1.0, val_loss=None,
        stopped_early=False, divergence=None,
    )  # fmt: skip
    folder = context.store.trial(trial)
    scores = score_after(model, small.chat(), spec, context, folder, summary)
    assert scores is not None
    return folder, scores


@pytest.fixture
def context(tmp_path: Path) -> small.Context:
    return small.Context(Store(tmp_path / "out"))


@pytest.fixture
def spec(tmp_path: Path) -> EvalSpec:
    """Every kind, raw and in chat, and sets of unequal size whose values are of unequal length."""
    values = ["the sea", "Zürich", "a", "home"]
    others = [{"id": f"u{n}", "query": f"{n} dogs ran to", "choices": values[: 2 + n % 3], "gold": 1} for n in range(9)]
    uneven = small.write_items(tmp_path / "uneven.jsonl", others)
    tasks = small.every_kind(tmp_path)
    in_chat = small.task("multiple_choice", uneven, name="in_chat", chat=True)
    return small.evals(*tasks, small.task("multiple_choice", uneven, name="uneven"), in_chat)


def metrics_again(choices: pd.DataFrame) -> dict[str, float]:
    """Return acc, acc_norm and gold_logprob of one item by what docs/metrics.md says of them."""
    gold = int(np.flatnonzero(choices["is_gold"])[0])
    by_byte = choices["logprob"] / choices["num_bytes"]
    return {
        "acc": float(int(np.argmax(choices["logprob"])) == gold),
        "acc_norm": float(int(np.argmax(by_byte)) == gold),
        "gold_logprob": float(choices["logprob"].iloc[gold]),
    }


def again(folder: Path) -> pd.Series:
    """Return (suite, task, item_id, metric) -> value, from the choices alone."""
    groups = pd.read_parquet(folder / CHOICES_FILE).groupby(ITEM, sort=False)
    found = {(*key, metric): value for key, own in groups for metric, value in metrics_again(own).items()}  # type: ignore[misc]
    return pd.Series(found)


def recorded(folder: Path) -> pd.Series:
    items = pd.read_parquet(folder / "items.parquet")
    own = items[items["task"].isin(["multiple_choice", "uneven", "in_chat"])]
    return own.set_index([*ITEM, "metric"])["value"]


def test_choices_reproduce_every_metric_of_every_item_exactly(spec: EvalSpec, context: small.Context) -> None:
    folder, _ = _scored(small.llama(), spec, context)
    assert len(recorded(folder)) == 3 * (12 + 9 + 9)
    pd.testing.assert_series_equal(again(folder), recorded(folder), check_names=False)
    broken = pd.read_parquet(folder / CHOICES_FILE)
    broken.assign(is_gold=broken["choice"] == 0).to_parquet(folder / CHOICES_FILE)
    assert not again(folder).equals(recorded(folder))


def test_rank_one_of_a_real_model_is_acc_and_its_share_of_the_set_is_above_its_probability(
    spec: EvalSpec, context: small.Context
) -> None:
    folder, _ = _scored(small.llama(), spec, context)
    choices = choices_beside(folder / "items.parquet")
    assert isinstance(choices, pd.DataFrame)
    found, items = measures_of(choices).set_index(ITEM), recorded(folder).unstack()
    assert (found["gold_rank"] == 1).astype(float).tolist() == items.loc[found.index]["acc"].tolist()
    assert set(found["gold_rank"]) >= {1.0, 2.0, 3.0}
    assert (found["gold_log_share"] > items.loc[found.index]["gold_logprob"]).all()


def test_choices_hold_only_multiple_choice_items_in_order(spec: EvalSpec, context: small.Context) -> None:
    folder, _ = _scored(small.llama(), spec, context)
    table = pq.read_table(folder / CHOICES_FILE)
    assert table.schema.names == SCHEMA.names
    frame = table.to_pandas()
    assert list(dict.fromkeys(frame["task"])) == ["multiple_choice", "uneven", "in_chat"]
    assert len(frame) == 12 * 3 + 2 * sum(2 + n % 3 for n in range(9))
    assert (
        frame.groupby(ITEM, sort=False)["choice"].agg(list).map(lambda places: places == list(range(len(places)))).all()
    )
    assert frame.groupby(ITEM, sort=False)["is_gold"].sum().eq(1).all()
    assert set(frame.query("task == 'uneven' and choice == 1")["num_bytes"]) == {len("Zürich".encode())}
    items = pd.read_parquet(folder / "items.parquet")
    asked = items[items["metric"] == "acc_norm"]["item_id"].tolist()
    assert list(frame.groupby(ITEM, sort=False).first().index.get_level_values("item_id")) == asked


def test_choices_are_the_same_bytes_twice_and_named_by_the_result(spec: EvalSpec, context: small.Context) -> None:
    model = small.llama()
    folders = [_scored(model, spec, context, trial)[0] for trial in ("one", "two")]
    assert (folders[0] / CHOICES_FILE).read_bytes() == (folders[1] / CHOICES_FILE).read_bytes()
    assert {"items.parquet", CHOICES_FILE} <= set(RESULT_FILES)
    assert CHOICES_FILE in result._hash_files(folders[0])


def test_base_keeps_its_choices_and_a_stored_base_without_them_is_not_scored_again(
    spec: EvalSpec, context: small.Context, tmp_path: Path
) -> None:
    files = models.inspect_folder(tiny.write_folder(tmp_path / "model", max_position_embeddings=512))
    trial = pinned_spec().model_copy(update={"evals": spec})
    before, _ = score_before(files, small.chat(), trial, context, None)
    folder = context.store.artefact("before", before.key)
    assert CHOICES_FILE in verify_manifest(folder)
    pd.testing.assert_series_equal(again(folder), recorded(folder), check_names=False)
    untrained, _ = _scored(models.load_model(files, "float32", "cpu", None), spec, context)
    assert (untrained / CHOICES_FILE).read_bytes() == (folder / CHOICES_FILE).read_bytes()
    (folder / CHOICES_FILE).unlink()
    write_manifest(folder)  # as of a base that was scored before choices were kept
    assert score_before(files, small.chat(), trial, context, None)[0] == before
    assert not (folder / CHOICES_FILE).exists()


def test_choices_of_a_model_that_gives_no_numbers_are_null_and_keep_their_rows(
    spec: EvalSpec, context: small.Context
) -> None:
    model = small.llama()
    model.model.norm.weight.data.fill_(float("nan"))
    frame = pd.read_parquet(_scored(model, spec, context)[0] / CHOICES_FILE)
    assert len(frame) == 12 * 3 + 2 * sum(2 + n % 3 for n in range(9))
    assert frame["logprob"].isna().all()
    assert frame["is_gold"].sum() == 30


def test_choices_of_other_kinds_alone_are_an_empty_table(spec: EvalSpec, context: small.Context) -> None:
    others = tuple(task for task in spec.tasks if task.kind == "greedy")
    for number, asked in enumerate((small.evals(*others), small.evals())):
        table = pq.read_table(_scored(small.llama(), asked, context, str(number))[0] / CHOICES_FILE)
        assert (table.schema.names, table.num_rows) == (SCHEMA.names, 0)


def test_choices_longer_than_the_context_are_null_and_the_others_are_not(
    context: small.Context, tmp_path: Path
) -> None:
    items = [{"id": "longer", "query": "a dog", "choices": ["b c d " * 100, "y"], "gold": 1}]
    task = small.task("multiple_choice", small.write_items(tmp_path / "a.jsonl", items))
    folder, _ = _scored(small.llama(), small.evals(task, max_length=64, val_share=0.0), context)
    logprobs = pd.read_parquet(folder / CHOICES_FILE)["logprob"].tolist()
    assert math.isnan(logprobs[0])
    assert logprobs[1] < 0


def test_an_infinite_log_probability_is_unknown_and_never_a_number(tmp_path: Path, spec: EvalSpec) -> None:
    task = spec.tasks[0]
    document = {"id": "i", "choices": ["a", "b", "c"], "gold": 2}
    sample = {"doc": document, "filtered_resps": [(-math.inf, False), (math.inf, False), (-1.5, True)]}
    write_choices(tmp_path / CHOICES_FILE, [task], {task.key: [sample]})
    found = pq.read_table(tmp_path / CHOICES_FILE).to_pydict()
    assert found["logprob"] == [None, None, -1.5]
    assert found["is_gold"] == [False, False, True]
