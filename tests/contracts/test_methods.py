"""What every registered method must do. A new method needs one line in `CONFIGS`, or these tests fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness.errors import StoreError
from harness.methods import METHODS, attach, count_parameters, quantisation, save
from harness.models import BaseFiles, inspect_folder, load_model
from harness.records.store import verify_manifest
from harness.spec import FullConfig, LoraConfig, MethodConfig, QLoraConfig
from tests.models.tiny import IDS, write_folder

CONFIGS: dict[str, MethodConfig] = {
    "full": FullConfig(),
    "lora": LoraConfig(rank=4, alpha=8.0, target_modules="all_linear"),
    "qlora": QLoraConfig(rank=4, alpha=8.0, target_modules="all_linear"),
}
DTYPES = ("float32", "bfloat16_autocast", "bfloat16")
every_method = pytest.mark.parametrize("kind", METHODS)
Load = Callable[..., PreTrainedModel]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> BaseFiles:
    return inspect_folder(write_folder(tmp_path_factory.mktemp("contracts") / "model"))


@pytest.fixture
def load(files: BaseFiles) -> Load:
    def loaded(kind: str, dtype: str = "float32") -> PreTrainedModel:
        return load_model(files, dtype, "cpu", quantisation(CONFIGS[kind]))

    return loaded


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: p.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, p in model.named_parameters()}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model: nn.Module) -> None:
    gradients(model)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()


@every_method
@pytest.mark.parametrize("dtype", DTYPES)
def test_method_at_step_0_gives_the_bases_logits_exactly(kind: str, dtype: str, load: Load) -> None:
    model = load(kind, dtype)
    with torch.no_grad():
        before = model(IDS).logits
        after = attach(model, CONFIGS[kind], seed=3).eval()(IDS).logits
    assert torch.equal(before, after)


@every_method
def test_method_is_attached_the_same_whatever_was_drawn_before_and_draws_nothing(kind: str, load: Load) -> None:
    torch.manual_seed(1)
    first = bits(attach(load(kind), CONFIGS[kind], seed=5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = bits(attach(load(kind), CONFIGS[kind], seed=5))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())


@every_method
def test_method_that_draws_draws_otherwise_for_another_seed(kind: str, load: Load) -> None:
    first, second = (bits(attach(load(kind), CONFIGS[kind], seed=seed)) for seed in (0, 1))
    assert (first != second) == (kind != "full")


@every_method
@pytest.mark.parametrize("dtype", DTYPES)
def test_method_trains_what_requires_a_gradient_and_nothing_else(kind: str, dtype: str, load: Load) -> None:
    model = attach(load(kind, dtype), CONFIGS[kind], seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    before = bits(model)
    step(model)
    step(model)  # the first moves the second matrices of adapters alone, the next one all
    after = bits(model)
    assert trained
    assert {name for name in before if before[name] != after[name]} == trained


@every_method
def test_method_passes_the_same_gradients_after_an_evaluation(kind: str, load: Load) -> None:
    model = attach(load(kind), CONFIGS[kind], seed=0)
    step(model)
    before = gradients(model)
    model.eval()
    with torch.no_grad():
        model(input_ids=IDS)
    after = gradients(model)
    assert before.keys() == after.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(before[name], after[name]) and before[name].any() for name in before)


@every_method
def test_method_counts_its_base_alike(kind: str, load: Load) -> None:
    trained, base = count_parameters(attach(load(kind), CONFIGS[kind], seed=0))
    assert base == count_parameters(load("full"))[1]
    assert trained == sum(p.numel() for p in attach(load(kind), CONFIGS[kind], seed=0).parameters() if p.requires_grad)


@every_method
def test_method_saves_what_plain_libraries_load_to_the_same_logits(kind: str, load: Load, tmp_path: Path) -> None:
    model = attach(load(kind), CONFIGS[kind], seed=0)
    step(model)
    folder = tmp_path / "weights"
    save(model, CONFIGS[kind], folder, "all")
    if (folder / "adapter_config.json").exists():
        plain = PeftModel.from_pretrained(load(kind), str(folder))
    else:
        plain = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(plain.eval()(IDS).logits, model.eval()(IDS).logits)


@every_method
def test_method_saves_safetensors_under_a_manifest_that_finds_a_flipped_byte(
    kind: str, load: Load, tmp_path: Path
) -> None:
    save(attach(load(kind), CONFIGS[kind], seed=0), CONFIGS[kind], tmp_path / "weights", "all")
    weights = list((tmp_path / "weights").glob("*.safetensors"))
    assert len(weights) == 1
    assert not [path for suffix in ("bin", "pt", "pkl") for path in tmp_path.rglob(f"*.{suffix}")]
    verify_manifest(tmp_path / "weights")
    content = bytearray(weights[0].read_bytes())
    content[-1] ^= 1
    weights[0].write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        verify_manifest(tmp_path / "weights")


@every_method
def test_method_keeps_nothing_when_told_so(kind: str, load: Load, tmp_path: Path) -> None:
    save(attach(load(kind), CONFIGS[kind], seed=0), CONFIGS[kind], tmp_path / "weights", "none")
    assert not list(tmp_path.iterdir())
