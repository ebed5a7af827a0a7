"""What rows have in common: with one another, and with what is evaluated.

Invariant: nothing here is random and nothing is dropped; the functions say which rows repeat which, and which items of
an evaluation stand in which rows. What does not live here: dropping
(prepare.py), and where evaluation items come from (harness/evals).
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from harness.data.conversations import Conversation, Message
from harness.errors import DataError

NEAR = 0.8
"""Jaccard similarity of 5-grams from which two texts are near duplicates (Lee et al., arXiv:2107.06499)."""
SHINGLE = 5
NUM_PERMUTATIONS = 128
OVERLAP_NGRAM = 8
OVERLAP_SHARE = 0.5
CONTAMINATED_SHARE = 0.02
FEWEST_WORDS = 4
"""An item of fewer words stands in many rows by chance, and is not looked for."""
UNKNOWN = "unknown"
SURE = 0.9
"""Probability from which a language is named."""
NUM_CHARACTERS_READ = 1000
ESTIMATE_SLACK = 0.2
"""How far below the threshold a sketch's estimate may lie: over five standard errors of 128 permutations."""
FEW = 16
"""Texts that one is compared with pair by pair; with more of them grams are looked up."""
_ALONE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Thai, Japanese and Chinese are written without spaces: each character counts as a word."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_SIGN = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def plain(text: str) -> str:
    """Return a text as it is compared for being the same: without case, all white space one space."""
    return " ".join(text.casefold().split())


def whole(row: Conversation) -> str:
    """Return everything that a row says, turn by turn, its functions and calls included; of tokens, the tokens."""
    if row.tokens is not None:
        return " ".join(map(str, row.tokens.ids))
    if row.text is not None:
        return row.text
    functions = [json.dumps(row.tools, sort_keys=True)] if row.tools else []
    return "\n".join([*functions, *(_said(message) for message in row.messages)])


def _said(message: Message) -> str:
    calls = [json.dumps(message["tool_calls"], sort_keys=True)] if "tool_calls" in message else []
    return " ".join([message["role"], message["content"], *calls])


def prompt(row: Conversation) -> str:
    """Return what users say in a row, or a raw text.

    Raises:
        DataError: the row is tokens, which say nothing that could be compared with a text.
    """
    if row.tokens is not None:
        raise DataError(
            "data.decontaminate is True, but must be False for rows of tokens, which cannot be compared with what is "
            "asked; give texts"
        )
    return row.text if row.text is not None else "\n".join(m["content"] for m in row.messages if m["role"] == "user")


# -- what rows are about ----------------------------------------------------------------------------------------------


def languages(rows: Iterable[Conversation]) -> Counter[str]:
    """Return the language of rows, as ISO 639 codes, and how many are of each; `zxx` is no language, such as sums.

    A row whose language is less than 90 % sure is `unknown`, as few words, sums and code mostly are, and so are rows of
    tokens; what a row says is read up to its thousandth character. Of 300 English stories cut to 60 characters 293 were
    named, and of 60 encyclopedia pages 6; cut to 200 characters 300 and 57; none wrongly.

    Source: Lui and Baldwin, langid.py (ACL 2012), in the implementation and with the model of py3langid.
    """
    return Counter(language(row) for row in rows)


def language(row: Conversation) -> str:
    """Return the language of a row, as `languages` counts it."""
    said = row.text if row.text is not None else "\n".join(message["content"] for message in row.messages)
    if not said.strip():
        return UNKNOWN
    language, probability = _identifier().classify(said[:NUM_CHARACTERS_READ])
    return str(language) if probability >= SURE else UNKNOWN


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def domains(rows: Iterable[Conversation]) -> Counter[str]:
    """Return the tasks that rows name, and how many rows are of each; `unknown` where a row names none."""
    return Counter(row.task or UNKNOWN for row in rows)


# -- duplicates -------------------------------------------------------------------------------------------------------


def exact_duplicates(texts: Sequence[str]) -> dict[int, int]:
    """Return which texts are an earlier one, but for case and white space: its place -> the place of the first.

    Empty texts repeat nothing.
    """
    first: dict[bytes, int] = {}
    """Hash of a text, so that a million long ones are not held twice -> its place."""
    repeated: dict[int, int] = {}
    for place, text in enumerate(texts):
        said = plain(text)
        key = hashlib.sha256(said.encode(errors="surrogatepass")).digest()
        if said and (seen := first.setdefault(key, place)) != place:
            repeated[place] = seen
    return repeated


def near_duplicates(texts: Sequence[str], threshold: float = NEAR) -> dict[int, int]:
    """Return which texts are like an earlier one that is itself kept: its place -> the place of that one.

    Alike are two texts whose sets of 5-grams of words and signs have a Jaccard similarity of at least `threshold`;
    shorter texts are one gram. MinHash finds candidates down to half that similarity, and those whose sketches come
    near are compared exactly: nothing is called a duplicate by chance, and of pairs at the threshold fewer than one in
    a thousand is missed. Beside the texts it holds a sketch and the bands of each, and grams of candidates alone.

    Source: Broder, On the resemblance and containment of documents (1997); datasketch.
    """
    has_grams = np.array([bool(_SIGN.search(text)) for text in texts], dtype=bool)
    sketches = _sketches(texts, has_grams)
    groups = _groups(sketches, has_grams, threshold / 2)
    kept_in: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
    """Group -> the texts of it that are kept."""
    grams = _Grams(texts)
    repeated: dict[int, int] = {}
    in_groups: list[int] = np.flatnonzero((groups >= 0).any(axis=1)).tolist()
    for place in in_groups:
        own: list[int] = groups[place][groups[place] >= 0].tolist()
        candidates = _places([kept_in[group] for group in own], len(texts))
        estimates = (sketches[candidates] == sketches[place]).mean(axis=1)
        alike = grams.first_alike(place, candidates[estimates >= threshold - ESTIMATE_SLACK], threshold)
        if alike is None:
            for group in own:
                kept_in[group].append(place)
        else:
            repeated[place] = alike
    return repeated


def _sketches(texts: Sequence[str], has_grams: np.ndarray) -> np.ndarray:
    """Return the sketch of every text, zeros for one without grams, uint32 [texts, permutations]."""
    from datasketch import MinHash

    sketches = np.zeros((len(texts), NUM_PERMUTATIONS), dtype=np.uint32)
    places = np.flatnonzero(has_grams).tolist()
    made = MinHash.generator((_shingles(texts[place]) for place in places), num_perm=NUM_PERMUTATIONS)
    for place, sketch in zip(places, made, strict=True):
        sketches[place] = sketch.hashvalues
    return sketches


def _groups(sketches: np.ndarray, has_grams: np.ndarray, threshold: float) -> np.ndarray:
    """Return which texts share a band of their sketches: a number for each, -1 alone in it, int32 [texts, bands].

    Bands are those that the library's index would cut for this threshold. They are compared by hash, so that once in
    a long while two are held for one; that makes a candidate and no duplicate.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=NUM_PERMUTATIONS)
    factors = np.random.default_rng(0).integers(1, 2**63, size=index.r, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    groups = np.full((len(sketches), index.b), -1, dtype=np.int32)
    first = 0
    for band in range(index.b):
        rows = sketches[has_grams, band * index.r : (band + 1) * index.r]
        keys = (rows.astype(np.uint64) * factors).sum(axis=1, dtype=np.uint64)
        _, numbers, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        shared = np.cumsum(sizes > 1) - 1
        groups[has_grams, band] = np.where(sizes[numbers] > 1, first + shared[numbers], -1)
        first += int((sizes > 1).sum())
    return groups


def _shingles(text: str) -> list[bytes]:
    if not (found := _SIGN.findall(text.lower())):
        return []
    starts = range(max(1, len(found) - SHINGLE + 1))
    return [" ".join(found[start : start + SHINGLE]).encode() for start in starts]


def _places(lists: Iterable[array[int]], num_texts: int) -> np.ndarray:
    """Return the places that any list holds, in order."""
    held = np.concatenate([np.zeros(0, np.int64), *(np.array(one, np.int64) for one in lists)])
    return np.unique(held) if len(held) < num_texts else np.flatnonzero(np.bincount(held))


class _Grams:
    """The grams of texts that were compared, and which of them stand in which text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._of: dict[int, np.ndarray] = {}
        self._nums = np.zeros(len(texts), np.int64)
        """Text -> its grams, 0 before they are looked at."""
        self._holders: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
        """Gram -> the texts that hold it, of those that were compared along with many."""
        self._listed: set[int] = set()

    def first_alike(self, place: int, others: np.ndarray, threshold: float) -> int | None:
        """Return the first of other texts that is like one; None without any."""
        if not len(others):
            return None
        own = _hashed(self._texts[place])
        shared = self._shared(own, others)
        alike = np.flatnonzero(shared / (len(own) + self._nums[others] - shared) >= threshold)
        if len(alike):
            return int(others[alike[0]])
        self._hold(place, own)  # it is kept, and like enough to others to be compared again
        return None

    def _hold(self, place: int, grams: np.ndarray) -> None:
        self._of[place] = grams
        self._nums[place] = len(grams)

    def _shared(self, own: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return how many grams a text has in common with each of others: few are compared with it one by one, of many
        it is looked up which hold each gram."""
        unseen: list[int] = others[self._nums[others] == 0].tolist()
        for other in unseen:
            self._hold(other, _hashed(self._texts[other]))
        if len(others) <= FEW:
            return np.array([len(np.intersect1d(own, self._of[i], assume_unique=True)) for i in others.tolist()])
        for other in set(others.tolist()) - self._listed:
            self._listed.add(other)
            for gram in self._of[other].tolist():
                self._holders[gram].append(other)
        holders = [np.frombuffer(self._holders[gram], np.int64) for gram in own.tolist() if gram in self._holders]
        counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *holders]), minlength=len(self._texts))
        return counts[others]


def _hashed(text: str) -> np.ndarray:
    hashes = b"".join(hashlib.sha1(gram).digest()[:8] for gram in _shingles(text))
    return np.unique(np.frombuffer(hashes, ">u8").astype(np.uint64))


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
