"""lm-eval suites before, during and after training.

Choosing items and describing a folder are free of torch; scoring is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.evals.folder import describe_folder
from harness.evals.items import asked_texts, items_sha256, kept_out, select
from harness.evals.leaks import leaked
from harness.evals.splits import overlaps_of

if TYPE_CHECKING:
    from harness.evals.adapters import item_rows_of_adapters
    from harness.evals.during import watch
    from harness.evals.probes import measure as probe
    from harness.evals.scoring import before_key, continuations, item_rows, sampler, score_after, score_before
    from harness.evals.targets import targets_of

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
    "overlaps_of",
    "probe",
    "sampler",
    "score_after",
    "score_before",
    "select",
    "targets_of",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.evals import adapters, during, probes, scoring, targets

    elsewhere = {
        "item_rows_of_adapters": adapters.item_rows_of_adapters,
        "probe": probes.measure,
        "targets_of": targets.targets_of,
        "watch": during.watch,
    }
    return elsewhere[name] if name in elsewhere else getattr(scoring, name)
