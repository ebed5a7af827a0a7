"""Which rows are set aside and which are trained on.

Invariant: validation rows depend on the data alone, so every seed and every size has the same ones; a training subset
is the beginning of its seed's own order, so a larger one contains every smaller one. What does not live here: whether
a row can be used (conversations.py, prepare.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.data.conversations import Conversation
from harness.errors import DataError
from harness.seeding import numpy_stream


def validation_order(num_rows: int) -> list[int]:
    """Return all rows in the order in which they are taken for validation: one for every seed."""
    return numpy_stream(0, "data.validation").permutation(num_rows).tolist()


def training_order(pool: Sequence[int], seed: int) -> list[int]:
    """Return a pool of rows in a seed's own order; a subset of n is its first n usable rows."""
    return [pool[i] for i in numpy_stream(seed, "data.subset").permutation(len(pool))]


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
    if any(conversations[index].text is not None for index in pool):
        raise DataError(f"data.completion_ratio is {which!r}, but must be 'any' for raw texts, which have no prompt")
    by_ratio = sorted(pool, key=lambda index: completion_ratio(conversations[index]))
    size = (len(pool) + 1) // 2
    kept = set(by_ratio[:size] if which == "low" else by_ratio[len(pool) - size :])
    return [index for index in pool if index in kept]


def completion_ratio(row: Conversation) -> float:
    """Return the characters of the assistant's turns over those of all others; infinite without any other."""
    return row.completion_length / row.prompt_length if row.prompt_length else float("inf")
