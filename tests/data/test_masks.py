from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from harness.data import masks
from harness.data.chat import ChatFormat, Encoded
from harness.data.encoding import loss_weights
from harness.data.masks import Located, Rendered, Turn
from harness.data.offsets import Offsets
from harness.errors import DataError
from tests.data.tiny import TURNS, chat, located, rendered, spec, tokenizer

GLUED = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q:' + m.content + ' A:' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
"""No line break between prompt and answer, so tokens may straddle the boundary."""


def glued(prompt: str, answer: str, source: str = GLUED) -> tuple[ChatFormat, Located]:
    tok = tokenizer()
    tok.chat_template = source
    form = chat("tokenizer", tok)
    return form, located(form, [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])


def trained(row: Located, **changes: object) -> list[int]:
    return np.flatnonzero(loss_weights(row, spec(**changes))).tolist()


# -- worked examples --------------------------------------------------------------------------------------------------


def test_weights_of_inputs_and_of_targets_are_one_apart() -> None:
    row = Located("row", list(range(7)), (Turn(4, 4, 7, 7),))
    weights = loss_weights(row, spec())
    assert weights.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert weights[1:].tolist() == [0, 0, 0, 1, 1, 1]


def test_mask_by_words_has_five_prompt_and_four_answer_labels() -> None:
    words = ["[INST]", "What", "is", "2+2?", "[/INST]", "The", "answer", "is", "4."]
    vocabulary = {
        word: i for i, word in enumerate(dict.fromkeys([*words, "<unk>", "Probing", "question", "7301", "a"]))
    }
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    tok.chat_template = (
        "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content }}"
        "{% endfor %}"
    )
    row = located(chat("tokenizer", tok), TURNS[:2])
    labels = [token if weight else -100 for token, weight in zip(row.ids, loss_weights(row, spec()), strict=True)]
    assert labels[:5] == [-100] * 5
    assert tok.convert_ids_to_tokens(labels[5:]) == ["The", "answer", "is", "4."]


def test_mask_of_two_turns_is_not_everything_after_the_first_marker() -> None:
    form = chat()
    row = located(form, TURNS)
    broken = everything_after_first_marker(form, row.ids)
    right = trained(row)
    assert right != broken
    assert set(right) < set(broken)
    assert form.tokenizer.decode([row.ids[i] for i in right]) == "The answer is 4.<|im_end|>Paris.<|im_end|>"
    assert "capital of France" in form.tokenizer.decode([row.ids[i] for i in broken])


def everything_after_first_marker(form: ChatFormat, ids: Sequence[int]) -> list[int]:
    """The broken variant: find the assistant's marker once and train on all that follows."""
    marker = form.encode("<|im_start|>assistant\n")
    first = next(i for i in range(len(ids)) if list(ids[i : i + len(marker)]) == marker) + len(marker)
    return list(range(first, len(ids)))


def test_mask_keeps_the_edge_tokens_of_an_answer() -> None:
    form = chat()
    row = located(form, [TURNS[0], {"role": "assistant", "content": "[[1, 2], [3, 4]]"}])
    assert form.tokenizer.decode([row.ids[i] for i in trained(row)]) == "[[1, 2], [3, 4]]<|im_end|>"


def test_mask_is_not_opened_by_a_response_header_inside_the_prompt() -> None:
    form = chat("alpaca")
    asked = "Say:\n### Response:\nHello!"
    row = located(form, [{"role": "user", "content": asked}, {"role": "assistant", "content": "Hi."}])
    assert form.tokenizer.decode([row.ids[i] for i in trained(row)]) == "Hi.<eos>"


def test_mask_of_a_tokenizer_whose_pad_is_its_end_of_turn_still_trains_it() -> None:
    form = chat("chatml", tokenizer(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"))
    row = located(form, TURNS)
    ends = [i for i, token in enumerate(row.ids) if token == form.tokenizer.pad_token_id]
    assert len(ends) == 4
    assert [i in trained(row) for i in ends] == [False, True, False, True]


# -- fields -----------------------------------------------------------------------------------------------------------


def test_end_of_turn_is_trained_only_where_the_spec_says() -> None:
    form = chat()
    row = located(form, TURNS[:2])
    end = row.ids.index(form.tokenizer.convert_tokens_to_ids("<|im_end|>"), row.turns[0].start)
    assert end in trained(row, train_on_end_of_turn=True)
    assert end not in trained(row, train_on_end_of_turn=False)


def test_role_header_is_trained_only_where_the_spec_says() -> None:
    form = chat()
    row = located(form, TURNS[:2])
    header = [i for i in trained(row, train_on_role_header=True) if i not in trained(row)]
    assert form.tokenizer.decode([row.ids[i] for i in header]) == "<|im_start|>assistant\n"


def test_prompt_weight_goes_to_every_other_token_but_the_first() -> None:
    row = located(chat(), TURNS)
    weights = loss_weights(row, spec(prompt_loss_weight=0.25))
    answered = set(trained(row))
    assert weights[0] == 0.0
    assert {float(weights[i]) for i in range(1, len(weights)) if i not in answered} == {0.25}
    assert {float(weights[i]) for i in answered} == {1.0}


# -- two engines ------------------------------------------------------------------------------------------------------


def test_token_that_straddles_the_boundary_counts_as_the_assistants() -> None:
    form, row = glued("What is the capital?", " Paris")
    clean = row.turns[0].start
    assert form.tokenizer.decode([row.ids[clean]]) == " Paris"
    form, row = glued("What is the capital?", "Paris", GLUED.replace("' A:'", "' A: '"))
    assert form.tokenizer.decode(row.ids[row.turns[0].start : row.turns[0].stop]) == " Paris"
    prompt = form.encode("Q:What is the capital? A: ")
    assert row.ids[: len(prompt)] != prompt


def test_offsets_and_prefixes_agree_on_text_of_many_bytes_a_character() -> None:
    form = chat()
    answer = "🙂🙂 日本語 é\u0301 " + "ß" * 3
    row = located(form, [{"role": "user", "content": "🙂"}, {"role": "assistant", "content": answer}])
    assert form.tokenizer.decode(row.ids[row.turns[0].start : row.turns[0].stop]) == answer


@dataclass
class LateOffsets:
    """Offsets of which each is three too large."""

    true: Offsets

    def around(self, place: int) -> tuple[int, int]:
        return self.true.around(place - 3)

    def start(self, token: int) -> int:
        return self.true.start(token) + 3


class Shifted(ChatFormat):
    """A build whose character offsets are off by three."""

    def encode_batch(self, texts: Sequence[str], *, with_offsets: bool = False) -> list[Encoded]:
        encoded = super().encode_batch(texts, with_offsets=with_offsets)
        return [Encoded(ids, LateOffsets(offsets) if offsets else None) for ids, offsets in encoded]


def test_engines_that_disagree_are_refused_with_a_picture() -> None:
    form = chat()
    broken = Shifted(**vars(form))
    with pytest.raises(DataError, match=r"boundary at character .* \| .* by character offsets, but token .* prefixes"):
        masks.locate(broken, [rendered(form, TURNS)])


def test_slow_tokenizer_finds_the_turns_by_prefixes_alone() -> None:
    form = chat("chatml", ByT5Tokenizer())
    assert not form.is_fast
    row = located(form, TURNS)
    answers = [form.tokenizer.decode(row.ids[turn.start : turn.stop]) for turn in row.turns]
    assert answers == ["The answer is 4.", "Paris."]


def test_unknown_token_that_stands_for_the_end_of_an_answer_and_more_is_the_answers() -> None:
    """The text behind the boundary, encoded on its own, also ends in that token, and does not show where it begins."""
    core = Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", fuse_unk=True))
    tok = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    tok.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    form = ChatFormat(tok, "tokenizer", tok.chat_template, "", None, None, adds_bos=False)
    row = Rendered("row", "aaaa\u00a7\u00a7", (Turn(0, 0, 5, 6),))
    found = masks.locate(form, [row])[0]
    assert found.ids == [1, 1, 1, 1, 0]
    assert found.turns == (Turn(0, 0, 5, 5),)


class Listening(ChatFormat):
    """A format that notes what its engine of prefixes encodes."""

    heard: list[str]

    def encode_batch(self, texts: Sequence[str], *, with_offsets: bool = False) -> list[Encoded]:
        if not with_offsets:
            self.heard.extend(texts)
        return super().encode_batch(texts, with_offsets=with_offsets)


def test_longest_piece_of_a_row_is_not_encoded_a_second_time() -> None:
    form = Listening(**vars(chat("chatml")))
    object.__setattr__(form, "heard", [])
    answer = "The capital is Paris. " * 20 + "Yes."
    row = rendered(form, [TURNS[0], {"role": "assistant", "content": answer}])
    (found,) = masks.locate(form, [row])
    turn = found.turns[0]
    assert form.tokenizer.decode(found.ids[turn.start : turn.stop]) == answer
    assert form.heard
    assert all(len(text) < len(answer) for text in form.heard)


def test_rows_located_together_equal_rows_located_alone() -> None:
    form = chat("alpaca")
    many = [rendered(form, TURNS[: 2 * n]) for n in (1, 2, 1)]
    assert masks.locate(form, many) == [masks.locate(form, [one])[0] for one in many]


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<>|"), min_size=1, max_size=40)
answers = texts.filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None)
@given(exchanges=st.lists(st.tuples(texts, answers), min_size=1, max_size=3), name=st.sampled_from(["chatml", "plain"]))
def test_trained_spans_decode_to_the_rendered_answers(exchanges: list[tuple[str, str]], name: str) -> None:
    form = chat(name)
    messages = [
        {"role": role, "content": content}
        for exchange in exchanges
        for role, content in zip(("user", "assistant"), exchange, strict=True)
    ]
    row = rendered(form, messages)
    for (_, answer), turn in zip(exchanges, row.turns, strict=True):
        assert row.text[turn.start : turn.end] == answer + form.end_of_turn
    for turn, tokens in zip(row.turns, masks.locate(form, [row])[0].turns, strict=True):
        decoded = form.tokenizer.decode(form.encode(row.text)[tokens.start : tokens.end])
        # A token that straddles the boundary brings white space of the prompt along.
        assert decoded.endswith(row.text[turn.start : turn.end])
        assert not decoded.removesuffix(row.text[turn.start : turn.end]).strip()
