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
END_ID: Any = tokenizer().convert_tokens_to_ids(END)
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
    assert data.train[0].input_ids.tolist().count(END_ID) == 2
    assert tokenizer().decode(data.train[0].input_ids).count(END) == 3
    assert data.summary.num_control_text == 1


def test_name_of_a_property_that_spells_a_marker_is_text() -> None:
    form = chat("tokenizer", own(CALLING))
    function = {"name": "add", "parameters": {"type": "object", "properties": {END + "<|im_start|>": {}}}}
    row = render(form, conversation(TURNS, row_id="row", task="", tools=[function]))
    ids = locate(form, [row])[0].ids
    assert row.spells_control
    assert ids.count(END_ID) == 1 + len(TURNS)


# -- raw texts --------------------------------------------------------------------------------------------------------

RAW = [{"text": f"a {END} b"}, {"text": "Paris."}]


@pytest.mark.parametrize(("policy", "num_tokens", "num_counted"), [("text", 0, 1), ("as_is", 1, 0)])
def test_raw_text_that_spells_a_marker_is_read_and_counted_as_a_message(
    policy: str, num_tokens: int, num_counted: int, tmp_path: Path
) -> None:
    data = prepared(write_rows(tmp_path / "rows.jsonl", RAW), control_text=policy)
    row = next(example.input_ids.tolist() for example in data.train if example.row_id == "row-0")
    assert row.count(END_ID) == num_tokens
    assert tokenizer().decode(row) == f"a {END} b<eos>"
    assert data.summary.num_control_text == num_counted


def test_raw_text_that_spells_a_marker_is_dropped_under_its_reason_where_the_spec_says(tmp_path: Path) -> None:
    data = prepared(write_rows(tmp_path / "rows.jsonl", RAW), control_text="drop")
    assert (data.summary.num_train, data.summary.num_rows_dropped) == (1, {"control_token_in_text": 1})


# -- templates that cut into what is said -----------------------------------------------------------------------------

SAYS = [TURNS[0], {"role": "assistant", "content": "yo " + END}]


@pytest.mark.parametrize(
    "written",
    [
        "m.content | replace('<|im_end|>', '')",
        "m.content | tojson(ensure_ascii=True)",
        "m.content | tojson(ensure_ascii=True) | replace('<', '\\\\u003c')",
        "m.content.split('<|')[0]",
        "m.content.replace('im_end|>', '')",
    ],
)
def test_row_whose_marks_a_template_strips_or_escapes_is_dropped_and_the_others_stay(
    written: str, tmp_path: Path
) -> None:
    source = CALLING.replace("+ m.content }}", f"+ {written} }}}}")
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": SAYS}, {"messages": TURNS[:2]}])
    data = prepared(path, tok=own(source), template="tokenizer")
    assert [row.row_id for row in data.train] == ["row-1"]
    assert data.summary.num_rows_dropped == {"template_alters": 1}


@pytest.mark.parametrize("written", ["m.content | trim", "m.content | tojson", "m.content.split('</think>')[-1]"])
def test_row_whose_marks_a_template_leaves_is_kept(written: str) -> None:
    form = chat("tokenizer", own(CALLING.replace("+ m.content }}", f"+ {written} }}}}")))
    said = [TURNS[0], {"role": "assistant", "content": f"{END}</think>yo {END}"}]
    ids = locate(form, [render(form, conversation(said, row_id="row", task=""))])[0].ids
    assert ids.count(END_ID) == 2
