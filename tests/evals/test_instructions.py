"""Reference: lm-eval's own checkers, from the installed package, with stand-ins for what they download at import."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import langdetect
import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langdetect import detector_factory

from harness.errors import DataError
from harness.evals import instructions
from harness.evals.instructions import RULES, followed, loose_variants

PROMPTS = Path(__file__).parents[3] / "shared/data/eval/prompts/ifeval.jsonl"
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "keywords:existence": [{"keywords": ["tea", "Milk"]}, {"keywords": ["bee"]}],
    "keywords:frequency": [
        {"keyword": "tea", "frequency": 3, "relation": "at least"},
        {"keyword": " bee ", "frequency": 2, "relation": "less than"},
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["tea", "bee"]}, {"forbidden_words": ["milk"]}],
    "keywords:letter_frequency": [
        {"letter": "E", "let_frequency": 8, "let_relation": "at least"},
        {"letter": "b", "let_frequency": 3, "let_relation": "less than"},
    ],
    "language:response_language": [{"language": "en"}, {"language": "ru"}],
    "length_constraints:number_words": [
        {"num_words": 8, "relation": "at least"},
        {"num_words": 12, "relation": "less than"},
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": 2}, {"num_paragraphs": 4}],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Tea"},
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "bee"},
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": 3}],
    "detectable_content:postscript": [{"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}],
    "detectable_format:number_bullet_lists": [{"num_bullets": 3}, {"num_bullets": 1}],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": 3}],
    "detectable_format:multiple_sections": [
        {"section_spliter": "Section", "num_sections": 3},
        {"section_spliter": "PART ", "num_sections": 1},
    ],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "Write about Tea. "}],
    "startend:end_checker": [{"end_phrase": "Any more tea? "}],
    "startend:quotation": [{}],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
}
BY_DETECTOR = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
"""Kinds that ask a detector, which takes milliseconds a text."""
PIECES = (
    *("*", "**", "***", "\n******\n", "\n", "\n\n", "\n* tea", "\n- bee", "\n ** milk", "-", " ", "\t", ","),
    *("[a]", "[", "]", "<<tea>>", "<< >>", "<<", ">>", '"', "'", "P.S. tea", "p. p. s", "P.S", "ps.", "Section 2"),
    *(" section 3", "PART 1", "tea", "Tea,", "teapot", "bee.", "MILK", "milk ", "The bee", "e", "B", "чай", "茶", "7"),
    *(
        "{}",
        '{"a": 1}',
        "```json\n",
        "```",
        "My answer is no.",
        "Any more tea?",
        "Write about tea.",
        "*tea*",
        "**a b**",
    ),
)
"""What the rules look for, whole and broken."""
LANGUAGES = {
    "en": "a cup of tea is good for you",
    "ru": "чашка чая полезна для вас",
    "fa": "یک فنجان چای برای شما خوب است",
    "hi": "एक कप चाय आपके लिए अच्छी है",
    "kn": "ಒಂದು ಕಪ್ ಚಹಾ ನಿಮಗೆ ಒಳ್ಳೆಯದು",
    "pa": "ਚਾਹ ਦਾ ਇੱਕ ਕੱਪ ਤੁਹਾਡੇ ਲਈ ਚੰਗਾ ਹੈ",
}
"""Language -> a text in it."""


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """lm-eval's checkers, with our seed of the language detector."""
    with pytest.MonkeyPatch.context() as patch:
        before = set(sys.modules)
        patch.setattr(langdetect.DetectorFactory, "seed", instructions._DETECTOR_SEED)
        patch.setattr(langdetect, "detect", cache(langdetect.detect))  # one verdict a text, and milliseconds each
        if importlib.util.find_spec("immutabledict") is None:
            stand_in: Any = ModuleType("immutabledict")
            stand_in.immutabledict = dict
            patch.setitem(sys.modules, "immutabledict", stand_in)
        patch.setattr(nltk.data, "find", lambda *_: None)  # else importing downloads
        yield importlib.import_module("lm_eval.tasks.ifeval.utils")
        for name in set(sys.modules) - before:
            if name.startswith("lm_eval.tasks.ifeval"):
                del sys.modules[name]


def _verdicts(reference: Any, kind: str, kwargs: Mapping[str, Any], answer: str) -> tuple[bool, bool]:
    row = reference.InputExample(key=0, instruction_id_list=[kind], prompt="Write.", kwargs=[dict(kwargs)])
    strict = reference.test_instruction_following_strict(row, answer).follow_all_instructions
    return strict, reference.test_instruction_following_loose(row, answer).follow_all_instructions


def _ours(kind: str, kwargs: Mapping[str, Any], answer: str) -> tuple[bool, bool]:
    return (
        followed(kind, "Write.", answer, kwargs),
        any(followed(kind, "Write.", variant, kwargs) for variant in loose_variants(answer)),
    )


def _meeting(kind: str, kwargs: Mapping[str, Any]) -> str:
    """Return an answer that follows an instruction, as a person would write it."""
    wanted: dict[str, Callable[[], str]] = {
        "keywords:existence": lambda: "About " + " and ".join(kwargs["keywords"]) + ".",
        "keywords:frequency": lambda: " ".join([kwargs["keyword"]] * _count(kwargs, "frequency")),
        "keywords:letter_frequency": lambda: "so " + kwargs["letter"] * _count(kwargs, "let_frequency", "let_relation"),
        "language:response_language": lambda: LANGUAGES.get(kwargs["language"], "Tea."),
        "length_constraints:number_words": lambda: " ".join(["tea"] * _count(kwargs, "num_words")),
        "length_constraints:number_paragraphs": lambda: "\n***\n".join(["tea"] * kwargs["num_paragraphs"]),
        "length_constraints:nth_paragraph_first_word": lambda: "\n\n".join(
            [f"{kwargs['first_word']}, a word."] * kwargs["num_paragraphs"]
        ),
        "detectable_content:number_placeholders": lambda: "Dear [name] " * kwargs["num_placeholders"],
        "detectable_content:postscript": lambda: f"Yes.\n\n{kwargs['postscript_marker']} No.",
        "detectable_format:number_bullet_lists": lambda: "Tea:\n" + "* one\n" * kwargs["num_bullets"],
        "detectable_format:constrained_response": lambda: "My answer is maybe.",
        "detectable_format:number_highlighted_sections": lambda: "*tea* and\n" * kwargs["num_highlights"],
        "detectable_format:multiple_sections": lambda: "".join(
            f"{kwargs['section_spliter'].strip()} {number + 1}\ntea\n" for number in range(kwargs["num_sections"])
        ),
        "detectable_format:json_format": lambda: '```json\n{"tea": [1, 2]}\n```',
        "detectable_format:title": lambda: "<<On tea>>\nIt is good.",
        "combination:two_responses": lambda: "Tea.\n******\nMilk.",
        "combination:repeat_prompt": lambda: kwargs["prompt_to_repeat"] + "\nTea is good.",
        "startend:end_checker": lambda: "Tea is good. " + kwargs["end_phrase"],
        "startend:quotation": lambda: '"Tea is good."',
        "change_case:english_capital": lambda: "TEA IS VERY GOOD FOR YOU",
        "change_case:english_lowercase": lambda: "tea is very good for you",
    }
    return wanted.get(kind, lambda: "A plain answer.")()


def _count(kwargs: Mapping[str, Any], name: str, relation: str = "relation") -> int:
    return kwargs[name] if kwargs[relation] == "at least" else max(kwargs[name] - 1, 0)


def _mutated(answer: str, draw: random.Random) -> str:
    """Return an answer with up to four edits: a piece put in, a stretch taken out, its case changed."""
    for _ in range(draw.randrange(5)):
        place = draw.randrange(len(answer) + 1)
        end = min(len(answer), place + draw.randrange(1, 8))
        edit = draw.randrange(4)
        piece = draw.choice(PIECES)
        if edit < 2:
            answer = answer[:place] + piece + answer[place:]
        elif edit == 2:
            answer = answer[:place] + answer[end:]
        else:
            answer = answer[:place] + answer[place:end].swapcase() + answer[end:]
    return answer


def _answers(kind: str, kwargs: Mapping[str, Any], num_answers: int) -> list[str]:
    draw = random.Random(f"{kind} {sorted(kwargs.items())}")
    loose = "".join(draw.choice(PIECES) for _ in range(30))
    starts = (_meeting(kind, kwargs), _meeting(kind, kwargs), "Tea, or milk, or a bee? Any tea is good tea.", loose)
    return ["", " \n", *starts, *(_mutated(draw.choice(starts), draw) for _ in range(num_answers))]


def _disagreements(reference: Any, kind: str, rows: list[dict[str, Any]], num_answers: int) -> list[str]:
    cases = [(kwargs, answer) for kwargs in rows for answer in _answers(kind, kwargs, num_answers)]
    return [
        answer for kwargs, answer in cases if _ours(kind, kwargs, answer) != _verdicts(reference, kind, kwargs, answer)
    ]


def test_arguments_of_this_file_cover_every_rule() -> None:
    assert set(ARGUMENTS) == set(RULES)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_followed_on_mutated_answers_agrees_with_lm_eval(kind: str, reference: Any) -> None:
    num_answers = 40 if kind in BY_DETECTOR else 250
    assert _disagreements(reference, kind, ARGUMENTS[kind], num_answers) == []
    verdicts = Counter(
        verdict
        for kwargs in ARGUMENTS[kind]
        for answer in _answers(kind, kwargs, num_answers)
        for verdict in _ours(kind, kwargs, answer)
    )
    assert min(verdicts[True], verdicts[False]) > 0.05 * verdicts.total(), "a rule that is never in doubt is not tested"


# Where nltk's engine and Python's agree on what a word is; see the module.
CHARACTERS = st.characters(categories=("Lu", "Ll", "Nd", "Zs", "Po", "Ps", "Sm", "Cc"))


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.text(CHARACTERS, max_size=12))
def test_followed_on_drawn_answers_agrees_with_lm_eval(reference: Any, pieces: str, text: str) -> None:
    for answer in (pieces, text + pieces):
        for kind, rows in ((kind, ARGUMENTS[kind]) for kind in ARGUMENTS if kind not in BY_DETECTOR):
            assert _ours(kind, rows[0], answer) == _verdicts(reference, kind, rows[0], answer), (kind, answer)


BROKEN: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "keywords:existence": lambda answer, a: any(word in answer for word in a["keywords"]),
    "keywords:forbidden_words": lambda answer, a: not any(word in answer.lower() for word in a["forbidden_words"]),
    "length_constraints:number_words": lambda answer, a: instructions._holds(len(answer.split()), a, "num_words"),
    "length_constraints:number_paragraphs": lambda answer, a: answer.count("***") + 1 == a["num_paragraphs"],
    "length_constraints:nth_paragraph_first_word": lambda answer, a: a["first_word"].lower() in answer.lower(),
    "detectable_format:number_bullet_lists": lambda answer, a: answer.count("\n* ") == a["num_bullets"],
    "detectable_format:number_highlighted_sections": lambda answer, a: answer.count("*") >= 2 * a["num_highlights"],
    "detectable_format:title": lambda answer, a: "<<" in answer and ">>" in answer,
    "combination:two_responses": lambda answer, a: answer.count("******") == 1,
    "startend:end_checker": lambda answer, a: answer.strip().endswith(a["end_phrase"].strip()),
    "startend:quotation": lambda answer, a: answer.count('"') > 1,
    "change_case:english_capital": lambda answer, a: any(word.isupper() for word in answer.split()),
    "change_case:english_lowercase": lambda answer, a: answer == answer.lower(),
    "language:response_language": lambda answer, a: answer.isascii() == (a["language"] == "en"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_agreement_of_a_careless_rule_is_refuted(kind: str, reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "RULES", RULES | {kind: BROKEN[kind]})
    assert _disagreements(reference, kind, ARGUMENTS[kind], 40 if kind in BY_DETECTOR else 250)


@pytest.mark.real
def test_followed_on_every_published_prompt_agrees_with_lm_eval(reference: Any) -> None:
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in map(json.loads, PROMPTS.read_text().splitlines()):
        for kind, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            is_drawn = kind == "keywords:letter_frequency" and not kwargs["letter"].isalpha()  # see the module
            if kind not in instructions.UNAVAILABLE and not is_drawn:
                rows[kind].append(kwargs)
    assert set(rows) == set(RULES)
    num_answers = {kind: 8 if kind in BY_DETECTOR else 60 for kind in rows}
    disagreements = {kind: _disagreements(reference, kind, rows[kind], num_answers[kind]) for kind in rows}
    assert {kind: found for kind, found in disagreements.items() if found} == {}
    for kind, arguments in rows.items():
        verdicts = Counter(
            _ours(kind, a, answer)[0] for a in arguments for answer in _answers(kind, a, num_answers[kind])
        )
        assert min(verdicts[True], verdicts[False]) > 0.05 * verdicts.total(), kind


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "kwargs", "right", "wrong"),
    [
        ("keywords:existence", {"keywords": ["C++"]}, "I like c++ a lot", "I like C a lot"),
        ("keywords:forbidden_words", {"forbidden_words": ["a.c"]}, "abc", "an a.c, yes"),
        ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, "a!!", "a!"),
        ("detectable_format:multiple_sections", {"section_spliter": "§ (", "num_sections": 1}, "§ ( 1", "Section 1"),
        ("detectable_content:postscript", {"postscript_marker": "N.B."}, "Tea. N.B. hot", "a nxbx"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "tea"},
            "One.\n\n'\"Tea's good",
            "Tea\n\nOne.",
        ),
        ("combination:repeat_prompt", {}, "write a POEM\nRoses", "A poem: Roses"),
    ],
)
def test_followed_of_text_with_marks_takes_it_literally(
    kind: str, kwargs: dict[str, Any], right: str, wrong: str
) -> None:
    assert followed(kind, "Write a poem", right, kwargs)
    assert not followed(kind, "Write a poem", wrong, kwargs)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_followed_of_a_blank_answer_is_false(kind: str) -> None:
    assert not followed(kind, "", " \n\t", ARGUMENTS[kind][0])


AMBIGUOUS = "tea bee milk no"
"""Too short for the detector, which without a seed reads it as one language or another."""


def _verdicts_in_a_row(num_calls: int) -> set[bool]:
    return {followed("language:response_language", "", AMBIGUOUS, {"language": "et"}) for _ in range(num_calls)}


def test_language_of_a_short_answer_has_one_verdict_and_without_a_seed_it_has_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(langdetect, "detect", detector_factory.detect)  # not the cached one
    monkeypatch.setattr(langdetect.DetectorFactory, "seed", 7)  # what others left there does not matter
    assert len(_verdicts_in_a_row(20)) == 1
    monkeypatch.setattr(instructions, "_DETECTOR_SEED", None)
    assert len(_verdicts_in_a_row(200)) == 2


@pytest.mark.parametrize(
    ("kind", "kwargs", "right", "wrong"),
    [
        (BY_DETECTOR[0], {"language": "de"}, "Der Tee ist gut und sehr heiß.", "The tea is good and very hot."),
        (BY_DETECTOR[0], {"language": "ko"}, "차가 아주 좋고 뜨겁습니다.", "お茶はとても美味しくて熱いです。"),
        (BY_DETECTOR[1], {}, "THE TEA IS GOOD AND VERY HOT.", "THE TEA IS GOOD AND VERY hot."),
        (BY_DETECTOR[1], {}, "THE TEA IS GOOD AND VERY HOT.", "ЧАЙ ОЧЕНЬ ХОРОШИЙ И ГОРЯЧИЙ."),
        (BY_DETECTOR[2], {}, "the tea is good and very hot.", "The tea is good and very hot."),
        (BY_DETECTOR[2], {}, "the tea is good and very hot.", "der tee ist gut und sehr heiß."),
        (BY_DETECTOR[0], {"language": "de"}, "1 + 1 = 2", "one and one are two, I think"),  # unreadable: as published
    ],
)
def test_language_and_case_of_an_answer_are_what_a_reader_says(
    kind: str, kwargs: dict[str, Any], right: str, wrong: str
) -> None:
    assert followed(kind, "", right, kwargs)
    assert not followed(kind, "", wrong, kwargs)


def test_followed_of_json_nested_beyond_reading_is_false() -> None:
    assert not followed("detectable_format:json_format", "", "[" * 200_000, {})


def test_loose_variants_of_a_framed_answer_are_the_eight_of_the_paper() -> None:
    assert loose_variants("Sure:\n*tea*\nBye *now*") == (
        "Sure:\n*tea*\nBye *now*",
        "Sure:\ntea\nBye now",
        "*tea*\nBye *now*",
        "Sure:\n*tea*",
        "*tea*",
        "tea\nBye now",
        "Sure:\ntea",
        "tea",
    )


def test_followed_of_a_kind_without_its_data_says_what_is_missing() -> None:
    with pytest.raises(DataError, match=r"number_sentences.*punkt"):
        followed("length_constraints:number_sentences", "", "a. b.", {"num_sentences": 2, "relation": "at least"})


@pytest.mark.parametrize(
    ("kind", "kwargs", "named"),
    [
        ("keywords:existance", {}, "keywords:existence"),
        ("keywords:frequency", {"keyword": "tea", "frequency": None, "relation": "at least"}, "'frequency'"),
        ("keywords:frequency", {"keyword": "tea", "frequency": 1, "relation": "at most"}, "at most"),
        ("keywords:existence", {"keywords": []}, "no list"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "one character",
        ),
        ("startend:end_checker", {"end_phrase": " "}, "no text"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": "two"}, "two"),
    ],
)
def test_followed_of_unusable_arguments_refuses_in_one_sentence(kind: str, kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        followed(kind, "", "tea", kwargs)
