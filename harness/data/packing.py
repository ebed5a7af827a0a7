"""Several examples in one row: which go together, and how full the rows become.

Invariant: every example is in exactly one row, whole, and no row is longer than the capacity; the same examples in the
same order give the same rows. What does not live here: what reads what inside a row (harness/train).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import overload

import numpy as np

from harness.data.example import Example
from harness.spec import DataSpec

WINDOW = 64
"""How far ahead a row of similar examples looks for one that still fits: further fills rows and thins likeness."""
TOPICS = 64
"""Dimensions in which examples are compared."""


class PackedRows(Sequence[Example]):
    """Rows of several examples each, laid end to end when they are read."""

    def __init__(self, examples: Sequence[Example], groups: Sequence[Sequence[int]]) -> None:
        self.groups = groups
        """Row -> the places of its examples."""
        self._examples = examples

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return joined([self._examples[place] for place in self.groups[index]])


def packed(examples: Sequence[Example], spec: DataSpec) -> PackedRows:
    """Return rows of up to `spec.max_length` tokens that together hold every example once.

    Args:
        examples: in training order.
        spec: the length of rows, and whether neighbours are those that fit best or those most alike.
    """
    lengths = [len(example.input_ids) for example in examples]
    if spec.pack_neighbours == "similar":
        groups = in_windows(by_likeness([example.input_ids for example in examples]), lengths, spec.max_length)
    else:
        groups = best_fit(lengths, spec.max_length)
    return PackedRows(examples, groups)


def joined(examples: Sequence[Example]) -> Example:
    """Return one row of several examples, end to end."""
    parts = [example.parts for example in examples if example.parts is not None]
    return Example(
        row_id="+".join(example.row_id for example in examples),
        input_ids=np.concatenate([example.input_ids for example in examples]),
        loss_weights=np.concatenate([example.loss_weights for example in examples]),
        parts=np.concatenate(parts) if len(parts) == len(examples) else None,
        lengths=tuple(len(example.input_ids) for example in examples),
    )


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return which items share a bin, the longest first, each where it leaves the least room.

    Source: best-fit decreasing (Johnson, Near-optimal bin packing algorithms, 1973); for language models Ding et al.,
    arXiv:2404.10830. Items of one length keep their order, which thereby decides who is whose neighbour.

    Args:
        lengths: of the items, each at least 1 and at most the capacity.
        capacity: of a bin.
    """
    bins: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    """Every room that some bin has, ascending: at most `capacity` of them, however many bins there are."""
    for item in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect_left(rooms, lengths[item])
        if place == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(place)
        bins[chosen].append(item)
        left = room - lengths[item]
        if left and not with_room[left]:
            insort(rooms, left)
        if left:
            with_room[left].append(chosen)
    return bins


def in_windows(order: Sequence[int], lengths: Sequence[int], capacity: int, window: int = WINDOW) -> list[list[int]]:
    """Return bins of items that are near in an order: each takes the first that fit among the next `window`."""
    waiting = deque(order)
    bins: list[list[int]] = []
    while waiting:
        room, passed, chosen = capacity, list[int](), list[int]()
        while waiting and room and len(passed) < window:
            item = waiting.popleft()
            fits = lengths[item] <= room
            (chosen if fits else passed).append(item)
            room -= lengths[item] * fits
        waiting.extendleft(reversed(passed))
        bins.append(chosen)
    return bins


def by_likeness(documents: Sequence[np.ndarray]) -> list[int]:
    """Return documents in an order in which each is followed by the one not yet taken that is most like it.

    Likeness is the cosine in the space of the leading singular vectors of tf-idf weights of tokens; the time grows with
    the square of their number (a second for four thousand). Source: the greedy
    path of in-context pretraining (Shi et al., arXiv:2310.10638, section 2.2), with latent semantic analysis in place
    of a retriever.

    Args:
        documents: token ids, int64 [T] each.
    """
    if len(documents) < 3:
        return list(range(len(documents)))
    vectors = _vectors(documents)
    order, left = [0], np.ones(len(documents), dtype=bool)
    left[0] = False
    for _ in range(len(documents) - 1):
        likeness = np.where(left, vectors @ vectors[order[-1]], -np.inf)
        order.append(int(likeness.argmax()))
        left[order[-1]] = False
    return order


def _vectors(documents: Sequence[np.ndarray]) -> np.ndarray:
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    bounds = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])])
    tokens = np.unique(np.concatenate(documents), return_inverse=True)[1]
    num_distinct = int(tokens.max()) + 1
    counts = csr_matrix((np.ones(len(tokens)), tokens, bounds), shape=(len(documents), num_distinct))
    counts.sum_duplicates()
    frequency = np.bincount(counts.indices, minlength=num_distinct)
    counts.data *= (np.log((1 + len(documents)) / (1 + frequency)) + 1)[counts.indices]
    num_topics = min(TOPICS, len(documents) - 1, num_distinct - 1)
    if num_topics < 1:
        return np.ones((len(documents), 1))
    left, values, _ = svds(counts, k=num_topics, rng=0)
    vectors = left * values
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # rounded, so that what differs in its last digits only is the same on every machine
    return np.round(vectors / np.where(norms > 0, norms, 1.0), 5).astype(np.float32)
