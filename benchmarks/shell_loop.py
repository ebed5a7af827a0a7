"""A sweep here against the shell loop it replaces: per trial `trl sft`, `lm-eval` before, `lm-eval` after.

    python -m benchmarks.shell_loop [--repeats 3] [--trials 12] [--out FILE.json]

Both sides run the same pocket trials: same base weights, same rows in the same order, same schedule, same items as the
same text. The loop gets every help: rows already rendered, one lm-eval call per model for all slices. Checked before
any ratio is printed: the training losses agree step by step, the base's scores agree, the trained models' scores agree,
each within the tolerance stated beside it. Printed: seconds per trial, and two ratios with their spread over repeats -
against a loop that scores the base for every trial, and against one that scores it once per sweep.

What does not live here: the cost of building the base, which both sides share.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.pocket import EXPERIMENT
from harness import data, identity, models
from harness.evals.documents import documents
from harness.evals.items import select
from harness.pocket import pretrain
from harness.records import result
from harness.records.store import Store
from harness.spec import TrialSpec
from harness.train.batches import Order

LOSS_TOLERANCE = 2e-3
"""Nats per token, at every step: two fp32 implementations that add in another order drift apart this slowly, and
the loop prints four significant digits."""
BEFORE_TOLERANCE = 1e-6
"""The same weights on the same items: equal but for the last digit of a mean."""
AFTER_TOLERANCE = 0.02
"""Weights that agree to the drift above may flip single items among hundreds."""
MEASURES_TASKS = ("cloze_unasked", "question_asked", "question_unasked")


@dataclass
class Loop:
    """Seconds of one trial of the shell loop."""

    train: float
    before: float
    after: float


def main() -> int:
    """Run both sides, check that they agree, print the ratios; 1 if they disagree."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="shell_loop.") as name:
        folder = Path(name)
        bench = Bench(folder, arguments.trials)
        ours: list[float] = []
        loops: list[Loop] = []
        problems: list[str] = []
        for repeat in range(arguments.repeats):
            seconds, out = bench.run_sweep(repeat)
            ours.append(seconds / arguments.trials)
            loop, found = bench.run_loop(seed=repeat, out=out)
            loops.append(loop)
            problems += found
            print(f"repeat {repeat}: sweep {ours[-1]:.2f} s a trial; loop {asdict(loop)}", flush=True)
    return _report(arguments, ours, loops, problems)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12, help="seeds of the sweep; each is one trial")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def _report(arguments: argparse.Namespace, ours: list[float], loops: list[Loop], problems: list[str]) -> int:
    every = [(loop.train + loop.before + loop.after) / own for loop, own in zip(loops, ours, strict=True)]
    once = [
        (loop.train + loop.after + loop.before / arguments.trials) / own for loop, own in zip(loops, ours, strict=True)
    ]
    peak = max((loop_peak for loop_peak in _peaks), default=0)
    for problem in problems:
        print(f"DISAGREE: {problem}")
    print(f"trials in a sweep: {arguments.trials}; repeats: {arguments.repeats}; cores: {os.cpu_count()}")
    print(f"peak memory of a worker: {peak / 2**20:.0f} MiB")
    for label, ratios in (("base scored every time", every), ("base scored once", once)):
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"loop / sweep, {label}: median {statistics.median(ratios):.2f}, {spread}")
    if arguments.out:
        rows = {"sweep_seconds_per_trial": ours, "loop": [asdict(loop) for loop in loops]}
        arguments.out.write_text(json.dumps(rows | {"every": every, "once": once, "peak_memory_bytes": peak}, indent=1))
    return 1 if problems else 0


_peaks: list[int] = []


class Bench:
    """The shared base, and both ways to run trials on it."""

    def __init__(self, folder: Path, num_trials: int) -> None:
        self.folder = folder
        self.num_trials = num_trials
        self.shared = Store(folder / "shared")
        self.base = self.shared.ensure_artefact(
            "base",
            identity.base_key(EXPERIMENT.spec),
            lambda target: _quiet_pretrain(target),
        )
        self.tasks = tuple(task for task in EXPERIMENT.spec.evals.tasks if task.primary)

    def run_sweep(self, repeat: int) -> tuple[float, Path]:
        """Run the sweep in a fresh output folder that holds the base, and return its wall seconds and folder."""
        out = self.folder / f"out{repeat}"
        shutil.copytree(self.shared.root, out)
        overrides = {"data.num_examples": [400], "train.num_epochs": 3.0, "seed": list(range(self.num_trials))}
        command = [sys.executable, "-m", "harness", "sweep", "lima_size", "--out", str(out)]
        started = time.perf_counter()
        done = subprocess.run([*command, "--set", json.dumps(overrides)], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise SystemExit(f"the sweep failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        results = self._results(out)
        if len(results) != self.num_trials:
            raise SystemExit(f"{len(results)} trials finished, but {self.num_trials} were planned")
        _peaks.extend(entry.provenance.peak_memory_bytes or 0 for entry in results)
        return seconds, out

    def _results(self, out: Path) -> list[Any]:
        found = (result.read(path) for path in sorted((out / "trials").iterdir()))
        return [entry for entry in found if entry is not None]

    def run_loop(self, *, seed: int, out: Path) -> tuple[Loop, list[str]]:
        """Run one trial the shell way, and return its seconds and where it disagrees with the sweep's trial."""
        own = next(entry for entry in self._results(out) if entry.spec.seed == seed)
        work = self.folder / f"loop{seed}"
        work.mkdir()
        self._write_rows(own.spec, work)
        self._write_tasks(own.spec, work)
        train, losses = self._trl(own.spec, work)
        before, scores_before = self._lm_eval(self.base, work, "before")
        after, scores_after = self._lm_eval(work / "model", work, "after")
        folder = out / "trials" / own.trial_id
        problems = _compare_losses(folder, losses)
        problems += _compare_scores("before", out / own.before.items_file, scores_before, BEFORE_TOLERANCE)
        problems += _compare_scores("after", out / own.after.items_file, scores_after, AFTER_TOLERANCE)
        return Loop(train, before, after), problems

    def _chat(self, spec: TrialSpec) -> Any:
        return data.chat_format(models.load_tokenizer(models.locate(spec.base, self.shared)), spec.data)

    def _write_rows(self, spec: TrialSpec, work: Path) -> None:
        """Write the trial's rows, epoch after epoch in its own order, as prompt and completion."""
        chat = self._chat(spec)
        examples = data.prepare(spec.data, chat, seed=spec.seed).train
        order = Order.of(spec.train, len(examples), spec.seed)
        decode = chat.tokenizer.decode
        with (work / "rows.jsonl").open("w") as stream:
            for step in range(order.num_steps):
                for index in order.indices(step):
                    example = examples[index]
                    first = int((example.loss_weights > 0).argmax())
                    last = len(example.loss_weights) - int((example.loss_weights[::-1] > 0).argmax())
                    row = {
                        "prompt": decode(example.input_ids[:first]),
                        # trl appends the end-of-turn token itself
                        "completion": decode(example.input_ids[first : last - 1]),
                    }
                    stream.write(json.dumps(row) + "\n")

    def _trl(self, spec: TrialSpec, work: Path) -> tuple[float, list[float]]:
        train, chat = spec.train, self._chat(spec)
        num_steps = train.steps(400)
        end_of_turn = chat.tokenizer.convert_ids_to_tokens(chat.stop_token_ids[0])
        (work / "data").mkdir()
        shutil.move(work / "rows.jsonl", work / "data" / "train.jsonl")
        options: dict[str, Any] = {
            "model_name_or_path": self.base,
            "dataset_name": work / "data",
            "output_dir": work / "model",
            "num_train_epochs": 1,
            "per_device_train_batch_size": train.batch_size,
            "learning_rate": train.learning_rate,
            "lr_scheduler_type": train.schedule,
            "warmup_steps": math.ceil(train.warmup_ratio * num_steps),
            "weight_decay": train.weight_decay,
            "adam_beta1": train.adam_beta1,
            "adam_beta2": train.adam_beta2,
            "max_grad_norm": train.max_grad_norm,
            "max_length": spec.data.max_length,
            "eos_token": end_of_turn,
            "train_sampling_strategy": "sequential",
            "shuffle_dataset": "False",
            "bf16": "False",
            "use_cpu": "True",
            "activation_checkpointing": "False",
            "gradient_checkpointing": "False",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "dtype": "float32",
        }
        command = [str(Path(sys.executable).parent / "trl"), "sft"]
        seconds = _timed([*command, *(f"--{name}={value}" for name, value in options.items())], work / "trl.log")
        # trl prints each step's loss with four significant digits, and writes them nowhere else.
        found = re.findall(r"'loss': '?([0-9.e+-]+)", (work / "trl.log").read_text())
        return seconds, [float(value) for value in found]

    def _write_tasks(self, spec: TrialSpec, work: Path) -> None:
        chat = self._chat(spec)
        for task in self.tasks:
            if task.name not in MEASURES_TASKS:
                continue
            rows = documents(select(task, spec.evals).items, task, chat, spec.evals.items_seed)
            path = work / f"{task.name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            config: dict[str, Any] = {
                "task": task.name,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(path)}},
                "test_split": "test",
                "num_fewshot": 0,
                "doc_to_text": "{{context}}",
                "target_delimiter": "",
            }
            config |= _TASKS[task.kind](chat, task)
            (work / f"{task.name}.yaml").write_text(yaml.safe_dump(config))

    def _lm_eval(self, model: Path, work: Path, name: str) -> tuple[float, dict[str, float]]:
        command = [str(Path(sys.executable).parent / "lm_eval"), "run", "--model", "hf"]
        command += ["--model_args", f"pretrained={model},dtype=float32", "--device", "cpu", "--batch_size", "64"]
        command += ["--include_path", str(work), "--tasks", ",".join(MEASURES_TASKS), "--output_path", str(work / name)]
        seconds = _timed(command, work / f"{name}.log")
        (path,) = (work / name).rglob("results*.json")
        tables = json.loads(path.read_text())["results"]
        return seconds, {task: _first_metric(tables[task]) for task in MEASURES_TASKS}


def _choice_task(chat: Any, task: Any) -> dict[str, Any]:
    return {
        "output_type": "multiple_choice",
        "doc_to_choice": "continuations",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }


def _generation_task(chat: Any, task: Any) -> dict[str, Any]:
    stops = chat.tokenizer.convert_ids_to_tokens(list(chat.stop_token_ids))
    return {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": stops, "max_gen_toks": task.max_new_tokens, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
    }


_TASKS = {"multiple_choice": _choice_task, "generate": _generation_task}


def _first_metric(table: dict[str, Any]) -> float:
    return next(float(table[name]) for name in ("acc,none", "exact_match,none") if name in table)


def _quiet_pretrain(target: Path) -> None:
    pretrain.build(EXPERIMENT.spec.base, target, lambda **_: None)


def _timed(command: list[str], log: Path) -> float:
    started = time.perf_counter()
    with log.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{log.read_text()[-3000:]}")
    return seconds


def _compare_losses(folder: Path, losses: list[float]) -> list[str]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    own = [row["train/loss"] for row in rows if "train/loss" in row]
    if len(own) != len(losses):
        return [f"{len(own)} steps here, {len(losses)} in the loop"]
    worst = max(range(len(own)), key=lambda step: abs(own[step] - losses[step]))
    print(f"  largest difference in training loss: {abs(own[worst] - losses[worst]):.2e} nats at step {worst + 1}")
    if abs(own[worst] - losses[worst]) > LOSS_TOLERANCE:
        return [f"loss at step {worst + 1} is {own[worst]:.5f} here and {losses[worst]:.5f} in the loop"]
    return []


def _compare_scores(phase: str, items_file: Path, scores: dict[str, float], tolerance: float) -> list[str]:
    items = pd.read_parquet(items_file)
    primary = items[items["metric"].isin(["acc", "exact_match"])]
    own = primary.groupby("task")["value"].mean()
    problems = []
    for task, score in scores.items():
        print(f"  {phase} {task}: {own[task]:.4f} here, {score:.4f} in the loop")
        if abs(own[task] - score) > tolerance:
            problems.append(f"{phase} {task} is {own[task]:.4f} here and {score:.4f} in the loop")
    return problems


if __name__ == "__main__":
    sys.exit(main())
