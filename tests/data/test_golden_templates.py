"""Worked examples of templates and masks, each beside the broken way of doing it that it was written against."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from harness.data import ChatFormat, chat_format
from harness.data.encoding import loss_weights
from harness.errors import DataError
from tests.data.test_templates import CHATML_OWN, own
from tests.data.tiny import REAL, SYSTEM, TURNS, chat, located, rendered, spec, tokenizer

ONE = [SYSTEM, {"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4"}]
TWO = [*ONE, {"role": "user", "content": "And 3+3?"}, {"role": "assistant", "content": "6"}]
CHATML_SHA256 = "8a7bb323"
QWEN_SHA256 = "6206c489"

needs_tokenizers = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")


def real(folder: str, template: str = "tokenizer") -> ChatFormat:
    tok = AutoTokenizer.from_pretrained(REAL / "tokenizers" / folder, local_files_only=True)
    return chat_format(tok, spec(template=template))


def trained(form: ChatFormat, messages: list[dict[str, Any]], **changes: Any) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation and the places of those that carry loss."""
    row = located(form, messages)
    return row.ids, np.flatnonzero(loss_weights(row, spec(**changes))).tolist()


# -- broken ways, kept -------------------------------------------------------------------------------------------------


def all_after_first_header(ids: Sequence[int], header: Sequence[int]) -> list[int]:
    """Look for the assistant's header once and train on whatever follows."""
    first = next(i for i in range(len(ids)) if list(ids[i : i + len(header)]) == list(header))
    return list(range(first + len(header), len(ids)))


def all_but_padding(ids: Sequence[int], pad: int) -> list[int]:
    """Take every token that is not the padding token for a label."""
    return [i for i, token in enumerate(ids) if token != pad]


def after_every_marker(text: str, marker: str) -> list[str]:
    """Open an answer wherever the marker stands in the text."""
    return [part.partition("\n### ")[0] for part in text.split(marker)[1:]]


def templates_own_mask(form: ChatFormat, messages: list[dict[str, Any]]) -> list[int]:
    """Ask transformers for the assistant's tokens of a template without `{% generation %}`."""
    found = form.tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    return np.flatnonzero(found["assistant_masks"]).tolist()


# -- ChatML -----------------------------------------------------------------------------------------------------------


@pytest.mark.real
@needs_tokenizers
def test_chatml_of_qwen_adds_a_line_break_that_is_not_trained_on() -> None:
    ours, theirs = real("qwen2.5", "chatml"), real("qwen2.5")
    texts = ours.render(ONE), theirs.render(ONE)
    assert [len(text) for text in texts] == [131, 132]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    assert [digest[:8] for digest in digests] == [CHATML_SHA256, QWEN_SHA256]
    ids, places = trained(theirs, ONE)
    assert (len(ids), ids[-1]) == (29, 198)
    assert places == [26, 27]
    assert [ids[i] for i in places] == [19, 151645]


@pytest.mark.real
@needs_tokenizers
def test_two_exchanges_of_qwen_train_four_tokens_where_a_search_for_the_first_header_trains_twenty() -> None:
    form = real("qwen2.5")
    ids, places = trained(form, TWO)
    assert len(ids) == 46
    assert places == [26, 27, 43, 44]
    broken = all_after_first_header(ids, form.encode("<|im_start|>assistant\n"))
    assert len(broken) == 20
    assert "And 3+3?" in form.tokenizer.decode([ids[i] for i in broken])


@pytest.mark.real
@needs_tokenizers
def test_mask_that_transformers_reads_off_qwens_template_is_empty() -> None:
    form = real("qwen2.5")
    assert templates_own_mask(form, TWO) == []
    assert len(trained(form, TWO)[1]) == 4


def test_end_of_turn_that_is_also_the_padding_is_trained_on_and_by_the_padding_rule_never() -> None:
    form = chat("chatml", tokenizer(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"))
    ids, places = trained(form, TWO)
    ends = [i for i, token in enumerate(ids) if token == form.tokenizer.pad_token_id]
    assert [i for i in ends if i in places] == [ends[2], ends[4]]
    assert not set(ends) & set(all_but_padding(ids, form.tokenizer.pad_token_id))


def test_role_header_is_trained_on_where_the_spec_says_and_only_the_assistants() -> None:
    form = chat()
    ids, places = trained(form, TWO, train_on_role_header=True)
    assert form.tokenizer.decode([ids[i] for i in places]) == (
        "<|im_start|>assistant\n4<|im_end|><|im_start|>assistant\n6<|im_end|>"
    )


# -- Mistral ----------------------------------------------------------------------------------------------------------


@pytest.mark.real
@needs_tokenizers
def test_mistrals_template_that_trains_without_the_system_turn_it_is_asked_with_is_refused() -> None:
    form = real("mistral")
    assert form.render(ONE) == "<s>[INST] What is 2+2?[/INST] 4</s>"
    assert form.render(ONE[:2], add_generation_prompt=True) == (
        "<s>[INST] You are a helpful assistant.\n\nWhat is 2+2?[/INST]"
    )
    with pytest.raises(DataError, match="alike for training and for generation"):
        rendered(form, ONE)


@pytest.mark.real
@needs_tokenizers
def test_named_mistral_template_keeps_the_system_turn_on_the_same_tokenizer() -> None:
    form = real("mistral", "mistral")
    ids, places = trained(form, ONE)
    assert form.render(ONE) == "<s>[INST] You are a helpful assistant.\n\nWhat is 2+2?[/INST] 4</s>"
    assert form.tokenizer.decode([ids[i] for i in places]).strip() == "4</s>"
    assert ids.count(form.bos_token_id) == 1


# -- ChatML-lite ------------------------------------------------------------------------------------------------------

LITE = ("<|user|>", "<|assistant|>", "<|end|>")


def test_chatml_lite_closes_no_user_turn_and_each_marker_is_one_token() -> None:
    form = chat("chatml_lite", tokenizer(LITE))
    messages = [TURNS[2], {"role": "assistant", "content": "The capital of France is Paris."}]
    text = rendered(form, messages).text
    assert text == "<|user|>\nWhat is the capital of France?\n<|assistant|>\nThe capital of France is Paris.<|end|>"
    assert len(text) == 92
    ids, places = trained(form, messages)
    assert [form.encode(marker) for marker in LITE] == [[form.tokenizer.convert_tokens_to_ids(m)] for m in LITE]
    assert ids.count(form.tokenizer.convert_tokens_to_ids("<|end|>")) == 1
    assert form.tokenizer.decode([ids[i] for i in places]) == "The capital of France is Paris.<|end|>"


def test_mask_over_targets_is_the_mask_over_inputs_without_its_first_place() -> None:
    form = chat("chatml_lite", tokenizer(LITE))
    row = located(form, TURNS)
    weights = loss_weights(row, spec())
    targets, over_targets = row.ids[1:], weights[1:]
    assert len(over_targets) == len(row.ids) - 1
    said = form.tokenizer.decode([t for t, weight in zip(targets, over_targets, strict=True) if weight])
    assert said == "The answer is 4.<|end|>Paris.<|end|>"
    # The broken way: the mask over inputs laid on the targets trains each token's successor.
    shifted = form.tokenizer.decode([t for t, weight in zip(targets, weights[:-1], strict=True) if weight])
    assert shifted != said


# -- Alpaca -----------------------------------------------------------------------------------------------------------


def test_alpaca_example_is_seventy_two_characters_with_real_line_breaks() -> None:
    preamble = {"role": "system", "content": "Below is an instruction..."}
    messages = [preamble, {"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hello!"}]
    text = chat("alpaca", tokenizer(eos_token=None)).render(messages)
    assert text == "Below is an instruction...\n### Instruction:\nSay hi.\n### Response:\nHello!"
    assert len(text) == 72
    assert "\\n" not in text


def test_literal_response_header_of_a_user_opens_no_answer_where_a_search_for_it_opens_two() -> None:
    form = chat("alpaca")
    messages = [
        {"role": "user", "content": "Repeat: ### Response:\nHello!"},
        {"role": "assistant", "content": "### Response: it is."},
    ]
    text = rendered(form, messages).text
    ids, places = trained(form, messages)
    assert form.tokenizer.decode([ids[i] for i in places]) == "### Response: it is.<eos>"
    assert len(after_every_marker(text, "### Response:")) == 3


ALPACA_TOKENS = (
    *("Below", " is", " an", " instruction", "...\n"),
    *("###", " Instruction", ":\n", "Say", " hi", ".\n"),
    *("###", " Response", ":\n", "Hello", "!", "<|im_end|>"),
)


def found_by_search(ids: Sequence[int], header: Sequence[int]) -> list[int]:
    """Look for the tokens that a header has when it is encoded alone."""
    return [i for i in range(len(ids)) if list(ids[i : i + len(header)]) == list(header)]


@pytest.mark.real
@needs_tokenizers
def test_prefixes_of_the_alpaca_example_give_fourteen_zeros_and_three_ones_where_a_search_finds_no_answer() -> None:
    """The example is told of gpt2's tokenizer, which no package here holds; counted by hand for Qwen2.5's, another one
    of bytes, which joins a line break to the sign before it, and with the end that the template writes."""
    form = real("qwen2.5", "alpaca")
    preamble = {"role": "system", "content": "Below is an instruction..."}
    messages = [preamble, {"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hello!"}]
    ids, places = trained(form, messages)
    assert tuple(form.tokenizer.decode([token]) for token in ids) == ALPACA_TOKENS
    asked = form.encode(form.render(messages[:-1], add_generation_prompt=True))
    assert (ids[: len(asked)], len(asked), len(ids) - len(asked)) == (asked, 14, 3)
    assert places == [14, 15, 16]
    assert found_by_search(ids, form.encode("### Response:")) == []


# -- Llama ------------------------------------------------------------------------------------------------------------


def test_llama3_has_two_line_breaks_after_each_header_and_nothing_between_turns() -> None:
    text = chat("llama3", tokenizer(())).render(TWO)
    assert text.count("<|end_header_id|>\n\n") == text.count("<|end_header_id|>") == len(TWO)
    assert text.count("<|eot_id|><|start_header_id|>") == len(TWO) - 1


def test_llama2_writes_its_system_turn_inside_the_first_question() -> None:
    text = chat("llama2", tokenizer(())).render(ONE)
    assert text == ("<bos>[INST] <<SYS>>\nYou are a helpful assistant.\n<</SYS>>\n\nWhat is 2+2? [/INST] 4 <eos>")


def test_clock_of_a_template_is_frozen_so_that_its_rows_are_the_same_tomorrow() -> None:
    dated = "{{ 'Today Date: ' + strftime_now('%d %b %Y') + '\n' }}" + CHATML_OWN
    hashes = {
        tuple(located(chat("tokenizer", own(dated), template_date=day), ONE).ids)
        for day in ("2024-07-26", "2024-07-26", "2024-07-27")
    }
    assert len(hashes) == 2
    with pytest.raises(DataError, match=r"data\.template_date is None"):
        chat("tokenizer", own(dated))
