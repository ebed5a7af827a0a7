"""What training taught a model to say, for the panel to compare its answers with.

Invariant: only answers are targets, whether prompts carry loss or not, one text for each example in training order, its
turns on lines of their own.
What does not live here: the index (copying.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.masks import PARTS
from harness.spec import EvalSpec

if TYPE_CHECKING:
    from harness.data import ChatFormat, Example

ANSWER = [PARTS.index(name) for name in ("assistant", "text")]


def target_index(rows: Sequence[Example], chat: ChatFormat, spec: EvalSpec) -> Any | None:
    """Return the index of a trial's training targets; None where no task has a panel that asks for it."""
    if all(task.panel == "none" for task in spec.tasks):
        return None
    from harness.evals import copying

    return copying.TargetIndex(targets(rows, chat))


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
