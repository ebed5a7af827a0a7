"""A trial without torch: writes what a trial writes, in a few milliseconds, so that the engine is tested for itself.

The spec's seed and learning rate decide every byte of the result. What it does besides - sleep, fail, die - is decided
by `plan.json` in the store's root, written by `behave`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import DataError, DiskError, StoreError
from harness.identity import trial_id
from harness.records import result
from harness.records.schema import (
    DataSummary,
    EvalScores,
    Provenance,
    ResolvedIdentity,
    Score,
    TrainSummary,
    TrialResult,
    primary_metric,
)
from harness.records.store import Store, append_line
from harness.spec import Runtime, TrialSpec

ERRORS = {kind.__name__: kind for kind in (DataError, DiskError, StoreError, ValueError, MemoryError)}


def behave(root: Path, seed: int | str, **what: Any) -> None:
    """Make trials of a seed (or "all") misbehave in the first times=attempts.

    They sleep=seconds, wait until a file waits=path is there, have writes=text as their attempts.jsonl, raises=class
    name or dies=True.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / "behaviour.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(table | {str(seed): what}))


def run_stub(spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]) -> TrialResult:
    """The `TrialFunction` of engine tests."""
    folder = store.trial(trial_id(spec))
    append_line(store.root / "runs.jsonl", {"trial_id": trial_id(spec), "pid": os.getpid()})
    print(f"stub seed {spec.seed}")
    report(phase="train", step=1, num_steps=2, loss=1.5, tokens_per_second=10.0)
    attempt = sum('"start"' in line for line in (folder / "attempts.jsonl").read_text().splitlines())
    _misbehave(store.root, spec.seed, attempt, folder)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/loss": spec.train.learning_rate}) + "\n")
    return result.commit(folder, stub_result(spec, runtime, command))


def _misbehave(root: Path, seed: int, attempt: int, folder: Path) -> None:
    path = root / "behaviour.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    what = table.get("all", {}) | table.get(str(seed), {})
    time.sleep(what.get("sleep", 0.0))
    while "waits" in what and not Path(what["waits"]).exists():
        time.sleep(0.05)
    if attempt > what.get("times", 10**9):
        return
    if text := what.get("writes"):
        (folder / "attempts.jsonl").write_text(text)
    if what.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name := what.get("raises"):
        raise ERRORS[name](f"{name} as asked")


def stub_result(spec: TrialSpec, runtime: Runtime, command: str) -> TrialResult:
    """Return a result that the spec's seed and learning rate decide."""
    score = Score(value=spec.train.learning_rate + spec.seed, num_items=4)
    tasks = [f"{task.key}/{primary_metric(task)}" for task in spec.evals.tasks]
    scores = EvalScores(key="k", test=dict.fromkeys(tasks, score), val=dict.fromkeys(tasks, score), items_file="none")
    return TrialResult(
        trial_id=trial_id(spec),
        state="COMPLETE",
        spec=spec,
        resolved=ResolvedIdentity(
            weights_sha256="w", tokenizer_sha256="t", quantisation=None, rows_sha256="r", items_sha256={}
        ),
        data=DataSummary(
            rows_sha256="r",
            num_rows_read=1,
            num_rows_dropped={},
            num_train=1,
            num_validation=0,
            num_truncated=0,
            completion_prompt_ratio=1.0,
            mean_tokens=4.0,
            loss_token_share=0.5,
            template_sha256="t",
        ),
        train=TrainSummary(
            num_steps=2,
            num_epochs=1.0,
            num_examples_seen=2,
            num_tokens=8,
            num_loss_tokens=4,
            learning_rate_integral=spec.train.learning_rate,
            trainable_parameters=1,
            total_parameters=2,
            train_loss_first=2.0,
            train_loss_last=1.0,
            val_loss=1.0,
            stopped_early=False,
            divergence=None,
            micro_batch_size=runtime.rows_per_pass(spec.train.batch_size, runtime.num_halvings),
            num_halvings=runtime.num_halvings,
        ),
        before=scores,
        before_full_precision=None,
        after=scores,
        provenance=Provenance(
            host="h",
            platform="p",
            cpu="c",
            device="cpu",
            num_threads=runtime.num_threads,
            git_commit=None,
            git_dirty=None,
            libraries={},
            command=command,
            started_utc="2026-01-01T00:00:00+00:00",
            seconds_total=0.2,
            seconds_train=0.1,
            seconds_eval=0.1,
            tokens_per_second=80.0,
            peak_memory_bytes=1,
            peak_gpu_memory_bytes=None,
        ),
    )
