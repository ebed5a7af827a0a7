"""The output layer a slice at a time: the numbers of plain cross entropy, and only where a model bears it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from harness.errors import DeviceError
from harness.train import head, losses
from harness.train.batches import collate, laid_end_to_end
from harness.train.head import Head, chosen, sliced_nll, tried
from harness.train.losses import logits_at, nll_at, objective, token_nll
from tests.train import tiny
from tests.train.test_segments import SMALL, gemma3, gpt2, qwen2

CPU = torch.device("cpu")


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def gemma2() -> nn.Module:
    """Logits are squeezed below .05, so that without the squeeze they would differ."""
    return _seeded(lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.05)))


def granite() -> nn.Module:
    return _seeded(lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)))


def cohere() -> nn.Module:
    return _seeded(lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25)))


def phi() -> nn.Module:
    """An output layer with a bias."""
    model: Any = _seeded(lambda: PhiForCausalLM(PhiConfig(**SMALL)))
    nn.init.normal_(model.lm_head.bias)
    return model


class Moody(nn.Module):
    """A model whose logits also depend on how many positions the output layer is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = tiny.llama()

    def get_input_embeddings(self) -> nn.Module:
        return self.inside.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.inside.get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        logits = self.inside(**inputs).logits
        return SimpleNamespace(logits=logits * logits.shape[1])


class Headless(Moody):
    """A model that does not name its output layer."""

    def get_output_embeddings(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


BEARS = {
    "llama": (tiny.llama, Head.SLICED),
    "lora": (lambda: tiny.lora(dropout=0.0), Head.SLICED),
    "gemma3": (gemma3, Head.SLICED),
    "qwen2": (qwen2, Head.SLICED),
    "gpt2": (gpt2, Head.SLICED),
    "gemma2": (gemma2, Head.SELECTED),
    "granite": (granite, Head.SELECTED),
    "cohere": (cohere, Head.SELECTED),
    "phi": (phi, Head.SELECTED),
    "moody": (Moody, Head.WHOLE),
    "headless": (Headless, Head.WHOLE),
}


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    # 64 words in slices of 24, the last one shorter, and whatever the number of tokens
    monkeypatch.setattr(head, "COLUMNS", 24)
    monkeypatch.setattr(losses, "MANY_LOGITS", 0)


@pytest.mark.parametrize("name", BEARS)
def test_output_layer_of_each_architecture_bears_what_it_does(name: str) -> None:
    build, expected = BEARS[name]
    model = build().train()
    assert tried(model) is expected
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", BEARS)
def test_loss_and_gradients_of_each_architecture_equal_those_of_its_full_logits(name: str) -> None:
    model, rows = BEARS[name][0]().eval(), tiny.examples(4)
    batch = collate(rows, [np.full(1, 0.1 * (n + 1)) for n in range(4)], CPU)
    full_KV = model(input_ids=batch.input_ids_BT, use_cache=False).logits.flatten(0, 1)[batch.positions_K]
    expected = (token_nll(full_KV, batch.targets_K) * batch.scales_K).sum()
    expected.backward()
    gradients = {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    loss, _ = objective(model, batch, tried(model))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradients.keys() == {key for key, weight in model.named_parameters() if weight.grad is not None}
    for key, weight in model.named_parameters():
        if key in gradients:
            # float32 sums over other numbers of columns
            atol = 1e-6 * float(gradients[key].abs().max()) + 1e-9
            torch.testing.assert_close(weight.grad, gradients[key], rtol=1e-4, atol=10 * atol)


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere", "phi", "moody"])
def test_a_model_that_is_not_tried_first_would_get_other_numbers(name: str) -> None:
    model = BEARS[name][0]().eval()
    batch = collate(tiny.examples(4), [np.ones(1)] * 4, CPU)
    full_KV = model(input_ids=batch.input_ids_BT, use_cache=False).logits.flatten(0, 1)[batch.positions_K]
    right = token_nll(full_KV, batch.targets_K)
    assert (nll_at(model, batch, Head.SLICED) - right).abs().max() > 1e-3
    torch.testing.assert_close(nll_at(model, batch, tried(model)), right, rtol=1e-5, atol=1e-5)


def test_only_states_that_carry_loss_reach_the_output_layer_and_no_logits_leave_it() -> None:
    model: Any = tiny.llama()
    batch = collate(tiny.examples(4), [np.ones(1)] * 4, CPU)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.shape[:-1].numel()))
    logits_at(model, batch)
    nll_at(model, batch, Head.SLICED)
    assert seen == [len(batch.positions_K), 0]
    assert "forward" not in vars(model.lm_head)
    assert len(batch.positions_K) < batch.input_ids_BT.numel()


def test_loss_of_slices_has_the_worked_value_and_exact_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits_BTV = torch.randn(2, 8, 50)
    labels_BT = torch.randint(0, 50, (2, 8))
    monkeypatch.setattr(head, "COLUMNS", 7)
    # states that are the logits themselves, under an output layer that is the identity
    states, layer = logits_BTV.flatten(0, 1).requires_grad_(), torch.eye(50, requires_grad=True)
    nll_K = sliced_nll(states, layer, labels_BT.flatten())
    factors_K = torch.zeros(2, 8).index_fill_(1, torch.arange(4, 8), 1 / 8).flatten()
    loss = (nll_K * factors_K).sum()
    loss.backward()
    assert loss.item() == pytest.approx(4.54317, abs=5e-6)
    assert states.grad is not None
    gradient_BTV = states.grad.view(2, 8, 50)
    assert torch.count_nonzero(gradient_BTV[:, :4]) == 0
    assert (gradient_BTV[:, 4:].abs().sum(-1) > 0).all()


def test_loss_of_slices_of_a_row_without_loss_is_a_differentiable_zero() -> None:
    model = tiny.llama()
    silent = [replace(row, loss_weights=np.zeros_like(row.loss_weights)) for row in tiny.examples(2)]
    for kind in (Head.SLICED, Head.SELECTED, Head.WHOLE):
        loss, nll_sum = objective(model, collate(silent, [np.ones(1)] * 2, CPU), kind)
        loss.backward()
        assert (loss.item(), nll_sum.item()) == (0.0, 0.0)
    assert all(weight.grad is None or torch.count_nonzero(weight.grad) == 0 for weight in model.parameters())


def test_gradient_of_slices_with_targets_at_their_edges_equals_torch() -> None:
    torch.manual_seed(1)
    states = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    layer = torch.randn(64, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 24, 63])  # the first of a slice, the first of the next, the last of all
    factors = torch.tensor([0.2, -1.0, 3.0])
    (sliced_nll(states, layer, targets) * factors).sum().backward()
    mine = states.grad, layer.grad
    states.grad = layer.grad = None
    (nn.functional.cross_entropy(states @ layer.T, targets, reduction="none") * factors).sum().backward()
    # exponentials are taken in float32
    torch.testing.assert_close(mine[0], states.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine[1], layer.grad, rtol=1e-5, atol=1e-5)


def test_frozen_output_layer_of_slices_gets_no_gradient() -> None:
    states, layer = torch.randn(3, 5, requires_grad=True), torch.randn(64, 5)
    sliced_nll(states, layer, torch.tensor([1, 30, 63])).sum().backward()
    assert states.grad is not None
    assert layer.grad is None


def test_loss_of_slices_under_autocast_is_that_of_a_linear_layer() -> None:
    torch.manual_seed(2)
    states, layer = torch.randn(6, 32, requires_grad=True), torch.randn(64, 32, requires_grad=True)
    targets = torch.arange(0, 60, 10)
    with torch.autocast("cpu", torch.bfloat16):
        mine = sliced_nll(states, layer, targets)
        theirs = token_nll(nn.functional.linear(states, layer), targets)
    # the logits are the same bfloat16 numbers
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(loss.mean(), (states, layer)) for loss in (mine, theirs)]
    for one, other in zip(*gradients, strict=True):
        # bfloat16 products: 8 bits, summed over slices or at once
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.01 * float(other.abs().max()))


@pytest.mark.parametrize("together", [collate, laid_end_to_end])
def test_loss_of_slices_of_padded_and_packed_rows_is_that_of_logits(together: Any) -> None:
    model = tiny.llama()
    batch = together(tiny.examples(4), [np.ones(1)] * 4, CPU)
    torch.testing.assert_close(nll_at(model, batch, Head.SLICED), token_nll(logits_at(model, batch), batch.targets_K))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16_autocast"])
def test_whole_run_in_slices_ends_near_the_run_in_one(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, recipe = tiny.prepared(tiny.examples(12), tiny.examples(3, seed=5)), tiny.recipe(num_steps=4, dtype=dtype)
    sliced, whole = tiny.llama(), tiny.llama()
    in_slices = tiny.fit(sliced, rows, recipe, tmp_path / "sliced")
    monkeypatch.setattr(losses, "MANY_LOGITS", 2**25)
    at_once = tiny.fit(whole, rows, recipe, tmp_path / "whole")
    assert tiny.weights(sliced) != tiny.weights(whole)
    tolerance = 1e-6 if dtype == "float32" else 1e-3
    assert in_slices.val_loss == pytest.approx(at_once.val_loss, rel=tolerance)
    assert in_slices.train_loss_last == pytest.approx(at_once.train_loss_last, rel=tolerance)


# -- Liger, by a module that stands in for it: its kernel is not run here ----------------------------------------------


@pytest.fixture
def fake_liger(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    class Loss:
        def __init__(self, reduction: str) -> None:
            calls.append(reduction)

        def __call__(self, weight: torch.Tensor, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(states @ weight.T, targets, reduction="none")

    package, inner = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    package.__spec__ = ModuleSpec("liger_kernel", None)
    inner.LigerFusedLinearCrossEntropyLoss = Loss  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", inner)
    return calls


def test_liger_on_a_cpu_is_refused(fake_liger: list[str]) -> None:
    with pytest.raises(DeviceError, match=r"runtime\.loss_kernel is 'liger', but must be 'torch' on cpu"):
        chosen(tiny.llama(), "liger")


def test_liger_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="must be 'torch' where liger-kernel is not installed"):
        head._require_liger(torch.device("cuda"))


def test_liger_is_chosen_for_models_that_bear_it_alone(fake_liger: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_require_liger", lambda device: None)
    assert chosen(tiny.llama(), "liger") is Head.LIGER
    assert chosen(tiny.llama(), "torch") is Head.SLICED
    assert chosen(granite(), "liger") is Head.SELECTED
    model, batch = tiny.llama(), collate(tiny.examples(3), [np.ones(1)] * 3, CPU)
    torch.testing.assert_close(nll_at(model, batch, Head.LIGER), token_nll(logits_at(model, batch), batch.targets_K))
    assert fake_liger == ["none"]
