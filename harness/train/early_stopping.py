"""When to stop early, and the best weights so far.

Invariant: only validations after the first step count, so what is kept has been trained; a value that is not known is
no better than any. What does not live here: how a value is measured (validation.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from harness.records.measures import is_lower_better
from harness.train.checkpoints import copy_into, trainable

VAL_LOSS = "val_loss"


@dataclass
class Best:
    """The best value of what is watched and the trained parameters that reached it, held in main memory."""

    patience: int
    metric: str = VAL_LOSS
    """What is watched: the validation loss, or a metric key on val items."""
    value: float | None = None
    step: int | None = None
    """After which step that was."""
    val_loss: float | None = None
    """Validation loss there."""
    num_worse: int = 0
    """Validations since."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def is_better(self, value: float | None) -> bool:
        """Return whether a value beats the best so far, in the direction of its metric; an equal one does not."""
        if value is None or not math.isfinite(value):
            return False
        if self.value is None:
            return True
        lower_is_better = self.metric == VAL_LOSS or is_lower_better(self.metric)
        return value < self.value if lower_is_better else value > self.value

    def should_stop(self, model: nn.Module, value: float | None, *, step: int, val_loss: float | None) -> bool:
        """Take a validation into account and return whether patience has run out."""
        if not self.is_better(value):
            self.num_worse += 1
            return self.num_worse >= self.patience
        self.value, self.step, self.val_loss, self.num_worse = value, step, val_loss, 0
        for name, parameter in trainable(model).items():
            if name not in self.weights:
                self.weights[name] = torch.empty_like(parameter, device="cpu")
            self.weights[name].copy_(parameter)
        return False

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back, if any validation took place."""
        if self.weights:
            copy_into(model, self.weights)
