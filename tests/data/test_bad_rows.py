"""Rows that cannot be trained on: each has its reason, and none takes minutes."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from transformers import AutoTokenizer, ByT5Tokenizer

from harness.data import ChatFormat, chat_format, describe_file, prepare, write_ledger
from harness.data.chat import Encoded
from harness.data.conversations import UnusableRow, conversation
from harness.data.formats import parse
from harness.data.masks import LARGE, MAX_CHARACTERS, locate, render
from harness.errors import DataError
from tests.data.test_templates import CHATML_OWN, own
from tests.data.tiny import REAL, SYSTEM, TURNS, chat, located, prepared, rendered, spec, write_rows

USER, ANSWER = TURNS[0], TURNS[1]
MEGABYTE = 2**20


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER], "no_assistant_turn"),
        ([SYSTEM, USER], "no_assistant_turn"),
        ([ANSWER, USER], "assistant_first"),
        ([SYSTEM, ANSWER], "assistant_first"),
        ([USER, say("assistant", "")], "empty_assistant_turn"),
        ([USER, ANSWER, USER, say("assistant", " \t\n")], "empty_assistant_turn"),
        ([say("narrator", "x"), USER, ANSWER], "unknown_role"),
        ([say("User", "x"), ANSWER], "unknown_role"),
        ([say("user", "\udc00"), ANSWER], "not_unicode"),
        ([USER, say("assistant", "ok\ud83d")], "not_unicode"),
        ([say("user", None), ANSWER], "malformed"),
        ([say("user", 7), ANSWER], "malformed"),
        ([say("user", b"bytes"), ANSWER], "malformed"),
        ([{"content": "x"}, ANSWER], "malformed"),
        ([{"role": "user"}, ANSWER], "malformed"),
        ([USER, "Paris."], "malformed"),
        ([], "malformed"),
        ("What is 2+2?", "malformed"),
        (None, "malformed"),
    ],
)
def test_row_that_cannot_be_trained_on_has_its_reason(messages: Any, reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        parse({"messages": messages}, "messages", 0)
    assert caught.value.reason == reason


def calling(arguments: Any, name: str = "f", **call: Any) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": arguments}
    return [USER, say("assistant", "") | {"tool_calls": [{"type": "function", "function": function} | call]}]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("messages", {"messages": TURNS, "tools": 1}, "malformed"),
        ("messages", {"messages": TURNS, "tools": True}, "malformed"),
        ("messages", {"messages": TURNS, "tools": "{"}, "malformed"),
        ("messages", {"messages": TURNS, "tools": [{"name": "f", "description": "\ud800"}]}, "not_unicode"),
        ("messages", {"messages": calling({"a": "\ud800"})}, "not_unicode"),
        ("messages", {"messages": calling({"\ud800": 1})}, "not_unicode"),
        ("messages", {"messages": calling('{"a": "\\ud800"}')}, "not_unicode"),
        ("messages", {"messages": calling({}, name="\ud800")}, "not_unicode"),
        ("messages", {"messages": calling({}, id="\ud800")}, "not_unicode"),
        ("messages", {"messages": [*calling({}), say("tool", "4") | {"tool_call_id": "\ud800"}]}, "not_unicode"),
        ("messages", {"messages": [*calling({}), say("tool", "4") | {"name": "\ud800"}]}, "not_unicode"),
        ("messages", {"messages": calling({"a": b"bytes"})}, "malformed"),
        ("messages", {"messages": calling({"at": datetime(2026, 1, 1, tzinfo=UTC)})}, "malformed"),
        ("messages", {"messages": calling({"a": Decimal("1.5")})}, "malformed"),
        ("messages", {"messages": calling("[" * 100_000)}, "malformed"),
        ("messages", {"messages": calling(nested(101))}, "malformed"),
        ("messages", {"messages": [USER, say("assistant", "") | {"tool_calls": "f()"}]}, "malformed"),
        (
            "sharegpt",
            {"conversations": [{"from": ["human"], "value": "a"}, {"from": "gpt", "value": "b"}]},
            "malformed",
        ),
        ("tokens", {"input_ids": [5, 6], "attention_mask": 1}, "malformed"),
        ("tokens", {"input_ids": [5, 6], "attention_mask": [[1, 1]]}, "malformed"),
    ],
)
def test_row_with_an_odd_field_has_its_reason_and_breaks_nothing(kind: Any, row: Any, reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        parse(row, kind, 0)
    assert caught.value.reason == reason


def test_row_names_that_are_no_unicode_are_spelled_out_in_the_ledger(tmp_path: Path) -> None:
    rows = [{"id": "\ud800", "task": "\udfff", "messages": TURNS}, {"id": "a\ud83d", "messages": []}]
    data = prepared(write_rows(tmp_path / "rows.jsonl", rows))
    write_ledger(tmp_path / "rows.parquet", data)
    assert parquet.read_table(tmp_path / "rows.parquet")["row_id"].to_pylist() == ["\\ud800", "a\\ud83d"]
    assert [row.task for row in data.parts[0].chosen] == ["\\udfff"]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([USER, USER, ANSWER], id="two questions in a row"),
        pytest.param([USER, ANSWER, ANSWER], id="two answers in a row"),
        pytest.param([USER, SYSTEM, ANSWER], id="a late system turn"),
        pytest.param([say("user", ""), ANSWER], id="an empty question"),
        pytest.param([say("user", "a\x00b"), say("assistant", "c\x00d")], id="NUL"),
        pytest.param([say("user", "e\u0301\u200d\ufeff\u202e"), ANSWER], id="marks without a width"),
    ],
)
def test_row_out_of_the_ordinary_that_a_template_writes_is_trained_on_its_answers_alone(
    messages: list[dict[str, Any]],
) -> None:
    form = chat()
    row = located(form, messages)
    said = [form.tokenizer.decode(row.ids[turn.start : turn.stop]) for turn in row.turns]
    assert said == [message["content"] for message in messages if message["role"] == "assistant"]


@pytest.mark.parametrize("name", ["llama2", "gemma", "mistral", "alpaca"])
def test_late_system_turn_is_counted_where_the_template_refuses_it(name: str, tmp_path: Path) -> None:
    rows = [{"messages": [USER, SYSTEM, ANSWER]}, {"messages": TURNS}]
    summary = prepared(write_rows(tmp_path / "rows.jsonl", rows), template=name).summary
    assert (summary.num_train, summary.num_rows_dropped) == (1, {"template_refuses": 1})


def test_roles_that_must_alternate_are_counted_where_they_do_not(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML_OWN
    )
    rows = [{"messages": [USER, USER, ANSWER]}, {"messages": [USER, ANSWER, ANSWER]}, {"messages": TURNS}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    summary = prepared(path, tok=own(source), template="tokenizer").summary
    assert (summary.num_train, summary.num_rows_dropped) == (1, {"template_refuses": 2})


def test_row_whose_answers_are_cut_away_is_counted_on_either_side(tmp_path: Path) -> None:
    long_question = [say("user", "word " * 80), say("assistant", "ok")]
    long_after = [USER, say("assistant", "ok"), say("user", "word " * 80)]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": m} for m in (long_question, long_after, TURNS)])
    right = prepared(path, max_length=64, too_long="truncate_right").summary
    left = prepared(path, max_length=64, too_long="truncate_left").summary
    assert right.num_rows_dropped == {"no_trained_token": 1}
    assert left.num_rows_dropped == {"no_trained_token": 1}
    assert prepared(path, max_length=64, too_long="drop").summary.num_rows_dropped == {"too_long": 2}


def test_every_reason_of_a_file_is_counted_and_every_row_accounted_for(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [USER]},
        {"messages": [ANSWER, USER]},
        {"messages": [say("narrator", "x"), ANSWER]},
        {"messages": [USER, say("assistant", " ")]},
        {"messages": [USER, say("assistant", "long " * 200)]},
        {"messages": TURNS},
    ]
    summary = prepared(write_rows(tmp_path / "rows.jsonl", rows), max_length=128).summary
    assert summary.num_rows_dropped == {
        "assistant_first": 1,
        "empty_assistant_turn": 1,
        "no_assistant_turn": 1,
        "too_long": 1,
        "unknown_role": 1,
    }
    assert summary.num_train + sum(summary.num_rows_dropped.values()) == summary.num_rows_read


# -- large rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
def test_row_of_a_megabyte_is_located_in_seconds(slow: bool) -> None:
    form = chat("chatml", ByT5Tokenizer()) if slow else chat()
    words = "What is the capital of France? " * (MEGABYTE // 31)
    started = time.monotonic()
    row = located(form, [say("user", words), say("assistant", "Paris."), say("user", "Why?"), say("assistant", "No.")])
    assert time.monotonic() - started < 60
    assert form.tokenizer.decode(row.ids[row.turns[0].start : row.turns[0].stop]) == "Paris."


def test_row_of_too_many_turns_is_dropped_at_once_and_not_rendered_for_each() -> None:
    form = chat()
    many = [message for _ in range(20_000) for message in (USER, ANSWER)]
    started = time.monotonic()
    with pytest.raises(UnusableRow, match="too_many_turns"):
        rendered(form, many)
    assert time.monotonic() - started < 5
    assert len(rendered(form, many[:400]).turns) == 200


def test_row_that_would_take_more_than_ten_seconds_is_dropped_for_its_turns() -> None:
    with pytest.raises(UnusableRow, match="too_many_turns"):
        rendered(chat(), [USER, ANSWER] * 1000)


def test_long_row_is_held_a_few_times_and_not_once_for_each_of_its_turns() -> None:
    form, messages = chat(), [USER, say("assistant", "x" * MEGABYTE), *[USER, ANSWER] * 40]
    rendered(form, messages[:4])  # what is built once is not the row's
    tracemalloc.start()
    rendered(form, messages)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * MEGABYTE


class PanicException(BaseException):
    """What tokenizers raise out of Rust; no Exception."""


class Panicking(ChatFormat):
    """A format whose tokenizer breaks down over a long run of spaces, as Qwen2.5's does over ten million."""

    def encode_batch(self, texts: Sequence[str], *, with_offsets: bool = False) -> list[Encoded]:
        if any(" " * LARGE in text for text in texts):
            raise PanicException("retry-limit-in-match over")
        return super().encode_batch(texts, with_offsets=with_offsets)


def test_row_over_which_the_tokenizer_panics_is_dropped_and_the_others_stay() -> None:
    form = Panicking(**vars(chat()))
    with pytest.raises(UnusableRow, match="tokenizer_refuses"):
        rendered(form, [say("user", " " * LARGE + "?"), ANSWER])
    assert len(rendered(form, [say("user", "a" * (LARGE + 1)), ANSWER]).turns) == 1


def test_text_over_which_the_tokenizer_panics_is_dropped_and_the_others_stay(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": " " * LARGE + "?"}, {"text": "It is so."}])
    found = prepare(spec(source=describe_file(path)), Panicking(**vars(chat())), seed=0)
    assert found.summary.num_rows_dropped == {"tokenizer_refuses": 1}
    assert len(found.train) == 1


def test_stop_that_a_person_asks_for_is_not_taken_for_a_tokenizers_panic() -> None:
    class Stopped(ChatFormat):
        def encode_batch(self, texts: Sequence[str], *, with_offsets: bool = False) -> list[Encoded]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rendered(Stopped(**vars(chat())), [say("user", "a" * (LARGE + 1)), ANSWER])


TEN_MEGABYTES = {
    "question": {"messages": [say("user", "What is it? " * (10 * MEGABYTE // 12)), ANSWER]},
    "answer": {"messages": [USER, say("assistant", "x" * 10 * MEGABYTE)]},
    "turns": {"messages": [USER, say("assistant", "It is so. " * (MEGABYTE // 10))] * 10},
    "spaces": {"messages": [say("user", " " * (10 * MEGABYTE) + "x"), ANSWER]},
    "text": {"text": "It is so. " * MEGABYTE},
}


@pytest.mark.parametrize("kind", TEN_MEGABYTES)
def test_row_of_ten_megabytes_is_dropped_in_seconds_and_the_others_stay(tmp_path: Path, kind: str) -> None:
    ordinary = {"text": "It is so."} if kind == "text" else {"messages": TURNS}
    path = write_rows(tmp_path / "rows.jsonl", [ordinary, TEN_MEGABYTES[kind], ordinary])
    for policy in ("drop", "truncate_right"):
        started = time.process_time()
        found = prepared(path, too_long=policy)
        assert time.process_time() - started < 10
        assert found.summary.num_rows_dropped == {"too_large": 1}
        assert len(found.train) == 2
    with pytest.raises(DataError, match=r"row 'row-1' has more than 2097152 characters, but must have at most as many"):
        prepared(path, too_long="raise")


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")
@pytest.mark.parametrize(("folder", "template"), [("tokenizers/qwen2.5", "chatml"), ("tokenizers/mistral", "mistral")])
def test_largest_row_that_a_real_tokenizer_is_given_takes_under_a_minute(folder: str, template: str) -> None:
    tok = AutoTokenizer.from_pretrained(REAL / folder, local_files_only=True)
    form = chat_format(tok, spec(template=template))
    row = conversation([say("user", "What is it? " * (MAX_CHARACTERS // 12 - 20)), ANSWER], row_id="row", task="")
    started = time.process_time()
    (found,) = locate(form, [render(form, row)])
    assert time.process_time() - started < 60
    assert "The answer is 4." in tok.decode(found.ids[found.turns[0].start : found.turns[0].stop])


def test_template_that_raises_on_every_row_leaves_no_row_to_train_on(tmp_path: Path) -> None:
    source = "{% if 'capital' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + CHATML_OWN
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": TURNS[2:]}])
    with pytest.raises(DataError, match=r"there is no row to train on: .*template_refuses: 1"):
        prepared(path, tok=own(source), template="tokenizer")
