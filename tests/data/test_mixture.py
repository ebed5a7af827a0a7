"""Several sources in one training set, and subsets that hold every task in its share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiments.pocket import EXPERIMENT
from harness.data import PreparedData, describe_file
from harness.data import prepare as prepare_rows
from harness.engine import rows as engine_rows
from harness.engine import worlds
from harness.errors import DataError, SpecError
from harness.identity import behaviours_of, canonical_json
from harness.spec import DataSource, MixedSource, PocketText
from tests.data.tiny import chat, pairs, spec, tokenizer, write_rows
from tests.pocket.tiny import TINY_WORLD

TEXTS = PocketText(world=TINY_WORLD, kinds=(), num_rows=60)


@pytest.fixture
def own(tmp_path: Path) -> DataSource:
    return describe_file(write_rows(tmp_path / "own.jsonl", pairs(60)))


@pytest.fixture
def other(tmp_path: Path) -> DataSource:
    empty = {"id": "none", "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": " "}]}
    return describe_file(write_rows(tmp_path / "other.jsonl", [empty, *pairs(30)]))


def prepared(source: DataSource, *parts: tuple[DataSource, float], seed: int = 0, **changes: Any) -> PreparedData:
    mixture = tuple(MixedSource(source=one, share=share) for one, share in parts)
    fields = {"source": source, "mixture": mixture, "num_examples": 40, "num_validation": 10} | changes
    return prepare_rows(spec(**fields), chat(), seed=seed)


def ids(data: PreparedData, part: str = "") -> list[str]:
    return [example.row_id for example in data.train if example.row_id.startswith(part)]


# -- mixture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_no_row_that_is_validated_on_comes_back_through_a_second_use_of_its_source(own: DataSource, seed: int) -> None:
    path = Path(own.path)  # type: ignore[union-attr]
    moved = describe_file(path.rename(path.with_name("moved.jsonl")))
    path.hardlink_to(path.with_name("moved.jsonl"))
    mixed = prepared(own, (own, 0.5), replay_source=moved, replay_share=0.25, seed=seed)
    held = {row.row_id for row in mixed.validation}
    assert len(held) == 10
    assert not held & {row.row_id.removeprefix("mixture.0/") for row in mixed.train}
    with pytest.raises(DataError, match="the data has 60 rows, less 10 that are validated on"):
        prepared(own, (own, 0.9), num_examples=60, seed=seed)


def test_mixture_keeps_the_size_and_gives_each_source_its_share(own: DataSource, other: DataSource) -> None:
    plain, mixed = prepared(own), prepared(own, (other, 0.25), (TEXTS, 0.1))
    assert len(mixed.train) == 40
    assert ids(mixed)[:26] == ids(plain)[:26]
    assert mixed.summary.num_part_rows == {"mixture.0": 10, "mixture.1": 4}
    assert (len(ids(mixed, "mixture.0/")), len(ids(mixed, "mixture.1/text-"))) == (10, 4)
    assert [example.row_id for example in mixed.validation] == [example.row_id for example in plain.validation]
    last = sum(len(example.input_ids) for example in mixed.train[-4:])
    assert mixed.summary.num_part_tokens["mixture.1"] == last


def test_raw_text_of_a_mixture_is_trained_on_whole_and_chat_only_where_it_answers(own: DataSource) -> None:
    mixed = prepared(own, (TEXTS, 0.5))
    assert all(example.loss_weights[1:].min() == 1.0 for example in mixed.train[20:])
    assert all(example.loss_weights.min() == 0.0 < example.loss_weights.max() for example in mixed.train[:20])
    assert tokenizer().decode(mixed.train[-1].input_ids).endswith("<eos>")


def test_mixture_is_nested_in_share_and_size_and_differs_by_seed_and_place(own: DataSource, other: DataSource) -> None:
    few, many = (ids(prepared(own, (other, share)), "mixture.0/") for share in (0.1, 0.4))
    assert many[: len(few)] == few
    larger = prepared(own, (other, 0.4), num_examples=50)
    assert ids(larger, "mixture.0/")[: len(many)] == many
    assert ids(larger, "r")[:24] == ids(prepared(own, (other, 0.4)), "r")
    assert ids(prepared(own, (other, 0.4), seed=1), "mixture.0/") != many
    second = [name.partition("/")[2] for name in ids(prepared(own, (TEXTS, 0.1), (other, 0.4)), "mixture.1/")]
    assert second != [name.partition("/")[2] for name in many]


def test_mixture_beside_replay_counts_and_prefixes_what_each_drops(own: DataSource, other: DataSource) -> None:
    mixed = prepared(own, (other, 0.2), replay_source=TEXTS, replay_share=0.3)
    assert (mixed.summary.num_replay_rows, mixed.summary.num_part_rows) == (12, {"mixture.0": 8})
    assert mixed.summary.num_rows_dropped == {"mixture.0 empty_assistant_turn": 1}
    assert ids(mixed, "text-")  # replayed rows keep their ids


def test_mixture_without_a_share_for_the_source_is_refused(own: DataSource, other: DataSource) -> None:
    with pytest.raises(ValueError, match=r"replay_share and duplicate_share are together 1 or more.*mixture\.0 0\.5"):
        prepared(own, (other, 0.5), replay_source=TEXTS, replay_share=0.5)
    with pytest.raises(ValueError, match="less than 1"):
        prepared(own, (other, 1.0))
    with pytest.raises(DataError, match=r"mixture\.0\.share 0\.9 in rows is 36, but must be at most 30"):
        prepared(own, (other, 0.9))


def test_mixture_enters_the_identity_only_where_there_is_one(own: DataSource) -> None:
    assert canonical_json(spec(source=own)) == canonical_json(spec(source=own, mixture=()))
    shares = [canonical_json(spec(mixture=(MixedSource(source=TEXTS, share=share),))) for share in (0.1, 0.2)]
    assert len(set(shares)) == 2


def test_plan_checks_worlds_and_sizes_of_a_mixture() -> None:
    texts = {"kind": "pocket_text", "kinds": ["story"], "num_rows": 50}
    world = EXPERIMENT.spec.base.world  # type: ignore[union-attr]
    part = {"source": texts | {"world": world.model_dump(mode="json")}, "share": 0.1}
    trial = EXPERIMENT.spec.replace({"data.mixture": [part], "data.num_examples": 400})
    assert "pocket_world" in behaviours_of(trial)
    engine_rows.check_size(trial, "pocket")
    with pytest.raises(SpecError, match=r"mixture\.0\.share is 0\.2 of 400 rows, 80, but must be at most the 50 rows"):
        engine_rows.check_size(trial.replace({"data.mixture": [part | {"share": 0.2}]}), "pocket")
    moved = worlds.applied(trial, {"world.seed": 5})
    assert moved.data.mixture[0].source.world.seed == 5  # type: ignore[union-attr]
    worlds.check(moved)
    with pytest.raises(SpecError, match=r"data\.mixture\.0\.source\.world\.seed is"):
        worlds.check(moved.replace({"data.mixture": [part]}))


# -- tasks ------------------------------------------------------------------------------------------------------------

TASKS = ["sum"] * 6 + ["fact"] * 3 + ["poem"]


def _with_tasks(path: Path, num: int, long: str = "") -> DataSource:
    rows = [row | {"task": TASKS[number % 10]} for number, row in enumerate(pairs(num))]
    for row in rows:
        if row["task"] == long and int(row["id"][1:]) % 20 < 10:
            row["messages"][1]["content"] *= 60
    return describe_file(write_rows(path, rows))


def _tasks(data: PreparedData) -> Counter[str]:
    return Counter(TASKS[int(example.row_id[1:]) % 10] for example in data.train)


@pytest.mark.parametrize("seed", range(3))
def test_subsets_hold_every_task_in_its_share_and_are_nested(tmp_path: Path, seed: int) -> None:
    source = _with_tasks(tmp_path / "rows.jsonl", 200)
    asked = {"source": source, "num_validation": 0, "stratify": "task"}
    whole = ids(prepared(num_examples=None, seed=seed, **asked))
    for size in (10, 20, 50, 100):
        data = prepared(num_examples=size, seed=seed, **asked)
        assert _tasks(data) == {"sum": size * 6 // 10, "fact": size * 3 // 10, "poem": size // 10}
        assert ids(data) == whole[:size]
    odd = _tasks(prepared(num_examples=37, seed=seed, **asked))
    assert all(abs(odd[task] - 37 * TASKS.count(task) / 10) < 1 for task in odd)


def test_subsets_without_strata_miss_the_shares(tmp_path: Path) -> None:
    source = _with_tasks(tmp_path / "rows.jsonl", 200)
    found = [_tasks(prepared(source, num_examples=50, num_validation=0, seed=seed)) for seed in range(5)]
    assert any(counts != {"sum": 30, "fact": 15, "poem": 5} for counts in found)


def test_row_that_cannot_be_used_makes_room_for_one_of_its_task(tmp_path: Path) -> None:
    source = _with_tasks(tmp_path / "rows.jsonl", 200, long="fact")  # half of the 60 are too long
    asked = {"source": source, "num_validation": 0, "stratify": "task", "max_length": 128}
    for size in (50, 100):
        data = prepared(num_examples=size, **asked)
        assert _tasks(data) == {"sum": size * 6 // 10, "fact": size * 3 // 10, "poem": size // 10}
    # of 150 rows 45 would be facts, and there are 30
    assert _tasks(prepared(num_examples=150, **asked))["fact"] == 30
    assert ids(prepared(num_examples=150, **asked))[:100] == ids(prepared(num_examples=100, **asked))


def test_strata_of_rows_without_tasks_are_refused(own: DataSource) -> None:
    with pytest.raises(DataError, match=r"data\.stratify is 'task', but must be 'off' for rows of which none says"):
        prepared(own, stratify="task")
