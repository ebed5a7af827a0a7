"""The race with TRL on a tiny model, and on sides that disagree: no ratio may be printed then."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import training
from benchmarks.training import Race, Trained
from harness.data.packing import joined
from tests.train import tiny


def _race(ours: Trained, theirs: Trained, required: float = 1.5) -> Race:
    return Race("a base", required, {"ours": [ours] * 3, "trl_packed": [theirs] * 3})


OURS = Trained(seconds=2.0, cpu_seconds=4.0, num_tokens=100, num_loss_tokens=40, loss=2.0)


def test_race_of_equal_work_gives_the_ratio_of_seconds() -> None:
    race = _race(OURS, dataclasses.replace(OURS, seconds=3.5, cpu_seconds=8.0, loss=2.001))
    assert race.ratios("trl_packed") == [1.75] * 3
    assert race.is_met
    text = training.describe(race)
    assert "ours: median 2.0 s, 50 tokens/s, 20 loss tokens/s" in text
    assert "trl_packed / ours: median 1.75, 1.75 to 1.75 (in CPU seconds 2.00), wanted 1.5: met" in text


def test_race_below_what_is_wanted_is_missed() -> None:
    race = _race(OURS, dataclasses.replace(OURS, seconds=2.9))
    assert not race.is_met
    assert "wanted 1.5: MISSED" in training.describe(race)


@pytest.mark.parametrize("changes", [{"num_tokens": 101}, {"num_loss_tokens": 41}, {"loss": 2.1}, {"loss": math.nan}])
def test_race_of_sides_that_did_other_work_gives_no_ratio(changes: dict[str, Any]) -> None:
    race = _race(OURS, dataclasses.replace(OURS, seconds=100.0, **changes))
    assert race.ratios("trl_packed") == []
    assert not race.is_met
    text = training.describe(race)
    assert "DISAGREE: trl_packed" in text
    assert "/ ours" not in text


def test_examples_given_to_trl_are_those_of_the_packed_rows() -> None:
    examples = tiny.examples(5)
    rows = tiny.prepared([joined(examples[:3]), joined(examples[3:])])
    columns = training.columns_of(rows)
    assert columns["input_ids"] == [example.input_ids.tolist() for example in examples]
    for labels, example in zip(columns["labels"], examples, strict=True):
        assert labels == np.where(example.loss_weights > 0, example.input_ids, -100).tolist()


def test_loss_tokens_leave_out_the_first_of_each_example() -> None:
    assert training.loss_tokens([1, 2, -100, 4, 5, 6], [3, 3]) == 3
    assert training.loss_tokens([1, 2, -100, 4, 5, 6], None) == 4
    assert training.loss_tokens([-100, -100], None) == 0


def test_weighted_mean_counts_each_value_as_often_as_it_stands_for() -> None:
    assert training.weighted_mean([(1.0, 3), (5.0, 1)]) == 2.0
    assert math.isnan(training.weighted_mean([]))


def test_our_side_counts_tokens_and_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    examples = tiny.examples(6)
    rows = dataclasses.replace(tiny.prepared([joined(examples[:3]), joined(examples[3:])]), reads_itself_alone=True)
    model, untouched = tiny.llama(), tiny.llama()
    trained = training.ours(lambda: model, rows, threads=1)(tmp_path / "run")
    assert trained.num_tokens == sum(len(example.input_ids) for example in examples)
    assert trained.num_loss_tokens == sum(int(example.loss_weights.sum()) for example in examples)
    assert trained.loss == pytest.approx(math.log(tiny.VOCAB), rel=0.05)
    moved = [(a - b).abs().max().item() for a, b in zip(model.parameters(), untouched.parameters(), strict=True)]
    assert max(moved) < 1e-7


def test_benchmark_without_a_fetched_base_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["training", "--store", str(tmp_path)])
    assert training.main() == 2
    assert "must have been fetched; make fetch BASE=smollm2_135m_instruct" in capsys.readouterr().out
