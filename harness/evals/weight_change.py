"""How far training moved the weights, layer by layer.

Invariant: the layers are the linear ones but for the output layer, whatever the method, under the base's names; one
that a method leaves alone has changed by exactly 0. No more than one layer's change is held at a time, and a low-rank
one is multiplied out only to count intruders. What does not live here: embeddings, norms, biases.

Shapes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import nn

from harness.evals.model_pair import ModelPair
from harness.seeding import numpy_stream

SMALL_SIDE = 32
"""Up to this shorter side all singular values are computed; beyond it Lanczos finds the largest in less time."""
LARGEST_SIDE = 2048
"""Longest shorter side of a layer that is decomposed as a whole, for intruders and for the effective rank of a change
that is not low-rank: the time grows with its cube."""
UNCHANGED = "no layer has changed"
TOP_K = 10
THRESHOLD = 0.5


@dataclass(frozen=True)
class LayerChange:
    """What became of one layer's weight W, dW = W after - W before."""

    name: str
    weight_norm: float
    """||W||_F of the base, dequantised where it is held in 4 bits."""
    change_norm: float
    """||dW||_F"""
    largest: float
    """||dW||_2, the largest singular value."""
    effective_rank: float
    """See `effective_rank`; nan where nothing has changed and where a change that is not low-rank is too large."""
    num_intruders: float
    """See `num_intruders`; 0 where nothing has changed, nan where the layer is too large."""
    is_large: bool
    """Whether its shorter side is longer than `LARGEST_SIDE`."""

    @property
    def relative_change(self) -> float:
        """Return ||dW||_F / ||W||_F, at least 0; nan where W is 0."""
        return self.change_norm / self.weight_norm if self.weight_norm else math.nan

    @property
    def stable_rank(self) -> float:
        """Return ||dW||_F^2 / ||dW||_2^2, from 1 to the rank of dW; nan where nothing has changed."""
        return (self.change_norm / self.largest) ** 2 if self.largest else math.nan


def of_layers(pair: ModelPair) -> list[LayerChange]:
    """Return the change of each linear layer, in the model's order.

    Args:
        pair: a trained model and its base, or an adapter that holds its base.
    """
    changes = _adapter_changes(pair.tuned) if pair.base is None else _full_changes(pair.tuned, pair.base)
    return [_layer_change(*change) for change in changes]


@dataclass(frozen=True)
class _Change:
    """dW = left @ right, or left alone; None where nothing was added."""

    left: torch.Tensor | None
    right: torch.Tensor | None = None

    def whole(self, like: torch.Tensor) -> torch.Tensor:
        if self.left is None:
            return torch.zeros_like(like)
        return self.left if self.right is None else self.left @ self.right


def _layer_change(name: str, weight: torch.Tensor, change: _Change) -> LayerChange:
    weight = _double(weight)
    norm, largest, rank = _sizes(change)
    is_large = min(weight.shape) > LARGEST_SIDE
    intruders = 0.0 if norm == 0 else math.nan
    if norm > 0 and not is_large and weight.isfinite().all():
        intruders = float(num_intruders(weight, change.whole(weight)))
    return LayerChange(name, float(weight.norm()), norm, largest, rank, intruders, is_large)


def _full_changes(tuned: nn.Module, base: nn.Module) -> Iterator[tuple[str, torch.Tensor, _Change]]:
    before = dict(_linear_layers(base))
    for name, layer in _linear_layers(tuned):
        weight = _weight(before[name])
        yield name, weight, _Change(_double(_weight(layer)).to(weight.device) - _double(weight))


def _adapter_changes(tuned: Any) -> Iterator[tuple[str, torch.Tensor, _Change]]:
    for name, layer in _linear_layers(tuned.get_base_model()):
        yield name, _weight(getattr(layer, "base_layer", layer)), _low_rank(layer)


def _linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield linear layers by name, the output layer excepted; one with an adapter on it as its adapter's layer."""
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    output, adapted = model.get_output_embeddings(), ""
    for name, module in model.named_modules():
        if module is output or (adapted and name.startswith(adapted)):
            continue
        if isinstance(module, LoraLayer):
            adapted = f"{name}."
        if isinstance(module, LoraLayer | nn.Linear | Conv1D):
            yield name, module


def _weight(layer: Any) -> torch.Tensor:
    """Return a layer's weight; of one in 4 bits, what its codes stand for."""
    if getattr(layer.weight, "quant_state", None) is None:
        return layer.weight.detach()
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(layer).detach()


def _low_rank(layer: Any) -> _Change:
    """Return an adapter's change as two factors, scale included; several active ones side by side."""
    names = [name for name in getattr(layer, "active_adapters", ()) if name in layer.lora_A]
    if not names:
        return _Change(None)
    left = [_double(layer.lora_B[name].weight) * layer.scaling[name] for name in names]
    right = [_double(layer.lora_A[name].weight) for name in names]
    return _Change(torch.cat(left, dim=1), torch.cat(right, dim=0))


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double()


# -- sizes ------------------------------------------------------------------------------------------------------------


def _sizes(change: _Change) -> tuple[float, float, float]:
    """Return ||dW||_F, ||dW||_2 and the effective rank."""
    if change.left is None:
        return 0.0, 0.0, math.nan
    if not all(factor.isfinite().all() for factor in (change.left, change.right) if factor is not None):
        return math.nan, math.nan, math.nan
    if change.right is not None:
        # dW = Q_left R_left (Q_right R_right)^T: orthogonal factors leave singular values as they are.
        core_RR = torch.linalg.qr(change.left, mode="r").R @ torch.linalg.qr(change.right.T, mode="r").R.T
        values = torch.linalg.svdvals(core_RR)
        return float(values.norm()), float(values[0]), effective_rank(values)
    is_known = min(change.left.shape) <= LARGEST_SIDE
    rank = effective_rank(torch.linalg.svdvals(change.left)) if is_known else math.nan
    return float(change.left.norm()), _largest(change.left), rank


def effective_rank(values_R: torch.Tensor) -> float:
    """Return exp(-sum p ln p) with p = singular values / their sum, from 1 to their number; nan where all are 0.

    Unlike the stable rank it counts directions beside the largest by their share and not by its square.

    Source: Roy and Vetterli, The effective rank: a measure of effective dimensionality (EUSIPCO 2007), definition 1.
    """
    total = values_R.sum()
    return float(torch.special.entr(values_R / total).sum().exp()) if total > 0 else math.nan


def _largest(matrix_OI: torch.Tensor) -> float:
    """Return the largest singular value; a large matrix is multiplied where it lies."""
    if min(matrix_OI.shape) <= SMALL_SIDE or not matrix_OI.any():
        return float(torch.linalg.svdvals(matrix_OI)[0])

    def times(matrix: torch.Tensor) -> Callable[[np.ndarray], np.ndarray]:
        return lambda vector: (matrix @ torch.from_numpy(vector).to(matrix)).cpu().numpy()

    make: Any = LinearOperator  # its annotations are those of the class that it makes a subclass of
    operator = make(tuple(matrix_OI.shape), dtype=np.float64, matvec=times(matrix_OI), rmatvec=times(matrix_OI.T))
    start = numpy_stream(0, "weight_change.start").standard_normal(min(matrix_OI.shape))
    values: Any = svds(operator, k=1, v0=start, return_singular_vectors=False)
    return float(values[0])


def num_intruders(
    weight_OI: torch.Tensor, change_OI: torch.Tensor, *, top_k: int = TOP_K, threshold: float = THRESHOLD
) -> int:
    """Return how many of the `top_k` leading left singular vectors after training are unlike every one before.

    Intruder: the largest |cosine| with any left singular vector of the base's weight is below `threshold`. From 0 to
    `top_k`; fewer are better kept. A layer that is narrower than `top_k` has as many as its shorter side.

    Args:
        weight_OI: of the base.
        change_OI: what training added.
        top_k: leading vectors looked at.
        threshold: on the cosine.

    Source: Shuttleworth et al., arXiv:2410.21228, algorithm 1.
    """
    weight_OI, change_OI = weight_OI.double(), change_OI.double()
    before, after = _left_vectors(weight_OI), _left_vectors(weight_OI + change_OI)[:, :top_k]
    return int(((before.T @ after).abs().max(dim=0).values < threshold).sum())


def _left_vectors(matrix_OI: torch.Tensor) -> torch.Tensor:
    """Return the left singular vectors, the leading one first, as many as the shorter side.

    They are the eigenvectors of the product with the transpose, which takes a third of the time of a decomposition.
    """
    is_tall = matrix_OI.shape[0] > matrix_OI.shape[1]
    basis, core = torch.linalg.qr(matrix_OI) if is_tall else (None, matrix_OI)
    vectors = torch.linalg.eigh(core @ core.T).eigenvectors.flip(1)
    return vectors if basis is None else basis @ vectors
