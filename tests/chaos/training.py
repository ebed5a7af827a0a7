"""Kills while a real trainer trains and saves: the same weights and the same log, byte for byte.

A tiny Llama - all of it, LoRA, LoRA over four bits; dropout in each - trains 12 steps with a checkpoint after every
second one, through the real worker and store, in forked processes. An attempt is killed at a random moment, or before a
random call to the file system, checkpoints included; now and then a checkpoint then gets a flipped bit. What does not
live here: trials without torch (stub.py).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from harness import methods
from harness.engine import worker
from harness.engine.worker import TrialJob
from harness.identity import trial_id
from harness.models import load_model
from harness.models.files import inspect_folder
from harness.records import result
from harness.records.schema import PlannedTrial, TrialResult
from harness.records.store import Store, file_sha256, write_manifest
from harness.spec import QLoraConfig, Runtime, TrialSpec
from harness.train import checkpoints
from tests.chaos import broken, faults, invariants, processes, stub
from tests.chaos.setting import Setting, Tally
from tests.engine.stub import stub_result
from tests.engine.trials import of_spec
from tests.models.tiny import write_folder
from tests.specs import pinned_spec
from tests.train import tiny

ROWS = tiny.prepared(tiny.examples(24), tiny.examples(6, seed=9))
RECIPE = tiny.recipe(num_steps=12, eval_every=3)
RUNTIME = tiny.runtime(micro_batch_size=3, checkpoint_every=2)
KINDS = ("full", "lora", "qlora")
AGAIN = 0.6
"""Share of killed attempts whose successor is killed, too."""
FLIPPED = 0.2
_BASES: dict[str, Path] = {}


def kills(setting: Setting) -> Tally:
    """Kill trainings until so many kills are counted, and compare each with one that nothing disturbed."""
    tally, luck = setting.tally, setting.random
    torch.set_num_threads(1)
    _BASES["tiny"] = write_folder(setting.folder / "base")
    controls = {kind: _control(setting, kind, _trial(kind)) for kind in KINDS}
    broken.apply(setting.build)  # what is forked from here on is of the broken build
    while tally.counts["kills while training"] < setting.count:
        kind = luck.choice(KINDS)
        root, trial = setting.fresh(), _trial(kind)
        seconds, num_calls, said = controls[kind]
        while tally.counts["kills while training"] < setting.count:
            _kill_one(tally, luck, root, trial, seconds, num_calls)
            if luck.random() > AGAIN:
                break
        tally.counts["trainings compared"] += 1
        code = processes.wait(_attempt(root, trial)).code
        tally.require(code == 0, f"training: {kind} ended with {code} after kills; see {root}.log")
        tally.require(code != 0 or _said(root, trial) == said, f"difference: {kind} has other weights or losses")
        tally.check(kind, invariants.always(root) + invariants.left_over(root))
        setting.discard(root)
    return tally


def _control(setting: Setting, kind: str, trial: PlannedTrial) -> tuple[float, int, Any]:
    """Return the seconds, the calls to the file system and the outcome of a training that nothing disturbs."""
    root = setting.fresh()
    note = root.with_name(root.name + ".calls")

    def run() -> int:
        counter = faults.strike_call(None, "", root)
        code = _run(root, trial)
        note.write_text(str(len(counter.names)))
        return code

    started = time.monotonic()
    code = processes.wait(processes.fork(run, root.with_name(root.name + ".log"))).code
    assert code == 0, f"the undisturbed training of {kind} ended with {code}; see {root}.log"
    return time.monotonic() - started, int(note.read_text()), _said(root, trial)


def _trial(kind: str) -> PlannedTrial:
    """Return the planned trial that stands for a way to train: its seed says which."""
    return of_spec(pinned_spec().replace({"seed": KINDS.index(kind)}))


def _attempt(root: Path, trial: PlannedTrial, prepare: Callable[[], object] = lambda: None) -> int:
    def run() -> int:
        prepare()
        return _run(root, trial)

    return processes.fork(run, root.with_name(root.name + ".log"))


def _run(root: Path, trial: PlannedTrial) -> int:
    outcome = worker.attempt(TrialJob(trial.spec, root, RUNTIME, train_tiny))
    return 0 if outcome.state == "COMPLETE" else 3


def _kill_one(
    tally: Tally, luck: random.Random, root: Path, trial: PlannedTrial, seconds: float, num_calls: int
) -> None:
    """Start an attempt and kill it, at a random moment or before a random call to the file system."""
    if luck.random() < 0.5:
        pid = _attempt(root, trial, partial(faults.strike_call, luck.randrange(num_calls), "kill", root))
        ended = processes.wait(pid)
    else:
        pid = _attempt(root, trial)
        time.sleep(luck.uniform(0.0, seconds))
        os.kill(pid, signal.SIGKILL)
        ended = processes.wait(pid)
    tally.counts["kills while training"] += ended.by_signal == signal.SIGKILL
    saved = sorted((root / "trials" / trial.trial_id / "checkpoints").glob("step_*/*"))
    if saved and luck.random() < FLIPPED:
        faults.flip(path := luck.choice(saved), luck.randrange(path.stat().st_size), luck.randrange(8))
        tally.counts["flips in checkpoints"] += 1


def _said(root: Path, trial: PlannedTrial) -> tuple[str, Any, Any]:
    """Return what a training left: the sha256 of its weights, its log without the clock, its summary."""
    folder = root / "trials" / trial.trial_id
    logs = [tiny.log_of(folder, only=key) for key in ("train/loss", "val/loss")]
    summary = json.loads((folder / "result.json").read_text())["train"]
    return file_sha256(folder / "weights" / "model.safetensors"), logs, summary


def train_tiny(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """The `TrialFunction` that trains."""
    key, folder = trial_id(spec), store.trial(trial_id(spec))
    stub.tell(store.root, "run", key)
    model = _model(KINDS[spec.seed])
    summary = tiny.fit(model, ROWS, RECIPE, folder, runtime=runtime, report=report)
    _keep(model, folder)
    mine = f"{os.getpid()}-{time.time_ns()}"
    plain = stub_result(spec, runtime, command)
    provenance = plain.provenance.model_copy(update={"host": mine})
    standing = result.commit(folder, plain.model_copy(update={"train": summary, "provenance": provenance}))
    stub.tell(store.root, "committed" if standing.provenance.host == mine else "lost", key)
    return standing


def _model(kind: str) -> nn.Module:
    if kind == "full":
        return tiny.llama(attention_dropout=0.2)
    if kind == "lora":
        return tiny.lora(dropout=0.2)
    config = QLoraConfig(rank=4, alpha=8.0, dropout=0.2, target_modules="all_linear")
    files = inspect_folder(_BASES["tiny"])
    return methods.attach(load_model(files, "float32", "cpu", methods.quantisation(config)), config, seed=0)


def _keep(model: nn.Module, folder: Path) -> None:
    """Write the trained weights as harness/methods does."""
    weights, building = folder / "weights", folder / ".weights.building"
    for leftover in (building, weights):
        if leftover.exists():
            shutil.rmtree(leftover)
    building.mkdir()
    kept = {name: tensor.contiguous().clone() for name, tensor in checkpoints.trainable(model).items()}
    save_file(kept, building / "model.safetensors")
    write_manifest(building)
    os.rename(building, weights)
