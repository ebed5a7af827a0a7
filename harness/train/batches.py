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


def micro_batches(
    examples: Sequence[Example], scales: np.ndarray, size: int, device: torch.device
) -> Iterator[MicroBatch]:
    """Split a step's examples into forward passes of at most `size`, longest examples first.

    Sorting keeps padding small and lets a machine with too little memory fail at once; the objective is a sum over
    tokens whose scales are already fixed, so nothing but the order of additions depends on it.

    Args:
        examples: the step's examples.
        scales: one factor per example, from `losses.example_scales`.
        size: examples per forward pass.
        device: where the tensors go.
    """
    longest_first = sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids))
    for start in range(0, len(examples), size):
        chosen = longest_first[start : start + size]
        yield collate([examples[i] for i in chosen], scales[chosen], device)


def collate(examples: Sequence[Example], scales: np.ndarray, device: torch.device) -> MicroBatch:
    """Pad on the right and list the positions that carry loss.

    There is no attention mask: under causal attention no real position sees the padding after it, and without a mask
    torch takes its fast causal kernel.
    """
    length = max(len(example.input_ids) for example in examples)
    ids_BT = np.full((len(examples), length), PAD_ID, dtype=np.int64)
    weights_BT = np.zeros((len(examples), length), dtype=np.float32)
    for row, example in enumerate(examples):
        ids_BT[row, : len(example.input_ids)] = example.input_ids
        weights_BT[row, 1 : len(example.input_ids)] = example.loss_weights[1:]
    rows_K, tokens_K = np.nonzero(weights_BT)
    weights_K = weights_BT[rows_K, tokens_K]
    arrays = (
        ids_BT,
        rows_K * length + tokens_K - 1,
        ids_BT[rows_K, tokens_K],
        weights_K,
        (weights_K * scales[rows_K]).astype(np.float32),
    )
    return MicroBatch(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))
