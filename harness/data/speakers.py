"""Where others than the assistant speak in a rendered conversation.

What a template writes between two messages is learnt once for each order of roles, from a rendering in which every
message says a word of its own. Invariant: a message is looked for behind what stands before messages like it, so that
one that says "user" is not found in a role header. What does not live here: where assistant turns are (masks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from harness.data import bounds
from harness.data.chat import ChatFormat
from harness.data.conversations import Conversation, Role, UnusableRow
from harness.data.probing import TEMPLATE_FAULTS

TAIL = 32
"""Characters before a message that are looked for where what stands before it is not all that was learnt: what tools
are called, and what they can do, differs from row to row."""
_WORD = "probed7301word{}end"

Leads = dict[tuple[tuple[tuple[str, bool], ...], bool], tuple[str | None, ...]]
"""Roles in their order, each with whether it calls tools, and whether there are any -> what stands before each."""
_LEADS: WeakKeyDictionary[ChatFormat, Leads] = WeakKeyDictionary()
"""What was learnt of each format for as long as that is in use."""


class Span(NamedTuple):
    """What another than the assistant says, in characters of the rendered text."""

    role: Role
    start: int
    stop: int


class Bounded(Protocol):
    """An assistant turn in characters of the rendered text, see `masks.Turn`."""

    @property
    def header(self) -> int:
        """Return where it begins."""
        ...

    @property
    def end(self) -> int:
        """Return where it ends."""
        ...


def spans(chat: ChatFormat, row: Conversation, text: str, turns: Sequence[Bounded]) -> tuple[Span, ...]:
    """Return where messages of others stand: each after the one before it and before the next assistant turn.

    All that stands between what comes before a tool's message and what comes after it is the tool's, since templates
    may write results in other words; it is never trained on.

    Args:
        chat: what rendered the row.
        row: as `ChatFormat.guarded_row` returns it.
        text: as rendered.
        turns: of the assistant.

    Raises:
        UnusableRow: the template leaves out or rewrites what a user or the system says, but for white space.
    """
    found: list[Span] = []
    cursor, ahead = 0, list(turns)
    leads = _leads(chat, row)
    is_after_tool = False
    for message, lead in zip(row.messages, leads, strict=True):
        role = message["role"]
        if role == "assistant":
            turn = ahead.pop(0)
            found = _until(found, turn.header, is_after_tool=is_after_tool)
            cursor, is_after_tool = turn.end, False
            continue
        limit = ahead[0].header if ahead else len(text)
        said = message["content"]
        place = _place(text, said, lead, cursor, limit)
        if place is None and role != "tool":
            _require_said(text[cursor:limit], said)
        if place is not None:
            found = _until(found, place[0], is_after_tool=is_after_tool)
        if role == "tool":
            found.append(Span(role, cursor, limit if place is None else place[1]))
            is_after_tool = True
        elif place is not None:
            is_after_tool = False
            if place[0] < place[1]:
                found.append(Span(role, *place))
        cursor = cursor if place is None else place[1]
    return tuple(_until(found, len(text), is_after_tool=is_after_tool))


def _until(found: list[Span], stop: int, *, is_after_tool: bool) -> list[Span]:
    """Let what a tool returned reach up to what follows it."""
    return [*found[:-1], found[-1]._replace(stop=stop)] if is_after_tool else found


def _place(text: str, content: str, lead: str | None, cursor: int, limit: int) -> tuple[int, int] | None:
    """Return where a message stands, without white space around it; where it says nothing, where it would."""
    said = content.strip()
    if lead is not None and text.startswith(lead, cursor):
        start = cursor + len(lead)
        if text.startswith(content, start):
            start += len(content) - len(content.lstrip()) if said else 0
        if text.startswith(said, start) and start + len(said) <= limit:
            return start, start + len(said)
    if not said:
        return None
    for before in filter(None, (lead and lead.lstrip(), lead and lead[-TAIL:].lstrip())):
        start = text.find(before + said, cursor, limit)
        if start >= 0:
            return start + len(before), start + len(before) + len(said)
    start = text.find(said, cursor, limit)
    return (start, start + len(said)) if start >= 0 else None


def _require_said(region: str, said: str) -> None:
    if "".join(said.split()) not in "".join(region.split()):
        raise UnusableRow("template_alters")


# -- what stands before a message -------------------------------------------------------------------------------------


def _leads(chat: ChatFormat, row: Conversation) -> Sequence[str | None]:
    """Return what the template writes before each message from the end of the one before it; None where unknown."""
    order = tuple((message["role"], "tool_calls" in message) for message in row.messages)
    key = (order, bool(row.tools))
    known = _LEADS.setdefault(chat, {})
    if key not in known:
        with bounds.watched(chat.name, f"row {row.row_id!r}"):
            known[key] = _learnt(chat, row)
    return known[key]


def _learnt(chat: ChatFormat, row: Conversation) -> tuple[str | None, ...]:
    words = [_WORD.format(number) for number in range(len(row.messages))]
    probe = [{**message, "content": word} for message, word in zip(row.messages, words, strict=True)]
    try:
        text = chat.render(probe, tools=row.tools)
    except TEMPLATE_FAULTS:
        return (None,) * len(words)
    leads: list[str | None] = []
    cursor, answered = 0, False
    for message, word in zip(row.messages, words, strict=True):
        place = text.find(word, cursor)
        between = text[cursor:place] if place >= 0 else ""
        lead = between.rpartition(chat.end_of_turn)[2] if answered and chat.end_of_turn else between
        leads.append(lead if place >= 0 else None)
        cursor = place + len(word) if place >= 0 else cursor
        answered = message["role"] == "assistant"
    return tuple(leads)
