"""The loss of a micro-batch, and what each reduction makes of it.

Shapes: B examples, T positions, K positions that carry loss, V vocabulary.

Every reduction is one factor per example: objective = sum over examples i and tokens t of
scale_i x weight_it x nll_it. The factors are known before the first forward pass, so splitting a batch into
micro-batches changes only the order of additions. What does not live here: which tokens carry weight (harness/data).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.train import segments
from harness.train.batches import MicroBatch


def example_scales(reduction: str, weight_sums: np.ndarray, group_size: int | None) -> np.ndarray:
    """Return each example's factor in the objective.

    token_mean: 1 / sum of all weights. micro_batch_mean: 1 / (sum of the group's weights x number of groups), groups
    being consecutive runs of `group_size` examples. example_mean: 1 / (sum of the example's weights x number of
    examples). sum: 1. Examples and groups without any weight count in no mean; where nothing has weight all factors
    are 0 and the objective is a differentiable 0.0.

    Args:
        reduction: a value of `TrainSpec.loss_reduction`.
        weight_sums: sum of the loss weights of each example of the step, in the step's order.
        group_size: examples per group under micro_batch_mean.
    """
    if reduction == "sum":
        return np.ones(len(weight_sums))
    sizes = {"token_mean": len(weight_sums), "micro_batch_mean": group_size, "example_mean": 1}
    size = sizes[reduction]
    assert size is not None
    group_of = np.arange(len(weight_sums)) // size
    group_sums = np.bincount(group_of, weights=weight_sums)
    num_groups = np.count_nonzero(group_sums)
    scales = np.divide(1.0, group_sums * num_groups, out=np.zeros(len(group_sums)), where=group_sums > 0)
    return scales[group_of]


def token_nll(logits_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood in nats of each target, in float32 whatever the logits are."""
    return nn.functional.cross_entropy(logits_KV.float(), targets_K, reduction="none")


def objective(model: nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a micro-batch's share of the objective, and its weighted nll sum without gradient."""
    nll_K = token_nll(logits_at(model, batch), batch.targets_K)
    return (nll_K * batch.scales_K).sum(), (nll_K.detach() * batch.weights_K).sum()


def logits_at(model: nn.Module, batch: MicroBatch) -> torch.Tensor:
    """Return logits [K, V] at a batch's own positions: no prompt or padding position reaches the output head."""
    with _head_sees_only(model, batch.positions_K):
        if not batch.lengths:
            return model(input_ids=batch.input_ids_BT, use_cache=False).logits[0]
        with segments.alone(model):
            return model(
                input_ids=batch.input_ids_BT,
                position_ids=segments.positions(batch.lengths, batch.input_ids_BT.device),
                use_cache=False,
                segment_lengths=batch.lengths,
            ).logits[0]


@contextmanager
def _head_sees_only(model: Any, positions_K: torch.Tensor) -> Iterator[None]:
    """Hand the output head 1 x K states, not B x T; what the model does after it (soft caps, scales) still runs."""

    def select(_head: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1).index_select(0, positions_K).unsqueeze(0),)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
