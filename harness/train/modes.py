"""A model held still while something is measured on it.

Invariant: modes, generators and gradients are the same after as before. What does not live here: what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.seeding import preserved_rng


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode without gradients; restore each module's mode and every generator on exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with preserved_rng(), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
