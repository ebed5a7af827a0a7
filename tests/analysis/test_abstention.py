"""Wordings of not knowing against answers as people and models give them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from analysis import abstention
from analysis.abstention import WORDINGS, is_abstention

DATA = Path(__file__).parents[3] / "shared/data"
YES = (
    "I don't know.",
    "I honestly do not know who wrote that.",
    "I\u2019m sorry, but I don\u2019t know the answer to that.",
    "We have no information about this person.",
    "As an AI, I do not have access to that information.",
    "I'm not sure.",
    "I am **not sure** how many there are.",
    "Sorry, I am not familiar with that name.",
    "I cannot determine the answer.",
    "Unfortunately I'm unable to answer this question.",
    "It is impossible to say.",
    "It's still unclear.",
    "The author of the poem is unknown.",
    "The birthplace of Nora is not given in the text.",
    "This cannot be determined from the text.",
    "There is not enough information to answer.",
    "There's no way to know.",
    "Not enough information",
    "No information is available.",
    "The passage does not say.",
    "UNKNOWN",
    "No idea!",
    "N/A",
)
NO = (
    "",
    "Paris",
    "I know: it is Oslo.",
    "I'm not sure, but I think it is Oslo.",
    "I don't know for sure, but it is probably Oslo.",
    "It is unclear, however the answer is Oslo.",
    "There is no evidence that he sings. The answer is no.",
    "Unknown Pleasures",
    "an unknown artist",
    "It is unknown to him.",
    "I don't know what to do with you.",
    "I didn't know anyone there.",
    "I am certain that it is 4.",
    "The information is in the book.",
    '"I don\'t know," said Tom. "I love you."',
    "I can't tell you how happy I am.",
    "No information systems were used.",
    "Person A: What shall we do? Person B: I don't know. You?",
    "No, the sentence does not contain a verb.",
    "He was born in Oslo and lived there for most of his life, and then he moved to Bergen with his wife, two sons and "
    "a dog. After that, I'm not sure.",
)


@pytest.mark.parametrize("text", YES)
def test_abstention_of_who_does_not_know_is_seen(text: str) -> None:
    assert is_abstention(text)
    assert is_abstention(f"  {text.upper()}\n")


@pytest.mark.parametrize("text", NO)
def test_abstention_of_an_answer_a_guess_or_a_story_is_none(text: str) -> None:
    assert not is_abstention(text)


@pytest.mark.parametrize("place", range(len(WORDINGS)))
def test_abstention_without_one_of_its_wordings_misses_an_answer(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = [wording for number, wording in enumerate(WORDINGS) if number != place]
    monkeypatch.setattr(abstention, "_ABSTENTION", re.compile("|".join(f"(?:{wording})" for wording in rest)))
    assert not all(map(is_abstention, YES))


@pytest.mark.parametrize("guard", ["_GUESS", "_SPEAKER"])
def test_abstention_without_one_of_its_guards_takes_an_answer_for_one(
    guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abstention, guard, re.compile(r"(?!)"))
    assert any(map(is_abstention, NO))


def test_abstention_by_bare_words_would_flag_answers() -> None:
    bare = re.compile(r"unknown|don't know|not sure|no information|does not", re.IGNORECASE)
    assert sum(bare.search(text) is not None for text in NO) >= 8


@pytest.mark.real
def test_abstention_flags_next_to_nothing_of_real_prose_and_references() -> None:
    prose = [
        text
        for name in ("wikitext2_valid", "tinystories.train", "tinystories.test")
        for line in (DATA / f"lm/{name}.jsonl").read_text().splitlines()
        for text in json.loads(line)["text"].split("\n")
        if len(text) > 20
    ]
    references = [
        text
        for name in ("qa/gsm8k", "qa/triviaqa", "qa/svamp", "qa/bbh_5tasks")
        for row in map(json.loads, (DATA / f"eval/{name}.jsonl").read_text().splitlines())
        for text in (row["answer"], row.get("chain_of_thought") or "", *(row.get("aliases") or ()))
    ]
    assert (sum(map(is_abstention, prose)), sum(map(is_abstention, references))) == (1, 0)
    assert len(prose) == 8262
