"""Chat templates by name, written for any tokenizer.

A named template takes `bos_token` and `eos_token` from the tokenizer; a marker that the tokenizer does not hold as one
token is plain text to it. Invariant: each writes every role that it accepts and raises on every other, and what it
writes before an assistant turn is exactly its generation prompt. What does not live here: a tokenizer's own template,
and checks on either (chat.py).

    chatml       `<|im_start|>role\\n ... <|im_end|>`, a newline between turns
    chatml_lite  `<|role|>\\n ...`; only the assistant's turns are closed, by `<|end|>`
    llama2       `[INST] <<SYS>>\\n ... \\n<</SYS>>\\n\\n ... [/INST] ... </s>`
    llama3       `<|start_header_id|>role<|end_header_id|>\\n\\n ... <|eot_id|>`
    gemma        `<start_of_turn>role\\n ... <end_of_turn>\\n`; the system turn leads the first user turn
    mistral      `[INST] ...[/INST] ...</s>`; the system turn leads the first user turn
    alpaca       `### Instruction:` and `### Response:`; the system turn replaces the preamble
    plain        the turns, a newline between them, and the tokenizer's end of text after the assistant's
"""

from __future__ import annotations

import re
from datetime import date
from typing import Literal

import jinja2
from jinja2 import nodes

from harness.data import rendering_probe
from harness.errors import DataError

UserEnd = Literal["as_written", "with", "without"]

OWN = "tokenizer"
"""The name that stands for the tokenizer's own template."""

ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)

_REFUSE_ROLE = "{{- raise_exception('there is no ' + message['role'] + ' turn in this template') }}"
_REFUSE_LATE_SYSTEM = "{{- raise_exception('a system turn must come first in this template') }}"

_CHATML = """
{%- for message in messages %}
    {{- ('' if loop.first else '\\n') + '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\\n<|im_start|>assistant\\n' }}
{%- endif %}
"""

_CHATML_LITE = """
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|assistant|>\\n' + message['content'] + '<|end|>' + ('' if loop.last else '\\n') }}
    {%- elif message['role'] in ['system', 'user'] %}
        {{- '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}
    {%- else %}
        REFUSE_ROLE
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""

_LLAMA2 = """
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{%- endif %}
{%- for message in messages[1 if system else 0:] %}
    {%- if message['role'] == 'user' %}
        {{- bos_token ~ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + ' ' ~ eos_token }}
    {%- elif message['role'] == 'system' %}
        REFUSE_LATE_SYSTEM
    {%- else %}
        REFUSE_ROLE
    {%- endif %}
{%- endfor %}
"""

_LLAMA3 = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] in ['system', 'user', 'assistant'] %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        REFUSE_ROLE
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_GEMMA = """
{{- bos_token }}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] + '\\n\\n' %}
{%- endif %}
{%- for message in messages[1 if system else 0:] %}
    {%- if message['role'] == 'user' %}
        {{- '<start_of_turn>user\\n' + (system if loop.first else '') }}
        {{- message['content'] | trim + '<end_of_turn>\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<start_of_turn>model\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
    {%- elif message['role'] == 'system' %}
        REFUSE_LATE_SYSTEM
    {%- else %}
        REFUSE_ROLE
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

_MISTRAL = """
{{- bos_token }}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] + '\\n\\n' %}
{%- endif %}
{%- for message in messages[1 if system else 0:] %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'] + '[/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] ~ eos_token }}
    {%- elif message['role'] == 'system' %}
        REFUSE_LATE_SYSTEM
    {%- else %}
        REFUSE_ROLE
    {%- endif %}
{%- endfor %}
"""

_ALPACA = """
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else 'PREAMBLE' %}
{{- system }}
{%- for message in messages[1 if messages[0]['role'] == 'system' else 0:] %}
    {%- if message['role'] == 'user' %}
        {{- '\\n### Instruction:\\n' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}
        {{- '\\n### Response:\\n' + message['content'] ~ eos_token }}
    {%- elif message['role'] == 'system' %}
        REFUSE_LATE_SYSTEM
    {%- else %}
        REFUSE_ROLE
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\\n### Response:\\n' }}
{%- endif %}
"""

_PLAIN = """
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- message['content'] ~ eos_token ~ ('' if loop.last else '\\n') }}
    {%- elif message['role'] in ['system', 'user'] %}
        {{- message['content'] + '\\n' }}
    {%- else %}
        REFUSE_ROLE
    {%- endif %}
{%- endfor %}
"""


def _written(source: str) -> str:
    source = source.replace("REFUSE_ROLE", _REFUSE_ROLE).replace("REFUSE_LATE_SYSTEM", _REFUSE_LATE_SYSTEM)
    return source.replace("PREAMBLE", ALPACA_PREAMBLE).strip("\n")


TEMPLATES: dict[str, str] = {
    "chatml": _written(_CHATML),
    "chatml_lite": _written(_CHATML_LITE),
    "llama2": _written(_LLAMA2),
    "llama3": _written(_LLAMA3),
    "gemma": _written(_GEMMA),
    "mistral": _written(_MISTRAL),
    "alpaca": _written(_ALPACA),
    "plain": _written(_PLAIN),
}
"""Name -> Jinja source."""

MARKERS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "chatml_lite": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "llama2": (),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[INST]", "[/INST]"),
    "alpaca": (),
    "plain": (),
}
"""Name -> what it writes that is one token each to the models it comes from; Llama 2 itself reads `[INST]` as text."""

_IS_USER = "message['role'] == 'user'"
_USER_ENDS: dict[str, tuple[UserEnd, str, str]] = {
    "chatml": ("with", "'<|im_end|>' }}", f"('' if {_IS_USER} else '<|im_end|>') }}}}"),
    "chatml_lite": (
        "without",
        "message['content'] + '\\n' }}",
        f"message['content'] + ('<|end|>' if {_IS_USER} else '') + '\\n' }}}}",
    ),
    "llama3": ("with", "+ '<|eot_id|>' }}", f"+ ('' if {_IS_USER} else '<|eot_id|>') }}}}"),
    "gemma": (
        "with",
        "{{- message['content'] | trim + '<end_of_turn>\\n' }}",
        "{{- message['content'] | trim + '\\n' }}",
    ),
    "alpaca": (
        "without",
        "'\\n### Instruction:\\n' + message['content'] }}",
        "'\\n### Instruction:\\n' + message['content'] ~ eos_token }}",
    ),
    "plain": (
        "without",
        "message['content'] + '\\n' }}",
        f"message['content'] ~ (eos_token if {_IS_USER} else '') ~ '\\n' }}}}",
    ),
}
"""Name -> whether the template ends user turns as it is written, and what to put in which place to have it the other
way."""


def with_user_end(name: str, source: str, user_end: UserEnd) -> str:
    """Return a template's source with or without an end marker after what users say.

    Args:
        name: of the template.
        source: as it is written.
        user_end: as_written changes nothing.

    Raises:
        DataError: the template has no marker to put there or to take away.
    """
    if user_end == "as_written":
        return source
    if name not in _USER_ENDS:
        raise DataError(
            f"data.end_after_user is {user_end!r}, but must be 'as_written' for data.template {name!r}, which has no "
            f"end of turn of its own there; name one of {', '.join(sorted(_USER_ENDS))}"
        )
    written, old, new = _USER_ENDS[name]
    assert source.count(old) == 1, name
    return source if user_end == written else source.replace(old, new)


def with_system_turn(source: str, system_turn: str) -> str:
    """Return a template's source that begins a conversation without a system turn with one.

    Args:
        source: Jinja source.
        system_turn: what it says.
    """
    # Jinja reads the escapes of a literal as Python does; a brace or a percent sign could end the tag it stands in.
    text = system_turn.encode("unicode_escape").decode()
    for character in "'{}%":
        text = text.replace(character, f"\\x{ord(character):02x}")
    turn = f"[{{'role': 'system', 'content': '{text}'}}]"
    has_one = "messages and messages[0]['role'] == 'system'"
    # transformers takes away the first line break after a tag: this one, so that the source's own stay
    return f"{{%- set messages = messages if {has_one} else {turn} + messages %}}\n{source}"


_CLOCK = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>.*?)(?P=quote)\s*\)""")
_CALLS_CLOCK = re.compile(r"strftime_now\s*\(")


def with_frozen_date(source: str, template_date: str | None) -> str:
    """Return a template whose calls of the clock are replaced by what they give on a date.

    The date is written into the source, not handed over at rendering, so that the template that is saved with the
    trained model renders the same bytes on any later day.

    Args:
        source: Jinja source.
        template_date: YYYY-MM-DD.

    Raises:
        DataError: it asks the clock and there is no date, or it asks in a way that cannot be frozen.
    """
    if not _asks_clock(source):
        return source
    if template_date is None:
        raise DataError(
            "data.template_date is None, but must be a date because this template asks the clock and would render "
            'other bytes tomorrow; set data.template_date to "YYYY-MM-DD"'
        )
    day = date.fromisoformat(template_date)
    frozen = _CLOCK.sub(lambda call: repr(day.strftime(call["format"])), source)
    if _asks_clock(frozen):
        raise DataError(
            "the chat template calls strftime_now with a computed format or under another name, which cannot be "
            "frozen; name another"
        )
    return frozen


def _asks_clock(source: str) -> bool:
    """Return whether a template uses the clock in any way but to ask whether there is one."""
    if "strftime_now" not in source:
        return False
    try:
        tree = rendering_probe.environment().parse(source)
    except (jinja2.TemplateError, RecursionError):
        return _CALLS_CLOCK.search(source) is not None  # rendering says what is wrong with it
    asked = {id(test.node) for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined", "callable")}
    return any(name.name == "strftime_now" and id(name) not in asked for name in tree.find_all(nodes.Name))
