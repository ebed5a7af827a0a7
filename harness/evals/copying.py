"""How much of an answer is somebody else's text: the prompt's, or that of the answers trained on.

Invariant: texts are compared by their words (`words`), so case, punctuation and white space never make a difference,
and the same targets in the same order give the same index and the same spans. What does not live here: which metric is
made of a span (behaviour.py), what the targets of a trial are (targets.py), and the search of test items in training
rows (harness/data/hygiene.py).

Legend: N words of all targets laid end to end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 10_000_000
"""Words that an index holds; targets beyond them are left out and counted. Eight bytes each, and at most 45 while the
index is made."""
SORTED_WORDS = 8
"""How many words the places of an index are sorted by: spans that long are found by bisection, longer from them."""

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han, which are written without spaces: each is a word of its own."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")

Ids = NDArray[np.int32]


def words(text: str) -> list[str]:
    """Return the words of a text, case folded: runs of letters and digits; a Han or Kana character is one alone."""
    return _WORD.findall(text.casefold())


# -- the prompt -------------------------------------------------------------------------------------------------------


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """Return ROUGE-L of two texts, given as words: 2 L / (n + m), L the length of the longest common subsequence.

    The F1 of recall L/n and precision L/m: recall alone grows with any long answer, precision alone is 1 for every
    single word that the prompt has. Between 0 and 1, symmetrical; nan where both are empty.

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), section 3, with beta = 1.
    """
    total = len(first) + len(second)
    return 2 * _common_subsequence(first, second) / total if total else float("nan")


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Source: Hyyrö, Bit-Parallel LCS-length Computation Revisited (2004): a column of the table is one integer.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(first)) - 1
    column = every
    for word in second:
        matched = column & places.get(word, 0)
        column = (column + matched | column - matched) & every
    return len(first) - column.bit_count()


# -- the training targets ---------------------------------------------------------------------------------------------


class TargetIndex:
    """Finds the longest span of words that an answer has in common with a training target.

    Places of the targets' words are kept sorted by the words that follow, so no span is missed, whatever its length;
    no span reaches over the end of a target.
    """

    def __init__(self, targets: Iterable[str], *, max_words: int = MAX_WORDS) -> None:
        """Index targets.

        Args:
            targets: what training rows teach the model to say, one text a row, in training order.
            max_words: the index holds no more; the first target that does not fit and all after it are left out.
        """
        self._known: dict[str, int] = {}
        self.num_targets = 0
        """Targets that it holds."""
        self.num_left_out = 0
        """Targets that did not fit."""
        self._words_N = self._read(targets, max_words)
        self._order = _sorted_places(self._words_N)

    def longest_span(self, answer: Sequence[str]) -> int:
        """Return how many words the longest run has that an answer, given as words, shares with any target."""
        asked = [self._known.get(word, -1) for word in answer]
        longest = 0
        for start in range(len(asked)):
            # Only a span that is longer than the longest so far is looked for.
            if start + longest >= len(asked):
                break
            longest = self._at(asked, start, longest + 1) or longest
        return longest

    def _read(self, targets: Iterable[str], max_words: int) -> Ids:
        """Return the targets' words as numbers from 1 on, each target followed by a 0."""
        parts: list[Ids] = []
        num_words = 0
        for target in targets:
            ids = [self._known.setdefault(word, len(self._known) + 1) for word in words(target)]
            if self.num_left_out or num_words + len(ids) + 1 > max_words:
                self.num_left_out += 1
                continue
            self.num_targets += 1
            parts.append(np.array([*ids, 0], dtype=np.int32))
            num_words += len(ids) + 1
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def _at(self, asked: list[int], start: int, least: int) -> int:
        """Return the length of the longest span from a word of the answer on, 0 where it has fewer than `least`."""
        wanted = asked[start : start + min(least, SORTED_WORDS)]
        places = self._order[self._bisect(wanted, after=False) : self._bisect(wanted, after=True)].astype(np.int64)
        # Of boilerplate there are many places: those that do not reach as far as wanted go at once.
        ends = np.minimum(places + least, len(self._words_N)) - 1
        places = places[self._words_N[ends] == asked[start + least - 1]]
        length = len(wanted)
        while start + length < len(asked) and len(places):
            # A place at the very end cannot overrun: every target is followed by a 0, which no word is.
            further = places[self._words_N[places + length] == asked[start + length]]
            if not len(further):
                break
            places, length = further, length + 1
        return length if len(places) and length >= least else 0

    def _bisect(self, wanted: list[int], *, after: bool) -> int:
        """Return where in the order the places begin, or end, whose next words are the wanted ones."""
        low, high = 0, len(self._order)
        while low < high:
            middle = (low + high) // 2
            place = int(self._order[middle])
            found = self._words_N[place : place + len(wanted)].tolist()
            if found < wanted or (after and found == wanted):
                low = middle + 1
            else:
                high = middle
        return low


def _sorted_places(words_N: Ids) -> Ids:
    """Return every place of a word, sorted by it and the words that follow, `SORTED_WORDS` in all."""
    num_words = len(words_N)
    padded = np.concatenate([words_N, np.zeros(SORTED_WORDS, dtype=np.int32)])
    pairs = padded[:-1].astype(np.int64) << 32 | padded[1:]
    keys = [pairs[shift : shift + num_words] for shift in range(0, SORTED_WORDS, 2)]
    order = np.lexsort(keys[::-1]).astype(np.int32)  # the last key counts most
    return order[words_N[order] > 0]
