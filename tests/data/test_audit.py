from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.data import describe_file, page, prepare
from harness.data.audit import Audit, audit_of
from harness.data.splits import SplitOverlap
from harness.spec import DataSpec
from tests.data.tiny import chat, spec, write_rows


def row(question: str, answer: str, **changes: Any) -> dict[str, Any]:
    """Return a row whose texts are tokens of one letter and a space each, so that they can be counted by eye."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer} | changes]}


def audited(
    tmp_path: Path, rows: Sequence[Mapping[str, Any]], batch_size: int = 2, **changes: Any
) -> tuple[Audit, DataSpec]:
    asked = spec(source=describe_file(write_rows(tmp_path / "rows.jsonl", rows)), **changes)
    return audit_of(prepare(asked, chat(), seed=0), chat(), batch_size, {}), asked


def test_audit_counts_tokens_and_loss_by_part(tmp_path: Path) -> None:
    found, asked = audited(tmp_path, [row("q", "a"), row("q", "aa"), row("q", "a")])
    assert found.tokens["user"] == 3
    assert (found.loss_tokens["assistant"], found.loss_tokens["end_of_turn"], found.loss_tokens["user"]) == (4, 3, 0)
    assert found.num_loss_tokens == 7
    assert found.end_of_turn_share == pytest.approx(3 / 7)
    assert (found.num_examples, found.num_rows, found.num_exact_duplicates) == (3, 3, 1)
    assert (found.examples_per_step, found.loss_tokens_per_step) == (2, pytest.approx(14 / 3))
    assert found.problems(asked) == []
    assert json.loads(json.dumps(found.as_json()))["end_of_turn_share"] == pytest.approx(3 / 7)


def test_audit_weighs_the_prompt_as_training_does(tmp_path: Path) -> None:
    found, _ = audited(tmp_path, [row("q", "a")], prompt_loss_weight=0.5)
    assert found.loss_tokens["user"] == 1
    assert found.loss_weight["user"] == 0.5
    assert found.loss_weight["end_of_turn"] == 1.0


def test_audit_counts_ends_of_turns_that_were_cut_away(tmp_path: Path) -> None:
    rows = [row("q", "a"), row("q", "a" * 40)]
    found, asked = audited(tmp_path, rows, too_long="truncate_right", max_length=24)
    assert (found.num_truncated, found.truncated_share) == (1, 0.5)
    assert (found.num_ends_lost, found.ends_lost_share) == (1, 0.5)
    assert found.problems(asked) == []


def test_audit_refuses_rows_of_which_none_ends(tmp_path: Path) -> None:
    found, asked = audited(tmp_path, [row("q", "a" * 40)], too_long="truncate_right", max_length=24)
    (problem,) = found.problems(asked)
    assert "data.train_on_end_of_turn is True, but none of" in problem
    assert found.problems(asked.replace({"train_on_end_of_turn": False})) == []


def test_audit_refuses_rows_without_any_loss(tmp_path: Path) -> None:
    silent = row("q", "a")["messages"] + row("q", "a", weight=0)["messages"]
    found, asked = audited(tmp_path, [{"messages": silent}], trained_turns="last")
    assert (found.num_without_loss, found.num_loss_tokens) == (1, 0)
    (problem,) = found.problems(asked)
    assert problem.startswith("no token of the 1 training rows carries loss")


def test_audit_of_packed_rows_counts_examples(tmp_path: Path) -> None:
    found, _ = audited(tmp_path, [row("q", "a"), row("q", "b"), row("q", "a")], packing="isolated", batch_size=1)
    assert (found.num_examples, found.num_rows, found.num_exact_duplicates) == (3, 1, 1)
    assert found.examples_per_step == 3
    assert found.pack_fill == found.num_tokens / 512


def test_audit_of_raw_text_has_text_and_its_end(tmp_path: Path) -> None:
    found, asked = audited(tmp_path, [{"text": "abc"}])
    assert set(found.tokens) == {"text", "end_of_turn"}
    assert found.completion_prompt_ratio is None
    assert found.problems(asked) == []


def test_audit_of_tokens_does_not_know_their_parts(tmp_path: Path) -> None:
    found, asked = audited(tmp_path, [{"input_ids": [5, 6, 7]}])
    assert (found.tokens, found.loss_tokens, found.end_of_turn_share) == ({"unknown": 3}, {"unknown": 2}, None)
    assert found.problems(asked) == []


def test_audit_warns_of_markers_that_are_plain_text_and_passes(tmp_path: Path) -> None:
    asked = spec(source=describe_file(write_rows(tmp_path / "rows.jsonl", [row("q", "a")])), template="gemma")
    form = chat("gemma")
    found = audit_of(prepare(asked, form, seed=0), form, 2, {})
    assert any("'gemma'" in warning and "<end_of_turn>" in warning for warning in found.warnings)
    assert found.problems(asked) == []
    assert audited(tmp_path, [row("q", "a")])[0].warnings == []


def test_audit_names_short_items_that_repeat_val_items_where_it_warns_of_them(tmp_path: Path) -> None:
    found, _ = audited(tmp_path, [row("q", "a")])
    splits = {"s/short": SplitOverlap(5, 10, num_checked=0, num_overlapping=0, num_repeated=4, num_across=0)}
    with_splits = replace(found, split_overlaps=splits)
    assert dict(page.facts(with_splits, "chatml"))["test items in val items"] == "s/short 40.0%"
    assert any("s/short 40.0%" in said for said in page.warnings(with_splits))
    apart = replace(found, split_overlaps={"s/apart": SplitOverlap(5, 10, 10, 0, 0, 0)})
    assert dict(page.facts(apart, "chatml"))["test items in val items"] == "none"
