"""A trained model and the base it came from, each asked in turn.

Invariant: an adapter is switched off only while its base is asked, and afterwards everything that was trainable is so
again. What does not live here: what the two are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from harness.errors import ModelError


def refuse_merged(model: nn.Module) -> None:
    """Refuse a model whose base cannot be asked.

    Raises:
        ModelError: an adapter is merged into it.
    """
    if any(getattr(module, "merged", False) is True for module in model.modules()):
        raise ModelError(
            "the model holds a merged adapter, but must hold its base as it is; call unmerge_adapter first"
        )


@dataclass(frozen=True)
class ModelPair:
    """Two models of one architecture and one tokenizer."""

    tuned: nn.Module
    base: nn.Module | None = None
    """None where `tuned` is an adapter (peft) on its base: the base is what is left without it."""

    def __post_init__(self) -> None:
        if self.base is None and not hasattr(self.tuned, "disable_adapter"):
            raise ModelError(
                f"base is None, but must be a model because {type(self.tuned).__name__} has no adapter to switch off; "
                "load the base once more"
            )
        refuse_merged(self.tuned)

    @contextmanager
    def as_base(self) -> Iterator[nn.Module]:
        """Give the base; an adapter is off inside."""
        if self.base is not None:
            yield self.base
            return
        adapter: Any = self.tuned
        trainable = [(parameter, parameter.requires_grad) for parameter in adapter.parameters()]
        try:
            with adapter.disable_adapter():
                yield adapter
        finally:
            for parameter, was_trainable in trainable:  # switching on makes every active adapter trainable
                parameter.requires_grad_(was_trainable)
