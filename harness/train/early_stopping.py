"""When to stop early, and the best weights so far.

Invariant: only validations after the first step count, so what is kept has been trained. What does not live here: how
a validation loss is measured (loop.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from harness.train.checkpoints import copy_into, trainable


@dataclass
class Best:
    """The lowest validation loss and the trained parameters that reached it, held in main memory."""

    patience: int
    loss: float | None = None
    num_worse: int = 0
    """Validations since that minimum."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def should_stop(self, model: nn.Module, loss: float) -> bool:
        """Take a validation loss into account and return whether patience has run out."""
        if self.loss is not None and loss >= self.loss:
            self.num_worse += 1
            return self.num_worse >= self.patience
        self.loss, self.num_worse = loss, 0
        for name, parameter in trainable(model).items():
            if name not in self.weights:
                self.weights[name] = torch.empty_like(parameter, device="cpu")
            self.weights[name].copy_(parameter)
        return False

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back, if any validation took place."""
        if self.weights:
            copy_into(model, self.weights)
