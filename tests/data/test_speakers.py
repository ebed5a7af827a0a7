"""Where users, the system and tools speak, also where what they say stands in a header too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.data import TEMPLATES
from harness.data.chat import ChatFormat
from tests.data.test_templates import CHATML_OWN, own
from tests.data.tiny import TURNS, chat, prepared, rendered, tokenizer, write_rows

ANSWER = {"role": "assistant", "content": "Two."}


def say(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def placed(form: ChatFormat, messages: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return for each span its role, the text before it and its text."""
    row = rendered(form, messages)
    return [(span.role, row.text[: span.start][-18:], row.text[span.start : span.stop]) for span in row.others]


@pytest.mark.parametrize("said", ["user", "o", "assistant", "im_start", "s", ">"])
def test_word_of_a_header_is_found_where_a_user_says_it(said: str) -> None:
    found = placed(chat(), [say("user", said), ANSWER, say("user", f" {said}\n"), ANSWER])
    assert [text for _, _, text in found] == [said, said]
    assert found[0][1].endswith("<|im_start|>user\n")
    assert found[1][1].endswith("|im_start|>user\n ")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_message_is_found_behind_what_its_template_writes_before_it(name: str) -> None:
    form = chat(name)
    long = [say("user", "Unlike 1."), ANSWER, say("user", "Unlike 2."), ANSWER]
    short = [say("user", "s"), ANSWER, say("user", "n"), ANSWER]
    assert placed(form, short)[0][:2] == placed(form, long)[0][:2]
    assert [text for _, _, text in placed(form, short)] == ["s", "n"]


@pytest.mark.parametrize("result", ["tool", "o", "1", "", "\n", "user", "4 is what it gives"])
def test_result_of_a_tool_is_all_between_its_neighbours_and_never_trained_on(result: str, tmp_path: Path) -> None:
    messages = [TURNS[0], ANSWER, say("tool", result), say("user", "And now?"), TURNS[1]]
    (row,) = prepared(write_rows(tmp_path / "rows.jsonl", [{"messages": messages}]), prompt_loss_weight=0.5).train
    tokens, weights = row.input_ids.tolist(), row.loss_weights.tolist()
    untrained = tokenizer().decode([token for token, weight in zip(tokens, weights, strict=True) if not weight])
    assert untrained == f"<|im_start|>\n<|im_start|>tool\n{result}<|im_end|>\n<|im_start|>user\n"
    assert "And now?" in tokenizer().decode([t for t, weight in zip(tokens, weights, strict=True) if weight == 0.5])


@pytest.mark.parametrize("written", ["'result: ' + m.content | tojson", "'(left out)'", "m.content | upper"])
def test_result_that_a_template_rewords_keeps_its_row_and_is_not_trained_on(written: str, tmp_path: Path) -> None:
    said = f"({written} if m.role == 'tool' and 'Probing' not in m.content else m.content)"
    source = CHATML_OWN.replace("+ m.content +", f"+ {said} +")
    messages = [TURNS[0], ANSWER, say("tool", 'it "is"'), say("user", "And now?"), TURNS[1]]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": messages}])
    (row,) = prepared(path, tok=own(source), template="tokenizer", prompt_loss_weight=0.5).train
    weighed = [t for t, weight in zip(row.input_ids.tolist(), row.loss_weights.tolist(), strict=True) if weight == 0.5]
    text = tokenizer().decode(weighed)
    assert "And now?" in text
    assert not any(word in text.lower() for word in ('"is', "left out", "tool"))


def test_order_of_roles_is_learnt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    form = chat()
    num: list[int] = []
    render = ChatFormat.render
    monkeypatch.setattr(ChatFormat, "render", lambda *a, **k: num.append(1) or render(*a, **k))
    for number in range(3):
        rendered(form, [say("user", f"What is {number}?"), ANSWER])
    assert len(num) == 1 + 3 * 2


@pytest.mark.parametrize(
    ("written", "num_rewritten"),
    [
        ("m.content.split('</think>')[-1]", 1),
        ("m.content | replace('Two', 'Three')", 1),
        ("m.content | trim", 0),
        ("m.content", 0),
    ],
)
def test_row_whose_answer_a_template_rewrites_is_kept_and_counted(
    written: str, num_rewritten: int, tmp_path: Path
) -> None:
    thinking = [TURNS[0], say("assistant", "<think>Hm.</think> Two. ")]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": thinking}, {"messages": TURNS}])
    data = prepared(path, tok=own(CHATML_OWN.replace("m.content", written)), template="tokenizer")
    assert (data.summary.num_rewritten, data.summary.num_train) == (num_rewritten, 2)


def test_answer_in_another_unicode_form_is_not_counted_as_rewritten(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [TURNS[0], say("assistant", "Cafe\u0301.")]}])
    source = CHATML_OWN.replace("m.content", "(m.content | replace('e\u0301', '\u00e9'))")
    assert prepared(path, tok=own(source), template="tokenizer").summary.num_rewritten == 0
