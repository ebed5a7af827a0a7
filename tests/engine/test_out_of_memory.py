"""Workers that the kernel kills for memory, in a control group of limited memory."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from harness.engine import executor, launch, measurement
from harness.engine.progress import Reporter
from harness.identity import trial_id
from harness.records.store import Store, append_line, read_lines
from tests.engine.inline import InlineExecutor
from tests.engine.stub import run_stub
from tests.engine.stub_hungry import RUNTIME
from tests.engine.trials import planned

ROOT = Path(__file__).parents[2]
LIMIT_MIB = 420
"""Of the launcher and its worker together, which take some 200 MiB by themselves."""


@pytest.fixture
def group() -> Iterator[Path]:
    """Yield a control group that may hold `LIMIT_MIB`, version 1 or 2, below that of this process."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    of_memory = next((path for _, names, path in lines if "memory" in names.split(",")), None)
    unified = next((path for _, names, path in lines if names == ""), "/")
    parent = Path(f"/sys/fs/cgroup/memory{of_memory}" if of_memory else f"/sys/fs/cgroup{unified}")
    folder = parent / f"harness-test-{uuid4().hex}"
    limit = folder / ("memory.limit_in_bytes" if of_memory else "memory.max")
    try:
        folder.mkdir()
        limit.write_text(str(LIMIT_MIB * 2**20))
    except OSError as error:
        pytest.skip(f"needs a control group of its own, and {folder} cannot be made ({error.strerror})")
    yield folder
    removed(folder)


def removed(folder: Path) -> None:
    """Remove a control group as soon as the kernel has let go of the last process in it."""
    for _ in range(100):
        try:
            return folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(0.1)
    raise TimeoutError(f"{folder} still holds a process")


def launched(root: Path, group: Path, mib_per_row: int) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    command = [sys.executable, "-m", "tests.engine.stub_hungry", str(root), str(group), str(mib_per_row)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-2000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), list(read_lines(root / "rows.jsonl"))


def test_worker_killed_for_memory_tries_again_at_half_the_micro_batch(group: Path, tmp_path: Path) -> None:
    code, ends, tried = launched(tmp_path, group, mib_per_row=60)
    assert code == 0, ends
    rows = [row["rows"] for row in tried]
    assert rows[0] > rows[-1]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == rows[-2], "the second trial of the shape begins at the size that the first fitted in"
    assert {state for state, _, _ in ends.values()} == {"COMPLETE"}


def test_worker_killed_for_memory_at_every_size_is_failed_as_oom(group: Path, tmp_path: Path) -> None:
    code, ends, tried = launched(tmp_path, group, mib_per_row=900)
    assert code == 1
    assert {(state, cause) for state, cause, _ in ends.values()} == {("FAILED", "oom")}
    assert all("memory ran out, at a micro-batch of 1" in message for _, _, message in ends.values())
    batch = planned(1)[0].spec.train.batch_size
    assert [row["rows"] for row in tried if row["seed"] == tried[0]["seed"]] == sizes_from(min(8, batch))


def sizes_from(size: int) -> list[int]:
    return [size] if size == 1 else [size, *sizes_from(-(-size // 2))]


def test_kill_without_a_kill_of_the_kernel_is_none_for_memory(tmp_path: Path) -> None:
    slots = executor.LocalExecutor(1, 1)
    try:
        with pytest.raises(executor.WorkerDiedError) as died:
            slots.submit(os.kill, slots.submit(os.getpid).result(), signal.SIGKILL).result()
    finally:
        slots.stop()
    assert not isinstance(died.value, executor.KilledForMemoryError)


class KillsInPhase(InlineExecutor):
    """Kills for memory whoever works in a phase with more than so many rows of an evaluation together."""

    def __init__(self, phase: str, fits: int) -> None:
        self._phase, self._fits = phase, fits
        self.tried: list[tuple[int, int]] = []

    def submit(self, call: Any, /, *args: Any) -> Any:
        job = args[0]
        self.tried.append((job.num_halvings, job.num_eval_halvings))
        if RUNTIME.eval_batch_size // 2**job.num_eval_halvings <= self._fits:
            return super().submit(call, *args)
        Reporter(Store(job.root).trial(trial_id(job.spec)) / "progress.json")(phase=self._phase)
        future: Future[Any] = Future()
        future.set_exception(executor.KilledForMemoryError(executor.KILLED_FOR_MEMORY))
        return future


@pytest.mark.parametrize(
    ("phase", "fits", "tried", "state"),
    [
        ("scoring after", 2, [(0, 0), (0, 1), (0, 2)], "COMPLETE"),
        ("probing", 0, [(0, 0), (0, 1), (0, 2), (0, 3)], "FAILED"),
        ("train", 0, [(0, 0), (1, 0), (2, 0), (3, 0)], "FAILED"),
    ],
)
def test_worker_killed_while_it_evaluates_tries_again_with_half_the_rows_of_an_evaluation(
    phase: str, fits: int, tried: list[tuple[int, int]], state: str, tmp_path: Path
) -> None:
    kills, trials = KillsInPhase(phase, fits), planned(1)
    how = launch.Options(1, run=run_stub, executor=lambda *_: kills, prepare=False)
    summary = launch.launch(Store(tmp_path), trials, RUNTIME, how)
    outcome = summary.outcomes[trials[0].trial_id]
    assert outcome.state == state
    assert outcome.cause == (None if state == "COMPLETE" else "oom")
    assert kills.tried == tried[: len(kills.tried)]
    assert phase == "train" or kills.tried == tried


NUMBERS = ("num_steps", "num_tokens", "seconds_train", "seconds_total", "disk_bytes", "memory_bytes")
MEASURED = dict.fromkeys(NUMBERS, 1)


def test_halvings_are_remembered_by_shape_and_machine(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), planned(1)[0]
    assert measurement.num_halvings(store, trial.spec, RUNTIME) == 0
    path = tmp_path / "probes" / f"{measurement.shape(trial.spec)}.jsonl"
    path.parent.mkdir()
    size = min(8, trial.spec.train.batch_size)
    append_line(path, MEASURED | {"num_halvings": 1, "micro_batch_size": size // 2, "host": "another"})
    assert measurement.num_halvings(store, trial.spec, RUNTIME) == 0
    append_line(path, MEASURED | {"num_halvings": 0, "micro_batch_size": 1, "host": os.uname().nodename})
    assert measurement.num_halvings(store, trial.spec, RUNTIME) == 0
    append_line(path, MEASURED | {"num_halvings": 1, "micro_batch_size": size // 2, "host": os.uname().nodename})
    assert measurement.num_halvings(store, trial.spec, RUNTIME) == 1
    smaller = RUNTIME.replace({"micro_batch_size": size // 2})
    assert measurement.num_halvings(store, trial.spec, smaller) == 0
