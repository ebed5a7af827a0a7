"""An evaluation folder (`EVALS=`) as tasks. Free of torch.

Invariant: a file's kind is read off its fields, never off its name; a file that cannot be asked is named in the log.
What does not live here: reading the items for scoring (items.py).
"""

from __future__ import annotations

import codecs
import hashlib
import logging
import re
from pathlib import Path
from typing import Literal

from harness.errors import DataError
from harness.evals.items import FIELDS, parse_lines
from harness.spec import EvalTask, FileItems, Measure

logger = logging.getLogger(__name__)

Kind = Literal["multiple_choice", "schema", "greedy", "generate", "perplexity"]

# In this order: a question-answering row may carry more fields than its kind needs.
_KINDS: tuple[Kind, ...] = ("multiple_choice", "schema", "greedy", "generate", "perplexity")
_MEASURES: dict[str, Measure] = {
    "multiple_choice": "retained",
    "schema": "retained",
    "greedy": "retained",
    "generate": "learned",
    "perplexity": "fluency",
}


def describe_folder(path: Path, *, num_items: int | None, max_new_tokens: int = 64) -> tuple[EvalTask, ...]:
    """Return one task for every JSON-lines file directly in a folder or one level down.

    The sub-folder (usually mc, schema, lm, qa or text) names the suite, the file the task. Questions with a free answer
    are asked inside the chat template and measure what was learned; everything else is raw text and measures what was
    retained, plain documents fluency. All are primary.

    Args:
        path: the folder.
        num_items: the most items that a task asks; None is all.
        max_new_tokens: length of a free answer.

    Raises:
        DataError: there is no such folder, or no file in it can be asked.
    """
    if not path.is_dir():
        raise DataError(f"EVALS is {str(path)!r}, but must be a folder of JSON-lines files")
    files = sorted(file for pattern in ("*.jsonl", "*/*.jsonl") for file in path.glob(pattern) if not file.is_dir())
    tasks = [_task(file, path, num_items, max_new_tokens) for file in files]
    usable = tuple(task for task in tasks if task is not None)
    if not usable:
        raise DataError(
            f"EVALS is {str(path)!r}, but must hold a JSON-lines file with the fields of {', '.join(_KINDS)}"
        )
    return usable


def _task(file: Path, root: Path, num_items: int | None, max_new_tokens: int) -> EvalTask | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"EVALS holds {str(file)!r}, which cannot be read ({error.strerror}); mend or remove it"
        ) from error
    kind = _kind(content, str(file))
    if kind is None:
        logger.warning("%s is left out: its rows have the fields of none of %s", file, ", ".join(_KINDS))
        return None
    return EvalTask(
        suite=_name(root.resolve().name if file.parent == root else file.parent.name),
        name=_name(file.stem),
        kind=kind,
        source=FileItems(sha256=hashlib.sha256(content).hexdigest(), path=str(file.resolve())),
        measure=_MEASURES[kind],
        primary=True,
        chat=kind == "generate",
        num_items=num_items,
        max_new_tokens=max_new_tokens if kind == "generate" else 0,
    )


def _kind(content: bytes, name: str) -> Kind | None:
    first = next((line for line in content.splitlines() if line.removeprefix(codecs.BOM_UTF8).strip()), b"")
    rows = parse_lines(first, name)
    fields = {field for row in rows for field in row}
    fields |= {"context"} if "messages" in fields else set()  # a conversation in place of one question
    return next((kind for kind in _KINDS if rows and fields.issuperset(FIELDS[kind])), None)


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-")[:64] or "evals"
