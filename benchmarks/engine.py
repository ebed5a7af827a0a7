"""What the engine costs, with trials that do nothing for 5 ms: per trial, for a finished sweep, for a plan, in memory.

    python -m benchmarks.engine [--repeats 3] [--trials 200] [--workers 8]

Overhead is the wall time of a launch on workers that are up, over its trials, less what the trials themselves take:
5 ms over the number of workers. A trial here claims, writes its log, commits a result and frees its claim, as every
trial does. A no-op is the same launch once every trial has its result. Planning is that of a sweep of 10 000 cells,
after imports. Memory is the peak of the launching process, with 200 trials and with ten times as many, each in a
process of its own. The command fails where a limit is missed.

What does not live here: what a real trial costs (shell_loop.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.engine import catalog, launch, plan
from harness.engine import executor as executors
from harness.engine.resolve import Request
from harness.identity import trial_id
from harness.records import result
from harness.records.schema import TrialResult
from harness.records.store import Store, append_line
from harness.spec import Axis, Runtime, Sweep, TrialSpec
from tests.engine.stub import stub_result
from tests.engine.trials import planned

TRIAL_SECONDS = 0.005
RUNTIME = Runtime(num_threads=1, micro_batch_size=8, eval_batch_size=8)
CELLS = Sweep(
    name="cells",
    hypothesis="none: it is only planned",
    refuted_if="none",
    source="none",
    axes=(
        Axis(field="train.weight_decay", values=tuple(number / 1000 for number in range(25))),
        Axis(field="train.warmup_ratio", values=tuple(number / 100 for number in range(20))),
    ),
    measures=("retained",),
    max_trials=10_000,
    seeds=tuple(range(20)),
)
"""10 000 cells."""
LIMITS = {"overhead_ms": 20.0, "noop_seconds": 1.0, "plan_cpu_seconds": 2.0, "memory_growth_mib": 32.0}
"""Planning is of one thread, so that its processor time is what it takes on a machine with nothing else to do. Memory
is flat where ten times the trials add less than this, the planned trials themselves included."""


def run_idle(spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]) -> TrialResult:
    """The `TrialFunction` that does nothing for 5 ms and commits."""
    folder = store.trial(trial_id(spec))
    report(phase="train", step=1, num_steps=1, loss=None, tokens_per_second=None)
    time.sleep(TRIAL_SECONDS)
    append_line(folder / "metrics.jsonl", {"step": 1, "train/loss": 1.0})
    return result.commit(folder, stub_result(spec, runtime, command))


def ready(seconds: float) -> None:
    """Keep a worker long enough that every other one starts, too."""
    time.sleep(seconds)


def launched(root: Path, num_trials: int, num_workers: int) -> dict[str, float]:
    """Return the seconds of a launch on workers that are up, and of the same launch once more."""
    trials = planned(num_trials)
    kept = executors.Kept(executors.local, RUNTIME)
    started = time.perf_counter()
    futures = [kept(num_workers, RUNTIME).submit(ready, 0.2) for _ in range(num_workers)]
    for future in futures:
        future.result()
    up = time.perf_counter()
    how = launch.Options(num_workers, run=run_idle, executor=kept, prepare=False)
    first = launch.launch(Store(root), trials, RUNTIME, how)
    done = time.perf_counter()
    again = launch.launch(Store(root), trials, RUNTIME, how)
    noop = time.perf_counter() - done
    kept.close()
    assert (first.exit_code, first.num_ran, again.num_ran) == (0, num_trials, 0)
    return {"start_seconds": up - started, "wall_seconds": done - up, "noop_seconds": noop}


def planned_seconds(root: Path) -> dict[str, float]:
    """Return the seconds of a plan of 10 000 cells, with the state and cost of each, and the number of cells."""
    catalog.load_sweep = lambda name: CELLS
    request = Request(name=CELLS.name, out=root)
    started, cpu = time.perf_counter(), time.process_time()
    made = plan.make_plan(request)
    plan.outlook(made, 8)
    return {
        "num_cells": len(made.trials),
        "plan_seconds": time.perf_counter() - started,
        "plan_cpu_seconds": time.process_time() - cpu,
    }


def peak_mib(num_trials: int, num_workers: int) -> float:
    """Return the peak memory of a process that launches so many trials and then has nothing to do."""
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
        launched(Path(folder) / "out", num_trials, num_workers)
    # Not ru_maxrss, which a process takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _in_own_process(*words: str) -> float:
    command = [sys.executable, "-m", "benchmarks.engine", *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    """Measure and print; exit with 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_mib(options.peak_of, options.workers))
        return 0
    found = measure(options.repeats, options.trials, options.workers)
    print(json.dumps(found, indent=1))
    missed = [name for name, limit in LIMITS.items() if found[name]["median"] >= limit]
    print(f"missed: {', '.join(missed) or 'nothing'} of {LIMITS}")
    return 1 if missed else 0


def measure(repeats: int, num_trials: int, num_workers: int) -> dict[str, Any]:
    """Return every quantity as median and range over repeats."""
    rows: list[dict[str, float]] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
            seconds = launched(Path(folder) / "out", num_trials, num_workers)
            cells = planned_seconds(Path(folder) / "plan")
        own = TRIAL_SECONDS / num_workers
        few, many = (_in_own_process("--peak-of", str(number)) for number in (num_trials, 10 * num_trials))
        memory = {"peak_mib": few, "peak_of_ten_times_mib": many, "memory_growth_mib": many - few}
        overhead = {"overhead_ms": 1000 * (seconds["wall_seconds"] / num_trials - own)}
        rows.append(seconds | overhead | cells | memory)
    return {name: _spread([row[name] for row in rows]) for name in rows[0]}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


if __name__ == "__main__":
    sys.exit(main())
