"""Which items a slice asks: loading, checking, the stratified sample, the val and test split, the hash.

Invariant: what is asked is a function of the task, `items_seed` and `val_share` alone, so the items before and after
are the same ones, a larger sample contains every smaller one, and an item never changes its split. Free of torch.

Items by task kind (`cluster` is what several items share, e.g. a person; it is the item's own id where absent; an
optional `delimiter` stands between context and continuation, see documents.py):

    multiple_choice  {"id", "query", "choices", "gold"}
    schema           {"id", "contexts", "continuation", "gold"}
    greedy           {"id", "context", "continuation"}
    perplexity       {("id"), "text"}
    generate, number, instruct, refusal, open, program    see the modules of kinds/
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from harness.errors import DataError
from harness.evals import layouts, return_values
from harness.evals.kinds import KINDS
from harness.evals.passages import passages
from harness.pocket.world import build
from harness.spec import EvalSpec, EvalTask, FileItems, GeneratedItems, ItemSource, PocketItems, TrialSpec, same_value

Item = dict[str, Any]
logger = logging.getLogger(__name__)

FIELDS: dict[str, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"contexts": list, "continuation": str, "gold": int},
    "greedy": {"context": str, "continuation": str},
    "perplexity": {"text": str},
    **{name: kind.fields for name, kind in KINDS.items()},
}
"""Task kind -> the fields that an item of it must have."""

_OPTIONS = {"multiple_choice": "choices", "schema": "contexts"}
_NEVER_EMPTY = {"greedy": "continuation", "schema": "continuation", "perplexity": "text"}
_NOT_TEXT = ("id", "cluster", "task")
_PREFIX = re.compile(r"[^:/]+(?=[:/])")


@dataclass(frozen=True)
class Slice:
    """The items that one task asks, in the order of their source."""

    items: tuple[Item, ...]
    """As their source has them; typing errors and layout come in where prompts are made (documents.py)."""
    splits: tuple[str, ...]
    """`val` or `test` for each item."""
    sha256: str
    """Of the items as they are asked, typing errors and layout included, and their splits."""
    num_repeated: int
    """Items left out because another one with the same text is in the slice already."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why an item is not asked though it is well formed -> how many are not."""


def select(task: EvalTask, evals: EvalSpec) -> Slice:
    """Return the items of a task; chosen once in a process, since every trial of a worker asks the same.

    Raises:
        DataError: the source is missing, changed, empty, or holds an item that this kind of task cannot ask.
    """
    # Type checkers do not see that models are hashable.
    return _select(cast("Hashable", task), evals.items_seed, evals.val_share)


@lru_cache(maxsize=256)
def _select(task: EvalTask, seed: int, val_share: float) -> Slice:
    available, num_repeated = _without_repeats(load(task))
    if num_repeated:
        logger.warning("evals.tasks %s: %d items repeat the text of another and are left out", task.key, num_repeated)
    available, left_out = _without_unasked(available, task)
    items = _sample(available, task.num_items, seed)
    splits = tuple(_split(item, seed, val_share) for item in items)
    asked = (layouts.as_asked(item, task, seed) for item in items)
    lines = (json.dumps([item, split], sort_keys=True) for item, split in zip(asked, splits, strict=True))
    return Slice(tuple(items), splits, hashlib.sha256("\n".join(lines).encode()).hexdigest(), num_repeated, left_out)


def _without_unasked(items: list[Item], task: EvalTask) -> tuple[list[Item], dict[str, int]]:
    """Return the items that can be asked here, and for the others why not, counted and logged."""
    if task.kind not in KINDS:
        return items, {}
    reasons = [KINDS[task.kind].left_out(item) for item in items]
    counts = Counter(reason for reason in reasons if reason is not None)
    for reason, count in counts.items():
        logger.warning("evals.tasks %s: %d of %d items are left out: %s", task.key, count, len(items), reason)
    asked = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
    if not asked:
        raise DataError(f"{_where(task)} holds no item that can be asked here; see the log for each item's reason")
    return asked, dict(counts)


def val_items(task: EvalTask, evals: EvalSpec, num_items: int | None) -> Slice:
    """Return the val items of a task alone, at most so many: a stratified sample, nested in their number.

    Raises:
        DataError: as `select`.
    """
    chosen = select(task, evals)
    mine = [item for item, split in zip(chosen.items, chosen.splits, strict=True) if split == "val"]
    items = tuple(_sample(mine, num_items, evals.items_seed))
    return Slice(items, ("val",) * len(items), chosen.sha256, chosen.num_repeated, chosen.left_out)


def items_sha256(evals: EvalSpec) -> dict[str, str]:
    """Return task key -> sha256 of the items that it asks."""
    return {task.key: select(task, evals).sha256 for task in evals.tasks}


def kept_out(spec: TrialSpec) -> dict[str, dict[str, str]]:
    """Return what no training row may say: task key -> item id -> what is asked, if the spec decontaminates."""
    return asked_texts(spec.evals) if spec.data.decontaminate else {}


def asked_texts(evals: EvalSpec) -> dict[str, dict[str, str]]:
    """Return task key -> item id -> the text that the item asks; of one that only offers choices, the right one."""
    return {task.key: {item["id"]: _asked(item) for item in select(task, evals).items} for task in evals.tasks}


def _asked(item: Item) -> str:
    said = [message["content"] for message in item.get("messages", ())]
    texts = [item.get(name) for name in ("query", "context", "text", "prompt")] + item.get("turns", [])[:1]
    asked = "\n".join([*said, *(text for text in texts if isinstance(text, str) and text)])
    if asked:
        return asked
    return item["choices"][item["gold"]] if "choices" in item else item["contexts"][item["gold"]]


def reference_of(item: Item, kind: str) -> str | None:
    """Return the right answer of an item; None where there is none to compare with."""
    if kind == "multiple_choice":
        return item["choices"][item["gold"]]
    return item.get("continuation" if kind in ("schema", "greedy") else "answer")


# -- loading ----------------------------------------------------------------------------------------------------------


def load(task: EvalTask) -> list[Item]:
    """Return every item of a task's source, checked, with `id` and `cluster` filled in.

    Raises:
        DataError: see `select`.
    """
    source = task.source
    rows = _rows(source, task)
    items = [_checked(row, number, task) for number, row in enumerate(rows)]
    items = [item for item in items if _is_meant(item, task)]
    if rows and not items:
        said = ", ".join(f"{name} = {value!r}" for name, value in task.where)
        raise DataError(f"{_where(task)} holds no item with {said}, but must hold at least one; mend its where")
    ids = {item["id"] for item in items}
    if len(ids) != len(items):
        raise DataError(
            f"{_where(task)} holds {len(items)} items but {len(ids)} ids, which must be unique; number them"
        )
    if not items:
        raise DataError(f"{_where(task)} is empty, but must hold at least one item")
    return items


def _is_meant(row: Item, task: EvalTask) -> bool:
    return all(name in row and same_value(row[name], value) for name, value in task.where)


def _rows(source: ItemSource, task: EvalTask) -> list[Item]:
    if isinstance(source, GeneratedItems):
        return return_values.items(source.name, source.seed, source.max_items)
    return _from_world(source, task) if isinstance(source, PocketItems) else _from_file(source, task.key)


def _from_world(source: PocketItems, task: EvalTask) -> list[Item]:
    rows = [dict(row) for row in build(source.world).items(source.slice, source.max_items)]
    # A raw line of the world is context and continuation as they stand: "12+7=" and "19", with no space between.
    return [{"delimiter": ""} | row for row in rows] if task.kind == "greedy" else rows


def _from_file(source: FileItems, key: str) -> list[Item]:
    try:
        content = Path(source.path).read_bytes()
    except OSError as error:
        raise DataError(
            f"evals.tasks {key}: {source.path} cannot be read ({error.strerror}), but must be a JSON-lines file"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise DataError(
            f"evals.tasks {key}: {source.path} has sha256 {digest[:12]}, but must have {source.sha256[:12]}; "
            "it changed since the plan, so plan again"
        )
    return passages(content, source.path) if source.path.endswith(".txt") else parse_lines(content, source.path)


def parse_lines(content: bytes, name: str) -> list[Item]:
    """Return the objects of a JSON-lines file.

    Raises:
        DataError: it is not UTF-8, or a line is not a JSON object.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 ({error}); save it as UTF-8") from error
    return [_parsed(line, f"{name}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _parsed(line: str, where: str) -> Item:
    try:
        row = json.loads(line)
        # Half an emoji as an escape is JSON but no text: no tokenizer takes it and no file holds it.
        json.dumps(row, ensure_ascii=False).encode()
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is {line[:60]!r}, but must be a JSON object")
    return row


def _checked(row: Item, number: int, task: EvalTask) -> Item:
    where = f"{_where(task)} item {row.get('id', number)!r}"
    has_messages = "messages" in row and task.kind in KINDS and KINDS[task.kind].may_converse
    for name, kind in FIELDS[task.kind].items():
        if has_messages and name == "context":
            continue
        if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
            raise DataError(f"{where}: {name} is {row.get(name)!r:.60}, but must be a {kind.__name__}")
    options = row.get(_OPTIONS.get(task.kind, ""))
    if options is not None and (len(options) < 2 or not all(isinstance(option, str) and option for option in options)):
        raise DataError(f"{where}: {_OPTIONS[task.kind]} must be two or more non-empty strings")
    if options is not None and not 0 <= row["gold"] < len(options):
        raise DataError(f"{where}: gold is {row['gold']!r}, but must be an index into {len(options)} options")
    if not row.get(_NEVER_EMPTY.get(task.kind, ""), "-").strip():
        raise DataError(f"{where}: {_NEVER_EMPTY[task.kind]} is empty")
    if not isinstance(row.get("delimiter", ""), str):
        raise DataError(f"{where}: delimiter is {row['delimiter']!r:.60}, but must be text")
    if task.kind in KINDS and (problem := KINDS[task.kind].problem(row)) is not None:
        raise DataError(f"{where}: {problem}")
    if has_messages:
        _require_messages(row, task, where)
    if (said := layouts.problem(row, task)) is not None:
        raise DataError(f"{where}: {said}")
    item_id = str(row["id"]) if "id" in row else hashlib.sha256(_text(row).encode()).hexdigest()[:16]
    return row | {"id": item_id, "cluster": str(row.get("cluster", item_id))}


def _require_messages(row: Item, task: EvalTask, where: str) -> None:
    """Refuse a conversation that cannot be shown as a prompt."""
    messages = row["messages"]
    if not task.chat or "context" in row:
        raise DataError(f"{where}: messages must stand in place of context, and in a task with chat True")
    is_list = isinstance(messages, list) and bool(messages)
    if not is_list or not all(
        isinstance(message, dict)
        and message.get("role") in ("system", "user", "assistant")
        and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise DataError(f"{where}: messages is {messages!r:.60}, but must be a list of {{role, content}}")
    if messages[-1]["role"] != "user":
        raise DataError(
            f"{where}: messages end with the turn of {messages[-1]['role']!r}, but must end with the user's"
        )


def _where(task: EvalTask) -> str:
    return f"evals.tasks {task.key}"


# -- sampling ---------------------------------------------------------------------------------------------------------


def _text(item: Item) -> str:
    return json.dumps({name: value for name, value in item.items() if name not in _NOT_TEXT}, sort_keys=True)


def _without_repeats(items: list[Item]) -> tuple[list[Item], int]:
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(_text(item), item)
    return list(first.values()), len(items) - len(first)


def _digest(item: Item, purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/evals.{purpose}/{item['id']}".encode()).digest()[:8], "big")


def _stratum(item: Item) -> str:
    """Return what the sample is balanced over: the item's sub-task, else its cluster's part before `:` or `/`."""
    prefix = _PREFIX.match(item["cluster"])
    return str(item.get("task") or (prefix[0] if prefix else ""))


def _sample(items: list[Item], num_items: int | None, seed: int) -> list[Item]:
    """Return `num_items` items, every stratum in proportion, in the order of the source.

    Each item has a place in (0, 1) inside its stratum, in hashed order; those with the smallest places are taken. So
    samples are nested in `num_items`, and a stratum's share is right to within one item.
    """
    if num_items is None or num_items >= len(items):
        return items
    strata: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        strata[_stratum(item)].append(item)
    places: dict[str, tuple[float, int]] = {}
    for stratum in strata.values():
        stratum.sort(key=lambda item: _digest(item, "sample", seed))
        for rank, item in enumerate(stratum):
            places[item["id"]] = ((rank + 0.5) / len(stratum), _digest(item, "sample", seed))
    chosen = set(sorted(places, key=places.__getitem__)[:num_items])
    return [item for item in items if item["id"] in chosen]


def _split(item: Item, seed: int, val_share: float) -> str:
    # By cluster, so that what a choice looked at about a person or passage is not in the table again.
    place = _digest({"id": item["cluster"]}, "split", seed)
    return "val" if place < val_share * 2**64 else "test"
