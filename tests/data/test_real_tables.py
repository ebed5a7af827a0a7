"""The two tables over real files, on parts of them: what is counted is there, and TRL's labels differ as explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import audit_table, trl_labels
from tests.data.tiny import REAL, SYSTEM, TURNS, tokenizer, write_rows
from tests.presence import package

QWEN, MISTRAL = (REAL / "tokenizers" / name for name in ("qwen2.5", "mistral"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers and rows in {REAL}")
NUM_ROWS = 30


def part_of(name: str, folder: Path) -> tuple[Path, list[list[dict[str, str]]]]:
    """Return the first rows of a real file as a file, and their messages."""
    lines = (REAL / "sft" / f"{name}.jsonl").read_bytes().split(b"\n")[:NUM_ROWS]
    path = folder / f"{name}.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path, [json.loads(line)["messages"] for line in lines if line]


@pytest.mark.parametrize("name", ["identity_chat", "toolcall_glaive", "oasst_threads"])
@pytest.mark.real
@needs_data
def test_table_of_real_rows_has_one_end_in_the_loss_for_every_answer(name: str, tmp_path: Path) -> None:
    path, rows = part_of(name, tmp_path)
    line = audit_table.counted(QWEN, path, "tokenizer", 4096)
    assert line.found is not None
    num_answers = sum(message["role"] == "assistant" for row in rows for message in row)
    assert (line.found.num_examples, line.found.loss_tokens["end_of_turn"]) == (len(rows), num_answers)
    assert line.found.loss_tokens["assistant"] == line.found.tokens["assistant"] > num_answers
    assert audit_table.unexpected(line) == []


@pytest.mark.real
@needs_data
def test_table_shows_a_refused_template_with_its_reason_and_the_named_one_beside_it(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [SYSTEM, *TURNS]}])
    refused, named = audit_table.lines_of(MISTRAL, [path], "mistral", 512)
    assert refused.found is None
    assert "must render the role 'system' alike for training and for generation" in refused.refusal
    assert named.found is not None
    assert named.found.tokens["system"] > 0
    text = audit_table.as_markdown([refused, named])
    assert "| rows | mistral | tokenizer | refused |" in text
    assert f"- rows: mistral, tokenizer: {refused.refusal}" in text


def test_table_names_what_a_sound_set_does_not_have(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    answer = {"role": "assistant", "content": "Paris. " * 40}
    rows = [{"messages": [TURNS[0], answer]}, {"messages": [TURNS[0]]}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    line = audit_table.counted(tmp_path, path, "chatml", 40)
    assert [text.split(": ")[1] for text in audit_table.unexpected(line)] == [
        "no end of turn carries loss",
        "1 of 2 rows are left out as no_assistant_turn",
    ]
    assert audit_table.unexpected(audit_table.counted(tmp_path, path, "chatml", 512))[0].endswith("no_assistant_turn")


@pytest.mark.parametrize(
    ("name", "way", "causes"),
    [
        ("oasst_threads", "messages", {("prompt", "\n"), ("after stop", "\n")}),
        ("oasst_threads", "prompt_completion", {("after stop", "\n")}),
        ("toolcall_glaive", "messages", {("prompt", "\n"), ("after stop", "\n")}),
        ("toolcall_glaive", "prompt_completion", {("after stop", "\n")}),
    ],
)
@pytest.mark.real
@needs_data
def test_trl_trains_line_breaks_beside_the_answers_of_real_rows_and_nothing_else(
    name: str, way: trl_labels.Way, causes: set[tuple[str, str]], tmp_path: Path
) -> None:
    package("trl")
    path, rows = part_of(name, tmp_path)
    found = trl_labels.compared(trl_labels.load(QWEN), "qwen2.5", path, way, None)
    assert (found.refusal, found.num_rows, found.num_other_tokens) == ("", len(rows), 0)
    assert set(found.only_theirs) == causes
    assert (found.only_ours, found.num_unexplained) == ({}, 0)


def test_a_token_of_an_answer_that_one_side_misses_speaks_against_ours() -> None:
    found = trl_labels.Comparison("rows", "tiny", "messages", num_rows=2)
    found.only_theirs.update([("after stop", "\n"), ("prompt", "\n")])
    assert found.num_unexplained == 0
    found.only_theirs.update([("answer", "4")])
    found.only_ours.update([("prompt", "Q"), ("answer", "a")])
    assert found.num_unexplained == 2
