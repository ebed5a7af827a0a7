"""Whether a model drops anything at random while it trains.

Dropout may be a module, a call, or a part of fused attention; only the first can be seen in the model, the others are
known from the base's configuration. What does not live here: the streams that masks are drawn from (loop.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

_NAMES = re.compile(r"(?<!classifier_)drop")


def has_dropout(model: nn.Module) -> bool:
    """Return whether a module drops with positive probability, or the configuration names a positive dropout."""
    modules = (module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
    if any(module.p > 0 for module in modules):
        return True
    config: Any = getattr(model, "config", None)
    return config is not None and any(_rates(config.to_dict()))


def _rates(tree: dict[Any, Any]) -> Iterable[float]:
    """Yield every rate of a configuration, parts of composed models included; the head of a classifier is not run."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _rates(value)
        elif _NAMES.search(str(name)) and not isinstance(value, bool):
            yield from (float(rate) for rate in _flat(value) if isinstance(rate, float | int) and 0 < rate <= 1)


def _flat(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)
