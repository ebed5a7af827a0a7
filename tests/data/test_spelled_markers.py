"""Markers that data spells where no message says them: in names of arguments, in raw texts, through odd templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.data.conversations import conversation
from harness.data.masks import locate, render
from tests.data.test_templates import own
from tests.data.tiny import TURNS, chat, prepared, tokenizer, write_rows

END = "<|im_end|>"
CALLING = """
{%- if tools %}
    {{- '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content }}
    {%- if m.tool_calls is defined %}
        {{- m.tool_calls[0].function.name + ' ' + m.tool_calls[0].function.arguments | tojson }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def calling(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    return [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [call]}]


@pytest.mark.parametrize("arguments", [{END: 1}, {"x": {END: 1}}, {"x": [{"y" + END: 1}]}])
def test_name_of_an_argument_that_spells_a_marker_is_text_and_counted(arguments: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": calling(arguments)}])
    data = prepared(path, tok=own(CALLING), template="tokenizer")
    assert data.train[0].input_ids.tolist().count(tokenizer().convert_tokens_to_ids(END)) == 2
    assert tokenizer().decode(data.train[0].input_ids).count(END) == 3
    assert data.summary.num_control_text == 1


def test_name_of_a_property_that_spells_a_marker_is_text() -> None:
    form = chat("tokenizer", own(CALLING))
    function = {"name": "add", "parameters": {"type": "object", "properties": {END + "<|im_start|>": {}}}}
    row = render(form, conversation(TURNS, row_id="row", task="", tools=[function]))
    ids = locate(form, [row])[0].ids
    assert row.spells_control
    assert ids.count(form.tokenizer.convert_tokens_to_ids(END)) == 1 + len(TURNS)
