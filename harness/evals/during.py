"""Scores of val items while a model trains: for curves, early stopping and description length.

    during.jsonl     one row per item and metric, appended while training; cut back where a checkpoint is continued from
    during.parquet   the same rows as a table, once training has ended; the log goes when the result is committed

Invariant: only val items are asked, the same ones each time, and asking moves nothing: the model, all random state and
so every later step are those of a training that nobody watched. What does not live here: when it happens
(harness/train/loop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from torch import nn

from harness.errors import DataError
from harness.evals.items import val_items
from harness.evals.scorer import Scorer
from harness.evals.scoring import ask, scorer_of
from harness.evals.table import write_parquet
from harness.models import Halvings
from harness.records.store import read_lines
from harness.spec import TrialSpec

if TYPE_CHECKING:
    from harness.data import ChatFormat
    from harness.evals.targets import Targets

Watch = Callable[[nn.Module], list[dict[str, Any]]]
LOG = "during.jsonl"
TABLE = "during.parquet"
COLUMNS = {
    "step": pa.int64(),
    **dict.fromkeys(("suite", "task", "item_id", "cluster", "metric"), pa.string()),
    "value": pa.float64(),
    "chance": pa.float64(),
    "reason": pa.string(),
}
"""Columns of during.parquet; step 0 is before the first step. The others are as in items.parquet."""


def watch(
    chat: ChatFormat, spec: TrialSpec, targets: Targets, *, batch_size: int, halvings: Halvings | None = None
) -> Watch | None:
    """Return what training calls to score val items: model -> rows of during.jsonl; None where nothing is watched.

    Args:
        chat: tokenizer and template.
        spec: `probes`, and the tasks that they name.
        targets: gives the index of training targets, for the behaviour panel.
        batch_size: rows computed together.
        halvings: of it, where memory runs out.

    Raises:
        DataError: a task has no val item, or items are missing or cannot be asked.
    """
    if not spec.probes.during:
        return None
    tasks = tuple(task for task in spec.evals.tasks if task.key in spec.probes.during)
    evals = spec.evals.model_copy(update={"tasks": tasks})
    slices = {task.key: val_items(task, spec.evals, spec.probes.during_items) for task in tasks}
    if empty := [key for key, chosen in slices.items() if not chosen.items]:
        raise DataError(
            f"probes.during names {empty[0]!r}, but must name tasks with val items; raise evals.val_share or num_items"
        )
    scorers: list[tuple[nn.Module, Scorer]] = []

    def score(model: nn.Module) -> list[dict[str, Any]]:
        if not scorers or scorers[0][0] is not model:
            scorers[:] = [(model, scorer_of(model, chat, evals, batch_size, halvings))]
        rows = ask(scorers[0][1], evals, slices, targets)
        return [{name: getattr(row, name) for name in COLUMNS if name != "step"} for row in rows]

    return score


def write_table(folder: Path) -> None:
    """Write during.parquet from during.jsonl, which an attempt that is killed still needs; nothing where there is none.

    Raises:
        DiskError: the disk is full or read-only.
    """
    if not (folder / LOG).exists():
        return
    rows = read_lines(folder / LOG)
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    write_parquet(folder / TABLE, columns, pa.schema(list(COLUMNS.items())))
