"""From a run to a checkpoint and back.

Invariant: a run continued from a checkpoint goes through the same bytes as one never interrupted (on CPU, at an equal
thread count); a checkpoint of any other run is not continued from. What does not live here: how a checkpoint lies on
disk (checkpoints.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import torch
from torch import nn

from harness.data import PreparedData
from harness.spec import Runtime, TrainSpec
from harness.train import checkpoints
from harness.train.run import Run, State

_BEST = ("value", "step", "val_loss", "num_worse")
"""What of the best so far is saved besides its weights."""


def identity(model: nn.Module, rows: PreparedData, spec: TrainSpec, seed: int, runtime: Runtime) -> str:
    """Return a digest of everything that the bytes of a run follow from.

    Weights enter as one float64 sum per parameter: cheap, also on a GPU, and different for any other base or adapter
    initialisation.
    """
    digest = hashlib.sha256()
    where = (runtime.num_threads, runtime.micro_batch_size, runtime.loss_kernel, torch.__version__)
    layout = ("end to end",) if rows.reads_itself_alone else ()
    layout += (f"{runtime.num_processes} processes",) if runtime.num_processes > 1 else ()
    facts = (spec.model_dump_json(), seed, rows.summary.rows_sha256, *layout, *where)
    digest.update(repr(facts).encode())
    for name, parameter in model.named_parameters():
        total = parameter.detach().sum(dtype=torch.float64).item()
        facts = (name, tuple(parameter.shape), str(parameter.dtype), parameter.device.type, total)
        digest.update(repr(facts).encode())
    return digest.hexdigest()


def save(run: Run) -> None:
    """Write a checkpoint of a run that has just finished a step.

    Raises:
        DiskError: the disk is full or read-only.
    """
    if not run.processes.is_main:
        return
    groups = {
        "trainable": checkpoints.trainable(run.model),
        "optimizer": checkpoints.optimizer_tensors(run.model, run.optimizer),
        "rng": checkpoints.rng_tensors(),
    }
    state = {"run": asdict(run.state), "num_eval_halvings": run.eval_halvings.count}
    if run.best is not None:
        groups["best"] = run.best.weights
        state["best"] = {name: getattr(run.best, name) for name in _BEST}
    run.checkpoints.save(run.state.step, groups, state)


def resume(run: Run) -> bool:
    """Put a run where its newest intact checkpoint left it; return False where there is none."""
    loaded = run.checkpoints.newest()
    if loaded is None:
        return False
    checkpoints.copy_into(run.model, loaded.groups["trainable"])
    checkpoints.load_optimizer(run.model, run.optimizer, loaded.groups["optimizer"])
    run.state = State(**loaded.state["run"])
    run.state.num_halvings = max(run.state.num_halvings, run.runtime.num_halvings)
    run.eval_halvings.count = max(run.eval_halvings.count, loaded.state.get("num_eval_halvings", 0))
    if run.best is not None:
        for name in _BEST:
            setattr(run.best, name, loaded.state["best"][name])
        run.best.weights = loaded.groups["best"]
    checkpoints.load_rng(loaded.groups["rng"])
    return True
