"""Asking a model every item of a spec through lm-eval.

Invariant: what comes back is lm-eval's own record of each item, in the order of tasks and items, before any of it is a
row of a table. What does not live here: rows (scoring.py, choices.py), the model behind its tokenizer (scorer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lm_eval.evaluator import evaluate

from harness.evals import pass_at_k
from harness.evals.documents import documents
from harness.evals.forward import evaluating
from harness.evals.items import Slice
from harness.evals.lm_tasks import build_task, quiet_lm_eval
from harness.evals.panel import panel
from harness.evals.pass_at_k import SampledRow
from harness.evals.scorer import Scorer
from harness.spec import EvalSpec

if TYPE_CHECKING:
    from harness.evals.targets import Targets

Sample = dict[str, Any]
"""One item as lm-eval records it: `doc_id`, `doc`, `filtered_resps`, `metrics`, and a value for each of those."""


class Asked(NamedTuple):
    """What a model answered."""

    by_task: dict[str, list[Sample]]
    """Task key -> the sample of each of its items, in order."""
    sampled: list[SampledRow]
    """Answers sampled besides, of tasks that ask for them."""


def asked(scorer: Scorer, spec: EvalSpec, slices: Mapping[str, Slice], targets: Targets | None) -> Asked:
    """Return what a model answers to every item.

    Args:
        scorer: the model behind its tokenizer and template; nothing of it is changed.
        spec: what to ask.
        slices: task key -> items.
        targets: as of `scoring.ask`.

    Raises:
        DataError: items that are missing or cannot be asked.
    """
    if not slices:
        return Asked({}, [])
    tasks: dict[str, Any] = {}
    sampled: list[SampledRow] = []
    with evaluating(scorer.model, spec.dtype), quiet_lm_eval():
        for task in spec.tasks:
            shown = documents(slices[task.key].items, task, scorer.chat, spec.items_seed)
            drawn = pass_at_k.sampled(scorer, task, shown, spec.items_seed) if task.num_samples else None
            sampled += [] if drawn is None else pass_at_k.rows_of(task, drawn)
            tasks[task.key] = build_task(
                task,
                shown,
                panel(task, slices[task.key].items, scorer.chat, spec.items_seed, targets),
                None if drawn is None else pass_at_k.measure_of(task, drawn),
            )
        results: Any = evaluate(scorer, {"tasks": cast("Any", tasks)}, bootstrap_iters=0, log_samples=True)
    by_task = {
        task.key: sorted(results["samples"][task.key], key=lambda sample: sample["doc_id"]) for task in spec.tasks
    }
    return Asked(by_task, sampled)
