"""Slices as lm-eval task objects.

Invariant: a task file in tasks/ is plain data (no code, no template of its own) and documents are handed over in
memory: nothing is looked up, downloaded or cached. What does not live here: the model behind the tasks (scorer.py).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.task import ConfigurableTask

from harness.evals.documents import Document
from harness.evals.generated import Results
from harness.evals.kinds import KINDS
from harness.evals.metrics import METRICS
from harness.evals.panel import Measure
from harness.spec import GENERATED, EvalTask
from harness.spec.metrics import LOWER_IS_BETTER, metrics_of

TASK_FILES = Path(__file__).parent / "tasks"


class Documents(list[Document]):
    """Documents of one split, with the one property of a dataset that lm-eval asks for besides being a sequence."""

    @property
    def features(self) -> dict[str, None]:
        return dict.fromkeys(self[0])


@functools.cache
def _task_file(kind: str) -> dict[str, Any]:
    return yaml.safe_load((TASK_FILES / f"{kind}.yaml").read_text())


def build_task(task: EvalTask, documents: Sequence[Document], *besides: Measure | None) -> ConfigurableTask:
    """Return the lm-eval task that asks these documents, named by the task's key.

    Args:
        task: what to measure.
        documents: what to ask.
        besides: measure each answer besides, in this order: a panel, sampled answers; None measures nothing.
    """
    config = copy.deepcopy(_task_file("answered" if task.kind in KINDS else task.kind)) | {
        "task": task.key,
        "custom_dataset": lambda **_: {"test": Documents(documents)},
        "process_results": _together([METRICS[task.kind], *(measure for measure in besides if measure is not None)]),
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": name not in LOWER_IS_BETTER}
            for name in metrics_of(task)
        ],
    }
    if task.kind in GENERATED:
        config["generation_kwargs"] = {
            "until": ends_of(task),
            "max_gen_toks": task.max_new_tokens,
            "do_sample": False,
        }
    return ConfigurableTask(config=config)


def ends_of(task: EvalTask) -> list[str]:
    """Return the strings that end an answer, besides what ends a turn in chat.

    A raw answer is one line where nothing else says where it ends and one line is all that is asked for.
    """
    is_line = not task.chat and KINDS[task.kind].ends_at_line
    return ["\n"] if is_line else []


def _together(measures: Sequence[Measure]) -> Measure:
    def measure(document: Document, results: Results) -> dict[str, float]:
        return {name: value for one in measures for name, value in one(document, results).items()}

    return measure


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Keep lm-eval's progress bars and remarks out of the worker's log; errors are exceptions and pass."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
