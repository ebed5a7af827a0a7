"""Two processes that train one model, over gloo, beside one process that trains it alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.engine.together import Member, _free_port
from harness.train import processes
from harness.train.processes import ALONE, Together
from tests.train import tiny

ROWS = tiny.prepared(tiny.examples(21), tiny.examples(6, seed=9))
SMALL = tiny.runtime(micro_batch_size=3)
CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "token_mean": (tiny.llama, tiny.recipe(eval_every=2)),
    "example_mean": (tiny.llama, tiny.recipe(loss_reduction="example_mean")),
    "groups": (tiny.llama, tiny.recipe(loss_reduction="micro_batch_mean", loss_group_size=3)),
    "dropout": (lambda: tiny.lora(dropout=0.3), tiny.recipe()),
    # 21 examples in batches of 20: the second step has one, so that one process has nothing to do.
    "idle": (tiny.llama, tiny.recipe(batch_size=20, num_steps=None, num_epochs=1)),
    "stopped": (tiny.llama, tiny.recipe(eval_every=1, early_stopping_patience=1, learning_rate=0.5, num_steps=6)),
}
SAVING = tiny.runtime(micro_batch_size=3, checkpoint_every=2)


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


def one_sample(_model: nn.Module, phase: str) -> list[dict[str, Any]]:
    return [{"answer": phase}]


def train_case(name: str, folder: Path, group: Any = ALONE, **options: Any) -> dict[str, torch.Tensor]:
    """Train one case and return its weights, with those of a parameter that nothing reaches."""
    build, spec = CASES[name]
    model = build()
    model.register_parameter("unreached", nn.Parameter(torch.ones(2, 2)))
    tiny.fit(model, ROWS, spec, folder, processes=group, sample=one_sample, **({"runtime": SMALL} | options))
    return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}


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
            train_case("dropout", folder, together, runtime=SAVING)
    finally:
        handle.remove()


def take_part(member: Member, root: Path) -> None:
    """Train every case in this process; what came of it is left in files."""
    os.environ.update(member.variables())
    torch.set_num_threads(1)
    together = Together()
    for name in CASES:
        _keep(train_case(name, root / name, together), root, name, member)
    for kind in (Averaging, Own):
        broken = kind()
        _keep(train_case("token_mean", root / kind.__name__, broken), root, kind.__name__, member)
    _keep(train_case("dropout", root / "undisturbed", together, runtime=SAVING), root, "undisturbed", member)
    interrupted(root / "continued", together)
    _keep(train_case("dropout", root / "continued", together, runtime=SAVING), root, "continued", member)
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


def losses(folder: Path) -> list[float]:
    return [row["train/loss"] for row in tiny.log_of(folder)]


@pytest.mark.parametrize("name", CASES)
def test_processes_train_as_one_but_for_the_order_of_additions(name: str, two: Path, tmp_path: Path) -> None:
    alone = train_case(name, tmp_path)
    for key, tensor in of(two, name).items():
        # float32 sums of some hundred terms in another order, through up to nine steps of Adam
        torch.testing.assert_close(tensor, alone[key], rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(losses(two / name), losses(tmp_path), rtol=1e-5)
    counted = [{key: row[key] for key in ("step", "epoch", "train/num_tokens")} for row in tiny.log_of(tmp_path)]
    assert [{key: row[key] for key in counted[0]} for row in tiny.log_of(two / name)] == counted
    assert (len(counted) < CASES[name][1].num_steps) if name == "stopped" else counted
    assert (two / name / "samples.jsonl").read_text() == (tmp_path / "samples.jsonl").read_text()


# In "stopped" the main process alone goes back to the best weights.
@pytest.mark.parametrize("name", ["token_mean", "example_mean", "groups", "dropout", "idle", "continued"])
def test_processes_hold_the_same_bytes_after_training(name: str, two: Path) -> None:
    first, second = of(two, name, 0), of(two, name, 1)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_processes_exchange_gradients_in_groups_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BUCKET", 5)
    single, double = torch.zeros(3), torch.zeros(4, dtype=torch.float64)
    groups = list(processes._buckets([single, single, single, double, double]))
    assert [[len(tensor) for tensor in group] for group in groups] == [[3, 3], [3], [4, 4]]
    assert list(processes._buckets([])) == []


def test_processes_leave_alone_what_no_pass_reached(two: Path) -> None:
    assert torch.equal(of(two, "token_mean")["unreached"], torch.ones(2, 2))


@pytest.mark.parametrize("broken", ["Averaging", "Own"])
def test_processes_that_scale_otherwise_are_found_out(broken: str, two: Path) -> None:
    good, bad = tiny.log_of(two / "token_mean"), tiny.log_of(two / broken)
    norms = [[row["train/grad_norm"] for row in rows] for rows in (good, bad)]
    assert not np.allclose(norms[0], norms[1], rtol=1e-3)


def test_processes_continue_from_a_checkpoint_with_the_same_bytes(two: Path) -> None:
    undisturbed, continued = of(two, "undisturbed"), of(two, "continued")
    assert all(torch.equal(undisturbed[key], continued[key]) for key in undisturbed)
    logs = [json.dumps(tiny.log_of(two / name)) for name in ("undisturbed", "continued")]
    assert logs[0] == logs[1]
    assert len(json.loads(logs[0])) == 6
