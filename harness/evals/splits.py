"""The val and test items of an evaluation, compared.

Invariant: what is compared is what `asked_texts` says that items ask, so neither layout nor typing errors hide an
overlap; nothing here changes what is asked. What does not live here: the comparison (harness/data/splits.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import cast

from harness.data.splits import SplitOverlap, split_overlaps
from harness.evals.items import asked_texts, select
from harness.spec import EvalSpec


def overlaps_of(evals: EvalSpec) -> Mapping[str, SplitOverlap]:
    """Return task key -> how many of its test items stand in val items; looked for once for all trials of a process.

    Raises:
        DataError: as `select`.
    """
    # Type checkers do not see that models are hashable.
    return _overlaps(cast("Hashable", evals))


@lru_cache(maxsize=8)
def _overlaps(evals: EvalSpec) -> Mapping[str, SplitOverlap]:
    val: dict[str, list[str]] = {}
    for task in evals.tasks:
        chosen = select(task, evals)
        val[task.key] = [i["id"] for i, split in zip(chosen.items, chosen.splits, strict=True) if split == "val"]
    return MappingProxyType(split_overlaps(asked_texts(evals), val))
