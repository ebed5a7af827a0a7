"""A generated answer as metrics see it. Free of torch.

Invariant: an answer is its text, so it is stored and compared as any string; how it came about is beside it. What does
not live here: generating (generation.py, scorer.py), judging (metrics.py, kinds/).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.evals.normalise import normalise

Results = Sequence[Any]
"""What the scorer returned for a document: (log-likelihood, is greedy) pairs, log-likelihoods, or Generations."""


class Generation(str):
    """A generated answer, and how it came about."""

    stopped: bool
    """Whether it ended by itself: in chat by the end of a turn, for raw prompts by a line break or stop token."""
    is_finite: bool
    """Whether the model's logits were."""
    raw: str | None
    """The text uncut and with special tokens, but for the one that ended it; None where nobody asked for it."""
    num_tokens: int
    """Length, the token that ended it not counted."""
    hit_limit: bool
    """Whether the length limit ended it."""

    def __new__(
        cls,
        text: str,
        *,
        stopped: bool,
        num_tokens: int,
        hit_limit: bool,
        is_finite: bool = True,
        raw: str | None = None,
    ) -> Generation:
        """Return the answer as a string that knows how it ended."""
        answer = super().__new__(cls, text)
        answer.stopped = stopped
        answer.is_finite = is_finite
        answer.raw = raw
        answer.num_tokens = num_tokens
        answer.hit_limit = hit_limit
        return answer


def ending(answer: Generation) -> dict[str, float]:
    """Return `end_of_turn` and `empty` of one answer whose logits were finite.

    end_of_turn: 1 if generation ended by itself - in chat as a turn ends - and neither at the length limit nor as a
    document ends; more is better. empty: 1 if nothing is left after normalisation; less is better.
    """
    return {"end_of_turn": float(answer.stopped), "empty": float(not normalise(answer))}


def unknown(names: Sequence[str]) -> dict[str, float]:
    """Return nan for every metric of an answer whose logits were not finite."""
    return dict.fromkeys(names, math.nan)
