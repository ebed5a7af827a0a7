"""Control characters that a vocabulary has no bytes for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from harness.data import control
from harness.data.control import Encoded
from harness.data.conversations import UnusableRow, conversation
from harness.data.masks import Rendered, Turn, boundary, locate, render
from harness.data.offsets import ListedOffsets
from harness.errors import DataError
from tests.data.tiny import TURNS, chat, prepared, rendered, tokenizer, write_rows

LOST = "\x04\x06\x1d"
"""Half of what SmolLM2's tokenizer leaves out."""


def say(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def lossy() -> Any:
    """Return a byte-level tokenizer whose vocabulary lacks three bytes."""
    whole = tokenizer()
    state = json.loads(whole.backend_tokenizer.to_str())
    for character in LOST:
        del state["model"]["vocab"][chr(0x100 + ord(character))]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<eos>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def test_lost_characters_are_those_of_which_no_token_is_left() -> None:
    assert control.lost(lossy()).findall("".join(map(chr, range(256)))) == list(LOST)


@pytest.mark.parametrize("tok", [tokenizer(), ByT5Tokenizer()])
def test_tokenizer_of_all_bytes_loses_nothing(tok: Any) -> None:
    assert control.lost(tok) is control.NONE
    assert not chat(tok=tok).loses_part_of("".join(map(chr, range(256))))


def test_white_space_that_becomes_a_space_is_not_lost_and_what_is_stripped_is() -> None:
    core = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    core.normalizer = normalizers.Sequence([normalizers.Replace("\n", " "), normalizers.Replace("\x07", "")])
    found = control.lost(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>"))
    assert found.findall("a\nb\x07c") == ["\x07"]


@pytest.mark.parametrize("template", ["chatml", "chatml_lite", "plain"])
@pytest.mark.parametrize("character", LOST)
def test_row_with_a_lost_character_is_counted_and_the_others_are_trained_on(
    template: str, character: str, tmp_path: Path
) -> None:
    rows = [
        {"messages": [TURNS[0], say("assistant", f"col1{character}col2")]},
        {"messages": [say("user", character), TURNS[1]]},
        {"messages": TURNS},
    ]
    summary = prepared(write_rows(tmp_path / "rows.jsonl", rows), tok=lossy(), template=template).summary
    assert (summary.num_train, summary.num_rows_dropped) == (1, {"tokenizer_loses_text": 2})


def test_raw_text_with_a_lost_character_is_counted_and_the_others_are_trained_on(tmp_path: Path) -> None:
    rows = [{"text": "one\x1dtwo"}, {"text": "one two"}, {"text": "one\ttwo"}]
    data = prepared(write_rows(tmp_path / "rows.jsonl", rows), tok=lossy())
    assert data.summary.num_rows_dropped == {"tokenizer_loses_text": 1}
    assert {lossy().decode(row.input_ids) for row in data.train} == {"one two<eos>", "one\ttwo<eos>"}


def test_rows_without_a_lost_character_are_the_tokens_of_a_tokenizer_that_loses_none() -> None:
    forms = [chat(tok=tok) for tok in (tokenizer(), lossy())]
    kept, found = (form.tokenizer.decode(locate(form, [rendered(form, TURNS)])[0].ids) for form in forms)
    assert found == kept


def test_character_that_the_template_writes_as_an_escape_is_not_lost() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "\x1d"}}}
    source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}\n{% endfor %}"
    )
    source += "{% if add_generation_prompt %}assistant:{% endif %}"
    tok = lossy()
    tok.chat_template = source
    calling = [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    form = chat("tokenizer", tok)
    assert "\\u001d" in render(form, conversation(calling, row_id="row", task="")).text
    with pytest.raises(UnusableRow, match="tokenizer_loses_text"):
        rendered(form, [TURNS[0], say("assistant", "a\x1d")])


def test_text_before_a_boundary_with_more_tokens_than_the_whole_is_refused_with_its_row() -> None:
    row = Rendered("r7", "abc", (Turn(0, 0, 3, 3),))
    with pytest.raises(DataError, match="row 'r7' has a boundary at character 3"):
        boundary(row, Encoded([1, 2], ListedOffsets([(0, 1), (1, 3)])), 3, [1, 2, 3])
