"""The row formats that are understood, told apart by their fields.

    messages           {"messages": [{"role", "content"}, ...]}
    sharegpt           {"conversations": [{"from", "value"}, ...]}
    prompt_completion  {"prompt", "completion"}: two texts, or two lists of messages
    alpaca             {"instruction", ("input"), "output"}
    text               {"text"}: raw documents
    tokens             {"input_ids", ("labels")}: encoded already; a label is its token or -100, which is not trained on

A message of the assistant may carry `weight`, its weight in the loss: any number from 0 to a million. Every row may
carry `id` and `task` (or `source`), and a conversation `system`, its first turn, and `tools`, a list or the JSON text
of one; of `alpaca` also `history`, a list of pairs of an earlier instruction and its answer. Invariant: a row becomes
one `Conversation` or one reason. What does not live here: files and hubs (sources.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from harness.data.conversations import Conversation, UnusableRow, conversation, document, pretokenised
from harness.errors import DataError
from harness.spec import RowFormat

Format = RowFormat
RawRow = Mapping[str, Any]

FIELDS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
    "tokens": ("input_ids",),
}
"""Format -> the fields that give it away, looked for in this order."""

KNOWN_FIELDS = frozenset(
    {"id", "task", "source", "tools", "system", "input", "history", "labels", "attention_mask"}.union(*FIELDS.values())
)
"""Every field of a row that is read, in one format or another."""

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


def sniff(rows: Sequence[RawRow], name: str) -> Format:
    """Return the format of rows: that of most of them, so that a few bad ones are dropped by reason like any other.

    Args:
        rows: the first rows of a source.
        name: the source, for the message.

    Raises:
        DataError: there are none, or they are in no format that is known.
    """
    if not rows:
        raise DataError(f"{name} holds no rows, but must hold at least one")
    for candidate, fields in FIELDS.items():
        num_with_fields = sum(all(row.get(field) is not None for field in fields) for row in rows)
        if 2 * num_with_fields > len(rows):
            return candidate
    known = "; ".join(f"{name}: {', '.join(fields)}" for name, fields in FIELDS.items())
    raise DataError(
        f"{name} has rows with the fields {sorted(rows[0])}, but most rows must have those of one known format "
        f"({known}); rename the fields"
    )


def parse(row: RawRow, kind: Format, index: int) -> Conversation:
    """Return one row as a conversation.

    Args:
        row: the fields.
        kind: their format.
        index: the row's place in its source: its id where it has none.

    Raises:
        UnusableRow: it cannot be trained on.
    """
    if not isinstance(row, Mapping):
        raise UnusableRow("malformed")
    return _PARSERS[kind](row, row_name(row, index), _encodable(row.get("task") or row.get("source") or ""))


def row_name(row: Any, index: int) -> str:
    """Return what a row is called in records: its own id, or its place in its source."""
    own = row.get("id") if isinstance(row, Mapping) else None
    return f"row-{index}" if own is None else _encodable(own)


def _encodable(name: Any) -> str:
    """Return a name that can be written: what is no Unicode, and no tokenizer reads, is spelled with backslashes."""
    return str(name).encode(errors="backslashreplace").decode()


def _messages(row: RawRow, row_id: str, task: str) -> Conversation:
    messages = _with_system(row, _listed(row.get("messages")))
    return conversation(messages, row_id=row_id, task=task, tools=row.get("tools"))


def _sharegpt(row: RawRow, row_id: str, task: str) -> Conversation:
    turns = [_sharegpt_turn(turn) for turn in _listed(row.get("conversations"))]
    return conversation(_with_system(row, turns), row_id=row_id, task=task, tools=row.get("tools"))


def _sharegpt_turn(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise UnusableRow("malformed")
    speaker = turn.get("from", turn.get("role"))
    said = {"role": SHAREGPT_ROLES.get(speaker, "unknown") if isinstance(speaker, str) else None}
    said["content"] = turn.get("value", turn.get("content"))
    return said | {name: held for name, held in turn.items() if name not in ("from", "role", "value", "content")}


def _prompt_completion(row: RawRow, row_id: str, task: str) -> Conversation:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise UnusableRow("malformed")
    if not any(isinstance(m, Mapping) and m.get("role") == "assistant" for m in completion):
        raise UnusableRow("no_assistant_turn")
    prompt = _with_system(row, prompt)
    made = conversation([*prompt, *completion], row_id=row_id, task=task, tools=row.get("tools"))
    return replace(made, num_prompt_messages=len(prompt))


def _alpaca(row: RawRow, row_id: str, task: str) -> Conversation:
    instruction, context = row.get("instruction"), row.get("input") or ""
    if not isinstance(instruction, str) or not isinstance(context, str):
        raise UnusableRow("malformed")
    asked = f"{instruction}\n\n{context}" if context.strip() else instruction
    said = [*_earlier(row.get("history") or []), asked, row.get("output")]
    messages = [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), said, strict=False)]
    return conversation(_with_system(row, messages), row_id=row_id, task=task, tools=row.get("tools"))


def _earlier(history: Any) -> list[Any]:
    """Return what was asked and answered before, turn after turn, of a list of such pairs."""
    if any(len(_listed(pair)) != 2 for pair in _listed(history)):
        raise UnusableRow("malformed")
    return [text for pair in history for text in pair]


def _with_system(row: RawRow, messages: list[Any]) -> list[Any]:
    """Return messages after the system turn that a row says apart from them, unless they begin with that very turn."""
    said = row.get("system")
    if said is not None and not isinstance(said, str):
        raise UnusableRow("malformed")
    turn = {"role": "system", "content": said}
    first = messages[0] if messages else None
    repeats = isinstance(first, Mapping) and all(first.get(name) == held for name, held in turn.items())
    return [turn, *messages] if said and not repeats else messages


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise UnusableRow("malformed")
    return list(value)


def _document(row: RawRow, row_id: str, task: str) -> Conversation:
    return document(row.get("text"), row_id=row_id, task=task)


def _tokens(row: RawRow, row_id: str, task: str) -> Conversation:
    if (mask := row.get("attention_mask")) is not None:
        if not isinstance(mask, Sequence) or not all(isinstance(one, int) for one in mask):
            raise UnusableRow("malformed")
        if set(mask) != {1}:
            raise UnusableRow("padded")
    return pretokenised(row.get("input_ids"), row.get("labels"), row_id=row_id, task=task)


_PARSERS: dict[Format, Callable[[RawRow, str, str], Conversation]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "text": _document,
    "tokens": _tokens,
}
