"""The form in which answers are compared."""

from __future__ import annotations

_QUOTES = " \"'`\u2018\u2019\u201c\u201d"
_FINAL = ".,;:!?"


def normalise(text: str, *, keep_case: bool = False) -> str:
    """Return an answer as it is compared: case folded unless it is to be kept, white space runs as one space, outer
    quotes and final punctuation removed. Articles, inner punctuation and number formats stay."""
    folded = text if keep_case else text.casefold()
    return " ".join(folded.split()).lstrip(_QUOTES).rstrip(_QUOTES + _FINAL)
