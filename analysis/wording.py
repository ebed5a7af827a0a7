"""What can be seen of an answer without reading it: its language, its length in words, its marks of style.

Invariant: a function of the text alone, the same on every call; what cannot be told is None with a reason. What does
not live here: what is made of it over answers (answers.py, length_control.py).
"""

# pyright: basic
from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

MIN_LETTERS = 20
"""Letters below which no language is told: the detector guesses."""
MIN_PROBABILITY = 0.8
"""Below it the detector cannot tell."""
NUM_CHARACTERS = 1000
"""How much of a text the detector reads."""
DETECTOR_SEED = 0
TOO_SHORT = f"under {MIN_LETTERS} letters"
UNTOLD = "the language cannot be told"
_BLANK = " \"'`\u2018\u2019\u201c\u201d.,;:!?"
_MARKER = re.compile(r"<\|[^|<>\n]*\|>")


class Language(NamedTuple):
    """A text's language."""

    code: str | None
    """ISO 639-1, of Chinese with the script; None where it cannot be told."""
    reason: str | None
    """Why it cannot."""


@lru_cache(maxsize=1 << 16)
def language_of(text: str) -> Language:
    """Return the language of a text, by langdetect with a fixed seed; special tokens are not read.

    Unknown under 20 letters, and where the detector's first choice has a probability below .8.

    Source: Nakatani Shuyo's language-detection in the Python port langdetect, 55 languages.
    """
    read = _MARKER.sub(" ", text[:NUM_CHARACTERS])
    if sum(map(str.isalpha, read)) < MIN_LETTERS:
        return Language(None, TOO_SHORT)
    import langdetect  # takes half a second, and many reports have no long answer

    langdetect.DetectorFactory.seed = DETECTOR_SEED
    try:
        first, *_ = langdetect.detect_langs(read)
    except (langdetect.LangDetectException, ValueError):  # nothing to read, or nothing that is likely
        return Language(None, UNTOLD)
    return Language(first.lang, None) if first.prob >= MIN_PROBABILITY else Language(None, UNTOLD)


def is_empty(text: str) -> bool:
    """Return whether nothing is left of an answer without white space, quotes and final punctuation."""
    return not "".join(text.split()).strip(_BLANK)


def num_words(text: str) -> int:
    """Return the runs of letters and digits in a text."""
    return len(re.findall(r"\w+", text))


FEATURES: dict[str, re.Pattern[str]] = {
    "bullet_list": re.compile(r"^[ \t]*[-*+\u2022][ \t]+\S", re.MULTILINE),
    "numbered_list": re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+\S", re.MULTILINE),
    "heading": re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE),
    "bold": re.compile(r"\*\*\S[^*\n]*\*\*|__\S[^_\n]*__"),
    "code_fence": re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE),
    "table": re.compile(r"^[ \t]*(?:\|[ \t]*)?:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+(?:\|[ \t]*)?$", re.MULTILINE),
    "link": re.compile(r"\[[^\]\n]+\]\([^)\s]+\)|\bhttps?://\w"),
    "emoji": re.compile("[\u2600-\u27bf\u2b50\u2b55\U0001f300-\U0001faff]"),
    "exclamation": re.compile(r"[!\uff01](?![=\[])"),
    "ends_with_question": re.compile(r"[?\uff1f][\s\"'*_)\u201d\u2019]*\Z"),
}
"""Marks of style -> what shows them."""


@lru_cache(maxsize=1 << 16)
def style_of(text: str) -> frozenset[str]:
    """Return which of `FEATURES` a text has."""
    return frozenset(name for name, pattern in FEATURES.items() if pattern.search(text))


def style_match(answer: str, reference: str) -> float:
    """Return the Jaccard index of the marks of style of two texts, 0 to 1; 1 where neither has any. More is closer."""
    mine, theirs = style_of(answer), style_of(reference)
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0
