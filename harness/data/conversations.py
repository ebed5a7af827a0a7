"""What a row of training data is, and which rows are not usable.

Invariant: a `Conversation` has messages that begin before the assistant speaks and hold at least one assistant turn
with something in it, or one raw text, or tokens. A row that cannot be one is an `UnusableRow` with a reason, and every
reason is counted by whoever reads rows. What does not live here: file formats (formats.py), templates (templates.py).
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import numpy as np

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

Reason = Literal[
    "malformed",  # a field is missing or not of its type
    "unknown_role",
    "not_unicode",  # a lone surrogate: no tokenizer can encode it
    "no_assistant_turn",
    "assistant_first",  # nothing to answer
    "empty_assistant_turn",
    "empty_text",
    "template_refuses",  # the template raises on this row, though it has all roles
    "too_many_turns",  # rendering it once for each turn would take minutes
    "too_large",  # it has more characters than can be encoded in some seconds
    "tokenizer_refuses",  # the tokenizer breaks down over it
    "tokenizer_loses_text",  # it says a control character that the tokenizer leaves out without a word
    "template_alters",  # the template leaves out or rewrites what a user or the system says, but for white space
    "control_token_in_text",  # a message spells a special token, and `data.control_text` is drop
    "too_long",
    "no_trained_token",  # truncation cut every assistant token away, or the row gives its answers no weight
    "padded",  # pre-tokenised: its attention mask hides tokens
    "labels_differ",  # pre-tokenised: a label is neither its token nor -100
    "not_in_vocabulary",  # pre-tokenised: the base has no such token
    "duplicate",  # it says what an earlier row says, but for case and white space
    "near_duplicate",  # its runs of five words and signs are like an earlier row's, but it does not say the same
    "in_evaluation",  # users say in it what an evaluation item asks
]
IGNORE_INDEX = -100
"""The label of a token that is not trained on."""
FIELDS = ("role", "content", "tool_calls", "weight")
"""Of a message; those that it has for one role alone are left out of another's, and that is said."""
HEAVIEST = 1e6
"""The largest weight of a turn: sums of larger ones would lose the ordinary ones beside them in float32."""
MOST_NESTED = 100
"""Lists and objects inside one another in a call or a declaration: templates and whatever writes JSON recurse."""


class Message(TypedDict):
    """One turn. `tool_calls` have the shape `{"type": "function", "function": {"name", "arguments"}}`."""

    role: Role
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    """Of the call that a tool answers, where the data says so; as `name`, some templates write it."""
    name: NotRequired[str]
    """Of the tool that speaks, where the data says so."""
    weight: NotRequired[float]
    """Of an assistant turn in the loss, 0 to `HEAVIEST`; templates never see it. Without it, 1."""


class UnusableRow(Exception):
    """A row that is left out, with the reason it is counted under."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Dropped(NamedTuple):
    """A row that is not used."""

    row_id: str
    reason: Reason
    origin: str = "source"
    """The field of the data spec that named its source."""


def by_reason(dropped: Iterable[Dropped]) -> dict[str, int]:
    """Return how many rows each reason takes; rows of another source than the first under that source's name."""
    reasons = Counter(
        one.reason if one.origin == "source" else f"{one.origin.removesuffix('_source')} {one.reason}"
        for one in dropped
    )
    return dict(sorted(reasons.items()))


@dataclass(frozen=True)
class Tokens:
    """A row that comes as tokens."""

    ids: array[int]
    trained: bytes
    """For each token 1 if it is trained on: its label is the token, and not -100."""


@dataclass(frozen=True)
class Conversation:
    """One row: a conversation, or with `text` one raw document, or with `tokens` one that is encoded already; no
    template touches the latter two."""

    row_id: str
    task: str
    messages: Sequence[Message] = ()
    tools: Sequence[dict[str, Any]] | None = None
    """Functions the assistant may call, as `{"type": "function", "function": {...}}`."""
    text: str | None = None
    tokens: Tokens | None = None
    num_prompt_messages: int | None = None
    """Messages that the row itself calls its prompt; None where it does not say."""
    group: str = ""
    """What subsets hold in proportion, broad to narrow, as "fact/07"; "" for rows of sources without groups."""
    ignored_fields: tuple[str, ...] = ()
    """Fields of its messages that hold something and that nothing here reads."""
    ends_open: bool = False
    """Whether the row breaks off in its last answer, so that nothing after it is seen or trained on."""

    @property
    def completion_length(self) -> int:
        """Return the characters of the assistant's turns or of the raw text, or the trained tokens."""
        if self.tokens:
            return sum(self.tokens.trained)
        return len(self.text or "") + sum(len(m["content"]) for m in self.messages if m["role"] == "assistant")

    @property
    def prompt_length(self) -> int:
        """Return the characters of every other turn, or the tokens that are not trained on."""
        if self.tokens:
            return len(self.tokens.ids) - sum(self.tokens.trained)
        return sum(len(m["content"]) for m in self.messages if m["role"] != "assistant")

    @property
    def num_bytes(self) -> int:
        """Return about how much memory it takes, what comes beside texts and tokens left out."""
        if self.tokens:
            return 9 * len(self.tokens.ids)
        return len(self.text or "") + sum([len(message["content"]) for message in self.messages])

    @property
    def first_prompt(self) -> list[Message]:
        """Return the turns before the assistant first speaks."""
        first = next((i for i, m in enumerate(self.messages) if m["role"] == "assistant"), 0)
        return list(self.messages[:first])


def conversation(messages: Any, *, row_id: str, task: str, tools: Any = None) -> Conversation:
    """Return a checked conversation.

    Args:
        messages: a sequence of `{"role", "content", ("tool_calls")}`; content may be None beside tool calls, or a list
            of text parts. A tool's message may have `tool_call_id` and `name`.
        row_id: names the row in reports.
        task: what the row is an example of; "" where unknown.
        tools: function declarations, bare or wrapped as `{"type": "function", "function": ...}`, or the JSON text of
            them; None for none.

    Raises:
        UnusableRow: it cannot be trained on.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UnusableRow("malformed")
    checked = [_message(message) for message in messages]
    roles = [message["role"] for message in checked]
    if "assistant" not in roles:
        raise UnusableRow("no_assistant_turn")
    if roles[0] == "assistant" or set(roles[: roles.index("assistant")]) == {"system"}:
        raise UnusableRow("assistant_first")
    if any(m["role"] == "assistant" and not m["content"].strip() and "tool_calls" not in m for m in checked):
        raise UnusableRow("empty_assistant_turn")
    ignored = {name for given, kept in zip(messages, checked, strict=True) for name in _ignored(given, kept)}
    return Conversation(row_id, task, checked, _declared(tools), ignored_fields=tuple(sorted(ignored)))


def _ignored(given: Mapping[Any, Any], kept: Message) -> list[str]:
    """Return the fields of a message that are left out of it, though they hold something."""
    return [str(name) for name, held in given.items() if name not in kept and name not in FIELDS and held]


def document(text: Any, *, row_id: str, task: str) -> Conversation:
    """Return a checked raw text.

    Raises:
        UnusableRow: it is no text or empty.
    """
    checked = _text(text)
    if not checked.strip():
        raise UnusableRow("empty_text")
    return Conversation(row_id, task, text=checked)


def pretokenised(ids: Any, labels: Any, *, row_id: str, task: str) -> Conversation:
    """Return a checked row of tokens.

    Args:
        ids: token ids.
        labels: for each the same id or -100, which is not trained on; None trains on all of them.
        row_id: names the row in reports.
        task: what the row is an example of; "" where unknown.

    Raises:
        UnusableRow: it cannot be trained on.
    """
    known = _ids(ids)
    wanted = known if labels is None else _ids(labels)
    if len(known) < 2 or len(wanted) != len(known):
        raise UnusableRow("malformed")
    if any(label not in (token, IGNORE_INDEX) for token, label in zip(known, wanted, strict=True)):
        raise UnusableRow("labels_differ")
    trained = bytes(label != IGNORE_INDEX for label in wanted)
    if not any(trained[1:]):
        raise UnusableRow("no_trained_token")
    return Conversation(row_id, task, tokens=Tokens(known, trained))


def _ids(values: Any) -> array[int]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise UnusableRow("malformed")
    if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        raise UnusableRow("malformed")
    try:
        return array("q", values)
    except OverflowError:
        raise UnusableRow("not_in_vocabulary") from None


def _message(message: Any) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UnusableRow("malformed")
    role = message["role"]
    if role not in ROLES:
        raise UnusableRow("unknown_role")
    calls = message.get("tool_calls")
    content = message.get("content")
    checked: Message = {"role": role, "content": "" if content is None and calls else _text(_joined(content))}
    if calls:
        if role != "assistant" or not isinstance(calls, Sequence) or isinstance(calls, str):
            raise UnusableRow("malformed")
        checked["tool_calls"] = [_call(call) for call in calls]
    if role == "tool":
        if isinstance(message.get("tool_call_id"), str):
            checked["tool_call_id"] = _text(message["tool_call_id"])
        if isinstance(message.get("name"), str):
            checked["name"] = _text(message["name"])
    if message.get("weight") is not None:
        weight = _weight(message["weight"])
        if role == "assistant":
            checked["weight"] = weight
        elif weight:  # what others say weighs what data.prompt_loss_weight says, and 0 is what one expects of it
            raise UnusableRow("malformed")
    return checked


def _weight(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= HEAVIEST:
        raise UnusableRow("malformed")
    return float(value) if np.float32(value) else 0.0  # as training holds it


def _joined(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(part, str) for part in parts):
        raise UnusableRow("malformed")
    return "".join(parts)  # type: ignore[arg-type]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnusableRow("malformed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnusableRow("not_unicode") from None
    return value


# -- functions and calls ----------------------------------------------------------------------------------------------


def _declared(tools: Any) -> list[dict[str, Any]] | None:
    listed = _read(tools) if isinstance(tools, str) and tools.strip() else tools
    if not listed or isinstance(listed, str):
        return None
    if not isinstance(listed, Sequence):
        raise UnusableRow("malformed")
    return [_wrapped(_function(tool)) for tool in listed]


def _call(call: Any) -> dict[str, Any]:
    function = _function(call)
    arguments = function.get("arguments", {})
    function["arguments"] = _read(arguments) if isinstance(arguments, str) else arguments
    identity = {"id": _text(call["id"])} if isinstance(call.get("id"), str) else {}
    return identity | _wrapped(function)


def _function(wrapped: Any) -> dict[str, Any]:
    inner = wrapped.get("function", wrapped) if isinstance(wrapped, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise UnusableRow("malformed")
    return dict(inner)


def _wrapped(function: dict[str, Any]) -> dict[str, Any]:
    _require_json(function)
    return {"type": "function", "function": function}


def _read(written: str) -> Any:
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        raise UnusableRow("malformed") from None


def _require_json(value: Any, depth: int = 0) -> None:
    """Refuse what a template could not write as JSON, or a tokenizer not encode."""
    if depth > MOST_NESTED:
        raise UnusableRow("malformed")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _text(key)
            _require_json(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _require_json(inner, depth + 1)
    elif value is not None and not isinstance(value, int | float):
        _text(value)
