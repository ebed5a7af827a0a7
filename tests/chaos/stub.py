"""A trial without torch that does to the disk what a real one does: logs, checkpoints, weights, a shared before-score.

The recipe decides every byte of it: each step hashes the state of the one before. It continues from its own newest
checkpoint that verifies, with its log cut back to it. What it did is told in a ledger beside the output folder, written
without the code under test.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError
from harness.identity import trial_id
from harness.records import before, result
from harness.records.schema import EvalScores, Score, TrialResult, primary_metric
from harness.records.store import (
    Store,
    append_line,
    cut_torn_tail,
    disk_errors,
    fsync_folder,
    verify_manifest,
    write_atomic,
    write_manifest,
)
from harness.spec import Runtime, TrialSpec
from tests.engine.stub import stub_result

NUM_STEPS = 4
CHECKPOINT_EVERY = 2
BLOB_BYTES = 600
ITEMS_BYTES = 5000
"""More than a checkpoint takes, so that a small disk is full at the commit as well."""
RUNTIME = Runtime(num_threads=1, micro_batch_size=8, eval_batch_size=8)


@dataclass(frozen=True)
class Line:
    """What the ledger tells."""

    event: str
    """`run`: a trial began; `committed`: its own result stands; `lost`: another's stood already; `before`: measured."""
    trial: str
    pid: int


def ledger(root: Path) -> Path:
    """Return where the trials of an output folder tell what they do."""
    return root.with_name(root.name + ".ledger")


def tell(root: Path, event: str, trial: str) -> None:
    """Add a line to the ledger, in one write."""
    line = f"{event} {trial} {os.getpid()}\n".encode()
    descriptor = os.open(ledger(root), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line)
    os.close(descriptor)


def told(root: Path) -> list[Line]:
    """Return what the ledger of an output folder holds."""
    if not ledger(root).exists():
        return []
    words = (line.split() for line in ledger(root).read_text().splitlines())
    return [Line(event, trial, int(pid)) for event, trial, pid in words]


def pace(root: Path, seconds: float) -> None:
    """Make a step of every trial in an output folder take some seconds."""
    root.with_name(root.name + ".pace").write_text(str(seconds))


def run_chaos(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """The `TrialFunction` of chaos."""
    key, folder = trial_id(spec), store.trial(trial_id(spec))
    tell(store.root, "run", key)
    print(f"chaos seed {spec.seed}")
    slow = store.root.with_name(store.root.name + ".pace")
    step_seconds = float(slow.read_text()) if slow.exists() else 0.001
    with disk_errors(folder):
        scored = before.ensure(store, before_key(spec), lambda built: _measure(store, spec, built))
        step, state = _resume(folder, key)
        while step < NUM_STEPS:
            step, state = step + 1, _next(state)
            append_line(folder / "metrics.jsonl", {"step": step, "train/loss": _number(state)})
            report(phase="train", step=step, num_steps=NUM_STEPS, loss=_number(state), tokens_per_second=1.0)
            time.sleep(step_seconds)
            if step % CHECKPOINT_EVERY == 0 and step < NUM_STEPS:
                _save(folder, key, step, state)
        _keep_weights(folder, state)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        write_atomic(folder / "items.parquet", _blob(state + "items", ITEMS_BYTES))
    mine = f"{os.getpid()}-{time.time_ns()}"
    standing = result.commit(folder, _result(spec, runtime, command, scored, state, mine))
    tell(store.root, "committed" if standing.provenance.host == mine else "lost", key)
    return standing


def _next(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def _number(state: str) -> float:
    return int(state[:8], 16) / 2**32


def _blob(state: str, size: int = BLOB_BYTES) -> bytes:
    return hashlib.shake_256(state.encode()).digest(size)


# -- before -----------------------------------------------------------------------------------------------------------


def before_key(spec: TrialSpec) -> str:
    """Return the key of a trial's before-scores: every other seed shares one."""
    return hashlib.sha256(f"before {spec.seed % 2}".encode()).hexdigest()


def _measure(store: Store, spec: TrialSpec, folder: Path) -> None:
    key = before_key(spec)
    tell(store.root, "before", key)
    (folder / "items.parquet").write_bytes(_blob(key))
    final = store.artefact("before", key) / "items.parquet"
    before.write(folder, _scores(spec, key, str(final.relative_to(store.root))))


def _scores(spec: TrialSpec, state: str, items_file: str) -> EvalScores:
    score = Score(value=_number(_next(state)), num_items=4)
    tasks = [f"{task.key}/{primary_metric(task)}" for task in spec.evals.tasks]
    return EvalScores(
        key=state, test=dict.fromkeys(tasks, score), val=dict.fromkeys(tasks, score), items_file=items_file
    )


# -- inside a trial ---------------------------------------------------------------------------------------------------


def _save(folder: Path, key: str, step: int, state: str) -> None:
    """Write a checkpoint as harness/train/checkpoints.py does: built aside, with a manifest, in place by one rename."""
    target = folder / "checkpoints" / f"step_{step:08d}"
    building = target.with_name(f".{target.name}.building")
    for leftover in (building, target):
        shutil.rmtree(leftover, ignore_errors=True)
    building.mkdir(parents=True)
    (building / "trainable.safetensors").write_bytes(_blob(state))
    log = (folder / "metrics.jsonl").read_bytes()
    content = {"identity": key, "step": step, "state": state, "bytes": len(log), "sha256": _sha256(log)}
    (building / "state.json").write_text(json.dumps(content))
    write_manifest(building)
    os.rename(building, target)
    fsync_folder(target.parent)


def _resume(folder: Path, key: str) -> tuple[int, str]:
    """Return the step and state of the newest checkpoint that verifies, or those of the beginning."""
    log = folder / "metrics.jsonl"
    for path in sorted(folder.glob("checkpoints/step_*"), reverse=True):
        try:
            verify_manifest(path)
            content = json.loads((path / "state.json").read_text())
            kept = log.read_bytes()[: content["bytes"]] if log.exists() else b""
            if content["identity"] != key or _sha256(kept) != content["sha256"]:
                raise StoreError(f"{path} is another run's")
        except StoreError as error:
            print(f"{error}; set aside")
            os.rename(path, path.with_name(f"damaged_{path.name}"))
            continue
        os.truncate(log, content["bytes"])
        return content["step"], content["state"]
    log.unlink(missing_ok=True)
    cut_torn_tail(log)
    return 0, key


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _keep_weights(folder: Path, state: str) -> None:
    """Write the weights as harness/methods does."""
    weights, building = folder / "weights", folder / ".weights.building"
    for leftover in (building, weights):
        if leftover.exists():
            shutil.rmtree(leftover)
    building.mkdir()
    (building / "adapter_model.safetensors").write_bytes(_blob(state + "weights"))
    write_manifest(building)
    os.rename(building, weights)


def _result(spec: TrialSpec, runtime: Runtime, command: str, scored: EvalScores, state: str, mine: str) -> TrialResult:
    plain = stub_result(spec, runtime, command)
    after = _scores(spec, state, f"trials/{trial_id(spec)}/items.parquet")
    provenance = plain.provenance.model_copy(update={"host": mine, "started_utc": str(time.time())})
    return plain.model_copy(update={"before": scored, "after": after, "provenance": provenance})
