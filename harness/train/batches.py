"""Which examples each step takes, and their tensors.

Shapes: B examples, T positions of the longest, K positions of a micro-batch that carry loss.

Invariant: the examples of a step follow from (seed, step) alone, so a resumed run needs no data position but its step;
and how a step is split into micro-batches moves no weight of any token. What does not live here: what an example is
(harness/data) and what a token's loss is (losses.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from harness.data import Example
from harness.seeding import numpy_stream
from harness.spec import TrainSpec

PAD_ID = 0
"""Any id does: a padded position is never attended to and never predicted."""


@dataclass(frozen=True)
class Order:
    """The stream of examples: one fresh permutation per epoch, laid end to end and cut into batches.

    A batch may cross from one epoch into the next, so every step but the very last has `batch_size` examples and every
    example is seen equally often.
    """

    num_examples: int
    batch_size: int
    num_examples_seen: int
    """Length of the stream."""
    num_steps: int
    seed: int

    @classmethod
    def of(cls, spec: TrainSpec, num_examples: int, seed: int) -> Order:
        """Return the order that a recipe asks for over `num_examples` rows."""
        return cls(num_examples, spec.batch_size, spec.examples_seen(num_examples), spec.steps(num_examples), seed)

    def indices(self, step: int) -> list[int]:
        """Return the rows of a step, counted from 0."""
        first = step * self.batch_size
        places = range(first, min(first + self.batch_size, self.num_examples_seen))
        return [
            int(_permutation(self.seed, place // self.num_examples, self.num_examples)[place % self.num_examples])
            for place in places
        ]


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return numpy_stream(seed, f"train.order/{epoch}").permutation(num_examples)


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass needs. `positions_K` index the flattened B x T states that predict `targets_K`."""

    input_ids_BT: torch.Tensor
    positions_K: torch.Tensor
    targets_K: torch.Tensor
    weights_K: torch.Tensor
    """Loss weight of each predicted token."""
    scales_K: torch.Tensor
    """That weight times what the reduction makes of it: the objective is the sum of scales_K x nll_K."""
    lengths: tuple[int, ...] = ()
    """Of the examples laid end to end in the one row there is, each of which reads itself alone; () for padded rows."""


def micro_batches(
    rows: Sequence[Example], scales: Sequence[np.ndarray], size: int, device: torch.device, *, end_to_end: bool = False
) -> Iterator[MicroBatch]:
    """Split a step's rows into forward passes of at most `size`, longest rows first.

    Sorting keeps padding small and lets a machine with too little memory fail at once; the objective is a sum over
    tokens whose scales are already fixed, so nothing but the order of additions depends on it.

    Args:
        rows: the step's rows.
        scales: for each row the factors of its examples, from `losses.example_scales`.
        size: rows per forward pass.
        device: where the tensors go.
        end_to_end: lay all examples of a forward pass in one row, each reading itself alone, in place of padding.
    """
    longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    for start in range(0, len(rows), size):
        chosen = longest_first[start : start + size]
        put = laid_end_to_end if end_to_end else collate
        yield put([rows[i] for i in chosen], [scales[i] for i in chosen], device)


def collate(rows: Sequence[Example], scales: Sequence[np.ndarray], device: torch.device) -> MicroBatch:
    """Pad on the right and list the positions that carry loss.

    There is no attention mask: under causal attention no real position sees the padding after it, and without a mask
    torch takes its fast causal kernel. Examples that share a row read all before them in it.
    """
    length = max(len(row.input_ids) for row in rows)
    ids_BT = np.full((len(rows), length), PAD_ID, dtype=np.int64)
    for place, row in enumerate(rows):
        ids_BT[place, : len(row.input_ids)] = row.input_ids
    return _micro_batch(ids_BT, rows, scales, np.arange(len(rows)) * length, device)


def laid_end_to_end(rows: Sequence[Example], scales: Sequence[np.ndarray], device: torch.device) -> MicroBatch:
    """Lay rows in one, without padding, and list the positions that carry loss."""
    lengths = tuple(length for row in rows for length in (row.lengths or (len(row.input_ids),)))
    ids_1T = np.concatenate([row.input_ids for row in rows])[None]
    firsts = np.cumsum([0, *(len(row.input_ids) for row in rows[:-1])])
    return _micro_batch(ids_1T, rows, scales, firsts, device, lengths)


def _micro_batch(
    ids_BT: np.ndarray,
    rows: Sequence[Example],
    scales: Sequence[np.ndarray],
    firsts: np.ndarray,
    device: torch.device,
    lengths: tuple[int, ...] = (),
) -> MicroBatch:
    """Return the tensors of rows whose first tokens stand at `firsts` of the flattened ids."""
    tokens = [_predicted(row) for row in rows]
    weights_K = np.concatenate([row.loss_weights[place] for row, place in zip(rows, tokens, strict=True)])
    example_scales_K = np.concatenate(
        [factors[_example_of(row, place)] for row, factors, place in zip(rows, scales, tokens, strict=True)]
    )
    at_K = np.concatenate([first + place for first, place in zip(firsts, tokens, strict=True)])
    arrays = (
        ids_BT,
        at_K - 1,
        ids_BT.reshape(-1)[at_K],
        weights_K.astype(np.float32, copy=False),
        (weights_K * example_scales_K).astype(np.float32),
    )
    tensors = [torch.from_numpy(array).to(device, non_blocking=True) for array in arrays]
    return MicroBatch(*tensors, lengths=lengths)


def _predicted(row: Example) -> np.ndarray:
    """Return which tokens of a row carry loss: never the first of an example, lest it be predicted from the end of the
    one before it."""
    carries = row.loss_weights != 0
    carries[row.starts] = False
    return np.flatnonzero(carries)


def _example_of(row: Example, tokens: np.ndarray) -> np.ndarray:
    """Return which example of a row each token belongs to."""
    return np.searchsorted(row.starts, tokens, side="right") - 1
