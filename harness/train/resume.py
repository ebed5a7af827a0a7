"""From a run to a checkpoint and back.

Invariant: a run continued from a checkpoint goes through the same bytes as one never interrupted (on CPU, at an equal
thread count); a checkpoint of any other run is not continued from. What does not live here: how a checkpoint lies on
disk (checkpoints.py).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import nn

from harness.data import PreparedData
from harness.spec import Runtime, TrainSpec
from harness.train import checkpoints
from harness.train.placed import gathered
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
    layout += (runtime.sharding,) if runtime.sharding != "none" else ()
    facts = (spec.model_dump_json(), seed, rows.summary.rows_sha256, *layout, *where)
    digest.update(repr(facts).encode())
    for name, parameter in model.named_parameters():
        total = parameter.detach().sum(dtype=torch.float64).item()
        facts = (name, tuple(parameter.shape), str(parameter.dtype), parameter.device.type, total)
        digest.update(repr(facts).encode())
    return digest.hexdigest()


def save(run: Run) -> None:
    """Write a checkpoint of a run that has just finished a step: the main process does, of whole tensors.

    Raises:
        DiskError: the disk is full or read-only.
    """
    groups = _groups(run)
    if not run.processes.is_main:
        deque(groups, maxlen=0)  # what is gathered takes all processes
        return
    state = {"run": asdict(run.state), "num_eval_halvings": run.eval_halvings.count}
    if run.best is not None:
        state["best"] = {name: getattr(run.best, name) for name in _BEST}
    run.checkpoints.save(run.state.step, groups, state)


def _groups(run: Run) -> Iterator[tuple[str, checkpoints.Tensors]]:
    """Yield the parts of a checkpoint; of weights in shares one kind at a time, lest all be whole at once."""
    is_main = run.processes.is_main
    yield "trainable", gathered(checkpoints.trainable(run.model), keep=is_main)
    moments = checkpoints.optimizer_tensors(run.model, run.optimizer)
    if run.processes.shards:
        for kind in sorted({name.rsplit("/", 1)[1] for name in moments}):
            chosen = {name: tensor for name, tensor in moments.items() if name.endswith(f"/{kind}")}
            yield f"{checkpoints.OPTIMIZER}_{kind}", gathered(chosen, keep=is_main)
    else:
        yield checkpoints.OPTIMIZER, moments
    yield "rng", checkpoints.rng_tensors()
    if run.best is not None and is_main:
        yield "best", run.best.weights


def resume(run: Run, step: int | None = None) -> bool:
    """Put a run where its newest intact checkpoint left it, or that of a step that the main process went on from.

    Returns:
        Whether there was one.

    Raises:
        StoreError: that of the step does not verify here.
    """
    loaded = run.checkpoints.newest() if step is None else run.checkpoints.of_step(step)
    if loaded is None:
        return False
    checkpoints.copy_into(run.model, loaded.groups["trainable"])
    for name, tensors in loaded.groups.items():
        if name.startswith(checkpoints.OPTIMIZER):
            checkpoints.load_optimizer(run.model, run.optimizer, tensors)
    run.state = State(**loaded.state["run"])
    run.state.num_halvings = max(run.state.num_halvings, run.runtime.num_halvings)
    run.eval_halvings.count = max(run.eval_halvings.count, loaded.state.get("num_eval_halvings", 0))
    if run.best is not None:
        for name in _BEST:
            setattr(run.best, name, loaded.state["best"][name])
        run.best.weights = loaded.groups["best"] if run.processes.is_main else {}
    checkpoints.load_rng(loaded.groups["rng"])
    return True
