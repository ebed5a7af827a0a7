"""Slices as lm-eval task objects.

Invariant: a task file in tasks/ is plain data (no code, no template of its own) and documents are handed over in
memory: nothing is looked up, downloaded or cached. What does not live here: the model behind the tasks (scorer.py).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.task import ConfigurableTask

from harness.evals.documents import Document
from harness.evals.metrics import METRICS
from harness.spec import EvalTask

TASK_FILES = Path(__file__).parent / "tasks"


class Documents(list[Document]):
    """Documents of one split, with the one property of a dataset that lm-eval asks for besides being a sequence."""

    @property
    def features(self) -> dict[str, None]:
        return dict.fromkeys(self[0])


@functools.cache
def _task_file(kind: str) -> dict[str, Any]:
    return yaml.safe_load((TASK_FILES / f"{kind}.yaml").read_text())


def build_task(task: EvalTask, documents: Sequence[Document]) -> ConfigurableTask:
    """Return the lm-eval task that asks these documents, named by the task's key."""
    config = copy.deepcopy(_task_file(task.kind)) | {
        "task": task.key,
        "custom_dataset": lambda **_: {"test": Documents(documents)},
        "process_results": METRICS[task.kind],
    }
    if task.kind == "generate":
        # A raw answer is one line: without a template nothing else says where it ends.
        until = [] if task.chat else ["\n"]
        config["generation_kwargs"] = {"until": until, "max_gen_toks": task.max_new_tokens, "do_sample": False}
    return ConfigurableTask(config=config)
