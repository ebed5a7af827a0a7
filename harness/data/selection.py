"""Which rows are set aside and which are trained on.

Invariant: validation rows depend on the data alone, so every seed and every size has the same ones; a training subset
is the beginning of its seed's own order, so a larger one contains every smaller one. What does not live here: whether
a row can be used (conversations.py, prepare.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from harness.data.conversations import Conversation
from harness.errors import DataError
from harness.seeding import numpy_stream
from harness.spec.apportion import slots

GOLDEN_SECTION = (5**0.5 - 1) / 2


def mixture_order(num_rows: int, seed: int, number: int) -> list[int]:
    """Return the rows of a source of a mixture in a seed's own order; a larger share begins with a smaller one's."""
    return numpy_stream(seed, f"data.mixture.{number}").permutation(num_rows).tolist()


def replay_order(num_rows: int, seed: int) -> list[int]:
    """Return the rows of a replay source in a seed's own order; more replay begins with less."""
    return numpy_stream(seed, "data.replay").permutation(num_rows).tolist()


def validation_order(num_rows: int) -> list[int]:
    """Return all rows in the order in which they are taken for validation: one for every seed."""
    return numpy_stream(0, "data.validation").permutation(num_rows).tolist()


def training_order(pool: Sequence[int], seed: int) -> list[int]:
    """Return a pool of rows in a seed's own order; a subset of n is its first n usable rows."""
    return [pool[i] for i in numpy_stream(seed, "data.subset").permutation(len(pool))]


def in_proportion(order: Sequence[int], conversations: Sequence[Conversation], seed: int) -> list[int]:
    """Return rows so that any beginning of them holds every group in its proportion, as nearly as whole rows allow.

    Within a group they stay in the order given; an order without groups is returned as it is.
    """
    if len({conversations[index].group for index in order}) < 2:
        return list(order)
    return _spread([(conversations[index].group.split("/"), index) for index in order], seed)


def by_task(order: Sequence[int], conversations: Sequence[Conversation]) -> tuple[list[str], dict[str, list[int]]]:
    """Return of which task one row after another is to be, and the rows of each task in the order given.

    Of any beginning each task has its share of the order, rounded down or up.

    Raises:
        DataError: no row says its task.
    """
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for index in order:
        rows[conversations[index].task].append(index)
    if order and not any(rows):
        raise DataError(
            "data.stratify is 'task', but must be 'off' for rows of which none says its task; give each a field task"
        )
    return list(islice(slots({task: len(rows[task]) for task in sorted(rows)}), len(order))), dict(rows)


def _spread(rows: Sequence[tuple[Sequence[str], int]], seed: int) -> list[int]:
    """Spread the groups named first evenly over the whole, and inside each the groups named next."""
    parts: defaultdict[str, list[tuple[Sequence[str], int]]] = defaultdict(list)
    for names, index in rows:
        parts["".join(names[:1])].append((names[1:], index))
    if len(parts) == 1:
        ((name, inner),) = parts.items()
        return _spread(inner, seed) if name else [index for _, index in rows]
    # Groups of one size would come in blocks if all began at the same point: each starts a golden section after the
    # one before it, and where the first starts is the seed's.
    shift = numpy_stream(seed, "data.groups").random()
    places: list[tuple[float, int]] = []
    for number, name in enumerate(sorted(parts)):
        start = (shift + number * GOLDEN_SECTION) % 1.0
        inner = _spread(parts[name], seed)
        places.extend(((rank + start) / len(inner), index) for rank, index in enumerate(inner))
    return [index for _, index in sorted(places)]


def with_completion_ratio(
    pool: Sequence[int], conversations: Sequence[Conversation], which: Literal["any", "low", "high"]
) -> list[int]:
    """Return the half of a pool whose completions are short, or long, beside their prompts, in the pool's order.

    Of an odd number of rows the middle one is in both halves.

    Raises:
        DataError: a half is asked for, but the rows are raw texts, which have no prompt.
    """
    if which == "any":
        return list(pool)
    if any(not conversations[index].messages and not conversations[index].tokens for index in pool):
        raise DataError(f"data.completion_ratio is {which!r}, but must be 'any' for raw texts, which have no prompt")
    by_ratio = sorted(pool, key=lambda index: completion_ratio(conversations[index]))
    size = (len(pool) + 1) // 2
    kept = set(by_ratio[:size] if which == "low" else by_ratio[len(pool) - size :])
    return [index for index in pool if index in kept]


def completion_ratio(row: Conversation) -> float:
    """Return the characters of the assistant's turns over those of all others; infinite without any other."""
    return row.completion_length / row.prompt_length if row.prompt_length else float("inf")
