"""Published defects of masks and templates: each test holds ours to the right answer, and shows that the defect, built
again beside it, gives another one. A build of ours with that defect would fail here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.data import ChatFormat, prepare
from harness.data.conversations import IGNORE_INDEX
from harness.data.encoding import loss_weights
from harness.data.masks import Rendered, Turn, locate
from harness.data.sources import describe_file
from tests.data.tiny import TURNS, audited, chat, located, pairs, prepared, spec, tokenizer, write_rows
from tests.presence import package

ANSWERS = ["The answer is 4.<|im_end|>", "Paris.<|im_end|>"]
TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML whose tags say what the assistant writes, as transformers wants them."""


def own(source: str, tok: Any = None) -> ChatFormat:
    tok = tok if tok is not None else tokenizer()
    tok.chat_template = source
    return chat("tokenizer", tok)


def trained(form: ChatFormat, messages: list[dict[str, Any]], **changes: Any) -> list[str]:
    """Return the text of every run of tokens that carries loss."""
    row = located(form, messages)
    return runs(form, row.ids, np.flatnonzero(loss_weights(row, spec(**changes))).tolist())


def runs(form: ChatFormat, ids: Sequence[int], positions: Sequence[int]) -> list[str]:
    """Return the text of every run of positions."""
    cuts = np.flatnonzero(np.diff(positions) > 1) + 1
    return [form.tokenizer.decode([ids[i] for i in run]) for run in np.split(positions, cuts)] if len(positions) else []


# -- the mask of transformers -----------------------------------------------------------------------------------------


def by_transformers(form: ChatFormat, messages: list[dict[str, Any]]) -> list[str]:
    """The broken variant: the assistant mask that `apply_chat_template` returns."""
    encoded = form.tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return runs(form, encoded["input_ids"], np.flatnonzero(encoded["assistant_masks"]).tolist())


def test_mask_of_a_template_with_tags_is_that_of_transformers() -> None:
    form = own(TAGGED)
    assert trained(form, TURNS) == by_transformers(form, TURNS) == ANSWERS


def test_mask_of_a_template_without_tags_is_whole_where_transformers_trains_nothing() -> None:
    form = own(TAGGED.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    assert trained(form, TURNS) == ANSWERS
    assert by_transformers(form, TURNS) == []


LOOP, REST = "{% for m in messages %}", TAGGED[TAGGED.index("{% endfor %}") :]
TURN = TAGGED.removeprefix(LOOP).removesuffix(REST)
HEADER, BODY = TURN[: TURN.index("{% if")], TURN[TURN.index("{% if") :]
DEFERRED = {
    "a macro": "{% macro turn(m) %}" + TURN + "{% endmacro %}" + LOOP + "{{ turn(m) }}" + REST,
    "a macro in a macro": (
        "{% macro said(m) %}"
        + BODY
        + "{% endmacro %}{% macro turn(m) %}"
        + HEADER
        + "{{ said(m) }}{% endmacro %}"
        + LOOP
        + "{{ turn(m) }}"
        + REST
    ),
    "a call": (
        "{% macro turn(m) %}"
        + HEADER
        + "{{ caller() }}{% endmacro %}"
        + LOOP
        + "{% call turn(m) %}"
        + BODY
        + "{% endcall %}"
        + REST
    ),
    "a set block": LOOP + "{% set turn %}" + TURN + "{% endset %}{{ turn }}" + REST,
    "a set block of all turns": (
        "{% set turns %}" + LOOP + TURN + "{% endfor %}{% endset %}{{ turns }}" + REST.removeprefix("{% endfor %}")
    ),
}
"""Ways of writing a turn that is not part of the output yet while its tags are read."""


@pytest.mark.parametrize("way", DEFERRED)
def test_mask_of_turns_that_are_written_later_is_whole_where_transformers_shifts_it(way: str) -> None:
    """transformers #47325: text that a macro, a call or a block has not returned yet is not counted."""
    form, plain = own(DEFERRED[way]), own(TAGGED)
    assert form.render(TURNS) == plain.render(TURNS)
    assert located(form, TURNS) == located(plain, TURNS)
    assert trained(form, TURNS) == ANSWERS
    broken = by_transformers(form, TURNS)
    assert broken
    assert not set(broken) & set(ANSWERS)


@pytest.mark.parametrize("way", DEFERRED)
def test_mask_of_turns_that_are_written_later_without_tags_is_whole_where_that_of_transformers_is_empty(
    way: str,
) -> None:
    form = own(DEFERRED[way].replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    assert located(form, TURNS) == located(own(TAGGED), TURNS)
    assert trained(form, TURNS) == ANSWERS
    assert by_transformers(form, TURNS) == []


def test_mask_of_a_span_that_ends_in_the_first_token_ends_there_where_transformers_trains_the_rest() -> None:
    """transformers #47325: token 0 counts as no token."""
    tok = tokenizer(("<|im_start|>", "<|im_end|>", "Paris"))
    form = own("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{{ m.note }}{% endfor %}", tok)
    assert by_transformers(form, [{"role": "assistant", "content": "Paris", "note": "2+2"}]) == ["Paris2+2"]
    (row,) = locate(form, [Rendered("row", "Paris2+2", (Turn(0, 0, 5, 5),))])
    assert (row.turns[0].start, row.turns[0].end) == (0, 1)
    assert form.tokenizer.decode(row.ids[row.turns[0].start : row.turns[0].end]) == "Paris"


def test_mask_of_a_span_that_ends_in_stripped_white_space_ends_there_where_transformers_trains_the_rest() -> None:
    """transformers #47325: white space that the tokenizer drops belongs to no token."""
    said = " ".join(message["content"] for message in TURNS)
    words = ["[ASK]", "[SAY]", "Probing", "question", "answer", "7301", "<unk>", *said.split()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    form = own(
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[ASK] ' + m.content + ' [SAY] ' }}"
        "{% else %}{% generation %}{{ m.content + ' ' }}{% endgeneration %}{% endif %}{% endfor %}",
        tok,
    )
    assert trained(form, TURNS) == ["The answer is 4.", "Paris."]
    assert by_transformers(form, TURNS) == ["The answer is 4. [ASK] What is the capital of France? [SAY] Paris."]


# -- labels from the padding token ------------------------------------------------------------------------------------


def test_end_of_turn_is_trained_where_it_is_the_padding_token_and_labels_by_that_token_lose_it() -> None:
    form = chat("chatml", tokenizer(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"))
    row = located(form, TURNS)
    positions = np.flatnonzero(loss_weights(row, spec())).tolist()
    assert runs(form, row.ids, positions) == ANSWERS
    by_padding = [at for at in positions if row.ids[at] != form.tokenizer.pad_token_id]
    assert runs(form, row.ids, by_padding) == ["The answer is 4.", "Paris."]


# -- TRL --------------------------------------------------------------------------------------------------------------


def test_prompts_are_not_trained_on_where_trl_by_default_trains_on_all(tmp_path: Path) -> None:
    package("trl")
    labels = package("benchmarks.trl_labels")
    from harness.data import read_rows

    source = describe_file(write_rows(tmp_path / "rows.jsonl", pairs(3)))
    form = own(TAGGED)
    rows = read_rows(source).conversations
    for row, asked in zip(rows, (False, True) * 2, strict=False):
        (their,) = labels.trl_labels(form.tokenizer, [row], "messages", assistant_only_loss=asked)
        positions = [at for at, label in enumerate(their["labels"]) if label != IGNORE_INDEX]
        ours = trained(form, [dict(message) for message in row.messages])
        assert (runs(form, their["input_ids"], positions) == ours) == asked
        assert (positions == list(range(len(their["input_ids"])))) == (not asked)


# -- axolotl ----------------------------------------------------------------------------------------------------------


def by_dummy(form: ChatFormat, question: dict[str, Any], answer: str) -> str:
    """The broken variant: the answer is where the conversation differs from one with a dummy answer."""
    dummy = "[[dummy_message]]"
    texts = [form.render([question, {"role": "assistant", "content": said}]) for said in (answer, dummy)]
    whole, other = (form.encode(text) for text in texts)
    first = next(i for i, (a, b) in enumerate(zip(whole, other, strict=False)) if a != b)
    last = next(i for i, (a, b) in enumerate(zip(whole[::-1], other[::-1], strict=False)) if a != b)
    return form.tokenizer.decode(whole[first : len(whole) - last])


def test_brackets_around_an_answer_are_trained_where_a_diff_against_a_dummy_loses_them() -> None:
    form, answer = chat(), "[[1, 2], [3, 4]]"
    assert trained(form, [TURNS[0], {"role": "assistant", "content": answer}]) == [answer + "<|im_end|>"]
    assert by_dummy(form, TURNS[0], answer) == "1, 2], [3, 4"


def test_end_of_a_turn_that_is_not_eos_is_trained_where_a_search_for_eos_finds_none() -> None:
    """axolotl #3754: Gemma ends turns with another token than its EOS."""
    form = chat("gemma", tokenizer(("<start_of_turn>", "<end_of_turn>"), adds_bos=True))
    row = located(form, TURNS)
    end = form.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    weights = loss_weights(row, spec())
    for turn in row.turns:
        assert row.ids[turn.end - 1] == end
        assert weights[turn.end - 1] == 1.0
        by_eos = [at for at in range(turn.start, len(row.ids)) if row.ids[at] == form.tokenizer.eos_token_id]
        assert by_eos == []
    assert form.stop_token_ids[0] == end


# -- LlamaFactory -----------------------------------------------------------------------------------------------------

GLUED = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q:' + m.content + ' A: ' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
"""The prompt ends in a space, which goes into the first token of the answer."""


def test_tokens_are_those_of_the_whole_text_where_pieces_encoded_apart_give_others() -> None:
    form = own(GLUED)
    messages = [TURNS[2], TURNS[3]]
    text = form.render(messages)
    cut = text.index("Paris")
    pieces = form.encode(text[:cut]) + form.encode(text[cut:])
    assert located(form, messages).ids == form.encode(text) != pieces
    assert form.tokenizer.decode(pieces) == form.tokenizer.decode(form.encode(text))


def shortened(prompt: list[int], answer: list[int], most: int) -> list[int]:
    """The broken variant: prompt and answer are each cut at the end, to shares of the room."""
    room = max(int(most * len(answer) / (len(prompt) + len(answer))), 1)
    return prompt[: most - min(len(answer), room)] + answer[: min(len(answer), room)]


def test_truncation_keeps_one_end_whole_where_cutting_both_halves_loses_header_and_end(tmp_path: Path) -> None:
    question = {"role": "user", "content": "What is the capital of France? " * 6}
    answer = {"role": "assistant", "content": "Paris. " * 12}
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [question, answer]}])
    whole = prepared(path).train[0].input_ids.tolist()
    form = chat()
    first = len(form.encode(form.render([question], add_generation_prompt=True)))
    header, most = form.encode(form.header), len(whole) - 20
    broken = shortened(whole[:first], whole[first:], most)
    for side, kept in (("right", whole[:most]), ("left", whole[-most:])):
        cut = prepared(path, max_length=most, too_long=f"truncate_{side}").train[0].input_ids.tolist()
        assert cut == kept != broken
        assert _contains(cut, header)
    assert len(broken) == most
    assert not _contains(broken, header)
    assert broken[-1] != whole[-1] == form.stop_token_ids[0]


def _contains(ids: Sequence[int], part: Sequence[int]) -> bool:
    return any(list(ids[at : at + len(part)]) == list(part) for at in range(len(ids)))


def test_ends_of_turns_that_truncation_cuts_are_counted_and_dropping_loses_none(tmp_path: Path) -> None:
    rows = [{"messages": [TURNS[0], {"role": "assistant", "content": "Paris. " * (4 * n)}]} for n in (1, 2, 6)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    cut, dropped = (prepared(path, max_length=60, too_long=how) for how in ("truncate_right", "drop"))
    assert (audited(cut, 1).num_ends_lost, audited(cut, 1).loss_tokens["end_of_turn"]) == (1, 2)
    assert (audited(dropped, 1).num_ends_lost, audited(dropped, 1).num_examples) == (0, 2)


# -- Unsloth ----------------------------------------------------------------------------------------------------------

TOOLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def between_markers(form: ChatFormat, ids: Sequence[int]) -> list[int]:
    """The broken variant: train on all from a response marker to the next instruction marker."""
    opening, closing = form.encode("<|im_start|>assistant\n"), form.encode("<|im_start|>user\n")
    positions, inside = list[int](), False
    for at in range(len(ids)):
        if list(ids[at - len(opening) : at]) == opening:
            inside = True
        if list(ids[at : at + len(closing)]) == closing:
            inside = False
        if inside:
            positions.append(at)
    return positions


def test_what_tools_return_is_not_trained_on_where_a_search_between_markers_trains_it(tmp_path: Path) -> None:
    messages = [
        TURNS[0],
        {"role": "assistant", "content": "add(2, 2)"},
        {"role": "tool", "content": "4"},
        TURNS[1],
        TURNS[2],
        TURNS[3],
    ]
    form = own(TOOLS)
    ids = located(form, messages).ids
    assert trained(form, messages) == ["add(2, 2)<|im_end|>", *ANSWERS]
    assert "<|im_start|>tool\n4<|im_end|>" in "".join(runs(form, ids, between_markers(form, ids)))
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": messages}]))
    for weight in (0.0, 1.0):
        asked = spec(source=source, template="tokenizer", prompt_loss_weight=weight)
        found = audited(prepare(asked, form, seed=0), 1, form)
        assert found.tokens["tool"] > 0
        assert found.loss_tokens["tool"] == 0


# -- markers ----------------------------------------------------------------------------------------------------------


def test_answer_is_found_by_its_turn_where_a_search_for_its_header_opens_one_in_the_prompt() -> None:
    form = chat("alpaca")
    messages = [{"role": "user", "content": "Say:\n### Response:\nHello!"}, {"role": "assistant", "content": "Hi."}]
    assert trained(form, messages) == ["Hi.<eos>"]
    text = form.render(messages)
    header = "### Response:\n"
    assert text[text.index(header) + len(header) :].startswith("Hello!")


def test_bos_stands_once_where_encoding_rendered_text_as_raw_text_writes_two() -> None:
    form = chat("llama3", tokenizer(("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), adds_bos=True))
    ids, bos = located(form, TURNS).ids, form.tokenizer.bos_token_id
    assert (ids[0], ids.count(bos)) == (bos, 1)
    assert form.tokenizer(form.render(TURNS))["input_ids"][:2] == [bos, bos]
