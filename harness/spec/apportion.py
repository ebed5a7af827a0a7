"""How many of n whole rows each part gets, so that every share is kept and no part ever gives a row back.

Invariant: of any beginning of the slots each part holds its share rounded down or up, so a share that comes out whole
is met exactly, and a larger number of rows holds every smaller one's. Rounding by largest remainders keeps the shares
as well but is not nested: with one row more a part can lose one. What does not live here: which rows fill the slots
(harness/data).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from math import lcm


def shares_of(named: Mapping[str, float], rest: str) -> dict[str, int]:
    """Return whole weights in proportion to decimal shares, and that of what they leave of 1 under `rest`.

    A share means the decimal that was written, so that 0.1 is a tenth. What they leave is at least 0.
    """
    exact = {name: Fraction(repr(share)) for name, share in named.items()}
    exact = {rest: max(Fraction(0), 1 - sum(exact.values()))} | exact
    scale = lcm(*(share.denominator for share in exact.values()))
    return {name: int(share * scale) for name, share in exact.items()}


def counts(weights: Mapping[str, int], num_rows: int) -> dict[str, int]:
    """Return how many of so many rows each part gets: its share, rounded down or up."""
    found = Counter(islice(slots(weights), num_rows))
    return {name: found[name] for name in weights}


def slots(weights: Mapping[str, int]) -> Iterator[str]:
    """Yield the part of one row after another, without end; nothing where no part has a weight.

    A part that has s rows may get its next once it is owed s + d of them, where d is 1 / (2k - 2) for k parts, and is
    late once it is owed more than s + 1 - d; of those that may get one, that which is late first does. That keeps every
    part within less than one row of its share at every number of rows.

    Source: Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980), theorem 1.
    """
    parts = [(name, weight) for name, weight in weights.items() if weight > 0]
    if len(parts) < 2:
        while parts:
            yield parts[0][0]
        return
    whole, double = sum(weight for _, weight in parts), 2 * len(parts) - 2

    def release(part: int, given: int) -> int:
        return -(-whole * (1 + double * given) // (double * parts[part][1]))

    waiting = [(release(part, 0), part, 0) for part in range(len(parts))]
    heapq.heapify(waiting)
    ready: list[tuple[float, int, int]] = []
    number = 1
    while True:
        for part, given in _released(waiting, number):
            heapq.heappush(ready, ((double - 1 + double * given) / parts[part][1], part, given))
        _, part, given = heapq.heappop(ready)
        yield parts[part][0]
        heapq.heappush(waiting, (release(part, given + 1), part, given + 1))
        number += 1


def _released(waiting: list[tuple[int, int, int]], number: int) -> Iterable[tuple[int, int]]:
    while waiting and waiting[0][0] <= number:
        _, part, given = heapq.heappop(waiting)
        yield part, given
