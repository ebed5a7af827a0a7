from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from harness.data import TEMPLATES, chat_format
from harness.data.conversations import conversation
from harness.data.templates import with_frozen_date
from harness.errors import DataError
from tests.data.tiny import CHATML_MARKERS, SYSTEM, TURNS, chat, located, rendered, spec, tokenizer

CHATML_OWN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
every_template = pytest.mark.parametrize("name", sorted(TEMPLATES))


def own(source: str, **options: object) -> object:
    """Return a tokenizer with a template of its own."""
    tok = tokenizer(**options)
    tok.chat_template = source
    return tok


# -- the text each writes ---------------------------------------------------------------------------------------------


def test_chatml_one_exchange_renders_the_worked_example() -> None:
    messages = [SYSTEM, TURNS[0], {"role": "assistant", "content": "4"}]
    text = chat().render(messages)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>"
    )
    assert len(text) == 131
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest.startswith("8a7bb323")
    assert digest.endswith("5148f80")


def test_chatml_lite_one_exchange_closes_only_the_assistant() -> None:
    markers = ("<|user|>", "<|assistant|>", "<|end|>")
    form = chat("chatml_lite", tokenizer(markers))
    messages = [TURNS[2], {"role": "assistant", "content": "The capital of France is Paris."}]
    text = form.render(messages)
    assert text == "<|user|>\nWhat is the capital of France?\n<|assistant|>\nThe capital of France is Paris.<|end|>"
    assert len(text) == 92
    ids = form.encode(text)
    assert [ids.count(form.tokenizer.convert_tokens_to_ids(marker)) for marker in markers] == [1, 1, 1]
    assert form.stop_token_ids[0] == form.tokenizer.convert_tokens_to_ids("<|end|>")


def test_alpaca_one_exchange_renders_the_worked_example() -> None:
    preamble = {"role": "system", "content": "Below is an instruction..."}
    messages = [preamble, {"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hello!"}]
    text = chat("alpaca").render(messages)
    expected = "Below is an instruction...\n### Instruction:\nSay hi.\n### Response:\nHello!"
    assert len(expected) == 72
    assert text == expected + "<eos>"
    assert chat("alpaca", tokenizer(eos_token=None)).render(messages) == expected
    assert chat("alpaca").render(messages[1:]).startswith("Below is an instruction that describes a task.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama2", "<bos>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A <eos><bos>[INST] R [/INST]"),
        (
            "llama3",
            "<bos><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            "Q<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user"
            "<|end_header_id|>\n\nR<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "gemma",
            "<bos><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nR"
            "<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("mistral", "<bos>[INST] S\n\nQ[/INST] A<eos>[INST] R[/INST]"),
        ("plain", "S\nQ\nA<eos>\nR\n"),
        ("chatml_lite", "<|system|>\nS\n<|user|>\nQ\n<|assistant|>\nA<|end|>\n<|user|>\nR\n<|assistant|>\n"),
    ],
)
def test_template_two_exchanges_renders_its_own_form(name: str, expected: str) -> None:
    roles = zip(("system", "user", "assistant", "user"), "SQAR", strict=True)
    messages = [{"role": role, "content": content} for role, content in roles]
    assert chat(name, tokenizer(adds_bos=False)).render(messages, add_generation_prompt=True) == expected


@every_template
def test_template_every_assistant_turn_is_its_text_and_its_end(name: str) -> None:
    form = chat(name, tokenizer(adds_bos=True))
    for messages in (TURNS, [SYSTEM, *TURNS]):
        row = located(form, messages)
        for turn, answer in zip(row.turns, ("The answer is 4.", "Paris."), strict=True):
            decoded = form.tokenizer.decode(row.ids[turn.start : turn.end])
            assert decoded.strip() == (answer + form.end_of_turn).strip()
            assert form.tokenizer.decode(row.ids[turn.start : turn.stop]).strip() == answer


@every_template
def test_template_saved_tokenizer_renders_and_encodes_the_same(name: str, tmp_path: Path) -> None:
    form = chat(name, tokenizer(adds_bos=True))
    form.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.chat_template == form.source
    served = loaded.apply_chat_template([SYSTEM, *TURNS], return_dict=False)
    assert served == form.encode(form.render([SYSTEM, *TURNS]))


@every_template
def test_template_functions_and_calls_it_does_not_write_are_refused(name: str) -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"x": 2}}]}
    declared = conversation(TURNS, row_id="row", task="", tools=[{"name": "add", "parameters": {}}])
    with pytest.raises(DataError, match="function declarations that the data has; it leaves them out"):
        chat(name).require([declared])
    with pytest.raises(DataError, match="tool calls that the data has; it leaves them out"):
        chat(name).require([conversation([TURNS[0], calling], row_id="row", task="")])


# -- which template ---------------------------------------------------------------------------------------------------


def test_own_template_of_a_base_without_one_is_refused_and_names_the_choices() -> None:
    with pytest.raises(DataError, match=r"data\.template is 'tokenizer', but must be one of alpaca, chatml"):
        chat("tokenizer")


def test_unknown_template_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(DataError, match="Did you mean 'chatml_lite'"):
        chat("chatml_light")


def test_named_template_of_a_tokenizer_without_its_markers_is_plain_text() -> None:
    form = chat("chatml", tokenizer(()))
    row = located(form, TURNS)
    assert len(form.encode("<|im_end|>")) > 1
    assert form.stop_token_ids == (form.tokenizer.eos_token_id,)
    assert form.tokenizer.decode(row.ids[row.turns[0].start : row.turns[0].end]) == "The answer is 4.<|im_end|>"


def test_bos_is_written_once_by_every_template_where_the_tokenizer_would_add_it() -> None:
    for name in TEMPLATES:
        form = chat(name, tokenizer(adds_bos=True))
        ids = form.encode(form.render(TURNS[:2]))
        assert ids[0] == form.tokenizer.bos_token_id, name
        assert ids.count(form.tokenizer.bos_token_id) == 1, name


def test_bos_is_left_out_where_neither_tokenizer_nor_template_has_it() -> None:
    form = chat("chatml", tokenizer(adds_bos=False))
    assert form.tokenizer.bos_token_id not in form.encode(form.render(TURNS))


def test_bos_that_opens_every_turn_is_not_added_again() -> None:
    form = chat("chatml", tokenizer(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"))
    assert form.encode(form.render(TURNS))[:2].count(form.tokenizer.bos_token_id) == 1


def test_own_template_with_two_bos_is_refused() -> None:
    with pytest.raises(DataError, match="must write BOS once"):
        chat("tokenizer", own("{{ bos_token }}{{ bos_token }}" + CHATML_OWN))


# -- templates that cannot be trained with ----------------------------------------------------------------------------


def test_own_template_that_raises_on_a_system_turn_is_refused_only_for_data_that_has_one() -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML_OWN
    form = chat("tokenizer", own(source))
    form.require([conversation(TURNS, row_id="a", task="")])
    with pytest.raises(DataError, match="must render the role 'system' that the data has; it raises: no system turn"):
        form.require([conversation([SYSTEM, *TURNS], row_id="a", task="")])


def test_own_template_that_leaves_the_system_turn_out_is_refused() -> None:
    source = CHATML_OWN.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    with pytest.raises(DataError, match="role 'system' that the data has; it leaves them out"):
        chat("tokenizer", own(source)).require([conversation([SYSTEM, *TURNS], row_id="a", task="")])


def test_own_template_whose_generation_prompt_differs_from_training_is_refused() -> None:
    source = CHATML_OWN.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant \n'")
    with pytest.raises(DataError, match="alike for training and for generation; at character"):
        chat("tokenizer", own(source))


def test_own_template_whose_generation_prompt_leaves_the_header_out_is_refused() -> None:
    with pytest.raises(DataError, match="must open the assistant's turn; it leaves out"):
        chat("tokenizer", own(CHATML_OWN.split("{% if add")[0]))


def test_own_template_that_rewrites_an_earlier_turn_later_on_is_refused() -> None:
    source = CHATML_OWN.replace(
        "+ m.content +", "+ (m.content if loop.last or m.role == 'user' else m.content | upper) +"
    )
    with pytest.raises(DataError, match="row 'row' alike for training and for generation"):
        rendered(chat("tokenizer", own(source)), TURNS)


# -- the clock --------------------------------------------------------------------------------------------------------

CLOCK = "{{ 'Today is ' + strftime_now('%d %B %Y') + '.\n' }}" + CHATML_OWN


def test_template_that_asks_the_clock_without_a_date_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.template_date is None, but must be a date"):
        chat("tokenizer", own(CLOCK))


def test_template_that_asks_the_clock_renders_the_frozen_date_also_when_saved(tmp_path: Path) -> None:
    form = chat("tokenizer", own(CLOCK), template_date="2024-07-26")
    assert form.render(TURNS).startswith("Today is 26 July 2024.\n")
    form.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.apply_chat_template(TURNS, tokenize=False) == form.render(TURNS)


def test_template_that_computes_its_clock_format_cannot_be_frozen() -> None:
    with pytest.raises(DataError, match="computed format"):
        with_frozen_date("{{ strftime_now(format) }}", "2024-07-26")


@pytest.mark.parametrize(
    "addition",
    [
        "{% set f = strftime_now %}{{ f('%H') }}",
        "{{ (strftime_now)('%Y') }}",
        "{{ strftime_now('%Y') }}{{ ['%H'] | map(strftime_now) }}",
        "{% macro ask(f) %}{{ f('%H') }}{% endmacro %}{{ ask(strftime_now) }}",
    ],
)
def test_template_that_asks_the_clock_under_another_name_is_refused_with_and_without_a_date(addition: str) -> None:
    with pytest.raises(DataError, match="template_date is None"):
        with_frozen_date(addition, None)
    with pytest.raises(DataError, match="under another name"):
        with_frozen_date(addition, "2024-07-26")


def test_template_that_asks_whether_there_is_a_clock_is_frozen_as_one_that_only_calls_it() -> None:
    source = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}never{% endif %}"
    assert with_frozen_date(source, "2024-07-26") == source.replace("strftime_now('%Y')", "'2024'")
    assert with_frozen_date("{# strftime_now #}{{ 'strftime_now' }}", None) == "{# strftime_now #}{{ 'strftime_now' }}"


def test_template_hash_follows_the_source_and_the_date() -> None:
    dated = [chat("tokenizer", own(CLOCK), template_date=f"2024-07-2{day}").sha256 for day in (6, 6, 7)]
    assert dated[0] == dated[1] != dated[2]
    assert chat("chatml", tokenizer(CHATML_MARKERS)).sha256 == hashlib.sha256(TEMPLATES["chatml"].encode()).hexdigest()


def test_stop_tokens_are_the_end_of_turn_and_eos() -> None:
    form = chat_format(tokenizer(), spec())
    ends = form.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<eos>"])
    assert form.stop_token_ids == tuple(ends)


# -- the end of the user's turn ---------------------------------------------------------------------------------------

USER_ENDS = {
    "chatml": ("<|im_start|>user\nQ<|im_end|>\n<|im_start|>", "<|im_start|>user\nQ\n<|im_start|>"),
    "chatml_lite": ("<|user|>\nQ<|end|>\n<|assistant|>", "<|user|>\nQ\n<|assistant|>"),
    "llama3": ("\n\nQ<|eot_id|><|start_header_id|>", "\n\nQ<|start_header_id|>"),
    "gemma": ("Q<end_of_turn>\n<start_of_turn>model", "Q\n<start_of_turn>model"),
    "alpaca": ("\nQ<eos>\n### Response:", "\nQ\n### Response:"),
    "plain": ("Q<eos>\n", "Q\n"),
}
QUESTION = [{"role": "user", "content": "Q"}]
EXCHANGES = [*QUESTION, {"role": "assistant", "content": "A"}, *QUESTION, {"role": "assistant", "content": "B"}]


@pytest.mark.parametrize("name", sorted(USER_ENDS))
def test_user_turn_is_closed_or_not_and_nothing_else_changes(name: str) -> None:
    ends = dict(zip(("with", "without"), USER_ENDS[name], strict=True))
    forms = {choice: chat(name, end_after_user=choice) for choice in ends}
    for choice, form in forms.items():
        assert ends[choice] in form.render(QUESTION, add_generation_prompt=True)
        row = located(form, EXCHANGES)
        said = [form.tokenizer.decode(row.ids[turn.start : turn.end]).strip() for turn in row.turns]
        assert said == [answer + form.end_of_turn for answer in "AB"]
    texts = [form.render([SYSTEM, *EXCHANGES]) for form in forms.values()]
    assert texts[0].replace(*USER_ENDS[name]) == texts[1]
    assert chat(name).source in {form.source for form in forms.values()}
    assert forms["with"].sha256 != forms["without"].sha256


@pytest.mark.parametrize("name", ["llama2", "mistral"])
def test_user_turn_of_a_template_that_has_no_end_for_it_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"data\.end_after_user is 'with', but must be 'as_written' for data\.template"):
        chat(name, end_after_user="with")


def test_user_turn_of_a_tokenizers_own_template_stays_as_it_is_written() -> None:
    with pytest.raises(DataError, match=r"must be 'as_written' for data\.template 'tokenizer'"):
        chat("tokenizer", own(CHATML_OWN), end_after_user="without")
