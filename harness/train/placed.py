"""Tensors of which each process holds a share, made whole and shared out again.

Invariant: a plain tensor comes back as it is, so that one process needs nothing of this. What does not live here: which
tensors are shared out (sharding.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def full(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor of which each process holds a share; all of them ask at once. Any other is itself."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def gathered(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Return whole tensors; {} for a process that only takes part in gathering them."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        whole = full(tensor)
        if keep:
            found[name] = whole
    return found


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor as a parameter is held: this process's share of it, or all, on the parameter's device."""
    tensor = tensor.to(parameter.device)
    mesh: Any = getattr(parameter, "device_mesh", None)
    if mesh is None or tensor.shape != parameter.shape:  # an optimizer's count of steps is one number everywhere
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    # Every process read it by itself: nothing is sent.
    return distribute_tensor(tensor, mesh, parameter.placements, src_data_rank=None)
