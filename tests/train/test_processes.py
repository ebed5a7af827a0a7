"""Two processes that train one model, over gloo, beside one process that trains it alone.

Each case is trained by processes that hold the whole model (`ddp`) and by such as hold half of each weight (`fsdp`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.data import PreparedData
from harness.data.packing import joined
from harness.engine.together import Member, _free_port
from harness.spec import TrainSpec
from harness.train import losses as loss
from harness.train import processes
from harness.train.processes import ALONE, Together
from harness.train.schedules import gradients
from harness.train.sharding import Sharded
from tests.train import tiny

ROWS = tiny.prepared(tiny.examples(21), tiny.examples(6, seed=9))
PACKED = replace(
    tiny.prepared([joined(ROWS.train[first : first + 3]) for first in range(0, 21, 3)], ROWS.validation),
    reads_itself_alone=True,
)
KINDS: dict[str, type[Together]] = {"ddp": Together, "fsdp": Sharded}


@dataclass(frozen=True)
class Case:
    """What is trained, and how many rows a forward pass takes at most."""

    build: Callable[[], nn.Module]
    spec: TrainSpec
    rows: PreparedData = ROWS
    micro_batch_size: int = 3
    many_logits: int = loss.MANY_LOGITS
    rtol: float = 1e-4
    """Of the weights: float32 sums of some hundred terms in another order, through up to nine steps of Adam."""


def half_lora() -> nn.Module:
    """Return adapters in float32 on a base in bfloat16."""
    model = tiny.lora(dropout=0.0)
    for parameter in model.parameters():
        parameter.data = parameter.data if parameter.requires_grad else parameter.data.bfloat16()
    return model


CASES = {
    "token_mean": Case(tiny.llama, tiny.recipe(eval_every=2)),
    "example_mean": Case(tiny.llama, tiny.recipe(loss_reduction="example_mean")),
    "groups": Case(tiny.llama, tiny.recipe(loss_reduction="micro_batch_mean", loss_group_size=3)),
    "dropout": Case(lambda: tiny.lora(dropout=0.3), tiny.recipe(batch_size=4)),
    # 21 examples in batches of 20: the second step has one, so that one process has nothing to do.
    "idle": Case(tiny.llama, tiny.recipe(batch_size=20, num_steps=None, num_epochs=1)),
    "stopped": Case(tiny.llama, tiny.recipe(eval_every=1, early_stopping_patience=1, learning_rate=0.5, num_steps=6)),
    # The output layer, tied to the embedding, is read outside of any forward pass.
    "sliced": Case(tiny.llama, tiny.recipe(num_steps=3), many_logits=1),
    # bfloat16 keeps 8 bits: where an activation is rounded the other way it moves by 2^-8.
    "autocast": Case(tiny.llama, tiny.recipe(num_steps=3, dtype="bfloat16_autocast", learning_rate=1e-4), rtol=2**-8),
    "mixed": Case(half_lora, tiny.recipe(num_steps=3, dtype="bfloat16", learning_rate=1e-4), rtol=2**-8),
}
METHODS = {"full": tiny.llama, "lora": lambda: tiny.lora(dropout=0.0)}
PACKING = {"off": (ROWS, 8), "packed": (PACKED, 4)}
for method, packing, accumulated in product(METHODS, PACKING, ("whole", "accumulated")):
    laid, batch_size = PACKING[packing]
    CASES[f"{method}-{packing}-{accumulated}"] = Case(
        METHODS[method],
        tiny.recipe(batch_size=batch_size, num_steps=3),
        laid,
        1 if accumulated == "accumulated" else batch_size,
    )


class Averaging(Together):
    """A broken build: it takes the mean over processes, as data parallelism usually does."""

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        added = super().add_up(model, sums)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.count
        return added


class Own(Together):
    """A broken build: each process keeps its own gradient."""

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        return sums


class AveragingShares(Sharded):
    """A broken build: shares of gradients are averaged, as torch does of itself."""

    def share(self, model: nn.Module) -> nn.Module:
        from torch.distributed.fsdp import FSDPModule

        shared = super().share(model)
        for module in shared.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(float(self.count))
        return shared


class OwnNorm(Together):
    """A broken build: each process clips by the norm of its own gradient."""

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        self.own = super().norm(model)
        return super().add_up(model, sums)

    def norm(self, model: nn.Module) -> torch.Tensor:
        return self.own


class OwnShareNorm(Sharded):
    """A broken build: each process clips by the norm of its own share of the gradient."""

    def norm(self, model: nn.Module) -> torch.Tensor:
        shares: list[Any] = gradients(model)
        return torch.nn.utils.get_total_norm([share.to_local() for share in shares])


BROKEN: dict[str, type[Together]] = {
    kind.__name__: kind for kind in (Averaging, Own, AveragingShares, OwnNorm, OwnShareNorm)
}


def one_sample(_model: nn.Module, phase: str) -> list[dict[str, Any]]:
    return [{"answer": phase}]


def train_case(name: str, folder: Path, group: Any = ALONE, **options: Any) -> dict[str, torch.Tensor]:
    """Train one case and return its weights, with those of a parameter that nothing reaches."""
    case = CASES[name]
    model = case.build()
    model.register_parameter("unreached", nn.Parameter(torch.ones(2, 2)))
    loss.MANY_LOGITS = case.many_logits
    plain = {"runtime": runtime_of(case, group), "sample": one_sample}
    tiny.fit(model, case.rows, case.spec, folder, processes=group, **(plain | options))
    loss.MANY_LOGITS = Case.many_logits
    return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}


def runtime_of(case: Case, group: Any, **changes: Any) -> Any:
    """Return how a case runs in a group."""
    several = {"num_processes": group.count, "device": "cpu", "sharding": "fsdp" if group.shards else "none"}
    return tiny.runtime(micro_batch_size=case.micro_batch_size, **several, **changes)


class Stopped(BaseException):
    """Stands for whatever ends a process."""


def interrupted(folder: Path, together: Together) -> None:
    """Train to the third step, and stop in all processes."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    taken = []

    def before(optimizer: torch.optim.Optimizer, *_args: Any) -> None:
        taken.append(1)
        if len(taken) == 4:
            raise Stopped

    handle = register_optimizer_step_pre_hook(before)
    try:
        with pytest.raises(Stopped):
            train_case("dropout", folder, together, runtime=saving(together))
    finally:
        handle.remove()


def saving(group: Any) -> Any:
    """Return a runtime that keeps a checkpoint every second step."""
    return runtime_of(CASES["dropout"], group, checkpoint_every=2)


def take_part(member: Member, root: Path) -> None:
    """Train every case in this process; what came of it is left in files."""
    os.environ.update(member.variables())
    torch.set_num_threads(1)
    for kind, make in KINDS.items():
        together, folder = make(), root / kind
        for name in CASES:
            _keep(train_case(name, folder / name, together), folder, name, member)
        _keep(
            train_case("dropout", folder / "undisturbed", together, runtime=saving(together)),
            folder,
            "undisturbed",
            member,
        )
        interrupted(folder / "continued", together)
        _keep(
            train_case("dropout", folder / "continued", together, runtime=saving(together)), folder, "continued", member
        )
    for name, make in BROKEN.items():
        _keep(train_case("token_mean", root / name, make()), root, name, member)
    together.close()


def _keep(weights: dict[str, torch.Tensor], root: Path, name: str, member: Member) -> None:
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, root / f"{name}.{member.rank}.safetensors")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that two processes trained in."""
    root, port = tmp_path_factory.mktemp("two"), _free_port()
    started = [get_context("spawn").Process(target=take_part, args=(Member(rank, 2, port), root)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0, 0]
    return root


def of(root: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(root / f"{name}.{rank}.safetensors")


def logged(folder: Path, column: str = "train/loss") -> list[float]:
    return [row[column] for row in tiny.log_of(folder)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, torch.Tensor]]]:
    """Return where one process trained each case, and its weights."""
    root = tmp_path_factory.mktemp("one")
    return {name: (root / name, train_case(name, root / name)) for name in CASES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_processes_train_as_one_but_for_the_order_of_additions(name: str, kind: str, two: Path, one: Any) -> None:
    (single, alone), several = one[name], two / kind / name
    rtol = CASES[name].rtol
    for key, tensor in of(two / kind, name).items():
        torch.testing.assert_close(tensor, alone[key], rtol=rtol, atol=2e-2 * rtol)
    np.testing.assert_allclose(logged(several), logged(single), rtol=0.1 * rtol)
    counted = [{key: row[key] for key in ("step", "epoch", "train/num_tokens")} for row in tiny.log_of(single)]
    assert [{key: row[key] for key in counted[0]} for row in tiny.log_of(several)] == counted
    assert (len(counted) < (CASES[name].spec.num_steps or 0)) if name == "stopped" else counted
    assert (several / "samples.jsonl").read_text() == (single / "samples.jsonl").read_text()


# In "stopped" the main process alone goes back to the best weights; processes that hold shares hold nothing twice.
@pytest.mark.parametrize("name", [name for name in CASES if name != "stopped"] + ["continued"])
def test_processes_hold_the_same_bytes_after_training(name: str, two: Path) -> None:
    first, second = of(two / "ddp", name, 0), of(two / "ddp", name, 1)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_processes_exchange_gradients_in_groups_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BUCKET", 5)
    single, double = torch.zeros(3), torch.zeros(4, dtype=torch.float64)
    groups = list(processes._buckets([single, single, single, double, double]))
    assert [[len(tensor) for tensor in group] for group in groups] == [[3, 3], [3], [4, 4]]
    assert list(processes._buckets([])) == []


@pytest.mark.parametrize("kind", KINDS)
def test_processes_leave_alone_what_no_pass_reached(kind: str, two: Path) -> None:
    assert torch.equal(of(two / kind, "token_mean")["unreached"], torch.ones(2, 2))


@pytest.mark.parametrize("broken", BROKEN)
def test_processes_that_scale_otherwise_are_found_out(broken: str, two: Path, one: Any) -> None:
    single, alone = one["token_mean"]
    assert not np.allclose(logged(two / broken, "train/grad_norm"), logged(single, "train/grad_norm"), rtol=1e-3)
    assert not np.allclose(logged(two / broken), logged(single), rtol=1e-5)
    assert not torch.allclose(of(two, broken)["model.norm.weight"], alone["model.norm.weight"], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_continue_from_a_checkpoint_with_the_same_bytes(kind: str, two: Path) -> None:
    undisturbed, continued = of(two / kind, "undisturbed"), of(two / kind, "continued")
    assert all(torch.equal(undisturbed[key], continued[key]) for key in undisturbed)
    logs = [json.dumps(tiny.log_of(two / kind / name)) for name in ("undisturbed", "continued")]
    assert logs[0] == logs[1]
    assert len(json.loads(logs[0])) == 6
