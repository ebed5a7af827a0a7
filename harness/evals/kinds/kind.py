"""What a task kind is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.evals.generated import Results

Item = dict[str, Any]
Document = dict[str, Any]


def never(_item: Item) -> str | None:
    """Return why an item is left out: never."""
    return None


@dataclass(frozen=True)
class Kind:
    """One task kind."""

    fields: dict[str, type]
    """What every item must have."""
    problem: Callable[[Item], str | None]
    """Why an item is malformed, as the rest of a sentence; None where it is not."""
    question: Callable[[Item], str]
    """What the user says, or the raw text that is continued."""
    facts: Callable[[Item], Document]
    """What the metrics need to know of an item besides what it asks."""
    metrics: Callable[[Document, Results], dict[str, float]]
    ends_at_line: bool
    """Whether a raw answer, which nothing closes, is one line; else it ends as a document does, or at the limit."""
    may_converse: bool = False
    """Whether an item in chat may have `messages`, a conversation that ends with the user's turn, for its `context`."""
    left_out: Callable[[Item], str | None] = never
    """Why a well-formed item is not asked; None where it is."""
