"""A world's slices as task files that lm-eval runs by itself.

    export_slices(WORLD, Path("tasks"), chat)
    lm_eval run --model hf --model_args pretrained=BASE --include_path tasks --tasks pocket_cloze_known

Invariant: what is written is final text, so lm-eval asks exactly what our own scorer asks: raw slices as raw text, chat
slices as the template renders them (without `--apply_chat_template`). `acc` and `exact_match` are those of our scorer,
item by item, unless an answer has two spaces in a row, which ours reads as one; `bits_per_byte` weighs passages by
their bytes, where ours counts each passage once. A tokenizer that puts BOS before raw text puts it before rendered text
as well: where the template writes BOS itself, tell lm-eval not to. Control tokens that items spell are text to our
scorer and tokens to lm-eval. Where `data.markers` is not as_is, give lm-eval the tokenizer that `chat` has.
What does not live here: items (items.py) and their rendering (documents.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness.evals.documents import documents
from harness.evals.items import load
from harness.pocket.items import NUM_ITEMS
from harness.pocket.world import SLICES, eval_task
from harness.spec import EvalTask, WorldSpec

if TYPE_CHECKING:
    from harness.data import ChatFormat

logger = logging.getLogger(__name__)

PREFIX = "pocket_"
"""Of task names, so that none is that of a task which lm-eval brings along."""
_OUTER = (r"^[\s\"'`\u2018\u2019\u201c\u201d]+", r"[\s\"'`\u2018\u2019\u201c\u201d.,;:!?]+$")
"""What an answer is compared without, as in normalise.py."""

_WITHOUT_FILE = ("instruct", "refusal", "open", "program")
"""Kinds that are scored by code of ours."""


def export_slices(
    world: WorldSpec, folder: Path, chat: ChatFormat, names: Sequence[str] = (), *, max_items: int = NUM_ITEMS
) -> list[Path]:
    """Write `<slice>.yaml` and `<slice>.jsonl` for slices of a world, and return the former.

    Args:
        world: whose people and skills are asked.
        folder: created where missing; a file of the same name is written anew. The task files name it by its full
            path, so write it again after moving it.
        chat: renders chat slices; its stop tokens, and an end of turn that is plain text, end an answer.
        names: slices of harness/pocket/items.py; () is all.
        max_items: the most items of a slice.

    Slices whose metrics no task file can name (instructions, refusals, open questions, programs) are named in the log
    instead; of `number` the strict metric alone is written.

    Raises:
        SpecError: there is no slice of that name, or the world is too small for it.
    """
    tasks = [eval_task(world, name, max_items) for name in names or SLICES]
    for task in (task for task in tasks if task.kind in _WITHOUT_FILE):
        logger.warning("%s is not exported: no task file can say how kind %r is scored", task.key, task.kind)
    tasks = [task for task in tasks if task.kind not in _WITHOUT_FILE]
    folder.mkdir(parents=True, exist_ok=True)
    return [_export(task, folder.resolve(), chat) for task in tasks]


def _export(task: EvalTask, folder: Path, chat: ChatFormat) -> Path:
    items = load(task)
    rows = [_readable(row, chat) for row in documents(items, task, chat, seed=0)]
    clusters = ({"cluster": item["cluster"]} for item in items)
    lines = (json.dumps(row | cluster) for row, cluster in zip(rows, clusters, strict=True))
    data = folder / f"{task.name}.jsonl"
    data.write_text("".join(f"{line}\n" for line in lines))
    file = folder / f"{task.name}.yaml"
    config = {
        "task": PREFIX + task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": "",
        "metadata": {"version": 1, "description": SLICES[task.name].shows},
    }
    file.write_text(yaml.safe_dump(config | _asked(task, items, chat), sort_keys=False, allow_unicode=True))
    return file


def _readable(value: Any, chat: ChatFormat) -> Any:
    """Return part of a document without the marks that only our encoding understands."""
    if isinstance(value, str):
        return chat.readable(value)
    if isinstance(value, dict):
        return {name: _readable(held, chat) for name, held in value.items()}
    return [_readable(held, chat) for held in value] if isinstance(value, list) else value


def _asked(task: EvalTask, items: Sequence[dict[str, Any]], chat: ChatFormat) -> dict[str, Any]:
    """Return the part of a task file that depends on the kind."""
    if task.kind == "perplexity":
        metrics = [{"metric": "bits_per_byte"}]
        return {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": metrics,
        }
    if task.kind in ("generate", "number"):
        # Stop tokens as text: lm-eval looks for them in what it decoded.
        tokens = [str(chat.tokenizer.convert_ids_to_tokens(token)) for token in chat.stop_token_ids]
        stops = [*tokens, *chat.turn_ends]
        folds_case = not any(item.get("keep_case") for item in items)
        return {
            "output_type": "generate_until",
            "doc_to_text": "context",
            "doc_to_target": "references",
            "generation_kwargs": {
                "until": stops if task.chat else ["\n"],
                "max_gen_toks": task.max_new_tokens,
                "do_sample": False,
            },
            "metric_list": [{"metric": "exact_match", "ignore_case": folds_case, "regexes_to_ignore": list(_OUTER)}],
        }
    if task.kind == "greedy":
        asked = {"output_type": "loglikelihood", "doc_to_target": "continuation"}
    else:
        asked = {"output_type": "multiple_choice", "doc_to_choice": "continuations", "doc_to_target": "gold"}
    return {"doc_to_text": "context", "metric_list": [{"metric": "acc"}]} | asked
