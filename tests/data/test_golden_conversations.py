"""What is trained on, over generated conversations: the assistant's words and the end of its turn, and nothing else."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from harness.data import TEMPLATES, ChatFormat, Example, chat_format
from harness.data.conversations import conversation
from harness.data.encoding import loss_weights
from harness.data.masks import Located, Rendered, locate, render
from harness.data.packing import packed
from harness.data.picture import UNFINISHED
from tests.data.tiny import REAL, chat, spec, tokenizer

FETCHED = Path(__file__).parents[2] / "out" / "artefacts" / "fetched"
REAL_TOKENIZERS = {
    "qwen2.5": REAL / "tokenizers" / "qwen2.5",
    "mistral": REAL / "tokenizers" / "mistral",
    "minimind2": REAL / "models" / "minimind2-small",
    "stories15M": REAL / "models" / "stories15M",
    "smollm2": FETCHED / "smollm2_135m_instruct",
    "gemma3": FETCHED / "gemma3_270m",
}
MARKERS = ("<|im_start|>", "<|im_end|>", "<|end|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>")

# -- what each template writes of an answer, written down by hand -----------------------------------------------------

Written = Callable[[str, str], str]
"""Answer, EOS -> what stands from the end of the generation prompt to the end of the turn."""
WRITTEN: dict[str, Written] = {
    "chatml": lambda said, eos: said + "<|im_end|>",
    "chatml_lite": lambda said, eos: said + "<|end|>",
    "llama2": lambda said, eos: f" {said} {eos}",
    "llama3": lambda said, eos: said.strip() + "<|eot_id|>",
    "gemma": lambda said, eos: said.strip() + "<end_of_turn>",
    "mistral": lambda said, eos: f" {said}{eos}",
    "alpaca": lambda said, eos: said + eos,
    "plain": lambda said, eos: said + eos,
}

# -- conversations ----------------------------------------------------------------------------------------------------

ODD = (
    *("[[1, 2], [3, 4]]", "\n### Response:\n", "### Instruction:", "[INST] ", " [/INST]", "<<SYS>>", "<|im_end|>"),
    *("<|im_start|>assistant\n", "<start_of_turn>model\n", "<|eot_id|>", "</s>", "<s>", "<eos>", "<|end|>", "<unk>"),
    *("🙂", "👩\u200d👩\u200d👧", "e\u0301", "日本語", "\n\n", "   ", "\t", "\u200b", "\u2028", "\xa0", "ﬁ", "1\n2"),
    *("{% generation %}", "{{ messages }}", "None", "<|", "|>", "\\n", '"', "a", "Paris. "),
)
"""Pieces that have broken masks elsewhere: edges that merge, text like markers, characters of many bytes."""
pieces = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=8))
texts = st.lists(pieces, min_size=1, max_size=6).map("".join)
answers = texts.filter(lambda text: bool(text.strip()))
conversations = st.tuples(st.none() | answers, st.lists(st.tuples(texts, answers), min_size=1, max_size=3))


def messages_of(drawn: tuple[str | None, list[tuple[str, str]]]) -> list[dict[str, Any]]:
    system, exchanges = drawn
    first = [{"role": "system", "content": system}] if system else []
    return first + [
        {"role": role, "content": content}
        for exchange in exchanges
        for role, content in zip(("user", "assistant"), exchange, strict=True)
    ]


def answers_in(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "assistant"]


@cache
def tiny_form(name: str) -> ChatFormat:
    return chat(name, tokenizer(MARKERS, adds_bos=True))


@cache
def real_form(folder: str, name: str) -> ChatFormat:
    tok = AutoTokenizer.from_pretrained(REAL_TOKENIZERS[folder], local_files_only=True)
    return chat_format(tok, spec(template=name))


def found(form: ChatFormat, messages: list[dict[str, Any]], tools: Any = None) -> tuple[Rendered, Located]:
    row = render(form, conversation(messages, row_id="row", task="", tools=tools))
    return row, locate(form, [row])[0]


def require_answers(form: ChatFormat, row: Rendered, tokens: Located, expected: list[str]) -> None:
    """Check that every turn is what is expected of it, as text and as the tokens that carry loss: no token of it could
    be left out, and no other is in it. A row's first token is predicted from nothing and carries none."""
    assert [form.readable(row.text[turn.start : turn.end]) for turn in row.turns] == expected
    spans = [range(turn.start, turn.end) for turn in tokens.turns]
    trained = [place for span in spans for place in span if place > 0]
    assert np.flatnonzero(loss_weights(tokens, spec())).tolist() == trained
    for span, wanted in zip(spans, expected, strict=True):
        whole = between(form, tokens.ids, span)
        assert whole.count(comparable(form, wanted)) == 1, (whole, wanted)
        for part, cut in ((span[1:], span.start + 1), (span[:-1], span.stop - 1)):
            text = between(form, tokens.ids, part)
            # a cut inside a character of many bytes garbles what stands beside it, and leaves out a part of it
            assert comparable(form, wanted) not in text or UNFINISHED in form.tokenizer.decode(tokens.ids[:cut]), text


def between(form: ChatFormat, ids: list[int], span: range) -> str:
    """Return the text of tokens where they stand: decoded alone, some lose a leading space."""
    before, upto = (
        str(form.tokenizer.decode(ids[:place], skip_special_tokens=False)) for place in (span.start, span.stop)
    )
    shared = next((at for at, (a, b) in enumerate(zip(before, upto, strict=False)) if a != b), len(before))
    return comparable(form, upto[shared:])


def comparable(form: ChatFormat, text: str) -> str:
    """Return a text as far as a tokenizer gives back what it is given."""
    return unicodedata.normalize("NFC", text)


# -- properties -------------------------------------------------------------------------------------------------------

every_template = pytest.mark.parametrize("name", sorted(TEMPLATES))
real = pytest.mark.real
wide = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@every_template
@wide
@given(drawn=conversations)
def test_trained_tokens_are_the_written_answers_and_their_ends(name: str, drawn: Any) -> None:
    form, messages = tiny_form(name), messages_of(drawn)
    row, tokens = found(form, messages)
    eos = str(form.tokenizer.eos_token)
    require_answers(form, row, tokens, [WRITTEN[name](said, eos) for said in answers_in(messages)])


@pytest.mark.parametrize("moved", ["start", "end"])
def test_the_check_of_trained_tokens_fails_on_a_turn_that_is_a_token_off(moved: str) -> None:
    form = tiny_form("chatml")
    messages = messages_of((None, [("[1]", "[[1, 2]]")]))
    row, tokens = found(form, messages)
    (turn,) = tokens.turns
    require_answers(form, row, tokens, ["[[1, 2]]<|im_end|>"])
    for by in (-1, 1) if moved == "start" else (-1,):
        off = replace(tokens, turns=(turn._replace(**{moved: getattr(turn, moved) + by}),))
        with pytest.raises(AssertionError):
            require_answers(form, row, off, ["[[1, 2]]<|im_end|>"])


class PrefixesAlone(ChatFormat):
    """A tokenizer that does not know which characters a token stands for."""

    @property
    def is_fast(self) -> bool:
        return False


@every_template
@wide
@given(drawn=conversations)
def test_turns_by_prefixes_alone_are_those_of_both_engines(name: str, drawn: Any) -> None:
    form, messages = tiny_form(name), messages_of(drawn)
    row, tokens = found(form, messages)
    (alone,) = locate(PrefixesAlone(**vars(form)), [row])
    assert alone.turns == tokens.turns


@settings(max_examples=30, deadline=None)
@given(drawn=st.lists(conversations, min_size=1, max_size=8), room=st.integers(200, 600))
def test_packed_rows_hold_every_conversation_once_with_its_own_weights(drawn: list[Any], room: int) -> None:
    form = tiny_form("chatml")
    located = [found(form, messages_of(one))[1] for one in drawn]
    examples = [
        Example(f"{number}", np.array(row.ids, dtype=np.int64), loss_weights(row, spec()))
        for number, row in enumerate(located)
    ]
    capacity = max(room, *(len(example.input_ids) for example in examples))
    rows = packed(examples, spec(packing="isolated", max_length=capacity))
    held = Counter[tuple[str, bytes, bytes]]()
    for row in rows:
        assert len(row.input_ids) <= capacity
        cuts = row.starts[1:]
        parts = zip(np.split(row.input_ids, cuts), np.split(row.loss_weights, cuts), strict=True)
        names = row.row_id.split("+")
        held.update((n, i.tobytes(), w.tobytes()) for n, (i, w) in zip(names, parts, strict=True))
    assert held == Counter((e.row_id, e.input_ids.tobytes(), e.loss_weights.tobytes()) for e in examples)


# -- calls ------------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
values = st.one_of(st.integers(-999, 999), st.booleans(), texts, st.lists(st.integers(0, 9), max_size=3))
calls = st.tuples(names, st.dictionaries(names, values, max_size=3))
talks = st.lists(st.tuples(texts, st.lists(calls, min_size=1, max_size=2), texts, answers), min_size=1, max_size=2)


def talk_of(drawn: list[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a conversation with calls and results, and what Hermes-style templates write of its assistant."""
    messages: list[dict[str, Any]] = []
    expected: list[str] = []
    for asked, called, result, answer in drawn:
        made = [{"type": "function", "function": {"name": name, "arguments": inputs}} for name, inputs in called]
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": "", "tool_calls": made},
            {"role": "tool", "content": result},
            {"role": "assistant", "content": answer},
        ]
        written = [
            f"<tool_call>\n{json.dumps({'name': name})[:-1]}, {_inputs(inputs)}\n</tool_call>"
            for name, inputs in called
        ]
        expected += ["\n".join(written) + "<|im_end|>", answer + "<|im_end|>"]
    return messages, expected


def _inputs(inputs: dict[str, Any]) -> str:
    return f'"arguments": {json.dumps(inputs, ensure_ascii=False)}}}'


HERMES = """{%- for m in messages %}{%- if m.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content }}
{%- for call in m.tool_calls or [] %}
{{- ('' if loop.first else '\n') + '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


@cache
def hermes_form() -> ChatFormat:
    tok = tokenizer(MARKERS)
    tok.chat_template = HERMES
    return chat("tokenizer", tok)


@wide
@given(drawn=talks)
def test_calls_are_trained_and_results_are_not(drawn: Any) -> None:
    messages, expected = talk_of(drawn)
    form = hermes_form()
    row, tokens = found(form, messages)
    require_answers(form, row, tokens, expected)
    weights = loss_weights(tokens, spec(prompt_loss_weight=1.0))
    silent = form.tokenizer.decode([token for token, weight in zip(tokens.ids, weights, strict=True) if not weight])
    assert all(message["content"] in silent for message in messages if message["role"] == "tool")


# -- real tokenizers --------------------------------------------------------------------------------------------------


def is_whole(form: ChatFormat, text: str) -> bool:
    """Return whether a tokenizer gives a text back: SmolLM2's has not every byte, and leaves out what it lacks."""
    back = str(form.tokenizer.decode(form.encode(text), skip_special_tokens=False))
    return comparable(form, back) == comparable(form, text)


@real
@pytest.mark.parametrize("folder", sorted(REAL_TOKENIZERS))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(name=st.sampled_from(sorted(TEMPLATES)), drawn=conversations)
@example(name="plain", drawn=(None, [("", "\n### Response:\n")]))  # the answer begins inside the row's first token
def test_trained_tokens_of_a_real_tokenizer_are_the_written_answers(folder: str, name: str, drawn: Any) -> None:
    if not REAL_TOKENIZERS[folder].is_dir():
        pytest.skip(f"needs the tokenizer in {REAL_TOKENIZERS[folder]}")
    form, messages = real_form(folder, name), messages_of(drawn)
    assume(all(is_whole(form, message["content"]) for message in messages))
    row, tokens = found(form, messages)
    eos = str(form.tokenizer.eos_token)
    require_answers(form, row, tokens, [WRITTEN[name](said, eos) for said in answers_in(messages)])


@real
@pytest.mark.parametrize("folder", ["qwen2.5", "minimind2"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(drawn=talks)
def test_calls_of_a_real_template_are_trained(folder: str, drawn: Any) -> None:
    if not REAL_TOKENIZERS[folder].is_dir():
        pytest.skip(f"needs the tokenizer in {REAL_TOKENIZERS[folder]}")
    messages, expected = talk_of(drawn)
    form = real_form(folder, "tokenizer")
    assume(all(is_whole(form, message["content"]) for message in messages))
    row, tokens = found(form, messages)
    require_answers(form, row, tokens, expected)
