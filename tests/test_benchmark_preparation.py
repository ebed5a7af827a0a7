"""The race with TRL over the preparation of rows, on rows of which some cannot be compared."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import preparation
from benchmarks.preparation import Prepared, Race
from tests.presence import package

OURS = Prepared(seconds=2.0, cpu_seconds=4.0, num_tokens=100, num_loss_tokens=40, num_rows=3)
needs_tokenizer = pytest.mark.skipif(
    not preparation.TOKENIZER.is_dir(), reason="the real tokenizer qwen2.5 does not lie beside the checkout"
)


def test_race_is_run_against_the_fastest_of_the_others() -> None:
    slow, fast = (dataclasses.replace(OURS, seconds=seconds) for seconds in (9.0, 5.0))
    race = Race(2.0, {"ours": [OURS] * 2, "trl_1": [slow] * 2, "trl_2": [fast] * 2})
    assert race.ratios() == [2.5, 2.5]
    assert race.is_met
    assert "trl_2 / ours: median 2.50, 2.50 to 2.50 (in CPU seconds 1.00), wanted 2.0: met" in preparation.describe(
        race
    )
    assert not dataclasses.replace(race, required=3.0).is_met


@pytest.mark.parametrize("changes", [{"num_tokens": 99}, {"num_loss_tokens": 41}])
def test_race_of_sides_that_made_other_rows_gives_no_ratio(changes: dict[str, int]) -> None:
    race = Race(2.0, {"ours": [OURS], "trl_1": [dataclasses.replace(OURS, seconds=9.0, **changes)]})
    assert race.ratios() == []
    assert not race.is_met
    assert "DISAGREE: trl_1 has" in preparation.describe(race)
    assert "/ ours" not in preparation.describe(race)


@pytest.mark.real
@needs_tokenizer
def test_both_sides_make_the_same_tokens_of_real_rows(tmp_path: Path) -> None:
    package("trl")
    arguments = argparse.Namespace(
        tokenizer=preparation.TOKENIZER, rows=preparation.ROWS[:1], num_rows=40, max_length=256
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in preparation.usable(arguments)))
    ours, theirs = preparation.ours(rows, arguments), preparation.theirs(rows, arguments, None)
    assert (ours.num_tokens, ours.num_loss_tokens) == (theirs.num_tokens, theirs.num_loss_tokens)
    assert 0 < ours.num_loss_tokens < ours.num_tokens


@pytest.mark.real
@needs_tokenizer
def test_conversations_that_one_side_would_cut_or_strip_are_left_out(tmp_path: Path) -> None:
    said = [("Hi", "Yes."), ("Hi", "word " * 300 + "end"), ("Hi", " edge "), ("Ho", "No.")]
    rows = tmp_path / "some.jsonl"
    roles = ("user", "assistant")
    rows.write_text(
        "".join(
            json.dumps({"messages": [{"role": role, "content": text} for role, text in zip(roles, pair, strict=True)]})
            + "\n"
            for pair in said
        )
    )
    arguments = argparse.Namespace(tokenizer=preparation.TOKENIZER, rows=[rows], num_rows=10, max_length=64)
    assert [row["messages"][1]["content"] for row in preparation.usable(arguments)] == ["Yes.", "No."]
    arguments.num_rows = 1
    assert len(preparation.usable(arguments)) == 1


def test_benchmark_without_rows_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["preparation", "--rows", str(tmp_path / "none.jsonl")])
    assert preparation.main() == 2
    assert "must be a file of conversations" in capsys.readouterr().out
