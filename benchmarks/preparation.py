"""Our preparation of rows against TRL's, on the same conversations, tokenizer and template, in one run.

    python -m benchmarks.preparation [--tokenizer FOLDER] [--rows FILE.jsonl ...] [--num-rows 10000] [--max-length 512]
                                     [--repeats 3] [--num-proc 2] [--required RATIO] [--out FILE.json]

Protocol. The first `--num-rows` conversations of the files that both sides can use, in the order of the files: those
with messages alone, no tools. Ours is `data.prepare`: read, render, encode, locate answers by both mask engines and
compare them, weigh, drop what is too long, pack. TRL's is what `SFTTrainer` does to a data set before it trains: load,
chat template, encode, labels of answers (`assistant_only_loss`, by a copy of the same template with the tags that TRL
asks for), packing by best fit; once in one process and once in `--num-proc`, and the faster counts. Its cache of
prepared rows is off; timed are reading the rows and `_prepare_dataset`, not the rest of the trainer, nor a tokenizer.
Every run has a process of its own, as whoever prepares rows does, and prepares `WARMING` rows before it is timed.

TRL cuts what is too long where ours drops it, so rows beyond `--max-length` are left out for both. Checked before any
ratio: the same number of tokens, and of tokens with loss as many. Exit 1 where the sides disagree or the median ratio
is below what is wanted, 2 without files. What does not live here: training (training.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import ROOT, loss_tokens
from experiments import smollm2_135m_instruct
from harness import data
from harness.spec import DataSpec

SHARED = ROOT.parent / "shared" / "data"
TOKENIZER = SHARED / "tokenizers" / "qwen2.5"
ROWS = tuple(
    SHARED / "sft" / f"{name}.jsonl" for name in ("alpaca_style", "self_instruct_noisy", "code", "cot", "t0_tasks")
)
REQUIRED = 2.0
"""Times as fast as TRL at its best number of processes."""
WARMING = 100
TAGGED = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}
{%- else %}{{- message['content'] + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""ChatML with the tags around what an assistant writes."""


@dataclass(frozen=True)
class Prepared:
    """What one side made of the rows."""

    seconds: float
    cpu_seconds: float
    """Of this process and the ones it started."""
    num_tokens: int
    num_loss_tokens: int
    num_rows: int
    """Packed."""


@dataclass
class Race:
    """Every side's runs, in the order of the repeats."""

    required: float
    runs: dict[str, list[Prepared]] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """Return TRL's side with the smallest median."""
        rivals = [side for side in self.runs if side != "ours"]
        return min(rivals, key=lambda side: statistics.median(run.seconds for run in self.runs[side]))

    @property
    def problems(self) -> list[str]:
        """Return a sentence for each run that did not make of the rows what ours did."""
        first = self.runs["ours"][0]
        expected = (first.num_tokens, first.num_loss_tokens)
        return [
            f"{side} has {run.num_tokens} tokens, {run.num_loss_tokens} with loss, not {expected[0]}, {expected[1]}"
            for side, runs in self.runs.items()
            for run in runs
            if (run.num_tokens, run.num_loss_tokens) != expected
        ]

    def ratios(self, of: str = "seconds") -> list[float]:
        """Return how many times the seconds of ours TRL's best took in each repeat; none where sides disagree."""
        if self.problems:
            return []
        pairs = zip(self.runs[self.best], self.runs["ours"], strict=True)
        return [getattr(their, of) / getattr(our, of) for their, our in pairs]

    @property
    def is_met(self) -> bool:
        """Return whether sides agree and the median ratio is what is wanted."""
        return not self.problems and statistics.median(self.ratios()) >= self.required


def main() -> int:
    """Run the race and print it; 1 if sides disagree or ours is not fast enough, 2 without files."""
    arguments = _arguments()
    missing = [path for path in (arguments.tokenizer, *arguments.rows) if not path.exists()]
    if missing:
        print(f"{str(missing[0])!r} is not there, but must be a file of conversations or a folder with a tokenizer")
        return 2
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="preparation.") as scratch:
        rows, few = Path(scratch) / "rows.jsonl", Path(scratch) / "few.jsonl"
        chosen = usable(arguments)
        rows.write_text("".join(json.dumps(row) + "\n" for row in chosen))
        few.write_text("".join(json.dumps(row) + "\n" for row in chosen[:WARMING]))
        print(f"{len(chosen)} conversations; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}", flush=True)
        race = run(sides(rows, few, arguments), arguments.repeats, arguments.required)
    print(describe(race), flush=True)
    if arguments.out:
        runs = {side: [asdict(one) for one in runs] for side, runs in race.runs.items()}
        arguments.out.write_text(json.dumps({"runs": runs, "ratios": race.ratios()}, indent=1))
    return 0 if race.is_met else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("--rows", type=Path, nargs="+", default=ROWS)
    parser.add_argument("--num-rows", type=int, default=10_000)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--required", type=float, default=REQUIRED)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def run(sides_: dict[str, Callable[[], Prepared]], repeats: int, required: float) -> Race:
    """Return the race of sides that take turns."""
    race = Race(required, {name: [] for name in sides_})
    for _ in range(repeats):
        for name, side in sides_.items():
            race.runs[name].append(side())
            latest = race.runs[name][-1]
            print(f"  {name}: {latest.seconds:.2f} s, {latest.cpu_seconds:.2f} s of CPU", flush=True)
    return race


def usable(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the conversations that both sides can use: roles and contents, short enough."""
    tokenizer = _tokenizer(arguments.tokenizer)
    found: list[dict[str, Any]] = []
    for row in _conversations(arguments.rows):
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= arguments.max_length:
            found.append(row)
        if len(found) == arguments.num_rows:
            break
    return found


def _conversations(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for line in path.read_text().splitlines():
            messages = json.loads(line).get("messages") or []
            # text at its edges is stripped by some readers: such rows could not be compared
            plain = all(message["content"] and message["content"].strip() == message["content"] for message in messages)
            if len(messages) >= 2 and plain and messages[-1]["role"] == "assistant":
                yield {"messages": [{name: message[name] for name in ("role", "content")} for message in messages]}


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TAGGED
    return tokenizer


# -- both sides -------------------------------------------------------------------------------------------------------


def sides(rows: Path, few: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], Prepared]]:
    """Return ours, and TRL's in one process and in several."""
    names = ("ours", "trl_1", f"trl_{arguments.num_proc}")
    return {name: partial(_alone, name, rows, few, arguments) for name in names}


def _alone(name: str, rows: Path, few: Path, arguments: argparse.Namespace) -> Prepared:
    """Return a run of one side in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_side, name, rows, few, arguments).result()


def _side(name: str, rows: Path, few: Path, arguments: argparse.Namespace) -> Prepared:
    logging.disable(logging.WARNING)
    num_proc = None if name == "trl_1" else arguments.num_proc

    def prepared(path: Path) -> Prepared:
        return ours(path, arguments) if name == "ours" else theirs(path, arguments, num_proc)

    prepared(few)
    return prepared(rows)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what work gives, its seconds, and the CPU seconds of this process and those that ended meanwhile."""
    started, before = time.perf_counter(), sum(os.times()[:4])
    result = work()
    return result, time.perf_counter() - started, sum(os.times()[:4]) - before


def ours(rows: Path, arguments: argparse.Namespace) -> Prepared:
    """Return what `data.prepare` makes of a file."""
    spec: DataSpec = smollm2_135m_instruct.EXPERIMENT.spec.data.replace(
        {
            "source": data.describe_file(rows),
            "num_examples": None,
            "num_validation": 0,
            "max_length": arguments.max_length,
            "template": "tokenizer",
            "packing": "isolated",
        }
    )
    chat = data.chat_format(_tokenizer(arguments.tokenizer), spec)
    prepared, *seconds = timed(lambda: data.prepare(spec, chat, seed=0))
    num_loss_tokens = sum(int(np.count_nonzero(row.loss_weights)) for row in prepared.train)
    return Prepared(*seconds, sum(len(row.input_ids) for row in prepared.train), num_loss_tokens, len(prepared.train))


def theirs(rows: Path, arguments: argparse.Namespace, num_proc: int | None) -> Prepared:
    """Return what TRL makes of a file before it trains."""
    import trl
    from datasets import Dataset, disable_caching
    from datasets.utils.logging import disable_progress_bar

    disable_caching()
    disable_progress_bar()
    tokenizer = _tokenizer(arguments.tokenizer)
    model = _model(len(tokenizer))
    with tempfile.TemporaryDirectory(prefix="preparation.") as scratch:
        settings = trl.SFTConfig(
            output_dir=scratch,
            packing=True,
            max_length=arguments.max_length,
            assistant_only_loss=True,
            dataset_num_proc=num_proc,
            bf16=False,
            use_cpu=True,
            report_to="none",
        )
        spent: list[list[float]] = []

        class Timed(trl.SFTTrainer):
            def _prepare_dataset(self, *arguments_: Any, **options: Any) -> Any:
                prepared, *seconds = timed(lambda: trl.SFTTrainer._prepare_dataset(self, *arguments_, **options))
                spent.append(seconds)
                return prepared

        dataset, *seconds = timed(lambda: Dataset.from_list(list(map(json.loads, rows.read_text().splitlines()))))
        spent.append(seconds)
        trainer = Timed(model=model, args=settings, train_dataset=dataset, processing_class=tokenizer)
        packed, totals = trainer.train_dataset, [sum(parts) for parts in zip(*spent, strict=True)]
        num_loss_tokens = sum(loss_tokens(row["labels"], row["seq_lengths"]) for row in packed)
        return Prepared(*totals, sum(len(row["input_ids"]) for row in packed), num_loss_tokens, len(packed))


def _model(vocab_size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes))


# -- what is printed --------------------------------------------------------------------------------------------------


def describe(race: Race) -> str:
    """Return the lines printed about a race; disagreements in place of the ratio."""
    lines = []
    for side, runs in race.runs.items():
        seconds = statistics.median(run.seconds for run in runs)
        first = runs[0]
        lines.append(
            f"{side}: median {seconds:.2f} s, {first.num_tokens / seconds:.0f} tokens/s; {first.num_tokens} tokens, "
            f"{first.num_loss_tokens} with loss, in {first.num_rows} rows"
        )
    if race.problems:
        return "\n".join([*lines, *(f"DISAGREE: {problem}" for problem in race.problems)])
    ratios = race.ratios()
    cpu = statistics.median(race.ratios("cpu_seconds"))
    spread = (
        f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} (in CPU seconds {cpu:.2f})"
    )
    wanted = f"wanted {race.required}: {'met' if race.is_met else 'MISSED'}"
    return "\n".join([*lines, f"{race.best} / ours: {spread}, {wanted}"])


if __name__ == "__main__":
    sys.exit(main())
