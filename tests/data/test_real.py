"""The data path on real tokenizers and real rows; skipped where they do not lie beside the checkout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from harness.data import ChatFormat, chat_format, describe_file, prepare
from harness.data.conversations import conversation
from harness.data.encoding import loss_weights
from harness.errors import DataError
from tests.data.tiny import REAL, SYSTEM, located, rendered, spec

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers and rows in {REAL}"),
]

ONE = [SYSTEM, {"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4"}]
TWO = [*ONE, {"role": "user", "content": "And 3+3?"}, {"role": "assistant", "content": "6"}]
FILES = sorted(path.name for path in (REAL / "sft").glob("*.jsonl"))
SIZE = 120
"""Rows of each file; all of them take minutes."""


@cache
def form_of(folder: str, template: str = "tokenizer") -> ChatFormat:
    tok = AutoTokenizer.from_pretrained(REAL / folder, local_files_only=True)
    return chat_format(tok, spec(template=template))


def qwen() -> ChatFormat:
    return form_of("tokenizers/qwen2.5")


def trained(form: ChatFormat, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    row = located(form, messages)
    return row.ids, np.flatnonzero(loss_weights(row, spec())).tolist()


def by_markers(ids: Sequence[int], opening: Sequence[int], closing: int) -> list[int]:
    """An independent reference for ChatML: every token between the assistant's header and the end marker, inclusive."""
    marked: list[int] = []
    position = 0
    while position < len(ids):
        if list(ids[position : position + len(opening)]) == list(opening):
            end = list(ids).index(closing, position + len(opening))
            marked.extend(range(position + len(opening), end + 1))
            position = end
        position += 1
    return marked


# -- worked examples --------------------------------------------------------------------------------------------------


def test_qwen_one_exchange_trains_the_answer_and_its_end() -> None:
    ids, positions = trained(qwen(), ONE)
    assert len(ids) == 28 + 1  # and the line break after the last turn
    assert positions == [26, 27]
    assert [ids[i] for i in positions] == [19, 151645]
    assert ids[-1] == 198
    text = rendered(qwen(), ONE).text
    assert len(text) == 132
    assert text[:-1] == form_of("tokenizers/qwen2.5", "chatml").render(ONE)
    assert trained(form_of("tokenizers/qwen2.5", "chatml"), ONE) == (ids[:-1], positions)


def test_qwen_two_exchanges_train_four_tokens_and_not_everything_after_the_first_header() -> None:
    ids, positions = trained(qwen(), TWO)
    assert len(ids) == 46
    assert positions == [26, 27, 43, 44]
    opening = qwen().encode("<|im_start|>assistant\n")
    first = next(i for i in range(len(ids)) if ids[i : i + 3] == opening) + 3
    assert len(range(first, len(ids))) == 20  # what the broken span search trains


def test_mistral_own_template_with_a_system_turn_is_refused() -> None:
    form = form_of("tokenizers/mistral")
    assert form.render(ONE) == "<s>[INST] What is 2+2?[/INST] 4</s>"
    asked = form.render(ONE[:2], add_generation_prompt=True)
    assert asked == "<s>[INST] You are a helpful assistant.\n\nWhat is 2+2?[/INST]"
    with pytest.raises(DataError, match="must render the role 'system' alike for training and for generation"):
        form.require([conversation(ONE, row_id="a", task="")])
    with pytest.raises(DataError, match="row 'row' alike for training and for generation"):
        rendered(form, ONE)
    form.require([conversation(ONE[1:], row_id="a", task="")])


def test_stories_base_without_a_template_is_refused_unless_one_is_named() -> None:
    with pytest.raises(DataError, match="this base has no chat template of its own"):
        form_of("models/stories15M")
    form = form_of("models/stories15M", "alpaca")
    ids, positions = trained(form, ONE)
    assert ids.count(form.bos_token_id) == 1
    assert ids[0] == form.bos_token_id
    assert form.tokenizer.decode([ids[i] for i in positions]) == "4</s>"


@pytest.mark.parametrize("folder", ["tokenizers/mistral", "models/stories15M"])
def test_literal_response_header_in_the_prompt_opens_no_response(folder: str) -> None:
    form = form_of(folder, "alpaca")
    messages = [{"role": "user", "content": "Write ### Response:\nHello!"}, {"role": "assistant", "content": "Hello!"}]
    ids, positions = trained(form, messages)
    assert form.tokenizer.decode([ids[i] for i in positions]) == "Hello!</s>"
    assert positions == list(range(len(ids) - len(positions), len(ids)))


# -- independent references on real rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["tokenizers/qwen2.5", "models/minimind2-small"])
@pytest.mark.parametrize("name", FILES)
def test_every_real_file_is_prepared_and_masked_as_a_search_for_markers_masks_it(folder: str, name: str) -> None:
    form = form_of(folder)
    opening, closing = form.encode("<|im_start|>assistant\n"), form.stop_token_ids[0]
    asked = spec(source=describe_file(REAL / "sft" / name), template="tokenizer", max_length=4096, num_examples=SIZE)
    data = prepare(asked, form, seed=0)
    compared = 0
    for example in data.train:
        ids = example.input_ids.tolist()
        found = by_markers(ids, opening, closing)
        # An answer that begins with white space may share a token with the header's line break.
        if len(found) and ids.count(opening[0]) == ids.count(closing):
            assert np.flatnonzero(example.loss_weights).tolist() == found, example.row_id
            compared += 1
    assert compared > 0.9 * len(data.train)


def test_trl_labels_of_real_rows_differ_from_ours_by_the_line_breaks_around_a_turn_alone() -> None:
    from trl.chat_template_utils import get_training_chat_template

    form = qwen()
    template = get_training_chat_template(form.tokenizer)
    source = describe_file(REAL / "sft" / "oasst_threads.jsonl")
    data = prepare(spec(source=source, template="tokenizer", max_length=4096, num_examples=40), form, seed=0)
    from harness.data import read_rows

    conversations = {row.row_id: row for row in read_rows(source).conversations}
    for example in data.train:
        theirs = form.tokenizer.apply_chat_template(
            list(conversations[example.row_id].messages),
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert theirs["input_ids"] == example.input_ids.tolist()
        ours = set(np.flatnonzero(example.loss_weights).tolist())
        extra = set(np.flatnonzero(theirs["assistant_masks"]).tolist()) - ours
        # TRL also trains the line break that ends the header and the one after the end marker.
        assert ours <= set(np.flatnonzero(theirs["assistant_masks"]).tolist())
        assert {form.tokenizer.decode([example.input_ids[i]]) for i in extra} == {"\n"}
        assert len(extra) == 2 * sum(m["role"] == "assistant" for m in conversations[example.row_id].messages)


@pytest.mark.parametrize(
    ("folder", "template"),
    [("tokenizers/mistral", "mistral"), ("models/stories15M", "llama2"), ("models/stories260K", "plain")],
)
def test_named_templates_on_sentencepiece_tokenizers_train_the_answers(folder: str, template: str) -> None:
    form = form_of(folder, template)
    source = describe_file(REAL / "sft" / "identity_chat.jsonl")
    data = prepare(spec(source=source, template=template, max_length=2048, num_examples=60), form, seed=0)
    answers = {r.row_id: [m["content"] for m in r.messages if m["role"] == "assistant"] for r in _rows(source)}
    for example in data.train:
        kept = [token for token, weight in zip(example.input_ids, example.loss_weights, strict=True) if weight]
        decoded = form.tokenizer.decode(kept).replace("</s>", " ").split()
        assert decoded == " ".join(answers[example.row_id]).split(), example.row_id


def _rows(source: Any) -> list[Any]:
    from harness.data import read_rows

    return read_rows(source).conversations


def test_tool_rows_on_a_template_without_tools_are_refused_before_anything_is_encoded() -> None:
    asked = spec(source=describe_file(Path(REAL / "sft" / "toolcall_bfcl.jsonl")), template="chatml")
    with pytest.raises(DataError, match="must render the function declarations that the data has"):
        prepare(asked, form_of("tokenizers/qwen2.5", "chatml"), seed=0)
