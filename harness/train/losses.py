"""The loss of a micro-batch, and what each reduction makes of it.

Shapes: B examples, T positions, K positions that carry loss, V vocabulary.

Every reduction is one factor per example: objective = sum over examples i and tokens t of
scale_i x weight_it x nll_it. The factors are known before the first forward pass, so splitting a batch into
micro-batches changes only the order of additions. What does not live here: which tokens carry weight (harness/data),
how a large vocabulary is gone through (head.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from harness.train import segments
from harness.train.batches import MicroBatch
from harness.train.head import MANY_LOGITS, Head, handed, liger_nll, output_layer, replaced, sliced_nll


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


def objective(model: nn.Module, batch: MicroBatch, head: Head = Head.SELECTED) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a micro-batch's share of the objective, and its weighted nll sum without gradient.

    Args:
        model: a causal language model.
        batch: what it reads and predicts.
        head: how its output layer is computed, from `head.chosen`.
    """
    nll_K = nll_at(model, batch, head)
    return (nll_K * batch.scales_K).sum(), (nll_K.detach() * batch.weights_K).sum()


def nll_at(model: nn.Module, batch: MicroBatch, head: Head = Head.SELECTED) -> torch.Tensor:
    """Return the negative log-likelihood of a batch's own targets, float32 [K].

    Above `MANY_LOGITS` no more than a slice of the vocabulary is held at a time, where the output layer bears it.
    """
    layer: Any = output_layer(model)
    if head is Head.LIGER:
        return liger_nll(_states_at(model, batch), layer.weight, batch.targets_K)
    if head is Head.SLICED and len(batch.positions_K) * len(layer.weight) > MANY_LOGITS:
        return sliced_nll(_states_at(model, batch), layer.weight, batch.targets_K)
    return token_nll(logits_at(model, batch, head), batch.targets_K)


def logits_at(model: nn.Module, batch: MicroBatch, head: Head = Head.SELECTED) -> torch.Tensor:
    """Return logits [K, V] at a batch's own positions: no prompt or padding position reaches the output layer, unless
    it bears nothing else."""
    layer = output_layer(model)
    if head is Head.WHOLE or layer is None:
        return _forward(model, batch).flatten(0, 1)[batch.positions_K]
    with handed(layer, lambda states_BTH: _selected(states_BTH, batch)[None]):
        return _forward(model, batch)[0]


def _states_at(model: nn.Module, batch: MicroBatch) -> torch.Tensor:
    """Return what the output layer would be handed, [K, H]; it computes nothing."""
    caught: list[torch.Tensor] = []

    def catch(states_BTH: torch.Tensor) -> torch.Tensor:
        caught.append(_selected(states_BTH, batch))
        return states_BTH[:, :0]

    layer = output_layer(model)
    assert layer is not None
    with replaced(layer, catch):
        _forward(model, batch)
    return caught[0]


def _selected(states_BTH: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    return states_BTH.flatten(0, 1).index_select(0, batch.positions_K)


def _forward(model: nn.Module, batch: MicroBatch) -> torch.Tensor:
    if not batch.lengths:
        return model(input_ids=batch.input_ids_BT, use_cache=False).logits
    with segments.alone(model):
        return model(
            input_ids=batch.input_ids_BT,
            position_ids=segments.positions(batch.lengths, batch.input_ids_BT.device),
            use_cache=False,
            segment_lengths=batch.lengths,
        ).logits
