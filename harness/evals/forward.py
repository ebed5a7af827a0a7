"""One forward pass whose output layer sees only the positions that are asked for.

Invariant: nothing about the model has changed when a function here returns. What does not live here: what to ask.

Shapes: B rows, T positions, N positions asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from harness.seeding import preserved_rng
from harness.spec import DType


def selected_logits(
    model: nn.Module, input_ids_BT: torch.Tensor, rows_N: torch.Tensor, columns_N: torch.Tensor, **arguments: Any
) -> tuple[torch.Tensor, Any]:
    """Return the logits at the positions (rows_N, columns_N) as float32 [N, V], and the key-value cache.

    The full [B, T, V] logits are the largest tensor of an evaluation and nearly all of them are thrown away. A hook in
    front of the output layer cuts the hidden states instead, which keeps whatever a model does to its logits (scaling,
    soft caps). A model without a plain output layer computes all and is cut afterwards.
    """
    head = _output_layer(model)
    if head is None:
        result = model(input_ids=input_ids_BT, **arguments)
        return result.logits[rows_N, columns_N].float(), getattr(result, "past_key_values", None)

    def cut(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][rows_N, columns_N].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(cut)
    try:
        result = model(input_ids=input_ids_BT, **arguments)
    finally:
        handle.remove()
    return result.logits[0].float(), getattr(result, "past_key_values", None)


def _output_layer(model: nn.Module) -> nn.Module | None:
    find = getattr(model, "get_output_embeddings", None)
    return find() if find is not None else None


@contextmanager
def evaluating(model: nn.Module, dtype: DType) -> Iterator[None]:
    """Enter eval mode, no gradients, under the autocast that `dtype` asks for; on exit modes and RNG are as before.

    `no_grad` and not `inference_mode`: tensors that a model caches inside inference mode cannot be trained through.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device.type
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16_autocast")
    try:
        with preserved_rng(), torch.no_grad(), autocast:
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
