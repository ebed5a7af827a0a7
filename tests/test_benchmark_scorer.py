"""The race with HFLM on a tiny model, and on sides that disagree: no ratio may be printed then."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scorer
from tests.evals import small
from tests.models import tiny

ROWS = [
    {"query": "Once upon a time", "choices": ["there was a dog", "a man and his dog went to the sea"]},
    {"query": "", "choices": ["A man went to the sea.", "The sea went to a man."]},
    {"query": "", "choices": ["A dog saw Ann.", "A dog saw the sea and Ann."]},
] * 3


@pytest.fixture(scope="module")
def sides() -> scorer.Sides:
    return scorer.Sides(small.llama(), tiny.tokenizer())


def _race(sides: scorer.Sides, contest: scorer.Contest) -> scorer.Outcome:
    return scorer.compare(contest, sides.model, (1, 4), repeats=2)


def test_race_of_equal_scores_gives_a_ratio_per_repeat(sides: scorer.Sides) -> None:
    outcome = _race(sides, sides.likelihood("blimp", scorer.requests(ROWS)))
    assert outcome.problems == []
    assert outcome.largest_gap < scorer.TOLERANCE
    for seconds, met, word in ((100.0, True, "wanted 1.5: met"), (1e-9, False, "wanted 1.5: MISSED")):
        faked = dataclasses.replace(outcome, theirs={outcome.best: [1.0, seconds, seconds]}, ours=[1.0, 1.0])
        assert faked.is_met == met
        assert word in scorer.describe(faked)
    assert len(outcome.ratios) == len(outcome.ours) == 2
    assert "HFLM / ours: median" in scorer.describe(outcome)
    # The rows repeat each other, so ours reads each beginning once; HFLM sends everything through both layers.
    assert outcome.layers[0] == outcome.outputs[0]
    assert outcome.outputs[1] < outcome.outputs[0]


def test_race_of_equal_answers_gives_a_ratio(sides: scorer.Sides) -> None:
    outcome = _race(sides, sides.generation(["A man", "Once upon a time there was", "12 plus"]))
    assert outcome.problems == []
    assert len(outcome.ratios) == 2


def _shifted(answers: list[Any]) -> list[Any]:
    return [(answers[0][0] + 0.01, answers[0][1]), *answers[1:]]


def _unmeasured(answers: list[Any]) -> list[Any]:
    return [(math.nan, answers[0][1]), *answers[1:]]


def _flipped(answers: list[Any]) -> list[Any]:
    return [(answers[0][0], not answers[0][1]), *answers[1:]]


@pytest.mark.parametrize("breaking", [_shifted, _unmeasured, _flipped])
def test_race_of_scores_that_differ_gives_no_ratio(sides: scorer.Sides, breaking: Any) -> None:
    contest = sides.likelihood("blimp", scorer.requests(ROWS))
    outcome = _race(sides, dataclasses.replace(contest, ours=lambda: breaking(contest.ours())))
    assert outcome.ratios == []
    assert not outcome.is_met
    assert "DISAGREE: batch size 1: choice 0" in scorer.describe(outcome)
    assert "HFLM / ours" not in scorer.describe(outcome)


def test_race_of_answers_that_differ_gives_no_ratio(sides: scorer.Sides) -> None:
    contest = sides.generation(["A man"])
    outcome = _race(sides, dataclasses.replace(contest, ours=lambda: ["something else"]))
    assert outcome.ratios == []
    assert "answer 0 is 'something else' here" in scorer.describe(outcome)


def test_disjoint_pairs_are_those_whose_first_words_differ(tmp_path: Path) -> None:
    rows = [{"query": "", "choices": ["A dog.", "The dog."]}, {"query": "", "choices": ["A dog.", "A cat."]}]
    (tmp_path / "blimp.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert scorer.read_slice(tmp_path, "blimp", 5) == rows
    assert scorer.read_slice(tmp_path, "blimp_disjoint", 5) == rows[:1]


def test_solved_items_stand_before_the_others_and_are_not_asked(tmp_path: Path) -> None:
    rows = [{"query": f"Ann saw {n}", "choices": ["dogs", "seas"], "gold": n % 2} for n in range(scorer.NUM_SHOTS + 2)]
    (tmp_path / "hellaswag.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = scorer.read_slice(tmp_path, "hellaswag_10shot", 5)
    assert len(asked) == 2
    assert asked[0]["query"].startswith("Ann saw 0 dogs\n\nAnn saw 1 seas\n\n")
    assert asked[0]["query"].endswith("Ann saw 9 seas\n\nAnn saw 10")


def test_context_of_a_slice_is_counted_in_tokens(sides: scorer.Sides) -> None:
    one, two = (scorer.requests([{"query": text, "choices": ["the sea", "a dog"]}]) for text in ("A", "A man and"))
    assert 1 < sides.longest(one) < sides.longest(two) == sides.longest([*one, *two])


def test_benchmark_without_items_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scorer", "--items", str(tmp_path / "none")])
    assert scorer.main() == 2
    assert "must be a folder with arc_easy, hellaswag, blimp.jsonl" in capsys.readouterr().out
