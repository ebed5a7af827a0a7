"""Several examples in one row of which each reads itself alone.

Invariant: what an example's tokens attend to, and at which positions they stand, is as if it had the row to itself.
Plain causal attention once per example: the work is the sum of the squared lengths, where a mask over the row would
make it the square of their sum. What does not live here: which examples share a row (harness/data/packing.py).

Shapes: B examples (here always 1), H heads, T positions, D features of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from harness.errors import SpecError
from harness.train.modes import evaluating

NAME = "harness_segments"
PROBE = (5, 4, 6)
"""Lengths of the examples on which a model is tried."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Of the standard deviation of the logits. What leaks differs by more: .02 and above among those that were tried."""


def positions(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return positions that begin anew with each example, int64 [1, T]."""
    return torch.cat([torch.arange(length) for length in lengths])[None].to(device)


def require(model: Any) -> None:
    """Check on a few tokens that a model reads each example of a row alone: that it has no layer - a convolution, a
    recurrence - which passes something on beside attention.

    Raises:
        SpecError: it does not.
    """
    device = next(model.parameters()).device
    vocabulary = len(model.get_input_embeddings().weight)
    ids = torch.arange(7, 7 + sum(PROBE), device=device)[None] % vocabulary
    with evaluating(model):
        apart = [model(input_ids=part, use_cache=False).logits for part in ids.split(PROBE, dim=1)]
        with alone(model):
            where = positions(PROBE, device)
            together = model(input_ids=ids, position_ids=where, use_cache=False, segment_lengths=PROBE).logits
    expected = torch.cat(apart, dim=1).float()
    if not (together.float() - expected).abs().max() <= TOLERANCE[together.dtype] * expected.std():
        raise _refusal(model)


def _refusal(model: Any) -> SpecError:
    name = type(inner(model)).__name__
    return SpecError(
        f"data.packing lays examples end to end, but must be 'off' or 'joined' for a {name}, whose "
        "layers cannot be confined to one example"
    )


def inner(model: Any) -> Any:
    """Return the model of transformers, whatever adapters are around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """Let every attention layer of a model read each example of a row alone.

    Raises:
        SpecError: the model computes attention in a way of its own, which cannot be replaced.
    """
    bare = inner(model)
    before = bare.config._attn_implementation
    bare.set_attn_implementation(NAME)
    if bare.config._attn_implementation != NAME:
        raise _refusal(model)
    try:
        yield
    finally:
        bare.set_attn_implementation(before)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_lengths: tuple[int, ...],
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention within each example, [1, T, H, D], by transformers' own function.

    Args:
        module: the attention layer.
        query: [1, H, T, D].
        key: [1, H or fewer, T, D].
        value: [1, H or fewer, T, D].
        attention_mask: none is made for these layers.
        segment_lengths: of the examples, T together.
        sliding_window: how many positions back a layer reads, itself included; None is all.
        options: scaling, dropout and whatever else the layer hands on.
    """
    parts = zip(*(states.split(segment_lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = []
    for one_query, one_key, one_value in parts:
        length = one_query.shape[2]
        mask = _window(length, sliding_window, query.device) if sliding_window and length > sliding_window else None
        outputs.append(sdpa_attention_forward(module, one_query, one_key, one_value, mask, **options)[0])
    return torch.cat(outputs, dim=1), None


def _window(length: int, sliding_window: int, device: torch.device) -> torch.Tensor:
    """Return what a position reads, itself and the `sliding_window` - 1 before: bool [1, 1, length, length]."""
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    return ((back >= 0) & (back < sliding_window))[None, None]


def _no_mask(*args: Any, **options: Any) -> None:
    """Return no mask: examples are kept apart by their lengths."""
    return None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _no_mask)
