from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from peft.utils.integrations import dequantize_module_weight

from harness.evals import weight_change
from harness.evals.model_pair import ModelPair
from harness.evals.weight_change import LayerChange, effective_rank, num_intruders, of_layers
from harness.methods import attach, quantisation
from harness.models import inspect_folder, load_model
from harness.spec import LoraConfig, QLoraConfig
from tests.evals import small
from tests.models import tiny

LORA: dict[str, Any] = {"rank": 4, "alpha": 8.0, "target_modules": "all_linear"}


def trained(model: Any, seed: int = 0) -> Any:
    """Give every second factor of an adapter values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


def linear_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights of the linear layers in the decoder, float64."""
    return {
        name.removesuffix(".weight"): parameter.detach().double()
        for name, parameter in model.named_parameters()
        if "proj" in name
    }


def expected_sizes(weight: torch.Tensor, after: torch.Tensor) -> tuple[float, float, float]:
    """Return relative change, stable and effective rank from all singular values."""
    values = torch.linalg.svdvals(after - weight)
    rank = math.exp(scipy.stats.entropy(values.numpy()))
    return float(values.norm() / weight.norm()), float((values**2).sum() / values[0] ** 2), rank


def faults(layers: list[LayerChange], before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    """Return the layers whose sizes are not those of the difference."""
    assert [layer.name for layer in layers] == list(before)
    sizes = {layer.name: (layer.relative_change, layer.stable_rank, layer.effective_rank) for layer in layers}
    return [
        name for name in before if sizes[name] != pytest.approx(expected_sizes(before[name], after[name]), rel=1e-5)
    ]  # merging rounds to float32


@pytest.mark.parametrize("scaling", ["alpha_over_rank", "alpha_over_sqrt_rank"])
def test_of_layers_lora_equals_the_merged_difference(scaling: str) -> None:
    tuned = trained(attach(small.llama(0), LoraConfig(**LORA, rank_scaling=scaling), seed=1))
    layers = of_layers(ModelPair(tuned))
    merged = linear_weights(tuned.merge_and_unload())
    assert faults(layers, linear_weights(small.llama(0)), merged) == []


def test_of_layers_scale_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = trained(attach(small.llama(0), LoraConfig(**LORA), seed=1))
    for module in tuned.modules():
        if hasattr(module, "scaling"):
            monkeypatch.setattr(module, "scaling", {"default": 1.0})
    layers = of_layers(ModelPair(tuned))
    monkeypatch.undo()
    merged = linear_weights(tuned.merge_and_unload())
    assert len(faults(layers, linear_weights(small.llama(0)), merged)) == len(layers)


def test_of_layers_qlora_is_against_the_dequantised_base(tmp_path: Path) -> None:
    config = QLoraConfig(**LORA)
    files = inspect_folder(tiny.write_folder(tmp_path / "model"))
    base = load_model(files, "float32", "cpu", quantisation(config))
    weights = {
        name: dequantize_module_weight(module).double()
        for name, module in base.named_modules()
        if name.endswith("_proj")
    }
    tuned = trained(attach(base, config, seed=1))
    deltas = {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().double()
        for name, module in tuned.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    layers = of_layers(ModelPair(tuned))
    assert faults(layers, weights, {name: weights[name] + deltas[name] for name in weights}) == []


@pytest.mark.parametrize("side", [32, 4])
def test_of_layers_full_equals_the_difference_by_either_way_to_the_largest_value(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_change, "SMALL_SIDE", side)
    before, after = small.llama(0), small.llama(1)
    layers = of_layers(ModelPair(after, before))
    assert faults(layers, linear_weights(before), linear_weights(after)) == []


def test_of_layers_untouched_layers_have_changed_by_zero() -> None:
    tuned = trained(attach(small.llama(0), LoraConfig(**(LORA | {"target_modules": "attention"})), seed=1))
    layers = {layer.name: layer for layer in of_layers(ModelPair(tuned))}
    assert list(layers) == list(linear_weights(small.llama(0)))
    for name, layer in layers.items():
        assert (layer.relative_change == 0.0) == ("mlp" in name)
        assert math.isnan(layer.stable_rank) == math.isnan(layer.effective_rank) == ("mlp" in name)
        assert layer.num_intruders == 0 or "mlp" not in name


def test_of_layers_weights_that_are_not_finite_are_unknown() -> None:
    after = small.llama(1)
    after.model.layers[0].mlp.up_proj.weight.data[0, 0] = math.inf
    broken = [layer for layer in of_layers(ModelPair(after, small.llama(0))) if math.isnan(layer.relative_change)]
    assert [layer.name for layer in broken] == ["model.layers.0.mlp.up_proj"]


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.tensor([3.0, 3.0, 3.0, 0.0])) == pytest.approx(3.0)
    # p = 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert effective_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)
    assert math.isnan(effective_rank(torch.zeros(3)))


def test_of_layers_too_large_to_decompose_are_unknown_but_for_the_rank_of_two_factors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_change, "LARGEST_SIDE", 8)
    full = of_layers(ModelPair(small.llama(1), small.llama(0)))
    lora = of_layers(ModelPair(trained(attach(small.llama(0), LoraConfig(**LORA), seed=1))))
    assert all(layer.is_large and math.isnan(layer.num_intruders) for layer in [*full, *lora])
    assert all(math.isnan(layer.effective_rank) and layer.stable_rank > 1 for layer in full)
    assert all(1 < layer.effective_rank <= 4 for layer in lora)


def test_num_intruders_by_hand() -> None:
    # W spans the first 12 of 20 directions; what is added in two new ones, larger than all, are two intruders.
    weight = torch.zeros(20, 12)
    weight[range(12), range(12)] = torch.linspace(2, 1, 12)
    change = torch.zeros(20, 12)
    change[15, 0], change[16, 1] = 50.0, 40.0
    assert num_intruders(weight, change) == 2
    assert num_intruders(weight, change, top_k=1) == 1
    assert num_intruders(weight, 3 * weight) == 0
    assert num_intruders(weight, torch.zeros(20, 12)) == 0


def test_num_intruders_half_new_direction_counts_by_its_cosine() -> None:
    # The leading vector after training is (0.8, 0.6) of an old and a new direction: cosine 0.8 with the old one.
    weight = torch.zeros(6, 4)
    weight[range(4), range(4)] = torch.tensor([1.0, 0.5, 0.4, 0.3])
    change = torch.zeros(6, 4)
    change[0, 0], change[5, 0] = 80.0 - 1.0, 60.0
    assert num_intruders(weight, change, top_k=1, threshold=0.79) == 0
    assert num_intruders(weight, change, top_k=1, threshold=0.81) == 1


def test_of_layers_intruders_equal_numpys_on_whole_matrices() -> None:
    tuned = trained(attach(small.llama(0), LoraConfig(**(LORA | {"alpha": 80.0})), seed=1))
    counted = {layer.name: layer.num_intruders for layer in of_layers(ModelPair(tuned))}
    before, after = linear_weights(small.llama(0)), linear_weights(tuned.merge_and_unload())
    for name in before:
        old, new = (np.linalg.svd(weights[name].numpy())[0] for weights in (before, after))
        old = old[:, : min(before[name].shape)]
        cosines = np.abs(old.T @ new[:, :10]).max(axis=0)
        assert counted[name] == (cosines < 0.5).sum()
    assert sum(counted.values()) > 0
