"""Asking a model every item of a spec through lm-eval.

Invariant: what comes back is lm-eval's own record of each item, in the order of tasks and items, before any of it is a
row of a table. What does not live here: rows (scoring.py, choices.py), the model behind its tokenizer (scorer.py).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lm_eval.evaluator import evaluate

from harness.evals.documents import documents
from harness.evals.forward import evaluating
from harness.evals.items import Slice
from harness.evals.lm_tasks import build_task
from harness.evals.panel import panel
from harness.evals.scorer import Scorer
from harness.spec import EvalSpec

if TYPE_CHECKING:
    from harness.evals.targets import Targets

Sample = dict[str, Any]
"""One item as lm-eval records it: `doc_id`, `doc`, `filtered_resps`, `metrics`, and a value for each of those."""


def samples(
    scorer: Scorer, spec: EvalSpec, slices: Mapping[str, Slice], targets: Targets | None
) -> dict[str, list[Sample]]:
    """Return task key -> the sample of each of its items, in order.

    Args:
        scorer: the model behind its tokenizer and template; nothing of it is changed.
        spec: what to ask.
        slices: task key -> items.
        targets: as of `scoring.ask`.

    Raises:
        DataError: items that are missing or cannot be asked.
    """
    if not slices:
        return {}
    with evaluating(scorer.model, spec.dtype), _quiet_lm_eval():
        tasks: Any = {
            task.key: build_task(
                task,
                documents(slices[task.key].items, task, scorer.chat, spec.items_seed),
                panel(task, slices[task.key].items, scorer.chat, spec.items_seed, targets),
            )
            for task in spec.tasks
        }
        results: Any = evaluate(scorer, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
    return {task.key: sorted(results["samples"][task.key], key=lambda sample: sample["doc_id"]) for task in spec.tasks}


@contextlib.contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    """Keep lm-eval's progress bars and remarks out of the worker's log; errors are exceptions and pass."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
