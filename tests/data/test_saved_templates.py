"""What is trained on, what a prompt is, and what the saved tokenizer writes: the same bytes, on real tokenizers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from harness.data import TEMPLATES, ChatFormat, chat_format, describe_file, prepare, probing
from tests.data.test_templates import CHATML_OWN, own
from tests.data.tiny import REAL, REAL_TOKENIZERS, SYSTEM, TURNS, chat, located, spec, tokenizer, write_rows

TALK = [SYSTEM, *TURNS]
needs_tokenizers = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")


@cache
def _loaded(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(REAL / folder, local_files_only=True)


def form_of(folder: str, name: str) -> ChatFormat:
    return chat_format(_loaded(folder), spec(template=name))


@pytest.mark.real
@needs_tokenizers
@pytest.mark.parametrize("folder", REAL_TOKENIZERS)
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_saved_tokenizer_writes_the_bytes_of_training_and_of_prompts_with_bos_once(
    name: str, folder: str, tmp_path: Path
) -> None:
    form = form_of(folder, name)
    form.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for messages in (TALK, TURNS[:2]):
        trained_on = located(form, messages).ids
        assert loaded.apply_chat_template(messages, return_dict=False) == trained_on
        prompt = loaded.apply_chat_template(messages[:-1], return_dict=False, add_generation_prompt=True)
        assert prompt == form.encode(form.render(messages[:-1], add_generation_prompt=True))
        bos = form.bos_token_id
        if form.adds_bos:
            assert trained_on[0] == prompt[0] == bos
        if bos not in (None, form.eos_token_id) and name not in ("llama2", "chatml"):
            # Llama 2 opens every exchange with BOS; the BOS of MiniMind2 is the opening marker of ChatML.
            assert trained_on.count(bos) == (1 if form.source.startswith("{{- bos_token") else 0)
        assert bos is None or trained_on[:2] != [bos, bos]


@pytest.mark.real
@needs_tokenizers
@pytest.mark.parametrize("folder", REAL_TOKENIZERS)
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_prompt_is_the_beginning_of_what_is_trained_on(name: str, folder: str) -> None:
    form = form_of(folder, name)
    whole = form.render(TALK)
    prompt = form.render(TALK[:-1], add_generation_prompt=True)
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip() == ("Paris." + form.end_of_turn).strip() or name == "llama2"


# -- a system turn of the spec ----------------------------------------------------------------------------------------

RULES = "Don't {{ say }} {% \"50\\50\" %}\n\U0001f600 \u00e9 \u2028 '' \t# {# -#}\r\nEnd."
"""What would end a literal or a tag of Jinja, or be written otherwise in JSON."""


@pytest.mark.parametrize("rule", ["Be brief.", RULES, "\\", "\\n", " ", "\\u0041"])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_saved_template_writes_the_system_turn_of_the_spec_where_there_is_none(
    name: str, rule: str, tmp_path: Path
) -> None:
    form = chat(name, tokenizer(adds_bos=True), system_turn=rule)
    form.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert rule not in form.render(TALK) or not rule.strip()
    for messages in (TALK, TURNS, TURNS[:2]):
        assert loaded.apply_chat_template(messages, return_dict=False) == located(form, messages).ids
        prompt = loaded.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        assert prompt == form.render(messages[:-1], add_generation_prompt=True)
        assert messages is TALK or rule.strip() in prompt
    assert not [warning for warning in form.warnings() if "system_turn" in warning]


OWN_WITH_MACRO = (
    "\n{% macro first() %}{{ messages[0]['content'] }}{% endmacro %}[{{ first() }}]"
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\\n' + m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_saved_own_template_keeps_its_first_line_break_and_what_its_macros_read() -> None:
    tok = tokenizer()
    tok.chat_template = OWN_WITH_MACRO
    form = chat("tokenizer", tok, system_turn="Be brief.")
    written: Any = form.tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert written == form.render(TURNS)
    assert written.startswith("\n[Be brief.]<|im_start|>system\nBe brief.<|im_end|>")


def test_template_that_cannot_be_made_to_write_the_system_turn_is_saved_as_it_is_and_warned_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "with_system_turn", lambda source, system_turn: source)
    form = chat(system_turn="Be brief.")
    assert form.tokenizer.chat_template == form.source
    (warning,) = form.warnings()
    assert "data.system_turn is 'Be brief.', which the saved template cannot be made to write" in warning


def test_record_says_that_a_slow_tokenizer_was_masked_by_prefixes_alone(tmp_path: Path) -> None:
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": TURNS}]))
    engines = [
        prepare(spec(source=source), form, seed=0).summary.mask_engine
        for form in (chat("chatml", ByT5Tokenizer()), chat())
    ]
    assert engines == ["prefixes", "offsets_and_prefixes"]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_saved_slow_tokenizer_writes_the_bytes_of_training(name: str, tmp_path: Path) -> None:
    form = chat(name, ByT5Tokenizer())
    form.tokenizer.save_pretrained(tmp_path)
    loaded = ByT5Tokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.apply_chat_template(TALK, return_dict=False) == located(form, TALK).ids


def test_template_that_refuses_long_conversations_is_saved_without_the_system_turn_it_cannot_be_tried_with() -> None:
    few = "{% if messages|length > 4 %}{{ raise_exception('at most four turns') }}{% endif %}"
    form = chat("tokenizer", own(few + CHATML_OWN), system_turn="Be brief.")
    assert form.tokenizer.chat_template == form.source
    assert any("cannot be made to write" in warning for warning in form.warnings())
