from __future__ import annotations

import math
from typing import Any

import pytest

from harness.data.templates import TEMPLATES
from harness.evals.behaviour import REASONS, markers_of, measure
from harness.evals.copying import TargetIndex
from harness.spec.metrics import PANEL_METRICS
from tests.data import tiny
from tests.evals import small

CHATML = ("<|im_start|>assistant", "<|im_start|>user", "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def panel(answer: str, **changes: Any) -> dict[str, float]:
    """Return the panel of an answer that ended by itself, with changes."""
    plain: dict[str, Any] = {
        "raw": answer,
        "prompt": "Where does Ann live?",
        "reference": "Paris",
        "num_tokens": 3,
        "hit_limit": False,
        "markers": CHATML,
        "targets": None,
    }
    given = plain | changes
    return measure(answer, given.pop("raw"), given.pop("prompt"), given.pop("reference"), **given)


def test_panel_of_a_good_answer_shows_nothing_wrong() -> None:
    values = panel("Paris.", targets=TargetIndex(["Rome."]))
    assert tuple(values) == PANEL_METRICS
    assert {name: value for name, value in values.items() if not math.isnan(value)} == {
        "run_on": 0.0, "role_leak": 0.0, "template_leak": 0.0, "loop": 0.0, "num_tokens": 3.0, "length_ratio": 1.0,
        "prompt_copy": 0.0, "training_copy": 0.0,
    }  # fmt: skip


def test_panel_values_that_cannot_be_told_are_nan_and_have_a_reason() -> None:
    values = panel("", prompt="", reference=None)
    assert {name for name, value in values.items() if math.isnan(value)} == set(REASONS)


@pytest.mark.parametrize(
    ("answer", "reference", "goes_on"),
    [
        ("Paris. Where does Bob live? Rome.", "Paris", 1),
        ("paris\nQ: And Bob?", "Paris.", 1),
        ("4, and 5 is next", "4", 1),
        ("4 5", "4", 1),
        ("答案。还有别的", "答案", 1),
        ("Paris!", "Paris", 0),
        ("'Paris'.", "Paris", 0),
        ("Parisian", "Paris", 0),
        ("4.5", "4", 0),
        ("She lives in Paris, France.", "Paris", 0),
        ("Paris", None, 0),
        ("", "Paris", 0),
    ],
)
def test_run_on_needs_the_reference_and_more_behind_it(answer: str, reference: str | None, goes_on: int) -> None:
    assert panel(answer, reference=reference)["run_on"] == goes_on
    assert panel(answer, reference=reference, hit_limit=True)["run_on"] == 1


@pytest.mark.parametrize(
    "leaking",
    [
        "Paris<|im_start|>user\nAnd Bob?",
        "Paris\nUser: And Bob?",
        "ASSISTANT: Paris",
        "Paris\n\n**Human:** And Bob?",
        "Paris\n### Instruction:\nAsk more",
        "Paris\n> system: be kind",
    ],
)
def test_role_leak_of_a_marker_or_a_header_at_the_beginning_of_a_line_is_found(leaking: str) -> None:
    assert panel(leaking)["role_leak"] == 1


@pytest.mark.parametrize(
    "fine", ["The user: Ann", "Users: none", "A system is a whole.", "Assistant professor", "# Response times", ""]
)
def test_role_leak_of_ordinary_text_is_none(fine: str) -> None:
    assert panel(fine.replace("# Response times", "No # Response times"))["role_leak"] == 0


def test_role_leak_of_a_special_token_is_seen_though_the_answer_lacks_it() -> None:
    assert panel("Paris user", raw="Paris<|im_start|>user")["role_leak"] == 1
    assert panel("Paris user", raw="Paris user")["role_leak"] == 0


@pytest.mark.parametrize(
    ("raw", "hit_limit", "leaks"),
    [
        ("Paris", False, 0),
        ("Paris<|im_end|>", False, 0),
        ("Paris<|endoftext|>\n", False, 0),
        ("Paris<|im_end|>", True, 1),
        ("Paris<|im_end|><|im_end|>", False, 1),
        ("<|im_end|>Paris", False, 1),
        ("Paris<|im_start|>user", False, 1),
        ("Paris <|im_en", False, 0),
    ],
)
def test_template_leak_is_any_marker_but_the_one_that_ended_the_answer(raw: str, hit_limit: bool, leaks: int) -> None:
    assert panel("Paris", raw=raw, hit_limit=hit_limit)["template_leak"] == leaks


def test_repetition_by_hand() -> None:
    # a b a b a b: 4-grams abab baba abab, two of three distinct
    assert panel("a b a b a b")["rep_4"] == pytest.approx(1 / 3)
    assert panel("one two three four five")["rep_4"] == 0
    assert panel("!!!!!")["rep_4"] == pytest.approx(1 / 2)
    assert math.isnan(panel("one two three")["rep_4"])


@pytest.mark.parametrize(
    ("answer", "loops"),
    [("no " * 10, 1), ("no " * 9, 0), ("1 2 3 4 5 6 7 8 9 " * 3, 1), ("1 2 3 4 5 6 7 8 9 " * 2, 0), ("Paris", 0)],
)
def test_loop_is_one_8_gram_three_times(answer: str, loops: int) -> None:
    assert panel(answer)["loop"] == loops


def test_length_ratio_counts_words_of_both() -> None:
    assert panel("She lives in Paris.", reference="In Paris")["length_ratio"] == 2
    assert panel("", reference="In Paris")["length_ratio"] == 0


def test_training_copy_is_the_share_of_the_answer_that_one_target_has_in_a_row() -> None:
    targets = TargetIndex(["He lives in Rome now.", "She sings in Paris"])
    assert panel("She lives in Paris", targets=targets)["training_copy"] == 2 / 4
    assert panel("he LIVES, in Rome", targets=targets)["training_copy"] == 1
    assert panel("xyz", targets=targets)["training_copy"] == 0


# -- markers ----------------------------------------------------------------------------------------------------------

LEAKS = {
    "chatml": "<|im_start|>user",
    "chatml_lite": "<|user|>",
    "llama2": "[INST]",
    "llama3": "<|start_header_id|>user<|end_header_id|>",
    "gemma": "<start_of_turn>user",
    "mistral": "[INST]",
    "alpaca": "### Instruction:",
}


def _chat(template: str) -> Any:
    return small.chat(tiny.tokenizer(("<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>")), template)


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - {"plain"}))
def test_markers_of_a_template_find_what_it_writes_before_a_user(template: str) -> None:
    chat = _chat(template)
    markers = markers_of(chat)
    assert LEAKS[template] in markers
    rendered = chat.render([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}] * 2)
    raw = rendered[rendered.index("two") :]
    assert panel("two", raw=raw, markers=markers)["role_leak"] == 1
    assert panel("two", raw=raw, markers=markers)["template_leak"] == 1


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_markers_of_a_template_do_not_call_an_ended_answer_leaking(template: str) -> None:
    chat = _chat(template)
    values = panel("Paris.", raw="Paris." + chat.end_of_turn, markers=markers_of(chat))
    assert (values["role_leak"], values["template_leak"]) == (0, 0)


def test_markers_of_a_template_without_any_are_the_control_tokens() -> None:
    assert markers_of(_chat("plain")) == ("<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "<bos>", "<eos>")
