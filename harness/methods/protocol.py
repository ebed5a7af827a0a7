"""What a training method offers. A method is one module in this package, one line in the registry, one contract suite.

Invariant: what a method does depends on the model, its configuration and the seed alone. What does not live here:
loading the base (harness/models), training (harness/train).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harness.spec import Quantisation

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Keep = Literal["none", "adapter", "all"]


class Method(Protocol):
    """How a base model is made trainable and what of it is saved. Modules of this package are the implementations."""

    KEPT_BY: frozenset[Keep]
    """The values of `keep` under which this method's trained weights stay."""

    # Any: each module takes its own configuration class; the registry pairs them by `kind`.
    def quantisation(self, config: Any) -> Quantisation | None:
        """Return how the base must be held, or None for full precision."""
        ...

    def check(self, model: PreTrainedModel, config: Any) -> None:
        """Refuse a configuration that does not fit the model's layers, weights or none.

        Raises:
            ModelError: as `attach` would.
        """
        ...

    def attach(self, model: PreTrainedModel, config: Any, *, seed: int, added: Sequence[int] = ()) -> nn.Module:
        """Return the model to train, with exactly the trained weights requiring a gradient; the rows of tokens that
        were added to the vocabulary, in embedding and output layer, are among them.

        Raises:
            ModelError: the configuration does not fit the model.
        """
        ...

    def write(self, model: Any, folder: Path) -> None:
        """Write the trained weights into a folder that plain transformers or peft can load."""
        ...
