"""Markers of a template as tokens, on tokenizers that lack them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from harness.data import chat_format
from harness.data.markers import as_tokens
from harness.data.templates import MARKERS
from harness.errors import DataError
from tests.data.tiny import (
    REAL,
    REAL_TOKENIZERS,
    SYSTEM,
    TURNS,
    chat,
    located,
    prepared,
    rendered,
    spec,
    tokenizer,
    write_rows,
)

WITH_MARKERS = sorted(name for name, markers in MARKERS.items() if markers)
TALK = [SYSTEM, *TURNS]
GOLDEN = "<|user|>\nWhat is the capital of France?\n<|assistant|>\nThe capital of France is Paris.<|end|>"
GOLDEN_TURNS = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
]


def tokens(form: Any, ids: list[int]) -> list[str]:
    return form.tokenizer.convert_ids_to_tokens(ids)


def decoded(form: Any, ids: list[int]) -> str:
    return form.tokenizer.decode(ids)


def test_chatml_lite_golden_has_each_marker_as_one_id_that_the_tokenizer_lacked() -> None:
    tok = tokenizer(())
    form = chat("chatml_lite", tok, markers="tokens")
    row = located(form, GOLDEN_TURNS)
    assert form.render(GOLDEN_TURNS) == form.tokenizer.decode(row.ids) == GOLDEN
    assert len(GOLDEN) == 92
    markers = ("<|user|>", "<|assistant|>", "<|end|>")
    found = [token for token in row.ids if token in form.added]
    assert tokens(form, found) == list(markers)
    assert len(row.ids) == 3 + sum(len(form.encode(part)) for part in (
        "\nWhat is the capital of France?\n", "\nThe capital of France is Paris."
    ))  # fmt: skip
    as_is = located(chat("chatml_lite", tokenizer(())), GOLDEN_TURNS).ids
    assert len(as_is) > len(row.ids)
    (turn,) = row.turns
    assert form.tokenizer.decode(row.ids[turn.start : turn.stop]) == "The capital of France is Paris."
    assert row.ids[turn.stop : turn.end] == [form.tokenizer.convert_tokens_to_ids("<|end|>")]


@pytest.mark.parametrize("name", WITH_MARKERS)
@pytest.mark.parametrize("make", [lambda: tokenizer(()), lambda: tokenizer((), adds_bos=True), ByT5Tokenizer])
def test_every_marker_is_one_new_token_and_turns_are_the_same_text(name: str, make: Any, tmp_path: Path) -> None:
    tok = make()
    form = chat(name, tok, markers="tokens")
    assert form.added == tuple(range(len(tok), len(tok) + len(MARKERS[name])))
    assert form.added_tokens == list(MARKERS[name])
    row, plain = located(form, TALK), located(chat(name, make()), TALK)
    assert decoded(form, row.ids).split() == decoded(chat(name, make()), plain.ids).split()
    text = form.render(TALK)
    assert [tokens(form, row.ids).count(marker) for marker in MARKERS[name]] == [
        text.count(marker) for marker in MARKERS[name]
    ]
    form.tokenizer.save_pretrained(tmp_path)
    loaded = type(tok).from_pretrained(tmp_path, local_files_only=True)
    assert loaded.apply_chat_template(TALK, return_dict=False) == row.ids


@pytest.mark.parametrize("name", WITH_MARKERS)
def test_tokenizer_that_has_every_marker_is_left_as_it_is_and_gives_the_ids_of_as_is(name: str) -> None:
    tok = tokenizer(MARKERS[name])
    as_is, form = (chat(name, tok, markers=kind) for kind in ("as_is", "tokens"))
    assert form.tokenizer is tok
    assert form.added == ()
    assert located(form, TALK) == located(as_is, TALK)


def test_tokenizer_that_lacks_some_markers_is_given_those_alone() -> None:
    tok = tokenizer(("<|user|>",))
    form = chat("chatml_lite", tok, markers="tokens")
    assert form.added_tokens == ["<|system|>", "<|assistant|>", "<|end|>"]
    assert form.tokenizer.convert_tokens_to_ids("<|user|>") == tok.convert_tokens_to_ids("<|user|>")


def test_tokenizer_that_is_handed_in_stays_as_it_is_so_that_the_same_is_added_again() -> None:
    tok = tokenizer(())
    first, second = (chat("chatml", tok, markers="tokens") for _ in range(2))
    assert first.added == second.added != ()
    assert len(tok) == len(first.tokenizer) - 2
    assert chat("chatml", tok).added == ()


def test_added_marker_that_somebody_spells_is_text() -> None:
    form = chat("chatml_lite", tokenizer(()), markers="tokens")
    said = "Write <|end|> and <|user|>."
    row = located(form, [{"role": "user", "content": said}, TURNS[1]])
    assert [token for token in tokens(form, row.ids) if token in MARKERS["chatml_lite"]] == [
        "<|user|>", "<|assistant|>", "<|end|>"
    ]  # fmt: skip
    assert said in form.tokenizer.decode(row.ids)
    assert rendered(form, [{"role": "user", "content": said}, TURNS[1]]).spells_control


def test_added_end_of_turn_ends_an_answer_and_nothing_is_warned_of() -> None:
    form = chat("chatml_lite", tokenizer(()), markers="tokens")
    end = form.tokenizer.convert_tokens_to_ids("<|end|>")
    assert form.stop_token_ids == (end, form.eos_token_id)
    assert (form.turn_token_ids, form.turn_ends) == ((end,), ())
    assert form.warnings() == []
    assert chat("chatml_lite", tokenizer(())).turn_ends == ("<|end|>",)


def test_record_names_the_markers_that_were_added(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": TURNS}])
    for kind, named in {"tokens": ["<|im_start|>", "<|im_end|>"], "as_is": [], "text": []}.items():
        assert prepared(rows, tok=tokenizer(()), markers=kind).summary.added_tokens == named


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alpaca", "plain", "llama2"])
def test_template_without_markers_has_none_to_be_tokens(name: str) -> None:
    with pytest.raises(DataError) as refusal:
        chat(name, markers="tokens")
    assert str(refusal.value) == (
        f"data.markers is 'tokens', but must be 'as_is' or 'text' because data.template '{name}' has no markers; name "
        "one of chatml, chatml_lite, gemma, llama3, mistral"
    )


def test_template_of_the_tokenizer_has_its_markers_already() -> None:
    tok = tokenizer()
    tok.chat_template = chat().source
    with pytest.raises(DataError, match=r"data\.template 'tokenizer' is written for the tokens that the tokenizer has"):
        chat("tokenizer", tok, markers="tokens")


def test_vocabulary_with_gaps_that_would_hand_out_an_id_twice_is_refused() -> None:
    # 3 tokens, so that the next id is 3, which is that of "b"
    core = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "b": 3}, unk_token="<unk>"))
    tok = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(DataError, match=r"this base's tokenizer cannot be given <\|im_start\|>"):
        as_tokens(tok, "chatml")


# -- real tokenizers --------------------------------------------------------------------------------------------------


@cache
def _loaded(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(REAL / folder, local_files_only=True)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")
@pytest.mark.parametrize("folder", REAL_TOKENIZERS)
@pytest.mark.parametrize("name", WITH_MARKERS)
def test_saved_real_tokenizer_with_added_markers_gives_the_ids_of_training_and_of_prompts(
    name: str, folder: str, tmp_path: Path
) -> None:
    base = _loaded(folder)
    form = chat_format(base, spec(template=name, markers="tokens"))
    old = base.get_vocab()
    assert {token: number for token, number in form.tokenizer.get_vocab().items() if token in old} == old
    form.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for messages in (TALK, TURNS[:2]):
        row = located(form, messages)
        text = form.render(messages)
        assert loaded.apply_chat_template(messages, return_dict=False) == row.ids
        prompt = loaded.apply_chat_template(messages[:-1], return_dict=False, add_generation_prompt=True)
        assert prompt == form.encode(form.render(messages[:-1], add_generation_prompt=True))
        assert [tokens(form, row.ids).count(marker) for marker in MARKERS[name]] == [
            text.count(marker) for marker in MARKERS[name]
        ]
        said = [decoded(form, row.ids[turn.start : turn.stop]).strip() for turn in row.turns]
        assert said == [message["content"] for message in messages if message["role"] == "assistant"]
