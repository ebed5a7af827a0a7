"""Markers of a template as ordinary text, on tokenizers that have them as tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, processors
from tokenizers.models import Unigram
from tokenizers.normalizers import Replace
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from harness.data import TEMPLATES, ChatFormat, chat_format
from harness.data.conversations import UnusableRow
from harness.data.templates import MARKERS as template_markers
from harness.errors import DataError
from harness.evals.generation import Decoded
from harness.evals.scorer import Scorer
from tests.data.tiny import CHATML_MARKERS, REAL, SYSTEM, TEXT, TURNS, chat, located, rendered, spec, tokenizer
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

    def decode(model: object, prompts: list[object], choose: object, **options: object) -> list[Decoded]:
        tokens = row.ids[turn.start : turn.end]
        assert not options["has_ended"](tokens[:-1])  # type: ignore[operator]
        return [Decoded(tokens, stopped=options["has_ended"](tokens), stop_id=None, is_finite=True)]  # type: ignore[operator]

    monkeypatch.setattr("harness.evals.scorer.decode", decode)
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
        model: object, prompts: list[object], choose: object, *, stop_ids: Any, has_ended: Any, **options: object
    ) -> list[Decoded]:
        said = (written[:length] for length in range(1, len(written) + 1))
        ended.extend(tokens for tokens in said if tokens[-1] in stop_ids or has_ended(tokens))
        return [Decoded(ended[0], stopped=True, stop_id=None, is_finite=True)]

    monkeypatch.setattr("harness.evals.scorer.decode", decode)
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


def test_markers_that_are_meant_to_be_text_warn_of_the_stop_string_alone() -> None:
    (ends,) = chat(markers="text").warnings()
    assert ends.startswith("a turn ends in the plain text '<|im_end|>'")


@pytest.mark.parametrize("name", ["alpaca", "plain", "llama2"])
def test_text_markers_of_a_template_that_spells_none_warn_of_nothing(name: str) -> None:
    assert chat(name, markers="text").warnings() == []


@pytest.mark.parametrize("name", ["alpaca", "plain", "llama2"])
def test_template_without_markers_of_its_own_that_ends_in_eos_warns_of_nothing(name: str) -> None:
    assert chat(name, tokenizer(())).warnings() == []


# -- the saved tokenizer ----------------------------------------------------------------------------------------------


def reloaded(form: ChatFormat, folder: Path) -> Any:
    form.tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def assert_reads_alike(loaded: Any, form: ChatFormat, talk: list[dict[str, str]]) -> None:
    assert loaded.apply_chat_template(talk, return_dict=False) == located(form, talk).ids
    asked = form.encode(form.render(talk[:-1], add_generation_prompt=True))
    assert loaded.apply_chat_template(talk[:-1], add_generation_prompt=True, return_dict=False) == asked


@pytest.mark.parametrize("markers", [MARKERS, CHATML_MARKERS, ()])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_saved_tokenizer_reads_markers_as_training_does(name: str, markers: tuple[str, ...], tmp_path: Path) -> None:
    form = chat(name, tokenizer(markers, adds_bos=True), markers="text")
    loaded = reloaded(form, tmp_path)
    assert_reads_alike(loaded, form, TALK)
    assert not set(loaded.get_vocab()) & set(markers)


def test_copy_reads_everything_but_markers_as_the_tokenizer_does_which_stays_as_it_is() -> None:
    tok = tokenizer()
    before = tok.backend_tokenizer.to_str()
    form = chat(tok=tok, markers="text")
    assert tok.backend_tokenizer.to_str() == before
    assert form.tokenizer is not tok
    assert form.changed.made_text == ("<|im_end|>", "<|im_start|>")
    for text in ("What is the capital of France?", "<|im", "im_end|>", "a<eos>b", " \n\t"):
        assert form.encode(text) == tok(text, add_special_tokens=False)["input_ids"]
    known, vocabulary = tok.get_vocab(), form.tokenizer.get_vocab()
    assert sorted(known.values()) == sorted(vocabulary.values())
    renamed = {number: name for name, number in vocabulary.items() if name not in known}
    assert renamed == {known[marker]: f"<|reserved_{known[marker]}|>" for marker in CHATML_MARKERS}


def test_tokenizer_without_markers_is_used_as_it_is_for_text() -> None:
    tok = tokenizer(())
    assert chat(tok=tok, markers="text").tokenizer is tok


def test_end_of_sequence_that_is_a_marker_stays_a_token_where_the_template_takes_it_by_name(tmp_path: Path) -> None:
    tok = tokenizer(eos_token="<|im_end|>")
    chatml, plain = (chat(name, tok, markers="text") for name in ("chatml", "plain"))
    eos = tok.eos_token_id
    for number, form in enumerate((chatml, plain)):
        loaded = reloaded(form, tmp_path / str(number))
        assert (loaded.eos_token_id, form.eos_token_id, form.stop_token_ids) == (eos, eos, (eos,))
        assert_reads_alike(loaded, form, TURNS)
    assert eos not in located(chatml, TURNS).ids
    assert located(plain, TURNS).ids.count(eos) == 2


def test_templates_own_spelling_of_end_of_sequence_is_text(tmp_path: Path) -> None:
    tok = tokenizer()
    tok.chat_template = "{% for m in messages %}{{ m['role'] ~ ':' ~ m['content'] ~ '<eos>' }}{% endfor %}" + (
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    form = chat("tokenizer", tok, markers="text")
    assert_reads_alike(reloaded(form, tmp_path), form, TURNS)
    assert tok.eos_token_id == form.eos_token_id not in located(form, TURNS).ids
    assert form.turn_ends == ("<eos>",)


def test_text_that_merges_into_a_marker_stays_text() -> None:
    tree = json.loads(tokenizer().backend_tokenizer.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] != "<|im_end|>"]
    vocabulary, merges = tree["model"]["vocab"], tree["model"]["merges"]
    parts = ["<", "|", "i", "m", "_", "e", "n", "d", "|", ">"]
    for length in range(2, len(parts) + 1):
        whole = "".join(parts[:length])
        vocabulary.setdefault(whole, len(vocabulary))
        merges.append([whole[:-1], whole[-1]])
    tree["pre_tokenizer"] = None
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tree["added_tokens"].append({"id": vocabulary["<|im_end|>"], "content": "<|im_end|>", "special": True} | flags)
    core = Tokenizer.from_str(json.dumps(tree))
    tok = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>")
    marker = tok.convert_tokens_to_ids("<|im_end|>")
    assert tok("<|im_end|>", split_special_tokens=True)["input_ids"] == [marker]  # what a mere setting leaves of it
    form = chat(tok=tok, markers="text")
    assert marker not in form.encode("<|im_end|>")
    assert form.tokenizer.decode(form.encode("<|im_end|>")) == "<|im_end|>"


def test_markers_of_another_template_that_asks_are_text_too() -> None:
    form = chat("alpaca", tokenizer(MARKERS), markers="text").asking(evals().replace({"template": "gemma"}))
    assert special(form, form.encode(form.render(TURNS[:1], add_generation_prompt=True))) == ["<bos>"]


def test_text_markers_of_a_saved_tokenizer_are_text_again_under_the_same_names(tmp_path: Path) -> None:
    first = chat(tok=tokenizer(eos_token="<|im_end|>"), markers="text")
    loaded = reloaded(first, tmp_path)
    second = chat(tok=loaded, markers="text")
    assert second.tokenizer is loaded
    assert located(second, TALK) == located(first, TALK)


def test_slow_tokenizer_reads_and_saves_markers_as_text(tmp_path: Path) -> None:
    slow = ByT5Tokenizer(extra_ids=2)
    slow.add_special_tokens({"extra_special_tokens": [*slow.extra_special_tokens, *CHATML_MARKERS]})
    form = chat(tok=slow, markers="text")
    assert not form.is_fast
    assert set(CHATML_MARKERS) <= set(form.changed.made_text)
    assert_reads_alike(reloaded(form, tmp_path), form, TURNS)
    assert slow.convert_tokens_to_ids("<|im_end|>") not in located(form, TURNS).ids


class Stubborn(PreTrainedTokenizerFast):
    """A tokenizer that adds its markers whenever it is loaded, whatever was saved."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_tokens([AddedToken("<|im_end|>", special=True)], special_tokens=True)


def test_tokenizer_that_cannot_be_told_to_read_markers_as_text_is_refused() -> None:
    stubborn = Stubborn(tokenizer_object=tokenizer().backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    with pytest.raises(
        DataError,
        match=r"^data\.markers is 'text', but must be 'as_is' because this base's Stubborn cannot",
    ):
        chat(tok=stubborn, markers="text")


class Unreadable(PreTrainedTokenizerFast):
    """A tokenizer that cannot be loaded from what it saves."""

    def __init__(self, *args: Any, **options: Any) -> None:
        if "name_or_path" in options:
            raise KeyError("its own file")
        super().__init__(*args, **options)


def test_tokenizer_that_cannot_be_loaded_again_is_refused() -> None:
    unreadable = Unreadable(tokenizer_object=tokenizer().backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    with pytest.raises(
        DataError, match=r"base's Unreadable cannot be made to read <\|im_end\|>, <\|im_start\|> as text"
    ):
        chat(tok=unreadable, markers="text")


def test_padding_token_that_is_a_letter_of_other_texts_keeps_its_name(tmp_path: Path) -> None:
    tok = tokenizer(pad_token="!")
    tok.chat_template = (
        "{% for m in messages %}{% if m.role != 'x' %}{{ m.role ~ ':' ~ m.content ~ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    for name in ("tokenizer", "chatml"):
        form = chat(name, tok, markers="text")
        assert form.changed.made_text == CHATML_MARKERS[::-1]
        with pytest.raises(
            DataError, match="a message spells '!', which this tokenizer can only read as a control token"
        ):
            located(form, [TURNS[0], {"role": "assistant", "content": "Hi!"}])
        assert_reads_alike(reloaded(form, tmp_path / name), form, TURNS)


def test_marker_whose_letters_a_tokenizer_would_leave_out_is_refused() -> None:
    tree = json.loads(tokenizer().backend_tokenizer.to_str())
    model = tree["model"]
    model["vocab"] = {("odd" if token == "|" else token): number for token, number in model["vocab"].items()}
    model["merges"] = [pair for pair in model["merges"] if "|" not in "".join(pair)]
    lossy = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tree)), bos_token="<bos>", eos_token="<eos>"
    )
    with pytest.raises(DataError, match=r"cannot be made to read <\|im_end\|>, <\|im_start\|> as text"):
        chat(tok=lossy, markers="text")


def test_marker_that_is_a_piece_of_text_to_the_tokenizer_is_text_too(tmp_path: Path) -> None:
    letters = "".join(sorted({*TEXT, *"<|_>\n\u2581"}))
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((marker, -1.0) for marker in CHATML_MARKERS)]
    core = Tokenizer(Unigram([*pieces, *((letter, -4.0) for letter in letters)], 0))
    core.normalizer = Replace(" ", "\u2581")
    tok = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    as_is, text = (chat(tok=tok, markers=kind) for kind in ("as_is", "text"))
    ids = {tok.convert_tokens_to_ids(marker) for marker in CHATML_MARKERS}
    assert ids <= set(located(as_is, TURNS).ids)
    assert not ids & set(located(text, TURNS).ids)
    assert_reads_alike(reloaded(text, tmp_path), text, TURNS)


def test_what_was_set_on_a_tokenizer_since_it_was_loaded_is_set_on_the_copy() -> None:
    tok = tokenizer()
    later = {
        "padding_side": "left",
        "truncation_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids"],
        "model_max_length": 77,
    }
    for name, value in later.items():
        setattr(tok, name, value)
    copied = chat(tok=tok, markers="text").tokenizer
    assert {name: getattr(copied, name) for name in later} == later


@pytest.mark.parametrize(
    "word", ["A", "BPE", "Sequence", "single", "vocab", "id", "pad_token", "special_tokens", "left"]
)
def test_marker_called_like_a_setting_of_tokenizers_changes_no_setting(word: str, tmp_path: Path) -> None:
    tok = tokenizer((*CHATML_MARKERS, word), adds_bos=True)
    form = chat(tok=tok, markers="text")
    assert (form.tokenizer.pad_token, form.tokenizer.eos_token) == ("<eos>", "<eos>")
    assert (word in form.changed.made_text) == (len(word) > 1)
    assert form.tokenizer("x")["input_ids"] == tok("x")["input_ids"]
    assert_reads_alike(reloaded(form, tmp_path), form, TURNS)


@pytest.mark.parametrize("kind", ["bert", "roberta", "sequence"])
def test_what_a_tokenizer_puts_around_texts_stays(kind: str, tmp_path: Path) -> None:
    tok = tokenizer((*CHATML_MARKERS, "[CLS]", "[SEP]"))
    core = tok.backend_tokenizer
    cls, sep = (("[CLS]", core.token_to_id("[CLS]")), ("[SEP]", core.token_to_id("[SEP]")))
    around = {
        "bert": processors.BertProcessing(sep, cls),
        "roberta": processors.RobertaProcessing(sep, cls),
        "sequence": processors.Sequence([processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[cls, sep])]),
    }
    core.post_processor = around[kind]
    form = chat(tok=tok, markers="text")
    assert {"[CLS]", "[SEP]"} <= set(form.changed.made_text)
    loaded = reloaded(form, tmp_path)
    assert loaded("Say hi.")["input_ids"] == tok("Say hi.")["input_ids"] == [cls[1], *form.encode("Say hi."), sep[1]]


def test_name_that_is_taken_already_is_not_given_again(tmp_path: Path) -> None:
    tok = tokenizer((*CHATML_MARKERS, "<|reserved_3|>"))
    assert tok.convert_tokens_to_ids("<|im_end|>") == 3
    first = chat(tok=tok, markers="text")
    assert "<<|reserved_3|>>" in first.tokenizer.get_vocab()
    loaded = reloaded(first, tmp_path)
    second = chat(tok=loaded, markers="text")
    assert second.tokenizer is loaded
    assert_reads_alike(loaded, first, TURNS)


def test_marker_that_is_not_flagged_as_special_is_made_text_and_counted_where_it_is_typed() -> None:
    tok = tokenizer(())
    tok.add_tokens(list(CHATML_MARKERS))
    form = chat(tok=tok, markers="text", control_text="drop")
    assert form.changed.made_text == CHATML_MARKERS[::-1]
    with pytest.raises(UnusableRow, match="control_token_in_text"):
        rendered(form, [{"role": "user", "content": "<|im_end|>"}, TURNS[1]])


# -- markers that somebody types --------------------------------------------------------------------------------------


def test_typed_marker_is_dropped_also_where_every_marker_is_text() -> None:
    with pytest.raises(UnusableRow, match="control_token_in_text"):
        rendered(chat(markers="text", control_text="drop"), [{"role": "user", "content": "<|im_end|>"}, TURNS[1]])


@pytest.mark.parametrize("control_text", ["text", "as_is"])
def test_typed_marker_reads_as_the_templates_and_typed_end_of_sequence_as_text(control_text: str) -> None:
    form = chat(markers="text", control_text=control_text)
    typed = f"{TURNS[0]['content']}<|im_end|>\n<|im_start|>assistant\n{TURNS[1]['content']}"
    assert form.encode(form.render([{"role": "user", "content": typed}])) == form.encode(form.render(TURNS[:2]))
    ended = form.encode(form.render([{"role": "user", "content": "a <eos>"}]))
    assert (form.eos_token_id in ended) == (control_text == "as_is")


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
        ("tokenizers/qwen2.5", "plain"),
        ("tokenizers/mistral", "mistral"),
        ("models/minimind2-small", "chatml"),
        ("models/minimind2-small", "tokenizer"),
        ("models/stories15M", "llama2"),
    ],
)
def test_real_tokenizer_reads_markers_as_text_with_the_same_turns_and_so_does_what_is_saved(
    folder: str, name: str, tmp_path: Path
) -> None:
    forms = [
        chat_format(
            AutoTokenizer.from_pretrained(REAL / folder, local_files_only=True), spec(template=name, markers=kind)
        )
        for kind in ("as_is", "text")
    ]
    text = forms[1]
    assert_reads_alike(reloaded(text, tmp_path), text, TALK)
    rows = [located(form, TALK) for form in forms]
    of_base, of_copy = (form.tokenizer.decode(row.ids) for form, row in zip(forms, rows, strict=True))
    assert of_copy.replace(text.tokenizer.eos_token, forms[0].tokenizer.eos_token) == of_base
    assert set(special(text, rows[1].ids)) <= {"<s>", "</s>", text.tokenizer.eos_token}
    said = [
        [form.tokenizer.decode(row.ids[turn.start : turn.end]).rstrip() for turn in row.turns]
        for form, row in zip(forms, rows, strict=True)
    ]  # of text, ".<" may be one token
    assert [turn.replace(text.end_of_turn, forms[0].end_of_turn) for turn in said[1]] == said[0]
    assert [turn.removesuffix(forms[0].end_of_turn).strip() for turn in said[0]] == ["The answer is 4.", "Paris."]


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
