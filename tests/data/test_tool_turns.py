"""Ids of calls and names of tools, which some templates write and Mistral's insists on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.data import chat_format
from harness.data.conversations import UnusableRow, conversation
from harness.data.masks import locate, render
from tests.data.test_templates import own
from tests.data.tiny import REAL, TURNS, chat, prepared, spec, tokenizer, write_rows

STRICT = """
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined %}
        {%- if m.tool_calls[0].id is not defined or m.tool_calls[0].id | length != 9 %}
            {{- raise_exception('ids have nine letters') }}
        {%- endif %}
        {{- m.tool_calls[0].function.name + ' ' + m.tool_calls[0].id + eos_token }}
    {%- elif m.role == 'tool' %}
        {%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}
            {{- raise_exception('ids have nine letters') }}
        {%- endif %}
        {{- '[RESULT] ' + m.content + ' ' + m.tool_call_id + '[/RESULT]' }}
    {%- else %}
        {{- ' ' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""
"""Refuses calls and results without an id of nine letters, as Mistral's own template does."""


def calling(call_id: Any = "call00001", result_id: Any = "call00001", **fields: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 2}}} | (
        {"id": call_id} if call_id else {}
    )
    answers = {"tool_call_id": result_id} if result_id else {}
    return [
        TURNS[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", **answers, **fields},
        TURNS[1],
    ]


def test_tool_message_keeps_the_id_of_its_call_and_the_name_of_the_tool() -> None:
    row = conversation(calling(name="add"), row_id="row", task="")
    assert row.messages[2] == {"role": "tool", "content": "4", "tool_call_id": "call00001", "name": "add"}


@pytest.mark.parametrize("fields", [{}, {"tool_call_id": None, "name": None}, {"tool_call_id": 7, "name": ["add"]}])
def test_tool_message_that_names_nothing_is_its_content_alone(fields: dict[str, Any]) -> None:
    row = conversation(calling(result_id=None, **fields), row_id="row", task="")
    assert row.messages[2] == {"role": "tool", "content": "4"}


def test_names_of_other_roles_are_left_out() -> None:
    row = conversation([TURNS[0] | {"name": "Ann"}, TURNS[1] | {"tool_call_id": "x"}], row_id="row", task="")
    assert list(row.messages) == TURNS[:2]


def test_name_that_no_tokenizer_can_encode_makes_the_row_unusable() -> None:
    with pytest.raises(UnusableRow, match="not_unicode"):
        conversation(calling(name="\ud800"), row_id="row", task="")


def test_template_that_insists_on_ids_trains_rows_that_have_them_and_counts_those_that_do_not(tmp_path: Path) -> None:
    rows = [{"messages": calling()}, {"messages": calling(None, None)}, {"messages": calling("short", "short")}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    data = prepared(path, tok=own(STRICT), template="tokenizer")
    assert (data.summary.num_train, data.summary.num_rows_dropped) == (1, {"template_refuses": 2})
    (text,) = (tokenizer().decode(row.input_ids) for row in data.train)
    assert "add call00001<eos>[RESULT] 4 call00001[/RESULT] The answer is 4.<eos>" in text


def test_control_token_in_the_name_of_a_tool_stays_text() -> None:
    source = "{% for m in messages %}{{ m.role }}:{{ m.name }}{{ m.content }}{{ m.tool_calls }}\n{% endfor %}"
    form = chat("tokenizer", own(source + "{% if add_generation_prompt %}assistant:{% endif %}"))
    rendered = render(form, conversation(calling(name="<|im_end|>"), row_id="row", task=""))
    assert rendered.spells_control
    assert form.tokenizer.convert_tokens_to_ids("<|im_end|>") not in locate(form, [rendered])[0].ids


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")
def test_real_calls_with_ids_are_trained_on_mistrals_own_template(tmp_path: Path) -> None:
    lines = (REAL / "sft" / "toolcall_glaive.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if sum(m["role"] == "user" for m in row["messages"]) == 1]
    number = 0
    for message in (message for row in rows for message in row["messages"]):
        for call in message.get("tool_calls") or ():
            number += 1
            call["id"] = f"call{number:05d}"
        if message["role"] == "tool":
            message["tool_call_id"] = f"call{number:05d}"
    assert number
    tok = AutoTokenizer.from_pretrained(REAL / "tokenizers" / "mistral", local_files_only=True)
    data = prepared(write_rows(tmp_path / "rows.jsonl", rows), tok=tok, template="tokenizer", max_length=8192)
    assert (data.summary.num_train, data.summary.num_rows_dropped) == (len(rows), {})
    texts = [tok.decode(row.input_ids[row.loss_weights > 0]) for row in data.train]
    assert sum(f'"id": "call{n:05d}"' in text for text in texts for n in range(1, number + 1)) == number
    assert chat_format(tok, spec(template="tokenizer")).end_of_turn == "</s>"
