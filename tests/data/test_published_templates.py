"""Templates of published models, as TRL ships them: ours must equal them; each is masked rightly or refused."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest

from harness.data import ChatFormat
from harness.errors import DataError
from tests.data.tiny import SYSTEM, TURNS, chat, located, tokenizer
from tests.presence import package

FOLDER = Path(sysconfig.get_path("purelib")) / "trl" / "chat_templates"

ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "glm4moe": "",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "phi3": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
}


@pytest.fixture(autouse=True)
def _trl() -> None:
    package("trl")


def published(name: str) -> ChatFormat:
    tok = tokenizer(())
    tok.chat_template = (FOLDER / f"{name}.jinja").read_text()
    return chat("tokenizer", tok, template_date="2024-07-26")


@pytest.mark.parametrize("name", ENDS)
def test_published_template_trains_every_answer_and_its_end(name: str) -> None:
    form = published(name)
    row = located(form, TURNS)
    decoded = [form.tokenizer.decode(row.ids[turn.start : turn.end]) for turn in row.turns]
    assert [text.removeprefix("\n<think></think>\n") for text in decoded] == [
        answer + ENDS[name] for answer in ("The answer is 4.", "Paris.")
    ]


@pytest.mark.parametrize(("ours", "theirs"), [("llama3", "llama3"), ("gemma", "gemma"), ("gemma", "gemma3")])
@pytest.mark.parametrize("asking", [False, True])
def test_named_template_equals_the_published_one(ours: str, theirs: str, asking: bool) -> None:
    form = published(theirs)
    conversations: list[list[dict[str, Any]]] = [TURNS[:1], TURNS[:2], TURNS[:3], TURNS]
    if theirs != "gemma":  # Gemma 1 knows no system turn
        conversations.append([SYSTEM, *TURNS])
    for messages in conversations:
        expected = form.render(messages, add_generation_prompt=asking)
        assert chat(ours, tokenizer(())).render(messages, add_generation_prompt=asking) == expected


def test_published_template_that_asks_the_clock_is_refused_without_a_date() -> None:
    tok = tokenizer(())
    tok.chat_template = (FOLDER / "llama3_2.jinja").read_text()
    with pytest.raises(DataError, match=r"data\.template_date is None"):
        chat("tokenizer", tok)
    assert "Today Date: 26 Jul 2024\n" in published("llama3_2").render(TURNS)


@pytest.mark.parametrize("name", ["qwen3", "gptoss"])
def test_published_template_that_rewrites_earlier_turns_is_refused_for_several_turns_only(name: str) -> None:
    form = published(name)
    assert len(located(form, TURNS[:2]).turns) == 1
    with pytest.raises(DataError, match="row 'row' alike for training and for generation"):
        located(form, TURNS)


def test_published_template_that_asks_with_an_open_thought_is_refused() -> None:
    with pytest.raises(DataError, match="a first turn alike for training and for generation"):
        published("deepseekv3")
