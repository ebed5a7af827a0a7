"""What a model's output layer is asked: only what carries loss, and of a large vocabulary a slice at a time.

Invariant: however it is computed, a token's loss is that of the model's own logits. A model is therefore tried on a few
tokens, and what it does not bear - logits that are changed after the output layer, by a soft cap or a scale, an output
layer with a bias or adapters, or none that can be found - takes the way that leaves all of it in place. What does not
live here: what a token's loss counts for (losses.py).

Shapes: B rows, T positions, K positions that carry loss, H features, V vocabulary, C columns of a slice of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from harness.errors import DeviceError
from harness.train.modes import evaluating
from harness.train.segments import TOLERANCE

MANY_LOGITS = 2**25
"""K x V above which logits are never held together: 134 MB in float32, and a backward pass holds several copies."""
COLUMNS = 8192
"""C. Measured on 384 x 640 states and 262 144 columns, bfloat16 over float32 weights, one thread: 8192 take 3.6 s of
CPU time and 0.7 GB over the weights; 32 768 take 4.7 s; all at once 3.9 s and 1.7 GB. Slices of tokens in place of
columns hold a gradient of the whole layer beside the one that they add to: 5 s and 2.1 GB."""
PROBE = 11
"""Tokens that a model is tried on."""


class Head(IntEnum):
    """What a model's output layer bears; each also bears what comes before it."""

    WHOLE = 0
    """Nothing: all B x T logits are computed, and those that carry loss are taken out."""
    SELECTED = 1
    """To be handed K states in place of B x T."""
    SLICED = 2
    """To be computed here, a slice of the vocabulary at a time: it is a matrix, and its outputs are the logits."""
    LIGER = 3
    """As sliced, and its loss is computed by Liger's kernel, whatever the size."""


def chosen(model: Any, loss_kernel: str) -> Head:
    """Return how a model's output layer is computed.

    Args:
        model: tried on a few tokens; what does not bear a kernel of another's is computed as it would be without.
        loss_kernel: a value of `Runtime.loss_kernel`.

    Raises:
        DeviceError: the kernel is not to be had here.
    """
    if loss_kernel == "liger":
        _require_liger(next(model.parameters()).device)
    head = tried(model)
    return Head.LIGER if loss_kernel == "liger" and head is Head.SLICED else head


def _require_liger(device: torch.device) -> None:
    if device.type != "cuda":
        raise DeviceError(
            f"runtime.loss_kernel is 'liger', but must be 'torch' on {device.type}: it runs on a GPU alone"
        )
    if find_spec("liger_kernel") is None:
        raise DeviceError(
            "runtime.loss_kernel is 'liger', but must be 'torch' where liger-kernel is not installed; "
            "install the extra 'gpu'"
        )


def tried(model: Any) -> Head:
    """Return what a model's output layer bears, found out on a few tokens."""
    layer = output_layer(model)
    if layer is None:
        return Head.WHOLE
    device = next(model.parameters()).device
    ids_1T = torch.arange(3, 3 + PROBE, device=device)[None] % len(model.get_input_embeddings().weight)
    places_K = torch.arange(1, PROBE, 3, device=device)
    written: list[Any] = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: written.append(output))
    try:
        with evaluating(model):
            expected_TV = model(input_ids=ids_1T, use_cache=False).logits[0]
            with handed(layer, lambda states_1TH: states_1TH.flatten(0, 1).index_select(0, places_K)[None]):
                logits_KV = model(input_ids=ids_1T, use_cache=False).logits[0]
    finally:
        handle.remove()
    if not _alike(logits_KV, expected_TV[places_K]):
        return Head.WHOLE
    is_matrix = type(layer) is nn.Linear and layer.bias is None
    return Head.SLICED if is_matrix and torch.equal(written[0][0], expected_TV) else Head.SELECTED


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= TOLERANCE[one.dtype] * other.float().std())


def output_layer(model: Any) -> nn.Module | None:
    """Return the layer that makes logits of states; None where a model names none."""
    find = getattr(model, "get_output_embeddings", None)
    return find() if find is not None else None


@contextmanager
def handed(layer: nn.Module, states_of: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Hand the output layer other states than the model does; what the model does after it still runs."""
    handle = layer.register_forward_pre_hook(lambda _layer, args: (states_of(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced(layer: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let something else be computed in place of the output layer."""
    own = vars(layer).get("forward")  # where a library has put one over the method of the class
    layer.forward = forward
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            layer.forward = own


def sliced_nll(states_KH: torch.Tensor, weight_VH: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of each target, float32 [K], from a slice of the vocabulary at a time.

    Under autocast products are taken in its dtype, as a linear layer would; sums, exponentials and the gradient of the
    weights are float32, or the weights' own dtype. The backward pass computes each slice's logits again.

    Args:
        states_KH: what the output layer is handed.
        weight_VH: the output layer.
        targets_K: int64, below V.
    """
    kind = states_KH.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VH.dtype
    nll: torch.Tensor = _SlicedNll.apply(states_KH, weight_VH, targets_K, dtype)  # pyright: ignore[reportAssignmentType]
    return nll


def liger_nll(states_KH: torch.Tensor, weight_VH: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """Return what `sliced_nll` does, to rounding, by Liger's fused kernel.

    Source: https://github.com/linkedin/Liger-Kernel, 0.8.5; earlier ones have no gradient for losses of single tokens.
    """
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]

    return LigerFusedLinearCrossEntropyLoss(reduction="none")(weight_VH, states_KH, targets_K)


class _SlicedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states_KH: torch.Tensor, weight_VH: torch.Tensor, targets_K: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        states = states_KH.detach().to(dtype)
        log_sum_K = torch.full(targets_K.shape, -torch.inf, device=states.device)
        said_K = torch.zeros_like(log_sum_K)
        with torch.autocast(states.device.type, enabled=False):
            for first, slice_CH in _slices(weight_VH, dtype):
                logits_KC = (states @ slice_CH.T).float()
                log_sum_K = torch.logaddexp(log_sum_K, logits_KC.logsumexp(-1))
                rows, columns = _inside(targets_K, first, len(slice_CH))
                said_K[rows] = logits_KC[rows, columns]
        ctx.save_for_backward(states, weight_VH, targets_K, log_sum_K)
        ctx.states_dtype = states_KH.dtype
        return log_sum_K - said_K

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor | None, ...]:
        states, weight_VH, targets_K, log_sum_K = ctx.saved_tensors
        wants_states, wants_weight = ctx.needs_input_grad[:2]
        to_states_KH = torch.zeros(states.shape, device=states.device) if wants_states else None
        to_weight_VH = torch.empty_like(weight_VH) if wants_weight else None
        with torch.autocast(states.device.type, enabled=False):
            for first, slice_CH in _slices(weight_VH, states.dtype):
                # of the logits: softmax - 1 at the target, times what each token's loss counts for
                slope_KC = (states @ slice_CH.T).float().sub_(log_sum_K[:, None]).exp_()
                slope_KC[_inside(targets_K, first, len(slice_CH))] -= 1.0
                slope = slope_KC.mul_(gradients[0][:, None]).to(states.dtype)
                if to_states_KH is not None:
                    to_states_KH += slope @ slice_CH
                if to_weight_VH is not None:
                    to_weight_VH[first : first + len(slice_CH)] = slope.T @ states
        return None if to_states_KH is None else to_states_KH.to(ctx.states_dtype), to_weight_VH, None, None


def _slices(weight_VH: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the first column of each slice, and its weights."""
    for place, slice_CH in enumerate(weight_VH.detach().split(COLUMNS)):
        yield place * COLUMNS, slice_CH.to(dtype)


def _inside(targets_K: torch.Tensor, first: int, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which tokens have their target in a slice, and in which of its columns."""
    rows = torch.nonzero((targets_K >= first) & (targets_K < first + num)).squeeze(1)
    return rows, targets_K[rows] - first
