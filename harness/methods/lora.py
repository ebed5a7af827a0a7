"""Low-rank adapters on linear layers of a frozen base (Hu et al., arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.methods.adapter import attach_adapter, checked_layers, write_adapter
from harness.methods.protocol import Keep
from harness.spec import LoraConfig, Quantisation

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

KEPT_BY: frozenset[Keep] = frozenset({"adapter", "all"})


def quantisation(config: LoraConfig) -> Quantisation | None:
    """Return None: the base is held in full."""
    return None


def check(model: PreTrainedModel, config: LoraConfig) -> None:
    """Refuse layers that an adapter does not fit.

    Raises:
        ModelError: no layer matches, or the rank exceeds a layer.
    """
    checked_layers(model, config)


def attach(model: PreTrainedModel, config: LoraConfig, *, seed: int, added: Sequence[int] = ()) -> PeftModel:
    """Freeze the base and put adapters on it; at step 0 the outputs are the base's exactly.

    Raises:
        ModelError: no layer matches, or the rank exceeds a layer.
    """
    return attach_adapter(model, config, seed=seed, added=added)


def write(model: PeftModel, folder: Path) -> None:
    """Write the adapter as `PeftModel.from_pretrained` reads it."""
    write_adapter(model, folder)
