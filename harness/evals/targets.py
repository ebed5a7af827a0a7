"""What training taught a model to say, for the panel to compare its answers with.

Invariant: only answers are targets, whether prompts carry loss or not, one text for each example in training order, its
turns on lines of their own.
What does not live here: the index (copying.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from harness.data.masks import PARTS
from harness.evals.copying import TargetIndex

if TYPE_CHECKING:
    from harness.data import ChatFormat, Example

Targets = Callable[[], TargetIndex]
"""Returns the index of a trial's training targets, the same one each time."""
ANSWER = [PARTS.index(name) for name in ("assistant", "text")]


def targets_of(rows: Sequence[Example], chat: ChatFormat) -> Targets:
    """Return what the panel compares answers with; indexed when a panel first asks for it, and once."""
    return cache(lambda: TargetIndex(targets(rows, chat)))


def targets(rows: Sequence[Example], chat: ChatFormat) -> Iterator[str]:
    """Yield what each example says that carries loss: its answers, or, where parts are not known, all such tokens."""
    for row in rows:
        is_target = row.loss_weights > 0
        if row.parts is not None:
            is_target &= np.isin(row.parts, ANSWER)
        pieces = zip(np.split(row.input_ids, row.starts[1:]), np.split(is_target, row.starts[1:]), strict=True)
        for ids, meant in pieces:
            turns = [ids[run] for run in _runs(meant)]
            yield "\n".join(str(chat.tokenizer.decode(turn.tolist(), skip_special_tokens=True)) for turn in turns)


def _runs(meant: np.ndarray) -> list[np.ndarray]:
    """Return the places of each run of true values."""
    places = np.flatnonzero(meant)
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else []
