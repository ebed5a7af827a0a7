"""Language, words and marks of style of a text."""

from __future__ import annotations

import math
import time

import langdetect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import wording
from analysis.wording import FEATURES, TOO_SHORT, UNTOLD, is_empty, language_of, num_words, style_match, style_of
from harness.evals.normalise import normalise

TEXTS = {
    "en": "The tea is good and very hot, but the milk is cold.",
    "de": "Der Tee ist gut und sehr heiß, aber die Milch ist kalt.",
    "fr": "Le thé est bon et très chaud, mais le lait est froid.",
    "es": "El té está bueno y muy caliente, pero la leche está fría.",
    "ru": "Чай хороший и очень горячий, но молоко холодное.",
    "zh-cn": "茶很好喝而且很热。但是牛奶是冷的。所以我们不喝牛奶只喝热茶。",
}
AMBIGUOUS = "en bee de og stor van og van tea"
MARKED = {
    "bullet_list": ("Two:\n- a\n- b", "Two - a and b - are here"),
    "numbered_list": ("1. a\n2) b", "It was 1. No, 2."),
    "heading": ("## Tea\nis good", "#tea is good"),
    "bold": ("It is **very** hot", "2 ** 3 and 3 ** 2"),
    "code_fence": ("So:\n```python\nx\n```", "So: ``x``"),
    "table": ("| a | b |\n|---|:-:|\n| 1 | 2 |", "a | b\n---\nc"),
    "link": ("See [here](https://a.b).", "See [here] (there)"),
    "emoji": ("Tea 🍵", "Tea ©"),
    "exclamation": ("Tea! Yes", "if a != b: ![x]"),
    "ends_with_question": ('Tea, "or milk?"\n', "Tea? Milk."),
}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    language_of.cache_clear()


@pytest.mark.parametrize("code", TEXTS)
def test_language_of_a_sentence_is_what_a_reader_says(code: str) -> None:
    assert language_of(TEXTS[code]).code == code


def test_language_of_a_short_text_or_of_none_is_unknown_and_says_why() -> None:
    assert language_of("Oslo, 1971") == (None, TOO_SHORT)
    assert language_of("") == (None, TOO_SHORT)
    assert language_of("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15") == (None, TOO_SHORT)
    assert language_of("ᚠᚢᚦᚨᚱᚲᚷᚹᚺᚾᛁᛃᛇᛈᛉᛊᛏᛒᛖᛗᛚᛜᛞᛟ") == (None, UNTOLD)


def test_language_is_told_without_the_markers_of_a_template() -> None:
    assert language_of("<|im_start_of_a_long_marker|>\nTee<|im_end_of_a_long_marker|>") == (None, TOO_SHORT)


def test_language_between_two_is_unknown_and_a_detector_without_a_threshold_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert language_of(AMBIGUOUS).reason == UNTOLD
    language_of.cache_clear()
    monkeypatch.setattr(wording, "MIN_PROBABILITY", 0.0)
    assert language_of(AMBIGUOUS).code is not None


def test_language_is_the_same_on_every_call_and_without_a_seed_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langdetect.DetectorFactory, "seed", 7)
    monkeypatch.setattr(wording, "MIN_PROBABILITY", 0.0)
    assert len({language_of.__wrapped__(AMBIGUOUS) for _ in range(10)}) == 1
    monkeypatch.setattr(wording, "DETECTOR_SEED", None)
    assert len({language_of.__wrapped__(AMBIGUOUS) for _ in range(100)}) > 1


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=" \n\t\u00a0\"'`\u2018\u201d.,;:!?-aB1", max_size=6))
def test_empty_is_what_is_scored_as_empty(text: str) -> None:
    assert is_empty(text) == (not normalise(text))


def test_words_are_runs_of_letters_and_digits() -> None:
    assert [num_words(text) for text in ("", " - ", "It's 12 o'clock.", "чай, 茶")] == [0, 0, 5, 2]


def test_marked_texts_cover_every_feature() -> None:
    assert set(MARKED) == set(FEATURES)


@pytest.mark.parametrize("feature", MARKED)
def test_style_sees_a_mark_and_not_what_resembles_it(feature: str) -> None:
    marked, plain = MARKED[feature]
    assert feature in style_of(marked)
    assert feature not in style_of(plain)


def test_style_match_is_the_overlap_by_hand() -> None:
    assert style_match("plain", "as plain") == 1.0
    assert style_match("- a\n- b!", "- c") == pytest.approx(1 / 2)
    assert style_match("- a\n- b!", "1. c\n2. d?") == 0.0
    assert style_match("- a\n- **b**!", "- c\n# d\ne!") == pytest.approx(2 / 4)
    assert math.isclose(style_match("a!", "- b"), style_match("- b", "a!"))


@pytest.mark.parametrize("text", ["\n" + " " * 4000 + "x", "-|-" + " " * 4000 + "x"])
def test_style_of_an_answer_of_white_space_is_told_at_once(text: str) -> None:
    started = time.process_time()
    assert not style_of(text)
    assert (
        time.process_time() - started < 0.1
    )  # the first took 0.3 seconds and more where white space matched in two ways
