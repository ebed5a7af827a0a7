"""What a template does, found out with conversations of our own before it renders anybody's.

Invariant: what is learnt here of a format - how a turn opens and closes, what it refuses - holds for every row, or one
that shows otherwise is refused by name (masks.py). What does not live here: what a template must never have a chance to
do (bounds.py), where others than the assistant speak (speakers.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2

from harness.data.conversations import Conversation, Message
from harness.data.templates import with_system_turn
from harness.errors import DataError

if TYPE_CHECKING:
    from harness.data.chat import ChatFormat

# What a template can raise on a row it was not made for; anything else is a defect of ours.
TEMPLATE_FAULTS = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError,
)  # fmt: skip

MAX_PROBED_EXCHANGES = 64
"""Exchanges of the longest conversation that a template is tried on."""

QUESTION, _ANSWER, _SYSTEM, _RESULT, _FUNCTION = (
    f"{word} 7301" for word in ("Probing question", "Probing answer", "Probing rule", "Probing result", "probe")
)
EXCHANGE: list[Message] = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": _ANSWER}]
_CALL_ID = "probe7301"
"""Nine letters and digits: Mistral's templates refuse others."""


def turn_frame(chat: ChatFormat) -> tuple[str, str, str]:
    """Return what opens and what closes an assistant turn and the conversation, found with a probing one."""
    question: Message = {"role": "user", "content": QUESTION}
    answer: Message = {"role": "assistant", "content": _ANSWER}
    try:
        asked = chat.render([question])
        opened = chat.render([question], add_generation_prompt=True)
        whole = chat.render([question, answer])
        followed = chat.render([question, answer, question])
    except TEMPLATE_FAULTS as fault:
        raise DataError(
            f"data.template is {chat.name!r}, but must render a user and an assistant turn; it raises: {fault}"
        ) from fault
    if QUESTION not in opened or _ANSWER not in whole:
        raise DataError(f"data.template is {chat.name!r}, but must render user and assistant turns; it leaves one out")
    if not whole.startswith(opened):
        raise DataError(mismatch_sentence(chat.name, "a first turn", whole, opened))
    lead = whole[len(opened) : whole.index(_ANSWER)]
    eos = str(chat.tokenizer.eos_token or "")
    final = eos if whole.endswith(eos) and not followed.startswith(whole) else ""
    asked, ended = asked.removesuffix(final), whole.removesuffix(final)
    header = opened.removeprefix(asked) if opened.startswith(asked) else ""
    if lead.strip() and not header.strip():
        raise DataError(
            f"data.template is {chat.name!r}, but its generation prompt must open the assistant's turn; it leaves out "
            f"{lead!r}, which a model would have to write by itself"
        )
    ids = chat.encode(whole)
    if chat.bos_token_id is not None and ids[:2] == [chat.bos_token_id] * 2:
        raise DataError(f"data.template is {chat.name!r}, but must write BOS once; with this tokenizer it writes two")
    return header.lstrip(), ended[ended.index(_ANSWER) + len(_ANSWER) :], final


def stop_token_ids(chat: ChatFormat) -> tuple[int, ...]:
    """Return the tokens of which any ends an answer: the special ones of the end of turn, and EOS."""
    special = set(chat.tokenizer.all_special_ids) | set(chat.tokenizer.added_tokens_decoder)
    stops = [token for token in chat.encode(chat.end_of_turn) if token in special] if chat.end_of_turn else []
    if chat.eos_token_id is not None:
        stops.append(chat.eos_token_id)
    return tuple(dict.fromkeys(stops))


def saved_source(chat: ChatFormat) -> str:
    """Return the template to save: one that writes the system turn by itself, if it then renders what `chat` does."""
    if chat.system_turn is None:
        return chat.source
    saved = with_system_turn(chat.source, chat.system_turn)
    system: Message = {"role": "system", "content": _SYSTEM}
    try:
        for whole in (EXCHANGE, [system, *EXCHANGE], [*EXCHANGE, *EXCHANGE]):
            if not all(_is_written_alike(chat, saved, *shown) for shown in ((whole, False), (whole[:-1], True))):
                return chat.source
    except TEMPLATE_FAULTS:
        return chat.source
    return saved


def _is_written_alike(chat: ChatFormat, saved: str, messages: list[Message], is_prompt: bool) -> bool:
    said: list[dict[str, Any]] = [dict(message) for message in messages]
    written = chat.tokenizer.apply_chat_template(
        said, chat_template=saved, tokenize=False, add_generation_prompt=is_prompt
    )
    return written == chat.readable(chat.render(messages, add_generation_prompt=is_prompt))


def features(row: Conversation) -> set[str]:
    """Return what a row asks of a template beyond users and answers."""
    roles = {f"role {message['role']!r}" for message in row.messages if message["role"] in ("system", "tool")}
    calls = {"tool calls"} if any("tool_calls" in message for message in row.messages) else set()
    return roles | calls | ({"function declarations"} if row.tools else set())


def require_feature(chat: ChatFormat, feature: str) -> None:
    """Refuse a template that raises on a feature, leaves it out, or writes it otherwise for generation."""
    messages, tools, expected = _probe_rows()[feature]
    try:
        opened = chat.render(messages[:-1], add_generation_prompt=True, tools=tools)
        whole = chat.render(messages, tools=tools)
    except TEMPLATE_FAULTS as fault:
        raise DataError(
            f"data.template is {chat.name!r}, but must render the {feature} that the data has; it raises: {fault}; "
            "name another template or take those turns out"
        ) from fault
    if not whole.startswith(opened):
        raise DataError(mismatch_sentence(chat.name, f"the {feature}", whole, opened))
    if expected not in whole:
        raise DataError(
            f"data.template is {chat.name!r}, but must render the {feature} that the data has; it leaves them out; "
            "name another template or take those turns out"
        )


def require_every_turn(chat: ChatFormat, num_exchanges: int, *, has_system: bool) -> None:
    """Refuse a template that does not write every turn of a conversation once and in its order.

    Templates that raise are left to the rows: one may hold for shorter ones.
    """
    messages: list[Message] = [{"role": "system", "content": _SYSTEM}] if has_system else []
    for number in range(num_exchanges):
        messages.append({"role": "user", "content": f"{QUESTION} in exchange {number}."})
        messages.append({"role": "assistant", "content": f"{_ANSWER} in exchange {number}."})
    for shown in (messages[:-1], messages):
        try:
            text = chat.render(shown, add_generation_prompt=shown is not messages)
        except TEMPLATE_FAULTS:
            return
        places = [text.find(message["content"]) for message in shown]
        for number, (message, place) in enumerate(zip(shown, places, strict=True)):
            times = text.count(message["content"])
            if times != 1 or (number and place < places[number - 1]):
                what = "out of order" if times == 1 else f"{times} times"
                raise DataError(
                    f"data.template is {chat.name!r}, but must write every turn once and in order; of {len(shown)} "
                    f"turns it writes number {number + 1}, the {message['role']}'s, {what}; name another template"
                )


def _probe_rows() -> dict[str, tuple[list[Message], list[dict[str, Any]] | None, str]]:
    system: Message = {"role": "system", "content": _SYSTEM}
    question: Message = {"role": "user", "content": QUESTION}
    answer: Message = {"role": "assistant", "content": _ANSWER}
    call = {"id": _CALL_ID, "type": "function", "function": {"name": _FUNCTION, "arguments": {"x": 1}}}
    calling: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
    result: Message = {"role": "tool", "content": _RESULT, "tool_call_id": _CALL_ID, "name": _FUNCTION}
    function = {"name": _FUNCTION, "description": "", "parameters": {"type": "object", "properties": {}}}
    return {
        "role 'system'": ([system, question, answer], None, _SYSTEM),
        "role 'tool'": ([question, calling, result, answer], None, _RESULT),
        "tool calls": ([question, calling], None, _FUNCTION),
        "function declarations": ([question, answer], [{"type": "function", "function": function}], _FUNCTION),
    }


def mismatch_sentence(name: str, what: str, trained: str, asked: str) -> str:
    """Return the refusal of a template whose training text does not begin as its generation prompt does."""
    shared = next(
        (i for i, (a, b) in enumerate(zip(trained, asked, strict=False)) if a != b), min(len(trained), len(asked))
    )
    start = max(0, shared - 10)
    return (
        f"data.template is {name!r}, but must render {what} alike for training and for generation; at character "
        f"{shared} training has {trained[start : shared + 30]!r} and generation {asked[start : shared + 30]!r}; "
        "name another template"
    )
