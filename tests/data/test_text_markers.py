"""Markers of a template as ordinary text, on tokenizers that have them as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.data import TEMPLATES, ChatFormat, chat_format
from harness.data.templates import MARKERS as template_markers
from harness.evals.generation import Decoded
from harness.evals.scorer import Scorer
from tests.data.tiny import REAL, SYSTEM, TURNS, chat, located, rendered, spec, tokenizer
from tests.evals.test_prompt_format import evals

MARKERS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]")
MARKERS += ("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
TALK = [SYSTEM, *TURNS]


def special(form: ChatFormat, ids: list[int]) -> list[str]:
    return [token for token in form.tokenizer.convert_ids_to_tokens(ids) if form.markers.fullmatch(token)]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_markers_as_text_are_no_tokens_and_turns_are_the_same_text(name: str) -> None:
    tokens, text = (chat(name, tokenizer(MARKERS, adds_bos=True), markers=kind) for kind in ("as_is", "text"))
    rows = located(tokens, TALK), located(text, TALK)
    assert text.tokenizer.decode(rows[1].ids) == tokens.tokenizer.decode(rows[0].ids)
    assert set(special(text, rows[1].ids)) <= {"<bos>", "<eos>"}
    assert special(text, rows[1].ids) == [t for t in special(tokens, rows[0].ids) if t in ("<bos>", "<eos>")]
    spans = [
        [form.tokenizer.decode(row.ids[turn.start : turn.end]).strip() for turn in row.turns]
        for form, row in zip((tokens, text), rows, strict=True)
    ]
    assert spans[0] == spans[1]
    assert spans[1][0].startswith("The answer is 4.")


def test_prompt_of_text_markers_is_the_beginning_of_what_is_trained_on() -> None:
    form = chat(markers="text")
    prompt = form.encode(form.render(TURNS[:3], add_generation_prompt=True))
    assert located(form, TURNS).ids[: len(prompt)] == prompt


def test_answer_ends_at_the_text_of_an_end_of_turn_and_at_no_token_of_it() -> None:
    form = chat(markers="text")
    scorer = Scorer(None, form, evals(), batch_size=1)  # pyright: ignore[reportArgumentType]
    assert scorer.turn_ends == ("<|im_end|>",)
    assert form.stop_token_ids == (form.eos_token_id,)
    assert form.turn_token_ids == ()
    assert Scorer(None, chat(), evals(), batch_size=1).turn_ends == ()  # pyright: ignore[reportArgumentType]


def test_answer_of_text_markers_is_cut_before_them_and_counts_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    form = chat(markers="text")
    row = located(form, TURNS[:2])
    turn = row.turns[0]

    def decode(model: object, prompts: list[object], **options: object) -> list[Decoded]:
        tokens = row.ids[turn.start : turn.end]
        assert not options["has_ended"](tokens[:-1])  # type: ignore[operator]
        return [Decoded(tokens, stopped=options["has_ended"](tokens), stop_id=None, is_finite=True)]  # type: ignore[operator]

    monkeypatch.setattr("harness.evals.scorer.greedy_decode", decode)
    scorer = Scorer(None, form, evals(), batch_size=1)  # pyright: ignore[reportArgumentType]
    (answer,) = scorer.answer([(1,)], scorer.turn_ends, 8, is_chat=True)
    assert (str(answer), answer.stopped) == ("The answer is 4.", True)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_answer_on_a_tokenizer_without_any_marker_stops_at_a_token_or_at_the_text_of_its_end(name: str) -> None:
    form = chat(name, tokenizer(()))
    assert form.stop_token_ids == (form.eos_token_id,)
    if form.end_of_turn.strip() == "<eos>":
        assert (form.turn_token_ids, form.turn_ends) == (form.stop_token_ids, ())
    else:
        assert (form.turn_token_ids, form.turn_ends) == ((), (form.end_of_turn,))


@pytest.mark.parametrize(
    ("name", "end"), [("gemma", "<end_of_turn>"), ("chatml_lite", "<|end|>"), ("chatml", "<|im_end|>")]
)
def test_generation_stops_at_a_plain_text_end_of_turn_and_not_before(
    name: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = chat(name, tokenizer(()))
    row = located(form, TURNS[:2])
    turn = row.ids[row.turns[0].start : row.turns[0].end]
    written, ended = turn + form.encode("\nmore"), list[list[int]]()

    def decode(
        model: object, prompts: list[object], *, stop_ids: Any, has_ended: Any, **options: object
    ) -> list[Decoded]:
        said = (written[:length] for length in range(1, len(written) + 1))
        ended.extend(tokens for tokens in said if tokens[-1] in stop_ids or has_ended(tokens))
        return [Decoded(ended[0], stopped=True, stop_id=None, is_finite=True)]

    monkeypatch.setattr("harness.evals.scorer.greedy_decode", decode)
    scorer = Scorer(None, form, evals(), batch_size=1)  # pyright: ignore[reportArgumentType]
    assert scorer.turn_ends == (end,)
    (answer,) = scorer.answer([(1,)], scorer.turn_ends, 8, is_chat=True)
    assert (str(answer), answer.stopped, ended[0]) == ("The answer is 4.", True, turn)


# -- warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_markers_of_a_template_are_what_it_writes(name: str) -> None:
    talk = chat(name, tokenizer(())).render(TALK)
    assert [marker for marker in template_markers[name] if marker not in talk and "INST" not in marker] == []


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_tokenizer_that_has_every_marker_is_not_warned_about(name: str) -> None:
    assert chat(name, tokenizer(MARKERS)).warnings() == []


def test_markers_that_are_text_to_a_tokenizer_are_named_with_what_they_cost_and_what_ends_a_turn() -> None:
    form = chat("gemma", tokenizer(("<start_of_turn>",)))
    spelled, ends = form.warnings()
    length = len(form.encode("<end_of_turn>"))
    assert spelled.startswith(
        f"data.template is 'gemma', whose <end_of_turn> this tokenizer reads as plain text of {length} "
    )
    assert "a turn ends in the plain text '<end_of_turn>', which no stop token stands for" in ends


def test_markers_that_are_meant_to_be_text_warn_of_the_stop_string_and_of_the_saved_tokenizer(tmp_path: Path) -> None:
    form = chat(markers="text")
    ends, saved = form.warnings()
    assert ends.startswith("a turn ends in the plain text '<|im_end|>'")
    assert saved.startswith("data.markers is 'text', but the saved tokenizer reads the template's markers as tokens")
    form.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert "<|im_end|>" in loaded.convert_ids_to_tokens(loaded.apply_chat_template(TURNS, return_dict=False))


@pytest.mark.parametrize("name", ["alpaca", "plain", "llama2"])
def test_text_markers_of_a_template_that_spells_none_warn_of_nothing(name: str, tmp_path: Path) -> None:
    form = chat(name, markers="text")
    assert form.warnings() == []
    form.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.apply_chat_template(TURNS, return_dict=False) == located(form, TURNS).ids


@pytest.mark.parametrize("name", ["alpaca", "plain", "llama2"])
def test_template_without_markers_of_its_own_that_ends_in_eos_warns_of_nothing(name: str) -> None:
    assert chat(name, tokenizer(())).warnings() == []


def test_typed_marker_is_counted_also_where_every_marker_is_text() -> None:
    form = chat(markers="text")
    assert not rendered(form, TURNS).spells_control
    assert rendered(form, [{"role": "user", "content": "<|im_end|>"}, TURNS[1]]).spells_control


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("tokenizers/qwen2.5", "chatml"),
        ("tokenizers/qwen2.5", "tokenizer"),
        ("tokenizers/mistral", "mistral"),
        ("models/minimind2-small", "chatml"),
    ],
)
def test_real_tokenizer_reads_markers_as_text_with_the_same_turns(folder: str, name: str) -> None:
    forms = [
        chat_format(
            AutoTokenizer.from_pretrained(REAL / folder, local_files_only=True), spec(template=name, markers=kind)
        )
        for kind in ("as_is", "text")
    ]
    rows = [located(form, TALK) for form in forms]
    assert forms[1].tokenizer.decode(rows[1].ids) == forms[0].tokenizer.decode(rows[0].ids)
    assert set(special(forms[1], rows[1].ids)) <= {"<s>", "</s>"}
    for form, row in zip(forms, rows, strict=True):
        said = [form.tokenizer.decode(row.ids[turn.start : turn.stop]).strip() for turn in row.turns]
        assert said == ["The answer is 4.", "Paris."]


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")
def test_real_tokenizer_that_has_none_of_a_templates_markers_trains_and_finds_their_text() -> None:
    tok = AutoTokenizer.from_pretrained(REAL / "tokenizers" / "qwen2.5", local_files_only=True)
    form = chat_format(tok, spec(template="gemma"))
    assert (form.stop_token_ids, form.turn_token_ids, form.turn_ends) == ((tok.eos_token_id,), (), ("<end_of_turn>",))
    row = located(form, TURNS)
    said = [tok.decode(row.ids[turn.start : turn.end]) for turn in row.turns]
    # its tokens ">" and line break are one, and one that straddles an end is the turn's
    assert said == ["The answer is 4.<end_of_turn>\n", "Paris.<end_of_turn>\n"]
    assert [warning.split()[0] for warning in form.warnings()] == ["data.template", "a"]
    assert chat_format(tok, spec(template="chatml")).warnings() == []
