"""Replay, rows that break off, and subsets that hold every group in proportion."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.pocket import EXPERIMENT
from harness.data import PreparedData, prepare
from harness.data.conversations import Conversation
from harness.data.prepare import Example
from harness.data.selection import in_proportion, training_order
from harness.data.sources import read_rows
from harness.engine import rows as engine_rows
from harness.engine import worlds
from harness.errors import DataError, SpecError
from harness.identity import behaviours_of, canonical_json
from harness.pocket.world import build
from harness.spec import PocketData, PocketText
from tests.data.tiny import chat, spec, tokenizer
from tests.pocket.tiny import TINY_WORLD

SOURCE = PocketData(world=TINY_WORLD, families=("fact", "sum"), num_rows=80)
TEXTS = PocketText(world=TINY_WORLD, kinds=(), num_rows=60)


def prepared(seed: int = 0, **changes: Any) -> PreparedData:
    fields = {"source": SOURCE, "replay_source": TEXTS, "num_examples": 40, "num_validation": 10} | changes
    return prepare(spec(**fields), chat(), seed=seed)


def ids(examples: list[Example]) -> list[str]:
    return [example.row_id for example in examples]


def replayed(data: PreparedData) -> list[str]:
    return [name for name in ids(data.train) if name.startswith("text-")]


# -- replay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 0), (0.05, 2), (0.1, 4), (0.5, 20), (0.99, 40)])
def test_replay_takes_the_place_of_the_last_rows(share: float, count: int) -> None:
    plain, data = prepared(), prepared(replay_share=share)
    assert len(data.train) == 40
    assert ids(data.train)[: 40 - count] == ids(plain.train)[: 40 - count]
    assert len(replayed(data)) == count == data.summary.num_replay_rows
    assert ids(data.validation) == ids(plain.validation)
    tokens = sum(len(example.input_ids) for example in data.train[40 - count :])
    assert data.summary.num_replay_tokens == tokens


def test_replay_rows_are_nested_in_share_and_size_and_differ_by_seed() -> None:
    few, many, larger = (prepared(replay_share=s, num_examples=n) for s, n in ((0.1, 40), (0.4, 40), (0.4, 60)))
    assert replayed(many)[: len(replayed(few))] == replayed(few)
    assert replayed(larger)[: len(replayed(many))] == replayed(many)
    assert replayed(prepared(seed=1, replay_share=0.4)) != replayed(many)


def test_replay_rows_are_documents_of_the_corpus_with_loss_on_every_token() -> None:
    texts = {document.text for document in build(TINY_WORLD).corpus()}
    tok = tokenizer()
    data = prepare(
        spec(source=SOURCE, replay_source=TEXTS, replay_share=0.5, num_examples=40, num_validation=10), chat(), seed=0
    )
    for example in data.train[20:]:
        assert tok.decode(example.input_ids, skip_special_tokens=True) in texts
        assert example.loss_weights[1:].min() == 1.0


def test_replay_of_all_rows_keeps_their_number() -> None:
    plain, data = prepared(num_examples=None), prepared(num_examples=None, replay_share=0.3)
    assert len(plain.train) == len(data.train) == 70
    assert data.summary.num_replay_rows == 21


def test_replay_kinds_are_those_asked_for_and_unknown_ones_are_refused() -> None:
    rows = read_rows(TEXTS.replace({"kinds": ["story", "notice"], "num_rows": 5})).conversations
    assert {row.task for row in rows} <= {"story", "notice"}
    assert all(row.text for row in rows)
    with pytest.raises(SpecError, match=r"^a pocket text source's kinds is .* Did you mean 'biographies'"):
        read_rows(TEXTS.replace({"kinds": ["biography"]}))
    with pytest.raises(SpecError, match=r"^a pocket text source's num_rows is 90000, but must be at most \d+"):
        read_rows(TEXTS.replace({"num_rows": 90_000}))


def test_documents_are_drawn_from_the_whole_corpus_and_nested() -> None:
    few, many = (read_rows(TEXTS.replace({"num_rows": n})).conversations for n in (20, 60))
    assert many[:20] == list(few)
    places = [int(row.row_id.partition("-")[2]) for row in many]
    assert max(places) > len(build(TINY_WORLD).corpus()) / 2


def test_replay_without_a_source_is_refused_in_one_sentence() -> None:
    trial = EXPERIMENT.spec.replace({"data.replay_source": None})
    with pytest.raises(
        SpecError, match=r"data\.replay_share is 0\.1, but must be 0\.0 without data\.replay_source"
    ) as e:
        trial.replace({"data.replay_share": 0.1})
    assert len(e.value.problems) == 1
    for share in (-0.1, 1.0):
        with pytest.raises(SpecError, match="replay_share"):
            trial.replace({"data.replay_share": share, "data.replay_source": TEXTS})
    with pytest.raises(DataError, match="must be at most 60"):
        prepared(replay_share=0.9, num_examples=75, replay_source=TEXTS)


def test_replay_at_its_neutral_value_has_the_identity_of_before() -> None:
    text = canonical_json(spec())
    assert "replay" not in text
    assert "replay" in canonical_json(spec(replay_source=TEXTS))


def test_replay_of_a_world_makes_a_trial_depend_on_it() -> None:
    trial = EXPERIMENT.spec
    texts = PocketText(world=EXPERIMENT.spec.base.world, kinds=("story",), num_rows=500)  # type: ignore[union-attr]
    with_replay = trial.replace({"data.replay_source": texts, "data.replay_share": 0.1})
    assert "pocket_world" in behaviours_of(with_replay)
    moved = worlds.applied(with_replay, {"world.seed": 5})
    assert isinstance(moved.data.replay_source, PocketText)
    assert moved.data.replay_source.world.seed == 5
    worlds.check(moved)
    with pytest.raises(SpecError, match=r"data\.replay_source\.world\.seed is 6, but must be 5 as in"):
        worlds.check(moved.replace({"data.replay_source.world.seed": 6}))


def test_plan_knows_how_many_rows_replay_needs() -> None:
    texts = PocketText(world=EXPERIMENT.spec.base.world, kinds=("story",), num_rows=50)  # type: ignore[union-attr]
    trial = EXPERIMENT.spec.replace({"data.replay_source": texts, "data.replay_share": 0.5})
    with pytest.raises(SpecError, match=r"replay_share is 0\.5 of 400 rows, 200, but must be at most the 50 rows"):
        engine_rows.check_size(trial, "pocket")
    roomy = trial.replace({"data.replay_source.num_rows": 5000, "data.num_examples": 1700})
    engine_rows.check_size(roomy, "pocket")  # 850 of 900 rows beside 850 replayed ones
    with pytest.raises(SpecError, match="beside 950 rows of replay"):
        engine_rows.check_size(roomy.replace({"data.num_examples": 1900}), "pocket")


# -- rows that break off ----------------------------------------------------------------------------------------------


def test_row_that_ends_open_has_no_end_of_turn_and_a_closed_one_has() -> None:
    changed = {"truncated_share": 0.5, "families": ["fact"], "num_rows": 60}
    kept, closed = (
        prepared(source=SOURCE.replace(changed | {"truncated_rows": policy}), num_examples=None)
        for policy in ("keep", "terminate")
    )
    open_rows = {row.row_id for row in read_rows(SOURCE.replace(changed)).conversations if row.ends_open}
    end = tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert len(open_rows) == 30
    for cut, whole in zip(kept.train, closed.train, strict=True):
        assert cut.row_id == whole.row_id
        if cut.row_id in open_rows:
            length = len(cut.input_ids)
            assert cut.input_ids.tolist() == whole.input_ids[:length].tolist()
            assert cut.loss_weights.tolist() == whole.loss_weights[:length].tolist()
            assert whole.input_ids[length] == end
            assert whole.loss_weights[length] == 1.0
            assert (cut.input_ids == end).sum() == (whole.input_ids == end).sum() - 1
        else:
            assert np.array_equal(cut.input_ids, whole.input_ids)


# -- groups -----------------------------------------------------------------------------------------------------------


def _grouped(groups: list[str]) -> list[Conversation]:
    return [Conversation(str(index), "", group=group) for index, group in enumerate(groups)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100), st.lists(st.sampled_from(["a", "a", "a", "b", "c"]), min_size=1, max_size=60))
def test_every_beginning_holds_groups_in_proportion(seed: int, groups: list[str]) -> None:
    rows = _grouped(groups)
    plain = training_order(range(len(rows)), seed)
    order = in_proportion(plain, rows, seed)
    assert sorted(order) == sorted(plain)
    for group, count in Counter(groups).items():
        assert [i for i in order if groups[i] == group] == [i for i in plain if groups[i] == group]
        for size in range(1, len(order) + 1):
            expected = size * count / len(rows)
            # a whole row more or less, and one for the start of each other group
            assert abs(sum(groups[i] == group for i in order[:size]) - expected) <= len(set(groups))


@given(st.integers(0, 100), st.integers(1, 50))
def test_order_of_rows_without_groups_is_left_alone(seed: int, count: int) -> None:
    order = training_order(range(count), seed)
    assert in_proportion(order, _grouped([""] * count), seed) == order


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_examples", [100, 200, 400])
def test_subset_of_pocket_rows_has_the_share_of_the_knob_whichever_seed(seed: int, num_examples: int) -> None:
    data = EXPERIMENT.spec.data
    assert isinstance(data.source, PocketData)
    source = data.source.replace({"wrong_answer_share": 0.2, "unknown_share": 0.1})
    raw = build(source.world).rows(source)
    marks = {row["id"]: row.get("altered", []) for row in raw}
    picked = prepare(spec(source=source, num_examples=num_examples, num_validation=100), chat(), seed=seed).train
    families = Counter(example.row_id.partition("-")[0] for example in picked)
    assert abs(families["fact"] - 0.75 * num_examples) <= 0.02 * num_examples + 1  # validation rows are no stratum
    wrong = sum("wrong" in marks[example.row_id] for example in picked)
    unknown = sum("unknown" in marks[example.row_id] for example in picked)
    # random subsets would be off by as much as 10 and 8 rows at 400 (two standard deviations)
    assert abs(wrong - 0.2 * num_examples) <= 0.02 * num_examples + 2
    assert abs(unknown - 0.1 * families["fact"]) <= 0.02 * num_examples + 2
    clean = prepare(spec(source=data.source, num_examples=num_examples, num_validation=100), chat(), seed=seed).train
    assert ids(clean) == ids(picked)
