"""Forecasts against what trials then take: seconds on the pocket world, memory on SmolLM2-135M-Instruct.

    python -m benchmarks.forecast [--parts seconds memory] [--store OUT] [--repeats 3] [--clock wall] [--out FILE.json]
                                  [--base smollm2_135m_instruct] [--rows FILE.jsonl] [--lengths 128 256]

Seconds. Of shipped sweeps a sample of conditions is taken, `SAMPLE`. In each repeat nothing is known: a probe measures
the shapes of a sweep, the sample is forecast from that alone, and then each trial of it runs, in the same store.
Printed is forecast / actual, of each trial and of those of a sweep together; wanted is that the median of each over the
repeats lies within 20 % of 1. `--clock cpu` counts the processor seconds of a trial's process in place of wall seconds
on both sides: on a machine that others use, a probe and the trial after it get other shares of it.

Memory. For each method and length one probe at the largest micro-batch, in a process of its own; then for each
micro-batch a real trial of few steps, in a fresh process again. Compared is the peak above what the process holds once
everything is imported; wanted is every one within 15 %. The rows are those of `--rows`, or pocket conversations.

Both go through the engine's own probe, plan and workers. The command fails where a limit is missed, and with 2 where
the base was not fetched. What does not live here: what the engine adds (engine.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments import smollm2_135m_instruct
from harness import data
from harness.engine import forecast, launch, measuring, plan, worker
from harness.engine.resolve import Request
from harness.identity import condition_id, trial_id
from harness.records import result
from harness.records.schema import PlannedTrial, TrialResult
from harness.records.store import Store
from harness.spec import MethodReference, Runtime, TrialSpec

SECONDS_WITHIN = 0.20
MEMORY_WITHIN = 0.15
SAMPLE: dict[str, tuple[dict[str, Any], ...]] = {
    "lima_size": ({"data.num_examples": 100}, {"data.num_examples": 800}),
    "epochs": ({"train.num_epochs": 8.0},),
    "learning_rate": ({"method": "lora", "train.learning_rate": 3e-3},),
    "lora_rank": ({"method.rank": 16, "method.rank_scaling": "alpha_over_rank"},),
    "loss_mask": ({"data.prompt_loss_weight": 1.0, "data.completion_ratio": "low"},),
}
"""Sweep -> axes of the conditions that run, the first seed of each. The probe sees the whole sweep."""
METHODS = ("full", "lora", "qlora")
MICRO_BATCHES = (1, 2, 4)
STEPS = 6
BATCH = 4


@dataclass(frozen=True)
class Pair:
    """A forecast and what it was of."""

    what: str
    forecast: float
    actual: float

    @property
    def ratio(self) -> float:
        """Return forecast / actual."""
        return self.forecast / self.actual


def main() -> int:
    """Measure and print; 1 where a limit is missed, 2 without the base."""
    arguments = _arguments()
    logging.disable(logging.WARNING)
    if "memory" in arguments.parts and not Store(arguments.store).has_artefact("fetched", arguments.base):
        print(
            f"--base is {arguments.base!r}, but must have been fetched into --store; make fetch BASE={arguments.base}"
        )
        return 2
    found: dict[str, list[Pair]] = {}
    for part in arguments.parts:
        print(f"{part}: load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        found[part] = seconds(arguments) if part == "seconds" else memory(arguments)
        print(f"{part}: load {os.getloadavg()[0]:.1f} at the end", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({part: [asdict(p) for p in pairs] for part, pairs in found.items()}))
    limits = {"seconds": SECONDS_WITHIN, "memory": MEMORY_WITHIN}
    verdicts = [judged(part, pairs, limits[part]) for part, pairs in found.items()]  # every part is printed
    return 0 if all(verdicts) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("seconds", "memory"), default=("seconds", "memory"))
    parser.add_argument("--store", type=Path, default=Path("out"), help="where fetched and built bases lie")
    parser.add_argument("--repeats", type=int, default=3, help="of the seconds")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--sweeps", nargs="+", choices=tuple(SAMPLE), default=tuple(SAMPLE))
    parser.add_argument("--base", choices=("smollm2_135m_instruct",), default="smollm2_135m_instruct")
    parser.add_argument("--rows", type=Path, help="JSON lines of conversations")
    parser.add_argument("--lengths", type=int, nargs="+", default=(128, 256))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=MICRO_BATCHES)
    parser.add_argument("--num-rows", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1, help="of the memory's trials")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def judged(part: str, pairs: list[Pair], within: float) -> bool:
    """Print every ratio - median and range over repeats - and return whether all medians are within a limit."""
    ratios: dict[str, list[float]] = {}
    for pair in pairs:
        ratios.setdefault(pair.what, []).append(pair.ratio)
    missed = [what for what, own in ratios.items() if abs(statistics.median(own) - 1) > within]
    for what, own in ratios.items():
        spread = f" ({min(own):.2f} to {max(own):.2f})" if len(own) > 1 else ""
        print(f"{part}: {what}: forecast / actual {statistics.median(own):.2f}{spread}")
    print(f"{part}: wanted within {within:.0%}: {'missed by ' + ', '.join(missed) if missed else 'met'}", flush=True)
    return not missed


# -- seconds ----------------------------------------------------------------------------------------------------------


def seconds(arguments: argparse.Namespace) -> list[Pair]:
    """Return forecast and actual seconds of every trial of the sample and of each sweep's together, each repeat."""
    return [pair for _ in range(arguments.repeats) for name in arguments.sweeps for pair in _of_sweep(name, arguments)]


def _of_sweep(name: str, arguments: argparse.Namespace) -> Iterator[Pair]:
    with scratch(arguments.store) as store:
        made = plan.make_plan(Request(name=name, out=store.root))
        runtime = made.setting.experiment.runtime
        how = launch.Options(1, run=run_in_cpu_seconds if arguments.clock == "cpu" else worker.run_trial)
        measuring.probe(store, made.record.trials, runtime, how)
        chosen = sample(made)
        costs = {trial.trial_id: forecast.Forecast(store, runtime).of(trial.spec) for trial in chosen}
        launch.launch(store, chosen, runtime, how)
        pairs = []
        for trial in chosen:
            finished, expected = _result(store, trial), costs[trial.trial_id].seconds
            assert expected is not None
            axes = " ".join(f"{key.split('.')[-1]}={value}" for key, value in trial.axes.items())
            pairs.append(Pair(f"{name} {axes}", expected, finished.provenance.seconds_total))
        whole = Pair("all trials", sum(p.forecast for p in pairs), sum(p.actual for p in pairs))
        for pair in (*pairs, Pair(f"{name}, all of it", whole.forecast, whole.actual)):
            print(f"  {pair.what}: {pair.forecast:.1f} s forecast, {pair.actual:.1f} s taken", flush=True)
            yield pair


def sample(made: plan.Plan) -> list[PlannedTrial]:
    """Return the first trial of each condition of the sample."""
    chosen = []
    for axes in SAMPLE[made.record.name]:
        of_axes = (trial for trial in made.record.trials if axes.items() <= trial.axes.items())
        chosen.append(next(of_axes))
    return chosen


def run_in_cpu_seconds(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """The `TrialFunction` that counts processor seconds wherever a trial counts seconds."""
    time.perf_counter = time.process_time
    return worker.run_trial(spec, store, runtime, command, report)


# -- memory -----------------------------------------------------------------------------------------------------------


def memory(arguments: argparse.Namespace) -> list[Pair]:
    """Return forecast and actual peak above imports, in MB, of each method, length and micro-batch."""
    pairs = []
    for length in arguments.lengths:
        for method in smollm2_135m_instruct.EXPERIMENT.methods:
            if method.method.kind in arguments.methods:
                pairs += _of_method(method, length, arguments)
    return pairs


def _of_method(method: MethodReference, length: int, arguments: argparse.Namespace) -> Iterator[Pair]:
    trial, sizes = planned(method, length, arguments), arguments.micro_batches
    with scratch(arguments.store) as store:
        measuring.probe(store, [trial], _runtime(max(sizes), arguments), launch.Options(1))
        for size in sizes:
            expected = forecast.Forecast(store, _runtime(size, arguments)).of(trial.spec).footprint
            assert expected is not None
            with scratch(store.root) as own:
                launch.launch(own, [trial], _runtime(size, arguments), launch.Options(1, prepare=False))
                used = _result(own, trial).provenance
            assert used.memory is not None
            assert used.peak_memory_bytes is not None
            actual = used.peak_memory_bytes - (used.memory.start_bytes or 0)
            what = f"{method.method.kind}, {length} tokens, micro-batch {size}"
            pair = Pair(what, expected.above_process / 1e6, actual / 1e6)
            print(f"  {pair.what}: {pair.forecast:.0f} MB forecast, {pair.actual:.0f} MB taken, {expected}", flush=True)
            print(f"    {used.memory}", flush=True)
            yield pair


def planned(method: MethodReference, length: int, arguments: argparse.Namespace) -> PlannedTrial:
    """Return a trial of few steps, asked few items."""
    own = smollm2_135m_instruct.EXPERIMENT.spec
    spec = own.replace(
        {
            "method": method.method,
            "train.learning_rate": method.learning_rate,
            "train.num_epochs": None,
            "train.num_steps": STEPS,
            "train.batch_size": BATCH,
            "data.num_examples": arguments.num_rows,
            "data.num_validation": 2,
            "data.max_length": length,
            "evals.max_length": length,
            "evals.tasks": [task.replace({"num_items": 4}).model_dump(mode="json") for task in own.evals.tasks[:2]],
        }
        | ({} if arguments.rows is None else {"data.source": data.describe_file(arguments.rows)})
    )
    return PlannedTrial(
        trial_id=trial_id(spec), condition_id=condition_id(spec), arm="", axes={}, seed=spec.seed, spec=spec
    )


def _runtime(micro_batch: int, arguments: argparse.Namespace) -> Runtime:
    own = smollm2_135m_instruct.EXPERIMENT.runtime.replace({"num_threads": arguments.threads, "device": "cpu"})
    return own.replace({"micro_batch_size": micro_batch, "eval_batch_size": 4})


# -- stores -----------------------------------------------------------------------------------------------------------


@contextmanager
def scratch(root: Path) -> Generator[Store, None, None]:
    """Return a store of its own that shares the artefacts of another one, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="bench-forecast-"))
    (root / "artefacts").mkdir(parents=True, exist_ok=True)
    (folder / "artefacts").symlink_to((root / "artefacts").resolve())
    try:
        yield Store(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _result(store: Store, trial: PlannedTrial) -> TrialResult:
    finished = result.read(store.trial(trial.trial_id))
    if finished is None:
        failure = result.read_failure(store.trial(trial.trial_id))
        raise SystemExit(f"a trial failed: {failure.message if failure else 'no reason'}")
    return finished


if __name__ == "__main__":
    sys.exit(main())
