"""Our training loop against TRL's SFTTrainer, on the same weights and the same tokens, in one run.

    python -m benchmarks.training [--base NAME] [--rows FILE.jsonl] [--num-rows 96] [--max-length 512] [--repeats 3]
                                  [--threads 2] [--sides NAME ...] [--required RATIO] [--out FILE.json]

Protocol. `--num-rows` usable rows of the file, at most `--max-length` tokens each, are rendered, encoded and masked by
us, with the loss on answers alone; TRL gets the same `input_ids` and `labels`, since it refuses templates that it does
not know. Both train all weights for one epoch: bfloat16 autocast over float32 weights on the CPU, fused AdamW,
no gradient checkpointing, `BATCH_SIZE` packed rows a step, one a forward pass.

    ours         examples packed into rows of `--max-length`, each reading itself alone; logits where loss is
    trl_packed   packing by best fit, as it comes; transformers keeps the examples apart with a mask
    trl_chunked  the same with `loss_type="chunked_nll"`, TRL's own way around unneeded logits
    trl_padded   a row per example, padded; as many examples a step, `PADDED_FORWARD` a forward pass
    trl_heap     trl_packed in a process whose memory is handed out as in our workers (harness/engine/heap.py), to tell
                 what of the ratio that makes

Timed is training: `train.fit` here and `SFTTrainer.train` there, each with its own batching, not loading and not the
preparation of rows. Every run has a process of its own, ours one that begins as our workers do, loads the base and
first trains on `WARMING` rows, untimed. Sides take turns within each repeat. A token counts once, and padding does not;
loss tokens are printed as well, and beside the ratio of seconds that of CPU seconds, which other work on the machine
moves less.
Checked before any ratio: that both sides hold the same tokens and loss tokens, and that the mean loss of an epoch at a
learning rate too small to matter is the same to `TOLERANCE`. Exit 1 where the sides disagree or the median of
trl_packed / ours is below what is wanted, 2 without rows or base.

On a machine that others use, ratios of single repeats scatter: the spread is printed, and a figure to be quoted wants a
machine of its own. What does not live here: preparation (preparation.py), scoring (scorer.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from experiments import gemma3_270m, smollm2_135m_instruct
from harness import data, models, train
from harness.data import Example, PreparedData
from harness.engine import heap
from harness.models import Halvings
from harness.records.store import Store, read_lines
from harness.spec import DataSpec, Experiment, Runtime, TrainSpec

ROOT = Path(__file__).parents[1]
ROWS = ROOT.parent / "shared" / "data" / "sft" / "alpaca_style.jsonl"
EXPERIMENTS = {
    "smollm2_135m_instruct": smollm2_135m_instruct.EXPERIMENT,
    "gemma3_270m": gemma3_270m.EXPERIMENT,
}
REQUIRED = {"smollm2_135m_instruct": 1.5, "gemma3_270m": 1.5}
"""Base -> times the tokens a second of trl_packed."""
RIVALS = ("trl_packed", "trl_chunked", "trl_padded", "trl_heap")
OUR_HEAP = ("ours", "trl_heap")
BATCH_SIZE = 4
WARMING = 8
PADDED_FORWARD = 4
LEARNING_RATE = 1e-9
"""So small that an epoch's losses are those of the base, so that what both sides train on can be compared. Weights that
were 4-bit lie on ties of bfloat16, where even this moves a loss by a hundredth from one repeat to the next: each starts
from the base's own weights."""
TOLERANCE = 0.02
"""Of the mean loss of an epoch: bfloat16 products over rows put together otherwise, and the ties. One step: .0005."""


@dataclass(frozen=True)
class Trained:
    """What one side did in one epoch."""

    seconds: float
    cpu_seconds: float
    num_tokens: int
    num_loss_tokens: int
    loss: float
    """Mean over the loss tokens of the epoch."""


Side = Callable[[Path], Trained]
"""Trains once, in a folder that does not exist yet."""


@dataclass
class Race:
    """Every side's runs, in the order of the repeats."""

    base: str
    required: float
    runs: dict[str, list[Trained]] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """Return a sentence for each run that did not train on what ours did, or lost something else by it."""
        expected = self.runs["ours"][0]
        found = []
        for side, runs in self.runs.items():
            for run in runs:
                if (run.num_tokens, run.num_loss_tokens) != (expected.num_tokens, expected.num_loss_tokens):
                    counts = f"{run.num_tokens} tokens, {run.num_loss_tokens} with loss"
                    found.append(f"{side} trained on {counts}, not {expected.num_tokens}, {expected.num_loss_tokens}")
                # `not <=` and not `>`: nan equals nothing.
                elif not abs(run.loss - expected.loss) <= TOLERANCE * abs(expected.loss):
                    found.append(f"{side} has a mean loss of {run.loss:.5f}, not {expected.loss:.5f}")
        return found

    def ratios(self, side: str, of: str = "seconds") -> list[float]:
        """Return how many times the seconds of ours another side took in each repeat; none where sides disagree."""
        if self.problems:
            return []
        pairs = zip(self.runs[side], self.runs["ours"], strict=True)
        return [getattr(their, of) / getattr(our, of) for their, our in pairs]

    @property
    def is_met(self) -> bool:
        """Return whether the sides agree and the median ratio is what is wanted; unknown without trl_packed."""
        if self.problems:
            return False
        return "trl_packed" not in self.runs or statistics.median(self.ratios("trl_packed")) >= self.required


def main() -> int:
    """Run the race and print it; 1 if sides disagree or ours is not fast enough, 2 without rows or base."""
    arguments = _arguments()
    store = Store(arguments.store)
    if not store.has_artefact("fetched", arguments.base):
        print(f"--base is {arguments.base!r}, but must have been fetched; make fetch BASE={arguments.base}")
        return 2
    if not arguments.rows.is_file():
        print(f"--rows is {str(arguments.rows)!r}, but must be a JSON-lines file of conversations")
        return 2
    logging.disable(logging.WARNING)
    rows = prepare(arguments, arguments.num_rows)
    required = REQUIRED[arguments.base] if arguments.required is None else arguments.required
    sides = {name: partial(alone, name, arguments) for name in ("ours", *arguments.sides)}
    print(
        f"{arguments.base}: {rows.num_examples} examples in {len(rows.train)} rows of at most {arguments.max_length} "
        f"tokens; threads: {arguments.threads} of {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    race = run(arguments.base, required, sides, arguments.repeats)
    print(describe(race), flush=True)
    if arguments.out:
        runs = {side: [asdict(one) for one in runs] for side, runs in race.runs.items()}
        ratios = {side: race.ratios(side) for side in race.runs}
        arguments.out.write_text(json.dumps({"base": race.base, "runs": runs, "ratios": ratios}, indent=1))
    return 0 if race.is_met else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=sorted(EXPERIMENTS), default="smollm2_135m_instruct")
    parser.add_argument("--store", type=Path, default=ROOT / "out", help="where fetched bases lie")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--num-rows", type=int, default=96)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=RIVALS, default=RIVALS, help="whom to race with")
    parser.add_argument("--required", type=float, help="ratio to reach against trl_packed")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, num_rows: int) -> PreparedData:
    """Return the first rows of a file, packed and each reading itself alone."""
    experiment: Experiment = EXPERIMENTS[arguments.base]
    tokenizer = models.load_tokenizer(_files(arguments))
    spec: DataSpec = experiment.spec.data.replace(
        {
            "source": data.describe_file(arguments.rows),
            "num_examples": num_rows,
            "num_validation": 0,
            "max_length": arguments.max_length,
            "packing": "isolated",
        }
    )
    return data.prepare(spec, data.chat_format(tokenizer, spec), seed=0)


def _files(arguments: argparse.Namespace) -> models.BaseFiles:
    return models.inspect_folder(Store(arguments.store).artefact("fetched", arguments.base))


def alone(name: str, arguments: argparse.Namespace, folder: Path) -> Trained:
    """Return one run of a side in a process of its own, which is warm by then."""
    started = partial(_start, arguments.threads, name in OUR_HEAP)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=started) as process:
        return process.submit(_warm_run, name, arguments, folder).result()


def _start(num_threads: int, keeps_freed: bool) -> None:
    if keeps_freed:
        heap.keep_freed(os.environ)
    torch.set_num_threads(num_threads)


def _warm_run(name: str, arguments: argparse.Namespace, folder: Path) -> Trained:
    logging.disable(logging.WARNING)
    files = _files(arguments)

    def loaded() -> Any:
        return models.load_model(files, "bfloat16_autocast", "cpu", None)

    def side(num_rows: int) -> Side:
        rows = prepare(arguments, num_rows)
        if name == "ours":
            return ours(loaded, rows, arguments.threads)
        return trl_side(name, loaded, rows, arguments.max_length)

    side(WARMING)(folder.with_name(f"{folder.name}.warm"))
    return side(arguments.num_rows)(folder)


def run(base: str, required: float, sides: dict[str, Side], repeats: int) -> Race:
    """Return the race of sides that take turns."""
    race = Race(base, required, {name: [] for name in sides})
    with tempfile.TemporaryDirectory(prefix="training.") as scratch:
        for repeat in range(repeats):
            for name, side in sides.items():
                trained = side(Path(scratch) / f"{name}.{repeat}")
                race.runs[name].append(trained)
                spent = f"{trained.seconds:.1f} s, {trained.cpu_seconds:.1f} s of CPU"
                print(f"  {repeat + 1} {name}: {spent}, loss {trained.loss:.4f}", flush=True)
    return race


# -- ours -------------------------------------------------------------------------------------------------------------


def recipe() -> TrainSpec:
    """Return one epoch of full fine-tuning that leaves the weights as they were, to eight digits."""
    return TrainSpec(
        num_epochs=1.0,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        dtype="bfloat16_autocast",
        loss_reduction="token_mean",
        loss_limit=100.0,
    )


def ours(loaded: Callable[[], Any], rows: PreparedData, threads: int) -> Side:
    """Return our side, which loads its own model for each run."""
    runtime = Runtime(num_threads=threads, micro_batch_size=1, eval_batch_size=1, device="cpu")
    context = SimpleNamespace(runtime=runtime, report=lambda **progress: None, eval_halvings=Halvings())

    def side(folder: Path) -> Trained:
        model = loaded()
        options: Any = {"seed": 0, "context": context, "folder": folder, "sample": lambda _model, _phase: []}
        summary, *seconds = timed(lambda: train.fit(model, rows, recipe(), **options))
        steps = [row for row in read_lines(folder / "metrics.jsonl") if "train/loss" in row]
        loss = weighted_mean([(row["train/loss"], row["train/num_loss_tokens"]) for row in steps])
        return Trained(*seconds, summary.num_tokens, summary.num_loss_tokens, loss)

    return side


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what work gives, its seconds, and its CPU seconds over all threads."""
    started, started_cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - started, time.process_time() - started_cpu


def weighted_mean(pairs: Sequence[tuple[float, int]]) -> float:
    """Return the mean of values by their counts; nan of none."""
    total = sum(count for _, count in pairs)
    return sum(value * count for value, count in pairs) / total if total else math.nan


# -- trl's ------------------------------------------------------------------------------------------------------------


def columns_of(rows: PreparedData) -> dict[str, list[list[int]]]:
    """Return every example on its own as TRL takes it: ids, and labels where its tokens carry loss."""
    examples = [one for row in rows.train for one in apart(row)]
    return {
        "input_ids": [ids.tolist() for ids, _ in examples],
        "labels": [np.where(weights > 0, ids, -100).tolist() for ids, weights in examples],
    }


def apart(row: Example) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids and loss weights of each example of a row."""
    cuts = row.starts[1:]
    return list(zip(np.split(row.input_ids, cuts), np.split(row.loss_weights, cuts), strict=True))


def trl_side(name: str, loaded: Callable[[], Any], rows: PreparedData, max_length: int) -> Side:
    """Return one of TRL's sides."""
    columns = columns_of(rows)

    def side(folder: Path) -> Trained:
        trainer = _trainer(name, loaded(), columns, len(rows.train), max_length, folder)
        _, *seconds = timed(trainer.train)
        prepared = list(trainer.train_dataset)
        per_step = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
        carrying = [loss_tokens(row["labels"], row.get("seq_lengths")) for row in prepared]
        counts = [sum(carrying[first : first + per_step]) for first in range(0, len(carrying), per_step)]
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        loss = weighted_mean(list(zip(losses, counts, strict=True)))
        return Trained(*seconds, sum(len(row["input_ids"]) for row in prepared), sum(carrying), loss)

    return side


def loss_tokens(labels: Sequence[int], lengths: Sequence[int] | None) -> int:
    """Return how many labels are predicted: none at the first token of an example, which nothing predicts."""
    firsts = np.cumsum([0, *(lengths or ())[:-1]])
    carries = np.array(labels) != -100
    carries[firsts] = False
    return int(carries.sum())


def _trainer(
    name: str, model: Any, columns: dict[str, list[list[int]]], num_rows: int, max_length: int, folder: Path
) -> Any:
    import trl
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import AutoTokenizer, PrinterCallback

    disable_progress_bar()
    is_packed = name != "trl_padded"
    examples_a_step = BATCH_SIZE if is_packed else max(1, round(len(columns["labels"]) * BATCH_SIZE / num_rows))
    forward = 1 if is_packed else min(PADDED_FORWARD, examples_a_step)
    settings = trl.SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=forward,
        gradient_accumulation_steps=max(1, round(examples_a_step / forward)),
        packing=is_packed,
        max_length=max_length,
        loss_type="chunked_nll" if name == "trl_chunked" else "nll",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        train_sampling_strategy="sequential",
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=True,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    dataset = Dataset.from_dict(columns)
    tokenizer = AutoTokenizer.from_pretrained(model.config._name_or_path)
    trainer = trl.SFTTrainer(model=model, args=settings, train_dataset=dataset, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


# -- what is printed --------------------------------------------------------------------------------------------------


def describe(race: Race) -> str:
    """Return the lines printed about a race; disagreements in place of ratios."""
    lines = []
    for side, runs in race.runs.items():
        seconds = statistics.median(run.seconds for run in runs)
        tokens, loss_tokens_ = runs[0].num_tokens / seconds, runs[0].num_loss_tokens / seconds
        lines.append(f"{side}: median {seconds:.1f} s, {tokens:.0f} tokens/s, {loss_tokens_:.0f} loss tokens/s")
    if race.problems:
        return "\n".join([*lines, *(f"DISAGREE: {problem}" for problem in race.problems)])
    for side in race.runs:
        if side == "ours":
            continue
        ratios = race.ratios(side)
        wanted = f", wanted {race.required}: {'met' if race.is_met else 'MISSED'}" if side == "trl_packed" else ""
        spread = f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        cpu = statistics.median(race.ratios(side, "cpu_seconds"))
        lines.append(f"{side} / ours: {spread} (in CPU seconds {cpu:.2f}){wanted}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
