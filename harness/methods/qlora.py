"""Low-rank adapters over a base held in 4 bits (Dettmers et al., arXiv:2305.14314).

At step 0 the outputs are the 4-bit base's exactly. Norms, embeddings and output layer stay in the training dtype;
adapters are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ModelError
from harness.methods.adapter import attach_adapter, checked_layers, write_adapter
from harness.methods.protocol import Keep
from harness.spec import QLoraConfig, Quantisation

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

KEPT_BY: frozenset[Keep] = frozenset({"adapter", "all"})


def quantisation(config: QLoraConfig) -> Quantisation | None:
    """Return how the base is held."""
    return config.base_quantisation


def check(model: PreTrainedModel, config: QLoraConfig) -> None:
    """Refuse layers that an adapter does not fit.

    Raises:
        ModelError: no layer matches, or the rank exceeds a layer.
    """
    checked_layers(model, config)


def attach(model: PreTrainedModel, config: QLoraConfig, *, seed: int, added: Sequence[int] = ()) -> PeftModel:
    """Freeze the 4-bit base and put adapters on it.

    Raises:
        ModelError: the base was not loaded in 4 bits, no layer matches, or the rank exceeds a layer.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        raise ModelError(
            "method is 'qlora', but the base is in full precision; load it with that method's quantisation"
        )
    return attach_adapter(model, config, seed=seed, added=added)


def write(model: PeftModel, folder: Path) -> None:
    """Write the adapter as `PeftModel.from_pretrained` reads it."""
    write_adapter(model, folder)
