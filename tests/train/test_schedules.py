from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from harness.train import schedules
from tests.train import tiny

REFERENCES = {
    "cosine": lambda optimizer, warmup, total: get_cosine_schedule_with_warmup(optimizer, warmup, total),
    "linear": lambda optimizer, warmup, total: get_linear_schedule_with_warmup(optimizer, warmup, total),
    "constant": lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup),
}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(
    ("num_steps", "warmup_ratio", "num_warmup"), [(20, 0.1, 2), (7, 0.1, 1), (5, 0.0, 0), (3, 1.0, 3)]
)
def test_learning_rate_equals_the_scheduler_of_transformers(
    schedule: str, num_steps: int, warmup_ratio: float, num_warmup: int
) -> None:
    spec = tiny.recipe(schedule=schedule, warmup_ratio=warmup_ratio, num_steps=num_steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=spec.learning_rate)
    scheduler = REFERENCES[schedule](optimizer, num_warmup, num_steps)
    for step in range(num_steps):
        expected = optimizer.param_groups[0]["lr"]
        assert schedules.learning_rate(spec, step, num_steps) == pytest.approx(expected, rel=1e-12, abs=1e-18)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rate_reaches_zero_at_the_end(schedule: str) -> None:
    assert schedules.learning_rate(tiny.recipe(schedule=schedule), 10, 10) == 0.0


def test_adamw_spares_vectors_from_weight_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer = schedules.adamw(model, tiny.recipe(weight_decay=0.5))
    schedules.set_learning_rate(optimizer, 0.1)
    optimizer.step()  # without a gradient, decay alone moves weights
    moved = {name: parameter.detach().unique().tolist() for name, parameter in model.named_parameters()}
    assert moved == {"0.weight": [pytest.approx(0.95)], "0.bias": [1.0], "1.weight": [1.0], "1.bias": [1.0]}


def test_adamw_leaves_frozen_parameters_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    held = [parameter for group in schedules.adamw(model, tiny.recipe()).param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model[1].parameters()}


@pytest.mark.parametrize("max_norm", [0.01, 1e9, None])
def test_clip_gradients_equals_torch(max_norm: float | None) -> None:
    mine, theirs = nn.Linear(4, 4), nn.Linear(4, 4)
    for index, parameter in enumerate((*mine.parameters(), *theirs.parameters())):
        parameter.grad = torch.full_like(parameter, 0.3 + index % 2)
    norm = torch.nn.utils.get_total_norm(schedules.gradients(mine)).item()
    schedules.clip_gradients(mine, norm, max_norm)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), float("inf") if max_norm is None else max_norm)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
