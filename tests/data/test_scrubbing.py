"""Personal data that is replaced; with the library, where it is installed, and without it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.data import describe_file, prepare, scrubbing
from harness.data.conversations import conversation, pretokenised
from harness.data.scrubbing import Scrubber, hits
from harness.errors import DataError
from tests.data.tiny import chat, spec, tokenizer, write_rows

KINDS = ("email", "phone", "credit_card", "iban", "ip", "us_ssn")
SAID = "Ann is ann.lee@example.org, (212) 555-0123, card 4111 1111 1111 1111, DE89 3704 0044 0532 0130 00."


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    scrubbing._recogniser.cache_clear()
    scrubbing._suffixes.cache_clear()
    yield
    scrubbing._recogniser.cache_clear()


@pytest.fixture
def presidio() -> Any:
    """The optional extra `pii`."""
    return pytest.importorskip("presidio_analyzer", reason="the extra pii is not installed")


def pair(said: str, number: int = 0) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "I see."}],
    }


def test_rows_without_the_library_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(
        DataError, match=r"data\.scrub names 'email', but must be \(\) without presidio-analyzer; .*pii"
    ):
        hits("Who?", ["email"])


def test_rows_are_left_alone_and_nothing_is_loaded_without_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    row = conversation(pair(SAID)["messages"], row_id="", task="")
    assert list(Scrubber(()).rows([row])) == [row]


def test_rows_of_tokens_cannot_be_scrubbed() -> None:
    with pytest.raises(DataError, match=r"data\.scrub is \('email',\), but must be \(\) for rows of tokens"):
        list(Scrubber(("email",)).rows([pretokenised([1, 2], None, row_id="", task="")]))


@pytest.mark.usefixtures("presidio")
def test_every_kind_is_found_in_what_it_looks_like_and_not_in_numbers() -> None:
    said = {
        "email": "ann.lee@example.org",
        "phone": "+44 20 7946 0958",
        "credit_card": "4111-1111-1111-1111",
        "iban": "DE89 3704 0044 0532 0130 00",
        "ip": "192.168.0.1",
        "us_ssn": "536-90-4399",
    }
    for kind, text in said.items():
        found = hits(f"It is {text}, they say.", KINDS)
        assert [(hit.kind, hit.start, hit.end) for hit in found] == [(kind, 6, 6 + len(text))]
    # a sum, a date, a long number, a card and an account whose check digits are wrong, an address of no domain
    for text in ("12 + 34 = 46", "on 2001-02-03", "pi is 3.14159265358979", "4111 1111 1111 1112", "a@b.nosuchsuffix"):
        assert hits(f"It is {text}, they say.", KINDS) == []
    assert hits("DE89 3704 0044 0532 0130 01", ["iban"]) == []


@pytest.mark.usefixtures("presidio")
def test_addresses_are_checked_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert [hit.kind for hit in hits("ann.lee@example.org", ["email"])] == ["email"]


@pytest.mark.usefixtures("presidio")
def test_scrubbed_rows_say_what_kind_was_there_and_are_counted_by_kind(tmp_path: Path) -> None:
    rows = [pair(SAID, 0), pair("Nothing here.", 1), pair("a@example.org, b@example.org", 2)]
    source = describe_file(write_rows(tmp_path / "rows.jsonl", rows))
    made = prepare(spec(source=source, scrub=("email", "phone", "iban")), chat(), seed=0)
    said = {example.row_id: tokenizer().decode(example.input_ids) for example in made.train}
    assert "Ann is <EMAIL>, <PHONE>, card 4111 1111 1111 1111, <IBAN>." in said["r0"]
    assert "<EMAIL>, <EMAIL><|im_end|>" in said["r2"]
    assert made.summary.num_scrubbed == {"email": 3, "iban": 1, "phone": 1}
    assert made.summary.num_rows_scrubbed == {"email": 2, "iban": 1, "phone": 1}
    plain = prepare(spec(source=source), chat(), seed=0)
    untouched = next(example for example in made.train if example.row_id == "r1")
    assert any((example.input_ids.tolist() == untouched.input_ids.tolist()) for example in plain.train)


@pytest.mark.usefixtures("presidio")
def test_arguments_of_calls_and_raw_texts_are_scrubbed_and_duplicates_found_afterwards(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "mail", "arguments": {"to": ["a@example.org"], "n": 3}}}
    turns = [{"role": "user", "content": "Mail."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    (row,) = Scrubber(("email",)).rows([conversation(turns, row_id="", task="")])
    (made,) = row.messages[1].get("tool_calls", [])
    assert made["function"]["arguments"] == {"to": ["<EMAIL>"], "n": 3}
    texts = [{"text": "Ask a@example.org."}, {"text": "Ask b@example.org."}]
    source = describe_file(write_rows(tmp_path / "texts.jsonl", texts))
    found = prepare(spec(source=source, scrub=("email",), deduplicate="exact"), chat(), seed=0)
    assert tokenizer().decode(found.train[0].input_ids).startswith("Ask <EMAIL>.")
    assert found.summary.num_rows_dropped == {"duplicate": 1}
