"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.methods.protocol import Keep
from harness.spec import FullConfig, Quantisation

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

KEPT_BY: frozenset[Keep] = frozenset({"all"})


def quantisation(config: FullConfig) -> Quantisation | None:
    """Return None: weights that are trained are held in full."""
    return None


def check(model: PreTrainedModel, config: FullConfig) -> None:
    """Accept every model."""


def attach(model: PreTrainedModel, config: FullConfig, *, seed: int, added: Sequence[int] = ()) -> nn.Module:
    """Make every weight trainable; the model stays as it is."""
    model.requires_grad_(True)
    return model


def write(model: PreTrainedModel, folder: Path) -> None:
    """Write the whole model as `AutoModelForCausalLM.from_pretrained` reads it."""
    use_cache = model.config.use_cache
    model.config.use_cache = True  # off in training only; whoever loads this wants fast generation
    try:
        model.save_pretrained(folder)
    finally:
        model.config.use_cache = use_cache
