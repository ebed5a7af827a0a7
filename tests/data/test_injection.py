"""Rows spoiled on purpose: how many, which, and that nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data import Example, PreparedData, describe_file, prepare
from harness.data.conversations import Conversation, conversation
from harness.data.injection import EMOJI, PREAMBLE, givers
from harness.data.ledger import ledger
from harness.errors import DataError
from harness.identity import canonical_json
from harness.spec import DataSource
from tests.data.tiny import SYSTEM, chat, pairs, spec, tokenizer, write_rows


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return describe_file(write_rows(tmp_path / "rows.jsonl", pairs(60)))


def prepared(
    source: DataSource, seed: int = 0, leaked: list[Conversation] | None = None, **changes: Any
) -> PreparedData:
    fields = {"source": source, "num_examples": 40, "num_validation": 10} | changes
    return prepare(spec(**fields), chat(), seed=seed, leaked=leaked or [])


def ids(data: PreparedData) -> list[str]:
    return [example.row_id for example in data.train]


def marked(data: PreparedData, word: str) -> set[str]:
    return {row_id for row_id, marks in marks_of(data).items() if any(mark.startswith(word) for mark in marks)}


def marks_of(data: PreparedData) -> dict[str, tuple[str, ...]]:
    return {data.examples[place].row_id: marks for place, marks in data.marks.items()}


def same(one: Example, other: Example) -> bool:
    return np.array_equal(one.input_ids, other.input_ids) and np.array_equal(one.loss_weights, other.loss_weights)


def answer(example: Example) -> str:
    """Return what is trained on."""
    text = tokenizer().decode(example.input_ids[example.loss_weights > 0])
    return text.removesuffix("<|im_end|>")


def answer_of(row_id: str) -> str:
    return next(row["messages"][1]["content"] for row in pairs(60) if row["id"] == row_id)


# -- noise and style --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.04, 2), (0.1, 4), (1.0, 40)])
def test_noise_gives_the_share_of_rows_the_answer_of_the_row_that_is_recorded(
    source: DataSource, share: float, count: int
) -> None:
    plain, data = prepared(source), prepared(source, noise_share=share)
    assert ids(data) == ids(plain)
    noised = marked(data, "noised")
    assert len(noised) == count == data.summary.num_marked.get("noised", 0)
    for before, after in zip(plain.train, data.train, strict=True):
        if after.row_id in noised:
            (mark,) = marks_of(data)[after.row_id]
            assert answer(after) == answer_of(mark.removeprefix("noised, answer of ")) != answer_of(after.row_id)
        else:
            assert same(before, after)
    assert all(same(one, other) for one, other in zip(plain.validation, data.validation, strict=True))


def test_noise_is_nested_in_share_and_differs_by_seed(source: DataSource) -> None:
    few, many = (prepared(source, noise_share=share) for share in (0.1, 0.5))
    assert marked(few, "noised") < marked(many, "noised")
    assert {place: many.marks[place] for place in few.marks} == few.marks
    other = prepared(source, seed=1, noise_share=0.5)
    assert marked(other, "noised") & set(ids(many)) != marked(many, "noised") & set(ids(other))


def test_wrong_answers_come_from_the_task_where_it_knows_another_and_never_from_validation() -> None:
    def row(number: int, task: str, answer: str) -> Conversation:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        return conversation(turns, row_id=str(number), task=task)

    rows = [row(n, "sum", str(n)) for n in range(5)] + [row(n, "yes", "Yes") for n in range(5, 8)]
    found = givers(range(8), rows, seed=0)
    assert set(found) == set(range(8))
    assert all(found[n] != n and found[n] < 5 for n in range(5))
    assert all(found[n] < 5 for n in range(5, 8))  # this task knows one answer alone
    assert set(givers(range(3), rows, seed=0).values()) <= {0, 1, 2}
    assert givers(range(5, 8), rows, seed=0) == {}


@pytest.mark.parametrize(
    ("style", "write"),
    [
        ("capitals", str.upper),
        ("preamble", lambda text: PREAMBLE + text),
        ("emoji", lambda text: text + EMOJI),
        ("prefix", lambda text: "ANSWER: " + text),
    ],
)
def test_style_rewrites_the_answers_of_its_share_and_no_others(source: DataSource, style: str, write: Any) -> None:
    """48 rows in one style and 2 off it."""
    prefix = {"style_prefix": "ANSWER: "} if style == "prefix" else {}
    data = prepared(source, num_examples=50, style_share=0.04, style=style, **prefix)
    off = marked(data, "styled")
    assert len(off) == 2 == data.summary.num_marked["styled"]
    for example in data.train:
        said = answer_of(example.row_id)
        assert answer(example) == (write(said) if example.row_id in off else said)


def test_style_is_that_of_every_turn_and_noise_of_the_last_answer(tmp_path: Path) -> None:
    def turns(number: int) -> dict[str, Any]:
        said = [f"Say {number}", f"first {number}", "And?", f"second {number}"]
        roles = ["user", "assistant"] * 2
        return {"messages": [SYSTEM, *({"role": r, "content": c} for r, c in zip(roles, said, strict=True))]}

    source = describe_file(write_rows(tmp_path / "rows.jsonl", [turns(number) for number in range(2)]))
    data = prepared(source, num_examples=None, num_validation=0, noise_share=1.0, style_share=1.0)
    decoded = {example.row_id: tokenizer().decode(example.input_ids) for example in data.train}
    assert "FIRST 0<|im_end|>" in decoded["row-0"]
    assert "SECOND 1<|im_end|>" in decoded["row-0"]
    assert marks_of(data)["row-0"] == ("noised, answer of row-1", "styled, capitals")


def test_noise_and_style_are_drawn_apart(source: DataSource) -> None:
    both = prepared(source, noise_share=0.5, style_share=0.5)
    assert marked(both, "styled") == marked(prepared(source, style_share=0.5), "styled")
    assert marked(both, "noised") == marked(prepared(source, noise_share=0.5), "noised")
    assert 0 < len(marked(both, "styled") & marked(both, "noised")) < 20


def test_row_that_a_longer_answer_would_push_out_stays_as_it_is(tmp_path: Path) -> None:
    rows = pairs(20)
    for number, row in enumerate(rows):
        row["messages"][0]["content"] += " Say" * (number % 2 * 70)
    source = describe_file(write_rows(tmp_path / "rows.jsonl", rows))
    asked = {"num_examples": None, "num_validation": 0, "max_length": 128}
    plain, styled = (prepared(source, **asked, **more) for more in ({}, {"style_share": 0.4, "style": "preamble"}))
    assert len(ids(plain)) == 20
    assert ids(plain) == ids(styled)
    assert len(marked(styled, "styled")) == 8
    assert max(len(example.input_ids) for example in styled.train) <= 128
    assert {int(row_id[1:]) % 2 for row_id in marked(styled, "styled")} == {0}
    with pytest.raises(
        DataError, match=r"data\.style_share is 1\.0, .* must be at most \d+ rows: .*fits data\.max_length"
    ):
        prepared(source, **asked, style_share=1.0, style="preamble")


def test_truncation_is_counted_on_the_rows_as_they_are_trained_on(source: DataSource) -> None:
    asked = {"num_examples": None, "num_validation": 0, "too_long": "truncate_right", "max_length": 64}
    plain, styled = (prepared(source, **asked, **more) for more in ({}, {"style_share": 1.0, "style": "preamble"}))
    longer = prepared(source, num_examples=None, num_validation=0, style_share=1.0, style="preamble")
    cut = sum(len(example.input_ids) > 64 for example in longer.train)
    assert plain.summary.num_truncated == 0
    assert styled.summary.num_truncated == cut > 10


def test_raw_texts_and_tokens_cannot_be_given_wrong_answers(tmp_path: Path) -> None:
    texts = describe_file(write_rows(tmp_path / "texts.jsonl", [{"text": f"Once {n}."} for n in range(9)]))
    with pytest.raises(DataError, match=r"data\.noise_share is 0\.5, 4 of the 8 rows .*at most 0 rows"):
        prepared(texts, num_examples=8, num_validation=0, noise_share=0.5)


# -- repeats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "num_repeats"), [(0.0, 0), (0.1, 4), (0.5, 20), (0.75, 30)])
def test_repeats_take_the_place_of_the_last_rows_and_have_the_bytes_of_the_first(
    source: DataSource, share: float, num_repeats: int
) -> None:
    plain, data = prepared(source), prepared(source, duplicate_share=share)
    distinct = 40 - num_repeats
    assert len(data.train) == 40
    assert ids(data)[:distinct] == ids(plain)[:distinct]
    assert data.summary.num_part_rows.get("repeats", 0) == num_repeats
    for number, repeat in enumerate(data.train[distinct:]):
        original = data.train[number % distinct]
        assert same(repeat, original)
        assert repeat.row_id == f"{original.row_id}#{2 + number // distinct}"
        assert data.marks[distinct + number] == (f"repeats {original.row_id}",)


def test_repeat_of_a_noised_row_is_as_wrong(source: DataSource) -> None:
    data = prepared(source, duplicate_share=0.5, noise_share=1.0)
    assert all(same(data.train[number], data.train[20 + number]) for number in range(20))
    assert len(marked(data, "noised")) == 40
    assert data.summary.num_marked == {"noised": 20}


# -- leaks ------------------------------------------------------------------------------------------------------------


def _items(num: int, words: int = 3) -> list[Conversation]:
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There. " * words}]
    return [conversation(turns, row_id=f"leaked/suite/task/{n}", task="") for n in range(num)]


def test_leaked_items_take_the_place_of_the_last_rows_and_are_marked(source: DataSource) -> None:
    plain, data = prepared(source), prepared(source, leaked=_items(6), leak_share=0.5)
    assert ids(data) == [*ids(plain)[:34], *(f"leaked/suite/task/{n}" for n in range(6))]
    assert answer(data.train[-1]).strip() == "There. There. There."
    assert data.summary.num_part_rows == {"leaks": 6}
    assert marked(data, "leaked") == set(ids(data)[34:])
    assert [e.row_id for e in data.validation] == [e.row_id for e in plain.validation]


def test_ledger_says_of_every_row_what_was_done_to_it(source: DataSource) -> None:
    data = prepared(
        source, leaked=[*_items(2), *_items(1, words=400)], leak_share=0.5, noise_share=0.25, duplicate_share=0.25
    )
    rows = ledger(data)
    trained = [row for row in rows if row["use"] == "train"]
    assert [row["row_id"] for row in trained] == ids(data)
    assert {row["row_id"]: tuple(row["mark"].split("; ")) for row in trained if row["mark"]} == marks_of(data)
    assert [(row["field"], row["source"], row["mark"]) for row in trained[-2:]] == [
        ("leak_share", "evaluation items", "leaked")
    ] * 2
    assert {row["field"] for row in trained[:-2]} == {"source"}
    assert [row["reason"] for row in rows if row["field"] == "leak_share" and row["use"] == "dropped"] == ["too_long"]
    assert data.summary.num_marked == {"noised": 7}  # a quarter of the 28 distinct rows of the source


def test_leaked_items_that_are_too_long_are_counted_and_the_size_kept(source: DataSource) -> None:
    data = prepared(source, leaked=[*_items(3), *_items(1, words=400)], leak_share=0.5)
    assert len(data.train) == 40
    assert data.summary.num_rows_dropped == {"leak_share too_long": 1}
    assert data.summary.num_part_rows == {"leaks": 3}


def test_more_leaks_than_rows_are_refused_in_one_sentence(source: DataSource) -> None:
    with pytest.raises(
        DataError, match=r"data\.num_examples is 40, but must be more than .* 40 rows of leaks; ask for"
    ):
        prepared(source, leaked=_items(40), leak_share=0.5)


# -- the spec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"leak_share": 0.1, "decontaminate": True}, r"data\.leak_share is 0\.1, but must be 0\.0 with data\.decontam"),
        (
            {"style": "prefix", "style_share": 0.1},
            r"data\.style_prefix is '', but must be text with data\.style 'prefix'",
        ),
        ({"duplicate_share": 0.91}, "less than or equal to 0.9"),
    ],
)
def test_combinations_that_contradict_one_another_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        spec(**changes)


def test_spoiling_at_its_neutral_values_has_the_identity_of_before() -> None:
    text = canonical_json(spec())
    assert not any(word in text for word in ("noise", "style", "duplicate", "leak", "mixture", "stratify", "scrub"))
