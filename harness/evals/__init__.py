"""lm-eval suites before, during and after training.

Choosing items and describing a folder are free of torch; scoring is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.evals.folder import describe_folder
from harness.evals.items import asked_texts, items_sha256, kept_out, select
from harness.evals.leaks import leaked

if TYPE_CHECKING:
    from harness.evals.adapters import item_rows_of_adapters
    from harness.evals.scoring import before_key, continuations, item_rows, sampler, score_after, score_before

__all__ = [
    "asked_texts",
    "before_key",
    "continuations",
    "describe_folder",
    "item_rows",
    "item_rows_of_adapters",
    "items_sha256",
    "kept_out",
    "leaked",
    "sampler",
    "score_after",
    "score_before",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.evals import adapters, scoring

    return getattr(adapters if name == "item_rows_of_adapters" else scoring, name)
