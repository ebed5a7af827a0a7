"""The behaviour panel of a task: what its answers look like, beside whether they are right.

Invariant: a number that an answer does not have - a length ratio without a reference, copying from a training set that
a base never saw - is nan with its reason, and no other number suffers for it. What does not live here: the formulas
(behaviour.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.evals import behaviour
from harness.evals.documents import Document
from harness.evals.generated import Results, unknown
from harness.evals.items import Item, reference_of
from harness.evals.kinds import KINDS
from harness.evals.layouts import as_asked
from harness.spec import EvalTask
from harness.spec.metrics import PANEL_METRICS

if TYPE_CHECKING:
    from harness.data import ChatFormat
    from harness.evals.targets import Targets

Measure = Callable[[Document, Results], dict[str, float]]
"""The metrics of one document, given what the scorer returned for it."""


def panel(
    task: EvalTask, items: Sequence[Item], chat: ChatFormat, seed: int, targets: Targets | None
) -> Measure | None:
    """Return what measures the answers of a task, or None where it has no panel.

    Args:
        task: whose answers.
        items: that it asks.
        chat: the template that they are asked with; its markers are what leaks.
        seed: as of `documents`, so that a copy of the prompt is one of what was asked.
        targets: gives the index of training targets; None for a base, which has none.
    """
    if task.panel == "none":
        return None
    by_id = {item["id"]: as_asked(item, task, seed) for item in items}
    markers, index = behaviour.markers_of(chat), None if targets is None else targets()

    def measure(document: Document, results: Results) -> dict[str, float]:
        (answer,) = results
        if not answer.is_finite:
            return unknown(PANEL_METRICS)
        item = by_id[document["id"]]
        found = behaviour.measure(
            str(answer),
            answer.raw,
            KINDS[task.kind].question(item),
            reference_of(item, task.kind),
            num_tokens=answer.num_tokens,
            hit_limit=answer.hit_limit,
            markers=markers,
            targets=index,
        )
        return {name: float(found[name]) for name in PANEL_METRICS}

    return measure


def why_unknown(metric: str) -> str:
    """Return why a metric of the panel has no value though the answer has."""
    return behaviour.REASONS.get(metric, "the answer does not have it")
