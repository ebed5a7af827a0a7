"""The learning rate of each step, and the optimizer it goes to.

Invariant: the rate is a function of (spec, step, num_steps) alone; there is no scheduler state to save. What does not
live here: when a step happens (loop.py).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from harness.spec import TrainSpec

ADAM_EPSILON = 1e-8


def learning_rate(spec: TrainSpec, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0.

    Linear warm-up from 0 over ceil(warmup_ratio x num_steps) steps, then constant, linear to 0 or half a cosine to 0;
    0 would be reached at step `num_steps`. With warm-up the first step has rate 0.

    Source: transformers.optimization.get_{constant,linear,cosine}_schedule_with_warmup, same values.
    """
    num_warmup = math.ceil(spec.warmup_ratio * num_steps)
    if step < num_warmup:
        return spec.learning_rate * (step / num_warmup)
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    if spec.schedule == "cosine":
        return spec.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if spec.schedule == "linear":
        return spec.learning_rate * (1.0 - progress)
    return spec.learning_rate


def adamw(model: nn.Module, spec: TrainSpec) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, without weight decay on norms and biases (vectors and scalars).

    The fused kernel works element by element, so it is deterministic; on CPU it takes a third of the time.

    Source: Loshchilov and Hutter, arXiv:1711.05101; the decay exemption as in transformers.Trainer.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=spec.learning_rate,
        betas=(spec.adam_beta1, spec.adam_beta2),
        eps=ADAM_EPSILON,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(model: nn.Module, norm: float, max_norm: float | None) -> None:
    """Scale all gradients so that their total norm, already known to be `norm`, is at most `max_norm`.

    torch multiplies every gradient by 1.0 where the norm is small enough; knowing it, that pass is left out.
    """
    if max_norm is not None and max_norm < norm + 1e-6:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, torch.tensor(norm))


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """Return the gradients that exist."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
