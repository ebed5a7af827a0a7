"""Prompts of an evaluation that are written otherwise than training was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.data import TEMPLATES, ChatFormat, describe_file, prepare
from harness.errors import DataError
from harness.evals import scoring
from harness.evals.documents import documents
from harness.evals.items import Item
from harness.evals.scoring import before_key
from harness.models import BaseFiles
from harness.spec import EvalSpec, EvalTask, FileItems
from tests.data.test_templates import CHATML_OWN, own
from tests.data.tiny import SYSTEM, TURNS, chat, spec, tokenizer, write_rows
from tests.specs import pinned_spec

QUESTION = [SYSTEM, {"role": "user", "content": "Who?"}]


def evals(**changes: Any) -> EvalSpec:
    source = FileItems(sha256="0" * 64, path="nowhere")
    task = EvalTask(
        suite="s", name="n", kind="multiple_choice", source=source, measure="learned", primary=True, chat=True,
        num_items=None,
    )  # fmt: skip
    plain: dict[str, Any] = {"tasks": (task,), "items_seed": 0, "val_share": 0.0, "dtype": "float32", "max_length": 64}
    return EvalSpec(**(plain | changes))


def asked(form: ChatFormat, **changes: Any) -> str:
    return form.asking(evals(**changes)).render(QUESTION, add_generation_prompt=True)


AS_TRAINED = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("none", AS_TRAINED),
        ("space", AS_TRAINED + " "),
        ("newline", AS_TRAINED + "\n"),
        ("renamed_tag", AS_TRAINED.removesuffix("assistant\n") + "helper\n"),
        ("no_system", "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_edit_changes_the_prompt_of_an_evaluation_and_not_the_rows_of_training(edit: str, expected: str) -> None:
    form = chat()
    assert asked(form, template_edit=edit) == expected
    trained_on = form.render([*QUESTION, TURNS[1]])
    assert trained_on.startswith(AS_TRAINED)
    assert form.asking(evals(template_edit=edit)).render([*QUESTION, TURNS[1]]) == trained_on


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_prompt_in_another_template_is_what_that_template_asks(name: str) -> None:
    form = chat("chatml", tokenizer(adds_bos=True))
    other = chat(name, tokenizer(adds_bos=True))
    assert asked(form, template=name) == other.render(QUESTION, add_generation_prompt=True)
    assert form.asking(evals(template=name)).stop_token_ids == form.stop_token_ids


def test_prompt_in_the_tokenizers_own_template_is_found_though_a_named_one_is_trained(tmp_path: Path) -> None:
    form = chat("alpaca", own(CHATML_OWN))
    assert asked(form, template="tokenizer") == AS_TRAINED
    form.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path, local_files_only=True).chat_template == TEMPLATES["alpaca"]


def test_prompt_without_an_edit_is_the_very_format_of_training() -> None:
    form = chat()
    assert form.asking(evals()) is form


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "chatlm"}, r"evals\.template is 'chatlm', but must be one of .*Did you mean 'chatml'"),
        ({"template": "tokenizer"}, "this base has no chat template of its own"),
        ({"template": "mistral", "template_edit": "renamed_tag"}, "whose generation prompt names no role"),
    ],
)
def test_prompt_that_cannot_be_written_is_refused_in_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        chat().asking(evals(**changes))


def test_choice_follows_an_edited_prompt_as_it_follows_an_unedited_one() -> None:
    form = chat("mistral")
    items: list[Item] = [{"id": "a", "query": "Who?", "choices": ["Ann", "Bob"], "gold": 0}]
    shown = {
        edit: documents(items, evals().tasks[0], form.asking(evals(template_edit=edit)), seed=0)[0]
        for edit in ("none", "newline")
    }
    assert shown["none"]["continuations"] == shown["newline"]["continuations"] == [" Ann", " Bob"]
    assert shown["newline"]["context"] == shown["none"]["context"] + "\n"


def test_scores_of_a_base_are_measured_anew_for_every_way_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "items_sha256", lambda _: {})
    base = BaseFiles(
        folder=Path(), tokenizer_folder=Path(), weights_sha256="w", tokenizer_sha256="t", context=64, vocab_size=9,
        has_chat_template=False,
    )  # fmt: skip
    trial = pinned_spec().model_copy(update={"evals": evals()})
    forms = [chat(), chat("alpaca"), chat(system_turn="Be brief."), chat(control_text="as_is")]
    keys = [before_key(base, form, trial, None) for form in forms]
    for changes in ({"template": "plain"}, {"template_edit": "space"}, {"template_edit": "newline"}):
        other = trial.model_copy(update={"evals": trial.evals.model_copy(update=changes)})
        keys.append(before_key(base, chat(), other, None))
    assert len(set(keys)) == len(keys)
    raw = evals(tasks=(evals().tasks[0].model_copy(update={"chat": False}),))
    on_raw_text = trial.model_copy(update={"evals": raw})
    assert len({before_key(base, form, on_raw_text, None) for form in forms}) == 1


# -- a system turn for all --------------------------------------------------------------------------------------------


def test_system_turn_of_the_spec_is_in_rows_and_prompts_and_not_in_those_that_have_one(tmp_path: Path) -> None:
    rows = [{"id": "a", "messages": TURNS[:2]}, {"id": "b", "messages": [SYSTEM, *TURNS[:2]]}]
    source = describe_file(write_rows(tmp_path / "rows.jsonl", rows))
    form = chat(system_turn="Be brief.")
    asked_spec = spec(source=source, system_turn="Be brief.")
    texts = {e.row_id: form.tokenizer.decode(e.input_ids) for e in prepare(asked_spec, form, seed=0).train}
    assert texts["a"].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert texts["b"].startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
    prompt = form.render(TURNS[:1], add_generation_prompt=True)
    assert texts["a"].startswith(prompt)


def test_system_turn_beside_blank_instructions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.system_turn is 'Be brief\.', but must be None"):
        spec(system_turn="Be brief.", instructions="blank")
