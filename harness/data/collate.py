"""Examples as one padded batch of tensors. Needs torch.

Invariant: padding is attended to by nothing and weighs nothing, whatever id it has: labels are never read off the pad
id, which may be a token that is trained on. What does not live here: batching and micro-batches (harness/train).

Shapes: B examples, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.data.prepare import Example


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Return `input_ids` (int64), `attention_mask` (int64) and `loss_weights` (float32), each [B, T], padded right.

    `loss_weights[:, t]` weighs the prediction of token t, made at t - 1; column 0 is 0.
    """
    shape = (len(examples), max(len(example.input_ids) for example in examples))
    ids_BT = torch.full(shape, pad_id, dtype=torch.int64)
    mask_BT = torch.zeros(shape, dtype=torch.int64)
    weights_BT = torch.zeros(shape, dtype=torch.float32)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids_BT[row, :length] = torch.from_numpy(example.input_ids)
        mask_BT[row, :length] = 1
        weights_BT[row, :length] = torch.from_numpy(example.loss_weights)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "loss_weights": weights_BT}
