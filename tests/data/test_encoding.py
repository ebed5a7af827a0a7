"""Which turns weigh what, rows that come as tokens, and training on answers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data import ChatFormat, Example, describe_file, prepare
from harness.data.conversations import UnusableRow
from harness.data.formats import parse
from harness.data.masks import PARTS
from harness.errors import DataError
from tests.data.tiny import chat, spec, tokenizer, write_rows

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "And 3?"},
    {"role": "assistant", "content": "Three."},
]


def trained(tmp_path: Path, rows: list[Mapping[str, Any]], **changes: Any) -> list[dict[str, float]]:
    """Return for each training row its pieces of text of one weight -> that weight, without those that weigh 0."""
    source, form = describe_file(write_rows(tmp_path / "rows.jsonl", rows)), chat()
    found = []
    for example in sorted(prepare(spec(source=source, **changes), form, seed=0).train, key=lambda e: e.row_id):
        cuts = np.flatnonzero(np.diff(example.loss_weights)) + 1
        parts = zip(np.split(example.input_ids, cuts), np.split(example.loss_weights, cuts), strict=True)
        found.append({form.tokenizer.decode(ids): float(weights[0]) for ids, weights in parts if weights[0]})
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"Two.<|im_end|>": 1.0, "Three.<|im_end|>": 1.0}),
        ({"trained_turns": "last"}, {"Three.<|im_end|>": 1.0}),
        ({"trained_turns": "completion"}, {"Three.<|im_end|>": 1.0}),
        ({"trained_turns": "last", "train_on_end_of_turn": False}, {"Three.": 1.0}),
        (
            {"trained_turns": "last", "train_on_role_header": True},
            {"<|im_start|>assistant\nThree.<|im_end|>": 1.0},
        ),
    ],
)
def test_turns_that_are_trained_are_those_the_spec_names(
    tmp_path: Path, changes: dict[str, Any], expected: dict[str, float]
) -> None:
    assert trained(tmp_path, [{"messages": TALK}], **changes) == [expected]


def test_turns_that_are_not_trained_weigh_as_the_prompt_does(tmp_path: Path) -> None:
    (pieces,) = trained(tmp_path, [{"messages": TALK}], trained_turns="last", prompt_loss_weight=0.25)
    assert pieces.pop("Three.<|im_end|>") == 1.0
    assert "Two." in "".join(pieces)
    assert set(pieces.values()) == {0.25}


def test_completion_of_several_turns_is_trained_and_the_prompt_is_not(tmp_path: Path) -> None:
    prompt, completion = (
        TALK[:4],
        [TALK[4], {"role": "user", "content": "4?"}, {"role": "assistant", "content": "Four."}],
    )
    row = {"prompt": prompt, "completion": completion}
    assert trained(tmp_path, [row], trained_turns="completion") == [{"Three.<|im_end|>": 1.0, "Four.<|im_end|>": 1.0}]
    assert trained(tmp_path, [row]) == [{"Two.<|im_end|>": 1.0, "Three.<|im_end|>": 1.0, "Four.<|im_end|>": 1.0}]


def test_messages_weigh_what_the_data_says(tmp_path: Path) -> None:
    weights = {2: 0, 4: 0.5}
    messages = [message | ({"weight": weights[i]} if i in weights else {}) for i, message in enumerate(TALK)]
    assert trained(tmp_path, [{"messages": messages}]) == [{"Three.<|im_end|>": 0.5}]
    (unmasked,) = trained(tmp_path, [{"messages": messages}], prompt_loss_weight=1.0)
    assert "Two." not in "".join(unmasked)
    assert "What is 2?" in "".join(unmasked)


def test_a_row_whose_answers_all_weigh_nothing_is_counted(tmp_path: Path) -> None:
    silent = [message | ({"weight": 0} if message["role"] == "assistant" else {}) for message in TALK]
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": silent}, {"messages": TALK}]))
    prepared = prepare(spec(source=source), chat(), seed=0)
    assert (len(prepared.train), prepared.summary.num_rows_dropped) == (1, {"no_trained_token": 1})


@pytest.mark.parametrize("weight", [-1, "1", True, float("nan"), float("inf"), 1e300, 10**400, 1.1e6])
def test_a_weight_that_is_none_makes_a_row_malformed(weight: Any) -> None:
    messages = [TALK[1], TALK[2] | {"weight": weight}]
    with pytest.raises(UnusableRow, match="malformed"):
        parse({"messages": messages}, "messages", 0)


def test_a_weight_that_training_cannot_tell_from_nothing_is_nothing(tmp_path: Path) -> None:
    row = {"messages": [TALK[1], TALK[2] | {"weight": 1e-300}]}
    assert parse(row, "messages", 0).messages[1].get("weight") == 0.0
    spoken = {"messages": [TALK[1], TALK[2]]}
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [row, spoken]))
    summary = prepare(spec(source=source), chat(), seed=0).summary
    assert (summary.num_train, summary.num_rows_dropped) == (1, {"no_trained_token": 1})


def test_a_weight_of_the_user_may_only_be_nothing() -> None:
    assert "weight" not in parse({"messages": [TALK[1] | {"weight": 0}, TALK[2]]}, "messages", 0).messages[0]
    with pytest.raises(UnusableRow, match="malformed"):
        parse({"messages": [TALK[1] | {"weight": 1}, TALK[2]]}, "messages", 0)


def test_an_answer_that_weighs_nothing_is_left_out_even_where_the_prompt_is_trained_on(tmp_path: Path) -> None:
    messages = [message | ({"weight": 0} if i == 2 else {}) for i, message in enumerate(TALK)]
    (pieces,) = trained(tmp_path, [{"messages": messages}], trained_turns="last", prompt_loss_weight=1.0)
    assert "Two." not in "".join(pieces)


def test_turns_of_sharegpt_weigh_what_the_data_says(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "A?"},
        {"from": "gpt", "value": "No.", "weight": 0},
        {"from": "human", "value": "B?"},
        {"from": "gpt", "value": "Yes."},
    ]
    assert trained(tmp_path, [{"conversations": turns}]) == [{"Yes.<|im_end|>": 1.0}]


def test_what_tools_return_is_never_trained_on(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "I call.", "tool_calls": [call]},
        {"role": "tool", "content": "tool"},
        {"role": "assistant", "content": "Done."},
    ]
    source, form = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": messages}])), chat_of(CALLS)
    (example,) = prepare(spec(source=source, template="tokenizer", prompt_loss_weight=1.0), form, seed=0).train
    silent = form.tokenizer.decode(example.input_ids[1:][example.loss_weights[1:] == 0])
    assert silent == "\n<|im_start|>tool\ntool<|im_end|>\n"  # from the end of the turn before it


CALLS = """{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] }}
{%- for call in m['tool_calls'] or [] %}{{- call['function']['name'] }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


def chat_of(template: str) -> ChatFormat:
    named = tokenizer()
    named.chat_template = template
    return chat("tokenizer", named)


def test_answers_alone_are_learned_without_what_was_asked(tmp_path: Path) -> None:
    source, form = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": TALK}])), chat()
    (example,) = prepare(spec(source=source, instructions="blank"), form, seed=0).train
    assert form.tokenizer.decode(example.input_ids) == (
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>"
    )
    assert trained(tmp_path, [{"messages": TALK}], instructions="blank") == trained(tmp_path, [{"messages": TALK}])


# -- rows that come as tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_tokens_with_a_label_of_nothing_are_no_prompt_whatever_a_prompt_weighs(weight: float, tmp_path: Path) -> None:
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, -100]}
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [row]))
    (example,) = prepare(spec(source=source, prompt_loss_weight=weight), chat(), seed=0).train
    assert example.loss_weights.tolist() == [0, 0, 1, 0]


def test_rows_of_tokens_are_trained_on_as_their_labels_say(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}, {"input_ids": [9, 10, 11]}]
    source = describe_file(write_rows(tmp_path / "rows.jsonl", rows))
    assert source.format == "tokens"
    prepared = prepare(spec(source=source, max_length=8), chat(), seed=0)
    by_id = {example.row_id: example for example in prepared.train}
    assert by_id["row-0"].input_ids.tolist() == [5, 6, 7, 8]
    assert by_id["row-0"].loss_weights.tolist() == [0, 0, 1, 1]
    assert by_id["row-1"].loss_weights.tolist() == [0, 1, 1]
    assert prepared.summary.completion_prompt_ratio == 5 / 2


def test_instructions_of_what_has_none_cannot_be_left_out(tmp_path: Path) -> None:
    for row in ({"text": "Once."}, {"input_ids": [5, 6]}):
        source = describe_file(write_rows(tmp_path / "rows.jsonl", [row]))
        with pytest.raises(DataError, match=r"data\.instructions is 'blank', but must be 'kept'"):
            prepare(spec(source=source, instructions="blank"), chat(), seed=0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": [5, 6], "attention_mask": [1, 0]}, "padded"),
        ({"input_ids": [5, 2**70]}, "not_in_vocabulary"),
        ({"input_ids": [5, 6], "labels": [5]}, "malformed"),
        ({"input_ids": [5]}, "malformed"),
        ({"input_ids": "56"}, "malformed"),
        ({"input_ids": [5, 6.5]}, "malformed"),
        ({"input_ids": [True, False]}, "malformed"),
        ({"input_ids": [5, 6], "labels": [-100, 7]}, "labels_differ"),
        ({"input_ids": [5, 6], "labels": [5, -100]}, "no_trained_token"),
        ({"input_ids": [5, 10**6]}, "not_in_vocabulary"),
        ({"input_ids": [5, -1]}, "not_in_vocabulary"),
    ],
)
def test_rows_of_tokens_that_cannot_be_trained_on_are_counted(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [{"input_ids": [5, 6, 7]}, row]))
    prepared = prepare(spec(source=source), chat(), seed=0)
    assert (len(prepared.train), prepared.summary.num_rows_dropped) == (1, {reason: 1})


def test_rows_of_tokens_are_cut_like_any_other(tmp_path: Path) -> None:
    row = {"input_ids": list(range(5, 25)), "labels": [-100] * 10 + list(range(15, 25))}
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [row]))
    (example,) = prepare(spec(source=source, max_length=12, too_long="truncate_right"), chat(), seed=0).train
    assert example.loss_weights.tolist() == [0] * 10 + [1, 1]
    with pytest.raises(DataError, match="no_trained_token"):
        prepare(spec(source=source, max_length=8, too_long="truncate_right"), chat(), seed=0)


# -- rows that are dropped whatever is chosen -------------------------------------------------------------------------


def test_duplicates_are_dropped_and_counted_before_anything_is_chosen(tmp_path: Path) -> None:
    long = " ".join(f"word{number}" for number in range(60))
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in (("A?", long), ("a?", long.upper()), ("A?", long + " more"), ("B?", "Other."))
    ]
    source = describe_file(write_rows(tmp_path / "rows.jsonl", rows))
    found = {
        how: prepare(spec(source=source, deduplicate=how), chat(), seed=0).summary for how in ("off", "exact", "near")
    }
    assert {how: (summary.num_train, summary.num_rows_dropped) for how, summary in found.items()} == {
        "off": (4, {}),
        "exact": (3, {"duplicate": 1}),
        "near": (2, {"duplicate": 1, "near_duplicate": 1}),
    }
    assert {summary.num_rows_read for summary in found.values()} == {4}


def test_rows_that_say_what_is_evaluated_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]}
        for question in ("Please tell me where was Ann Tolden born?", "Where was Bob born?")
    ]
    source = describe_file(write_rows(tmp_path / "rows.jsonl", rows))
    asked = {"suite/facts": {"1": "Where was Ann Tolden born?"}}
    kept = prepare(spec(source=source, decontaminate=True), chat(), seed=0, kept_out=asked)
    assert [example.row_id for example in kept.train] == ["row-1"]
    assert kept.summary.num_rows_dropped == {"in_evaluation": 1}
    assert prepare(spec(source=source), chat(), seed=0, kept_out=asked).summary.num_train == 2


def test_replayed_rows_are_cleaned_as_well(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, {"messages": TALK[1:]}]
    texts = [{"text": "Where was Ann Tolden born? In Brill."}, {"text": "Once."}]
    source = describe_file(write_rows(tmp_path / "rows.jsonl", rows))
    replay = describe_file(write_rows(tmp_path / "texts.jsonl", texts))
    asked = {"suite/facts": {"1": "Where was Ann Tolden born?"}}
    mixed = spec(source=source, replay_source=replay, replay_share=0.5, num_examples=2, decontaminate=True)
    found = prepare(mixed, chat(), seed=0, kept_out=asked).summary
    assert found.num_rows_dropped == {"replay in_evaluation": 1}


@pytest.mark.parametrize(
    ("packing", "alone", "num_rows"),
    [("off", False, 2), ("padding_free", True, 2), ("isolated", True, 1), ("joined", False, 1)],
)
def test_packing_decides_what_reads_what_and_how_many_rows_there_are(
    tmp_path: Path, packing: str, alone: bool, num_rows: int
) -> None:
    source = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": TALK}, {"messages": TALK[1:]}]))
    found = prepare(spec(source=source, packing=packing), chat(), seed=0)
    assert (found.reads_itself_alone, len(found.train), found.num_examples) == (alone, num_rows, 2)


# -- what a token is a part of ----------------------------------------------------------------------------------------


def by_part(form: ChatFormat, example: Example) -> list[tuple[str, str]]:
    assert example.parts is not None
    cuts = np.flatnonzero(np.diff(example.parts)) + 1
    runs = zip(np.split(example.parts, cuts), np.split(example.input_ids, cuts), strict=True)
    return [(PARTS[part[0]], form.tokenizer.decode(ids)) for part, ids in runs]


def test_every_token_is_a_part_of_what_it_was_written_for(tmp_path: Path) -> None:
    source, form = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": TALK[:3]}])), chat()
    (example,) = prepare(spec(source=source), form, seed=0).train
    assert by_part(form, example) == [
        ("template", "<|im_start|>system\n"),
        ("system", "Be brief."),
        ("template", "<|im_end|>\n<|im_start|>user\n"),
        ("user", "What is 2?"),
        ("template", "<|im_end|>\n"),
        ("role_header", "<|im_start|>assistant\n"),
        ("assistant", "Two."),
        ("end_of_turn", "<|im_end|>"),
    ]


def test_a_user_who_says_what_the_system_said_is_found_in_its_own_turn(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Go."}, {"role": "user", "content": "Go."}, TALK[2]]
    source, form = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": messages}])), chat()
    (example,) = prepare(spec(source=source), form, seed=0).train
    said = [(name, text) for name, text in by_part(form, example) if name in ("system", "user", "assistant")]
    assert said == [("system", "Go."), ("user", "Go."), ("assistant", "Two.")]


def test_parts_are_cut_and_packed_with_their_tokens(tmp_path: Path) -> None:
    source, form = describe_file(write_rows(tmp_path / "rows.jsonl", [{"messages": TALK}])), chat()
    (row,) = prepare(spec(source=source, too_long="truncate_left", max_length=16), form, seed=0).train
    assert row.parts is not None
    assert len(row.parts) == len(row.input_ids) == 16
    raw = describe_file(write_rows(tmp_path / "raw.jsonl", [{"text": "Once."}, {"text": "Twice."}]))
    (packed,) = prepare(spec(source=raw, packing="isolated"), form, seed=0).train
    assert [name for name, _ in by_part(form, packed)] == ["text", "end_of_turn", "text", "end_of_turn"]


def test_cut_on_the_left_keeps_the_bos_of_a_template_and_of_a_tokenizer(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "What is 2? " * 9}, TALK[2]]}]
    source, cut = describe_file(write_rows(tmp_path / "rows.jsonl", rows)), {"too_long": "truncate_left"}
    for tok in (tokenizer(), tokenizer(adds_bos=True)):
        form = chat("llama3", tok)
        (row,) = prepare(spec(source=source, template="llama3", max_length=64, **cut), form, seed=0).train
        (whole,) = prepare(spec(source=source, template="llama3"), form, seed=0).train
        assert row.input_ids.tolist() == [form.bos_token_id, *whole.input_ids.tolist()[-63:]]
        assert row.loss_weights[1:].tolist() == whole.loss_weights[-63:].tolist()


def test_cut_on_the_left_keeps_no_bos_that_is_the_marker_of_a_turn(tmp_path: Path) -> None:
    rows = [{"messages": TALK[1:3]}]
    source, form = (
        describe_file(write_rows(tmp_path / "rows.jsonl", rows)),
        chat(tok=tokenizer(bos_token="<|im_start|>")),
    )
    (row,) = prepare(spec(source=source, too_long="truncate_left", max_length=16), form, seed=0).train
    assert form.render(TALK[1:3]).endswith(form.tokenizer.decode(row.input_ids))
