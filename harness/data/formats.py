"""The row formats that are understood, told apart by their fields.

    messages           {"messages": [{"role", "content"}, ...]}
    sharegpt           {"conversations": [{"from", "value"}, ...]}
    prompt_completion  {"prompt", "completion"}: two texts, or two lists of messages
    alpaca             {"instruction", ("input"), "output"}
    text               {"text"}: raw documents
    tokens             {"input_ids", ("labels")}: encoded already; a label is its token or -100, which is not trained on

A message of the assistant may carry `weight`, its weight in the loss: any number from 0 to a million. Every row
may carry `id`, `task` (or `source`) and `tools`. Invariant: a row becomes one `Conversation` or one reason. What does
not live here: files and hubs (sources.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    return conversation(row.get("messages"), row_id=row_id, task=task, tools=row.get("tools"))


def _sharegpt(row: RawRow, row_id: str, task: str) -> Conversation:
    turns = row.get("conversations")
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        raise UnusableRow("malformed")
    messages = [
        {
            "role": _sharegpt_role(turn.get("from", turn.get("role"))),
            "content": turn.get("value", turn.get("content")),
            "weight": turn.get("weight"),
        }
        for turn in turns
    ]
    if isinstance(row.get("system"), str) and row["system"]:
        messages.insert(0, {"role": "system", "content": row["system"]})
    return conversation(messages, row_id=row_id, task=task, tools=row.get("tools"))


def _sharegpt_role(speaker: Any) -> str | None:
    """Return who speaks; None where a row does not say it in a word."""
    return SHAREGPT_ROLES.get(speaker, "unknown") if isinstance(speaker, str) else None


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
    made = conversation([*prompt, *completion], row_id=row_id, task=task, tools=row.get("tools"))
    return replace(made, num_prompt_messages=len(prompt))


def _alpaca(row: RawRow, row_id: str, task: str) -> Conversation:
    instruction, context = row.get("instruction"), row.get("input") or ""
    if not isinstance(instruction, str) or not isinstance(context, str):
        raise UnusableRow("malformed")
    asked = f"{instruction}\n\n{context}" if context.strip() else instruction
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": row.get("output")}]
    if isinstance(row.get("system"), str) and row["system"]:
        messages.insert(0, {"role": "system", "content": row["system"]})
    return conversation(messages, row_id=row_id, task=task)


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
