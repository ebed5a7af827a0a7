from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from harness.errors import ModelError
from harness.evals.interpolation import rows_between, trained, write_rows
from harness.evals.scoring import ask, scorer_of
from harness.evals.table import ItemRow
from harness.methods import attach
from harness.seeding import preserved_rng
from harness.spec import FullConfig, LoraConfig
from tests.evals import small

LORA = LoraConfig(rank=4, alpha=8.0, target_modules="all_linear")


def moved(method: Any, seed: int = 1) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a model as training might leave it, and its base's weights."""
    base = small.llama()
    start = {name: tensor.detach().clone() for name, tensor in base.named_parameters()}
    model = attach(base, method, seed=0)
    with preserved_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in trained(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval(), start


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 9)[None]).logits


def between(model: Any, base: dict[str, torch.Tensor] | None, weights: list[float]) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []

    def score() -> list[ItemRow]:
        seen.append(logits(model))
        return []

    rows_between(model, base, weights, score)
    return seen


@pytest.mark.parametrize("method", [FullConfig(), LORA], ids=["full", "lora"])
def test_ends_are_the_base_and_the_trained_model_bit_for_bit(method: Any) -> None:
    model, base = moved(method)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tuned = logits(model)
    zero, half, one = between(model, base if method.kind == "full" else None, [0.0, 0.5, 1.0])
    assert torch.equal(one, tuned)
    assert torch.equal(zero, logits(small.llama().eval()))
    assert not torch.equal(half, zero)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_full_weights_half_way_are_the_mean() -> None:
    model, base = moved(FullConfig())
    expected, _ = moved(FullConfig())
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            parameter.copy_((base[name].double() + parameter.double()) / 2)
    (half,) = between(model, base, [0.5])
    torch.testing.assert_close(half, logits(expected), rtol=1e-5, atol=1e-5)  # float32 rounding of the mean alone


def test_adapter_half_way_is_its_product_scaled_by_half() -> None:
    model, _ = moved(LORA)
    (quarter,) = between(model, None, [0.25])
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = {name: 0.25 * value for name, value in module.scaling.items()}
    torch.testing.assert_close(quarter, logits(model), rtol=1e-5, atol=1e-5)  # another order of the same products


def test_weights_are_put_back_where_scoring_fails() -> None:
    model, base = moved(FullConfig())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def fail() -> list[ItemRow]:
        raise KeyError

    with pytest.raises(KeyError):
        rows_between(model, base, [0.5], fail)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_base_of_another_shape_is_refused() -> None:
    model, base = moved(FullConfig())
    del base[next(iter(base))]
    with pytest.raises(ModelError, match="the base has no weight of that name"):
        rows_between(model, base, [0.5], list)


def test_rows_at_weight_one_are_those_of_the_model_and_have_their_weight(tmp_path: Path) -> None:
    model, base = moved(FullConfig())
    spec = small.evals(*small.every_kind(tmp_path, 4))
    scorer = scorer_of(model, small.chat(), spec, 4)
    after = ask(scorer, spec)
    rows = rows_between(model, base, [0.0, 1.0], lambda: ask(scorer, spec))
    write_rows(tmp_path / "i.parquet", rows)
    table = pd.read_parquet(tmp_path / "i.parquet")
    assert [row for weight, row in rows if weight == 1.0] == after
    assert list(table["weight"].unique()) == [0.0, 1.0]
    assert len(table) == 2 * len(after)
    assert [row for weight, row in rows if weight == 0.0] != after
