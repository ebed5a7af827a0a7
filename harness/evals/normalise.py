"""The form in which answers are compared."""

from __future__ import annotations

_QUOTES = " \"'`\u2018\u2019\u201c\u201d"
_FINAL = ".,;:!?"


def normalise(text: str) -> str:
    """Return an answer as it is compared: case folded, white space runs as one space, outer quotes and final
    punctuation removed. Articles, inner punctuation and number formats stay."""
    return " ".join(text.casefold().split()).lstrip(_QUOTES).rstrip(_QUOTES + _FINAL)
