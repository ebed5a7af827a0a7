"""What training reads: a row of tokens with a loss weight for each.

Invariant: the first token of every example in a row is predicted from nothing and weighs 0. What does not live here:
how rows are made (prepare.py), which examples share one (packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Example:
    """One row to train on, T tokens: one example, or with `lengths` several laid end to end."""

    row_id: str
    input_ids: np.ndarray
    """int64 [T]"""
    loss_weights: np.ndarray
    """float32 [T]: the weight of the prediction of token t; the first token is predicted from nothing and weighs 0."""
    parts: np.ndarray | None = None
    """uint8 [T]: what each token is a part of, a place in `masks.PARTS`; None where the tokenizer cannot tell."""
    lengths: tuple[int, ...] = ()
    """Of the examples that share this row, in tokens; () for one on its own."""

    @property
    def num_examples(self) -> int:
        """Return how many examples the row holds."""
        return len(self.lengths) or 1

    @property
    def num_bytes(self) -> int:
        """Return how much memory its arrays take."""
        return self.input_ids.nbytes + self.loss_weights.nbytes + (0 if self.parts is None else self.parts.nbytes)

    @property
    def starts(self) -> np.ndarray:
        """Return where each example of the row begins, int64 [num_examples]."""
        return np.cumsum((0, *self.lengths[:-1]), dtype=np.int64)

    @property
    def weight_sums(self) -> np.ndarray:
        """Return the sum of the loss weights of each example of the row, float64 [num_examples]."""
        parts = np.split(self.loss_weights, self.starts[1:])
        return np.array([part[1:].sum(dtype=np.float64) for part in parts])
