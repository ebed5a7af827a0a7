"""Which characters of a text each of its tokens stands for, asked about a character at a time.

Invariant: what is answered is what a search in the list of all offsets finds, whichever way it is found, where they
ascend, as that search expects. What does not live here: what follows from where a token stands (masks.py).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokenizers import Encoding

_MAX_SEARCHED = 4096
"""Tokens up to which a tokenizer's own search, one by one, is faster than a list of all."""


class Offsets(Protocol):
    """The characters of T tokens, [first, past) of each, ascending."""

    def around(self, place: int) -> tuple[int, int]:
        """Return how many tokens end at or before a character, and how many begin before it."""
        ...

    def start(self, token: int) -> int:
        """Return the first character that a token stands for."""
        ...


class ListedOffsets:
    """Those of a list."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Take all of them."""
        self._pairs = pairs

    def around(self, place: int) -> tuple[int, int]:
        """Return how many tokens end at or before a character, and how many begin before it."""
        pairs = self._pairs
        return bisect_right(pairs, place, key=lambda pair: pair[1]), bisect_left(pairs, place, key=lambda pair: pair[0])

    def start(self, token: int) -> int:
        """Return the first character that a token stands for."""
        return self._pairs[token][0]


class EncodingOffsets:
    """Those of a Rust tokenizer, which answers without a list of all: to make that takes longer than all answers."""

    def __init__(self, encoding: Encoding) -> None:
        """Take them from what a tokenizer returned for one text."""
        self._encoding = encoding

    @cached_property
    def _listed(self) -> ListedOffsets:
        return ListedOffsets(self._encoding.offsets)

    def around(self, place: int) -> tuple[int, int]:
        """Return how many tokens end at or before a character, and how many begin before it."""
        length = len(self._encoding)
        if not 0 < length <= _MAX_SEARCHED:
            return self._listed.around(place)
        token = self._encoding.char_to_token(place)
        if token is None:
            token = length  # behind the last token, unless that says otherwise: a character may be in none
        if token:
            first, past = self._characters(token - 1)
            if not first < place >= past:
                return self._listed.around(place)
        if token == length:
            return length, length
        begun = token
        while begun < length and self.start(begun) < place:
            begun += 1
        return token, begun

    def start(self, token: int) -> int:
        """Return the first character that a token stands for."""
        return self._characters(token)[0]

    def _characters(self, token: int) -> tuple[int, int]:
        found = self._encoding.token_to_chars(token)
        return self._encoding.offsets[token] if found is None else found
