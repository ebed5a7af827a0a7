"""What rows have in common: with one another, and with what is evaluated.

Invariant: nothing here is random and nothing is dropped; the functions say which rows repeat which, and which items of
an evaluation stand in which rows. Texts are compared by their words, in lower case. What does not live here: dropping
(prepare.py), and where evaluation items come from (harness/evals).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.data.conversations import Conversation

NEAR = 0.8
"""Jaccard similarity of word 5-grams from which two texts are near duplicates (Lee et al., arXiv:2107.06499)."""
SHINGLE = 5
NUM_PERMUTATIONS = 128
OVERLAP_NGRAM = 8
OVERLAP_SHARE = 0.5
CONTAMINATED_SHARE = 0.02
FEWEST_WORDS = 4
"""An item of fewer words stands in many rows by chance, and is not looked for."""
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def whole(row: Conversation) -> str:
    """Return everything that a row says, turn by turn."""
    return row.text if row.text is not None else "\n".join(f"{m['role']}: {m['content']}" for m in row.messages)


def prompt(row: Conversation) -> str:
    """Return what users say in a row, or a raw text."""
    return row.text if row.text is not None else "\n".join(m["content"] for m in row.messages if m["role"] == "user")


# -- duplicates -------------------------------------------------------------------------------------------------------


def exact_duplicates(texts: Sequence[str]) -> dict[int, int]:
    """Return which texts repeat the words of an earlier one: its place -> the place of the first.

    Texts without a word repeat nothing.
    """
    first: dict[tuple[str, ...], int] = {}
    repeated: dict[int, int] = {}
    for place, text in enumerate(texts):
        key = tuple(words(text))
        if key and (seen := first.setdefault(key, place)) != place:
            repeated[place] = seen
    return repeated


def near_duplicates(texts: Sequence[str], threshold: float = NEAR) -> dict[int, int]:
    """Return which texts are like an earlier one that is itself kept: its place -> the place of that one.

    Alike are two texts whose sets of word 5-grams have a Jaccard similarity of at least `threshold`; shorter texts are
    one gram. MinHash finds candidates down to half that similarity, which are then compared exactly: nothing is called
    a duplicate by chance, and of pairs at the threshold fewer than one in a thousand is missed.

    Source: Broder, On the resemblance and containment of documents (1997); datasketch.
    """
    from datasketch import MinHash, MinHashLSH

    shingles = [_shingles(words(text)) for text in texts]
    index = MinHashLSH(threshold=threshold / 2, num_perm=NUM_PERMUTATIONS)
    repeated: dict[int, int] = {}
    for place, grams in enumerate(shingles):
        if not grams:
            continue
        sketch = MinHash(num_perm=NUM_PERMUTATIONS)
        sketch.update_batch([" ".join(gram).encode() for gram in grams])
        candidates = sorted(index.query(sketch))
        alike = next((other for other in candidates if _jaccard(grams, shingles[other]) >= threshold), None)
        if alike is None:
            index.insert(place, sketch)
        else:
            repeated[place] = alike
    return repeated


def _shingles(found: Sequence[str]) -> frozenset[tuple[str, ...]]:
    if not found:
        return frozenset()
    return frozenset(tuple(found[start : start + SHINGLE]) for start in range(max(1, len(found) - SHINGLE + 1)))


def _jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


# -- contamination ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """How much of one suite stands in the rows."""

    suite: str
    num_items: int
    num_checked: int
    """Items of at least four words."""
    rows_of: Mapping[str, tuple[int, ...]]
    """Overlapping item -> the rows it stands in."""

    @property
    def share(self) -> float:
        """Return the overlapping share of the items that could be checked; nan of none."""
        return len(self.rows_of) / self.num_checked if self.num_checked else float("nan")

    @property
    def contaminated(self) -> bool:
        """Return whether more than 2 % of the suite overlap."""
        return self.share > CONTAMINATED_SHARE

    @property
    def rows(self) -> set[int]:
        """Return every row that an item stands in."""
        return {row for rows in self.rows_of.values() for row in rows}


def overlap(suite: str, items: Mapping[str, str], texts: Sequence[str]) -> Overlap:
    """Return which items of a suite stand in which rows.

    An item overlaps if more than half of its words are covered by 8-grams that one row has as well; an item of four to
    seven words if the row has it whole. Source: Lambert et al. (Tulu 3), arXiv:2411.15124, section 3.2.

    Args:
        suite: its name.
        items: id -> the text that is asked.
        texts: what users say in each row.
    """
    asked = {name: found for name, text in items.items() if len(found := words(text)) >= FEWEST_WORDS}
    places: defaultdict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, found in asked.items():
        for start, gram in _grams(found, min(OVERLAP_NGRAM, len(found))):
            places[gram].append((name, start))
    sizes = sorted({len(gram) for gram in places})
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        for name, share in _covered(words(text), sizes, places, asked):
            if share > OVERLAP_SHARE:
                rows_of[name].append(row)
    return Overlap(suite, len(items), len(asked), {name: tuple(rows) for name, rows in rows_of.items()})


def _covered(
    row: Sequence[str],
    sizes: Iterable[int],
    places: Mapping[tuple[str, ...], Sequence[tuple[str, int]]],
    asked: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, float]]:
    """Yield every item that shares a gram with a row, and the share of its words that such grams cover."""
    covered: defaultdict[str, set[int]] = defaultdict(set)
    for size in sizes:
        for gram in {gram for _, gram in _grams(row, size)}:
            for name, start in places.get(gram, ()):
                covered[name].update(range(start, start + size))
    for name, found in covered.items():
        yield name, len(found) / len(asked[name])


def _grams(found: Sequence[str], size: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    return ((start, tuple(found[start : start + size])) for start in range(len(found) - size + 1))
