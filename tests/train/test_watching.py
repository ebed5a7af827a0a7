"""Val items scored while training: they move nothing, survive a stop, and can end a training early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.errors import DataError
from harness.records.store import read_lines
from harness.train.early_stopping import Best
from tests.train import tiny
from tests.train.test_resume import BUILDS, ROWS, SAVING, SPEC, interrupted

KEY = "s/t/acc"


def watcher(values: list[float | None] | None = None) -> Any:
    """Return a watcher that runs the model, draws random numbers, and gives these values one after the other."""
    given = iter(values or [])

    def watch(model: nn.Module) -> list[dict[str, Any]]:
        assert not model.training
        logits = model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits
        torch.rand(5)
        value = next(given) if values is not None else float(logits.sum())
        row = {"suite": "s", "task": "t", "item_id": "i", "cluster": "c", "metric": "acc", "chance": None}
        return [row | {"value": value, "reason": None if value is not None else "broken"}]

    return watch


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_that_is_watched_gives_the_same_bytes(method: str, tmp_path: Path) -> None:
    outcomes = []
    for name, watched in (("alone", None), ("watched", watcher())):
        model = BUILDS[method]()
        summary = tiny.fit(model, ROWS, SPEC, tmp_path / name, watched=watched)
        outcomes.append((summary, tiny.weights(model), tiny.log_of(tmp_path / name, only="train/loss")))
    assert outcomes[0] == outcomes[1]
    steps = [row["step"] for row in read_lines(tmp_path / "watched" / "during.jsonl")]
    assert steps == [0, 2, 4, 6, 8, 9]
    assert not (tmp_path / "alone" / "during.jsonl").exists()


def test_a_watcher_that_trains_is_noticed_by_the_same_comparison(tmp_path: Path) -> None:
    def meddling(model: nn.Module) -> list[dict[str, Any]]:
        with torch.no_grad():
            next(model.parameters()).mul_(1.001)
        return []

    alone, watched = tiny.llama(), tiny.llama()
    tiny.fit(alone, ROWS, SPEC, tmp_path / "alone")
    tiny.fit(watched, ROWS, SPEC, tmp_path / "watched", watched=meddling)
    assert tiny.weights(alone) != tiny.weights(watched)


@pytest.mark.parametrize("at", [1, 4, 9])
def test_resume_cuts_what_was_watched_back_to_the_checkpoint(at: int, tmp_path: Path) -> None:
    tiny.fit(BUILDS["full"](), ROWS, SPEC, tmp_path / "control", runtime=SAVING, watched=watcher())
    interrupted(BUILDS["full"](), tmp_path / "run", SPEC, at, watched=watcher())
    tiny.fit(BUILDS["full"](), ROWS, SPEC, tmp_path / "run", runtime=SAVING, watched=watcher())
    control, run = (read_lines(tmp_path / name / "during.jsonl") for name in ("control", "run"))
    assert run == control


STOPPING = {"num_steps": 20, "eval_every": 1, "early_stopping_patience": 2, "early_stopping_on": KEY}


def test_early_stopping_on_a_metric_keeps_the_weights_of_its_best_step(tmp_path: Path) -> None:
    values = [
        0.9,
        0.1,
        0.5,
        0.5,
        0.4,
        1.0,
    ]  # the first is before any step and does not count; an equal one is no better
    model = tiny.llama()
    summary = tiny.fit(model, ROWS, tiny.recipe(**STOPPING), tmp_path / "on", watched=watcher(values))
    assert (summary.num_steps, summary.best_step, summary.stopped_early) == (4, 2, True)
    kept = tiny.llama()
    spec = tiny.recipe(**STOPPING | {"early_stopping_patience": 50})
    two = tiny.fit(kept, ROWS, spec, tmp_path / "two", watched=watcher([0.0, 0.1, 0.5, *[0.2] * 18]))
    assert two.best_step == 2
    assert tiny.weights(model) == tiny.weights(kept)
    assert summary.val_loss == two.val_loss  # of the weights that are kept, not of the last ones


def test_early_stopping_takes_an_unknown_value_for_no_better(tmp_path: Path) -> None:
    spec = tiny.recipe(**STOPPING)
    summary = tiny.fit(tiny.llama(), ROWS, spec, tmp_path, watched=watcher([0.0, 0.5, None, None]))
    assert (summary.num_steps, summary.best_step) == (3, 1)


def test_early_stopping_on_a_metric_without_a_watcher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be None where no val items are scored"):
        tiny.fit(tiny.llama(), ROWS, tiny.recipe(**STOPPING), tmp_path)


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [("val_loss", 0.9, 1.1), ("s/t/bits_per_byte", 0.9, 1.1), ("s/t/acc", 1.1, 0.9), ("s/t/over_refused", 0.9, 1.1)],
)
def test_best_follows_the_direction_of_its_metric(metric: str, better: float, worse: float) -> None:
    best = Best(patience=1, metric=metric)
    assert best.is_better(1.0)
    best.value = 1.0
    assert best.is_better(better)
    assert not any(best.is_better(value) for value in (worse, 1.0, None, float("nan")))
