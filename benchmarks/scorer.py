"""Our scorer against lm-eval's own HFLM at its best batch size, on the same loaded weights, in one run.

    python -m benchmarks.scorer [--base FOLDER ...] [--items FOLDER] [--slices NAME ...] [--num-items 32] [--repeats 3]
                                [--threads 1] [--out FILE.json]

Both sides score the same ARC-easy, HellaSwag and BLiMP items and answer the same questions, in float32. HFLM first runs
once at every batch size; those within `NEAR` of the least CPU time then take turns with ours, and the one with the
smallest median counts. Timed is what a user waits for: tokenisation and forward passes, not loading. Checked before any
ratio is printed: every choice's log-probability, its greedy flag, every generated text, at every batch size of HFLM.

Printed beside each ratio: how many positions (padding included) each side sends through the layers and through the
output layer. BLiMP has no context, but most pairs, and many sentences of different pairs, begin alike; the ratio on
`blimp` comes from there. `blimp_disjoint` holds the pairs whose first words differ: the two sentences of a pair share
nothing, sentences of different pairs may. `hellaswag_10shot` asks after ten solved items, as leaderboards do. Items
that a base's context cannot hold are left out and counted.

What does not live here: loading, which both sides share, and accuracy.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from experiments.pocket import EXPERIMENT
from harness import data, identity, models
from harness.evals.forward import evaluating
from harness.evals.scorer import Scorer
from harness.pocket import pretrain
from harness.records.store import Store
from harness.spec import EvalSpec

ROOT = Path(__file__).parents[1]
ITEMS = ROOT.parent / "shared" / "data" / "eval" / "mc"
SLICES = ("arc_easy", "hellaswag", "hellaswag_10shot", "blimp", "blimp_disjoint")
FILES = ("arc_easy", "hellaswag", "blimp")
GENERATION = "generation"
NUM_SHOTS = 10
REQUIRED = {"arc_easy": 3.0, "hellaswag": 3.0, "hellaswag_10shot": 3.0, "blimp": 1.5}
"""Slice -> times as fast as HFLM."""
BATCH_SIZES = (1, 4, 16, 64)
OUR_BATCH_SIZE = 64
NEAR = 1.15
"""Times the least CPU seconds of any batch size, for a batch size to be tried again."""
NUM_PROMPTS = 16
MAX_NEW_TOKENS = 32
TOLERANCE = 1e-4
"""Nats an item."""
RESOLUTION = 1e-6
"""Share of a log-probability, 8 steps of float32: allowed beyond 100 nats, where HFLM's own batch sizes differ."""


@dataclass(frozen=True)
class Contest:
    """One thing that both sides do."""

    name: str
    ours: Callable[[], list[Any]]
    theirs: Callable[[int], list[Any]]
    """Batch size -> results in the same order."""
    differences: Callable[[list[Any], list[Any]], list[str]]


@dataclass
class Outcome:
    """Seconds of each side, and where they disagree."""

    name: str
    ours: list[float] = field(default_factory=list)
    theirs: dict[int, list[float]] = field(default_factory=dict)
    """Batch size -> seconds, the first one from trying it; only those near the fastest have more."""
    best: int = 0
    problems: list[str] = field(default_factory=list)
    layers: tuple[int, int] = (0, 0)
    """Positions through the layers: theirs at the best batch size, ours."""
    outputs: tuple[int, int] = (0, 0)
    """Positions through the output layer, likewise."""
    largest_gap: float = math.nan

    @property
    def ratios(self) -> list[float]:
        """Return how many times as fast ours was in each repeat; none where the sides disagree."""
        pairs = zip(self.theirs[self.best][1:], self.ours, strict=True)
        return [] if self.problems else [their / our for their, our in pairs]

    @property
    def is_met(self) -> bool:
        """Return whether the sides agree and the median ratio is what is wanted of this slice, if anything is."""
        return not self.problems and statistics.median(self.ratios) >= REQUIRED.get(self.name, 0.0)


def main() -> int:
    """Run every base, print the table; 1 if anything disagrees or misses what is wanted, 2 without items."""
    arguments = _arguments()
    if not arguments.items.is_dir():
        print(f"--items is {str(arguments.items)!r}, but must be a folder with {', '.join(FILES)}.jsonl")
        return 2
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)
    print(f"threads: {arguments.threads} of {os.cpu_count()} cores; repeats: {arguments.repeats}; float32", flush=True)
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="scorer.") as scratch:
        for folder in arguments.base or default_bases(Path(scratch)):
            print(f"\n{folder}", flush=True)
            outcomes[str(folder)] = list(_run_base(folder, arguments))
    if arguments.out:
        rows = {base: [asdict(row) | {"ratios": row.ratios} for row in rows] for base, rows in outcomes.items()}
        arguments.out.write_text(json.dumps({"threads": arguments.threads, "bases": rows}, indent=1))
    return 0 if all(row.is_met for rows in outcomes.values() for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, nargs="+", help="model folders; by default those that are here")
    parser.add_argument("--items", type=Path, default=ITEMS, help="folder of multiple-choice files")
    parser.add_argument("--slices", nargs="+", choices=(*SLICES, GENERATION), default=(*SLICES, GENERATION))
    parser.add_argument("--num-items", type=int, default=32, help="items of each slice, spread over its file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def default_bases(scratch: Path) -> list[Path]:
    """Return those of SmolLM2, MiniMind2 and stories15M that are here, and the pocket base, built if need be."""
    store = Store(ROOT / "out")
    key = identity.base_key(EXPERIMENT.spec)
    shared = ROOT.parent / "shared" / "data" / "models"
    found = [store.artefact("fetched", "smollm2_135m_instruct"), shared / "minimind2-small", shared / "stories15M"]
    if not store.has_artefact("base", key):
        print("building the pocket base", flush=True)
        store = Store(scratch)
    pocket = store.ensure_artefact(
        "base", key, lambda target: pretrain.build(EXPERIMENT.spec.base, target, lambda **_: None)
    )
    return [*(folder for folder in found if folder.is_dir()), pocket]


def _run_base(folder: Path, arguments: argparse.Namespace) -> Iterator[Outcome]:
    files = models.inspect_folder(folder)
    model: Any = models.load_model(files, "float32", "cpu", None).eval()
    sides = Sides(model, models.load_tokenizer(files))
    rows = {name: read_slice(arguments.items, name, arguments.num_items) for name in SLICES if name in arguments.slices}
    contests = []
    for name, every in rows.items():
        fitting = [row for row in every if sides.longest(requests([row])) <= sides.spec.max_length]
        if len(fitting) < len(every):
            count, context = len(every) - len(fitting), sides.spec.max_length
            print(f"{name}: {count} of {len(every)} items left out, too long for a context of {context}", flush=True)
        if fitting:
            contests.append(sides.likelihood(name, requests(fitting)))
    if GENERATION in arguments.slices:
        contests.append(sides.generation([row["query"] for row in read_slice(arguments.items, FILES[0], NUM_PROMPTS)]))
    for contest in contests:
        outcome = compare(contest, model, BATCH_SIZES, arguments.repeats)
        print(describe(outcome), flush=True)
        yield outcome


# -- both sides -------------------------------------------------------------------------------------------------------


class Sides:
    """Ours and lm-eval's around one loaded model."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        template = "tokenizer" if tokenizer.chat_template else "plain"
        self.chat = data.chat_format(tokenizer, EXPERIMENT.spec.data.replace({"template": template}))
        context = model.config.max_position_embeddings
        self.spec = EvalSpec(tasks=(), items_seed=0, val_share=0.0, dtype="float32", max_length=context)

    def _scorer(self) -> Scorer:
        return Scorer(self.model, self.chat, self.spec, batch_size=OUR_BATCH_SIZE)

    def _hflm(self, batch_size: int) -> HFLM:
        # A copy: HFLM sets the padding token and side of the tokenizer that it is given.
        tokenizer = copy.deepcopy(self.tokenizer)
        return HFLM(pretrained=self.model, tokenizer=tokenizer, batch_size=batch_size, device="cpu")

    def longest(self, asked: Sequence[Instance]) -> int:
        """Return the number of tokens of the longest request."""
        return max(len(self.tokenizer("".join(instance.args))["input_ids"]) for instance in asked)

    def likelihood(self, name: str, asked: list[Instance]) -> Contest:
        """Return the contest of scoring these requests."""

        def ours() -> list[Any]:
            with evaluating(self.model, "float32"):
                return self._scorer().loglikelihood(asked)

        def theirs(batch_size: int) -> list[Any]:
            return self._hflm(batch_size).loglikelihood(asked, disable_tqdm=True)

        return Contest(name, ours, theirs, likelihood_differences)

    def generation(self, prompts: Sequence[str]) -> Contest:
        """Return the contest of answering these prompts greedily."""
        # lm-eval knows one stop token; the others it is told as text.
        stops = [self.tokenizer.decode([token]) for token in self.chat.stop_token_ids]

        def ours() -> list[Any]:
            with evaluating(self.model, "float32"):
                return [str(answer) for answer in self._scorer().generate_until(_questions(prompts, ["\n\n"]))]

        def theirs(batch_size: int) -> list[Any]:
            asked = _questions(prompts, ["\n\n", *stops])
            return self._hflm(batch_size).generate_until(asked, disable_tqdm=True)

        return Contest(GENERATION, ours, theirs, text_differences)


def read_slice(folder: Path, name: str, num_items: int) -> list[dict[str, Any]]:
    """Return items spread evenly over a slice's file.

    Of `blimp_disjoint` the pairs whose first words differ; `hellaswag_10shot` has solved items before each query, the
    first of the file, which are not asked.
    """
    file = name.removesuffix("_disjoint").removesuffix(f"_{NUM_SHOTS}shot")
    rows = [json.loads(line) for line in (folder / f"{file}.jsonl").read_text().splitlines()]
    if name.endswith("shot"):
        shots = "".join(f"{row['query']} {row['choices'][row['gold']]}\n\n" for row in rows[:NUM_SHOTS])
        rows = [row | {"query": shots + row["query"]} for row in rows[NUM_SHOTS:]]
    if name.endswith("_disjoint"):
        rows = [row for row in rows if len({choice.split()[0] for choice in row["choices"]}) == len(row["choices"])]
    return rows[:: max(1, len(rows) // num_items)][:num_items]


def requests(rows: Sequence[dict[str, Any]]) -> list[Instance]:
    """Return one log-likelihood request per choice."""
    return [
        Instance("loglikelihood", row, (row["query"], (" " if row["query"] else "") + choice), place, ("mc", number, 1))
        for number, row in enumerate(rows)
        for place, choice in enumerate(row["choices"])
    ]


def _questions(prompts: Sequence[str], until: list[str]) -> list[Instance]:
    settings = {"until": until, "max_gen_toks": MAX_NEW_TOKENS, "do_sample": False}
    return [
        Instance("generate_until", {}, (prompt, dict(settings)), 0, ("qa", n, 1)) for n, prompt in enumerate(prompts)
    ]


# -- one contest ------------------------------------------------------------------------------------------------------


def compare(contest: Contest, model: Any, batch_sizes: Sequence[int], repeats: int) -> Outcome:
    """Return the seconds of both sides, taking turns, after checking that they agree."""
    outcome = Outcome(contest.name)
    with _positions(model) as ours_read:
        own = contest.ours()
    read: dict[int, list[int]] = {}
    # Of CPU time: other work on the machine must not make HFLM's best batch size look slow.
    tried: dict[int, float] = {}
    for size in batch_sizes:
        started = time.process_time()
        with _positions(model) as read[size]:
            seconds, answers = _timed(contest.theirs, size)
        tried[size] = time.process_time() - started
        outcome.theirs[size] = [seconds]
        outcome.problems += [f"batch size {size}: {text}" for text in contest.differences(own, answers)]
        outcome.largest_gap = max(_gap(own, answers), 0.0 if math.isnan(outcome.largest_gap) else outcome.largest_gap)
    near = [size for size in batch_sizes if tried[size] <= NEAR * min(tried.values())]
    for _ in range(repeats):
        outcome.ours.append(_timed(contest.ours)[0])
        for size in near:
            outcome.theirs[size].append(_timed(contest.theirs, size)[0])
    outcome.best = min(near, key=lambda size: statistics.median(outcome.theirs[size][1:]))
    outcome.layers, outcome.outputs = zip(read[outcome.best], ours_read, strict=True)
    return outcome


def _timed(work: Callable[..., list[Any]], *arguments: Any) -> tuple[float, list[Any]]:
    started = time.perf_counter()
    answers = work(*arguments)
    return time.perf_counter() - started, answers


@contextmanager
def _positions(model: Any) -> Iterator[list[int]]:
    """Yield the number of positions that went through the layers and through the output layer."""
    counts = [0, 0]

    def count(place: int) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            counts[place] += output.shape[:-1].numel()

        return hook

    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    handles = [part.register_forward_hook(count(place)) for place, part in enumerate(parts)]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _gap(ours: list[Any], theirs: list[Any]) -> float:
    pairs = [(one[0], other[0]) for one, other in zip(ours, theirs, strict=True) if isinstance(one, tuple)]
    return max((abs(one - other) for one, other in pairs), default=0.0)


def likelihood_differences(ours: list[Any], theirs: list[Any]) -> list[str]:
    """Return a sentence for each choice whose log-probability or greedy flag is not the same."""
    found = []
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        # `not <=` and not `>`: nan equals nothing.
        if not abs(one[0] - other[0]) <= max(TOLERANCE, RESOLUTION * abs(other[0])):
            found.append(f"choice {number} has log-probability {one[0]:.6f} here and {other[0]:.6f} there")
        if one[1] != other[1]:
            found.append(f"choice {number} is greedy: {one[1]} here and {other[1]} there")
    return found


def text_differences(ours: list[Any], theirs: list[Any]) -> list[str]:
    """Return a sentence for each text that is not the same."""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return [f"answer {number} is {one!r} here and {other!r} there" for number, (one, other) in pairs if one != other]


def describe(outcome: Outcome) -> str:
    """Return the lines printed about an outcome; a disagreement in place of the ratio."""
    tried = ", ".join(f"{size}: {seconds[0]:.2f}" for size, seconds in outcome.theirs.items())
    lines = [
        f"{outcome.name}: ours {statistics.median(outcome.ours):.2f} s, HFLM at batch size {outcome.best} "
        f"{statistics.median(outcome.theirs[outcome.best][1:]):.2f} s (tried once, seconds: {tried})",
        f"  positions, HFLM and ours: layers {outcome.layers[0]} and {outcome.layers[1]}, "
        f"output layer {outcome.outputs[0]} and {outcome.outputs[1]}; largest gap {outcome.largest_gap:.1e} nats",
    ]
    if outcome.problems:
        return "\n".join([*lines, *(f"  DISAGREE: {problem}" for problem in outcome.problems[:5])])
    ratios, required = outcome.ratios, REQUIRED.get(outcome.name)
    wanted = f", wanted {required}: {'met' if outcome.is_met else 'MISSED'}" if required else ""
    ratio = f"  HFLM / ours: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}{wanted}"
    return "\n".join([*lines, ratio])


if __name__ == "__main__":
    sys.exit(main())
