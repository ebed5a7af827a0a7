"""A tiny Llama with a chat template, and items in files: what the tests of scoring are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from harness.data import ChatFormat, chat_format
from harness.evals.generated import Generation
from harness.models import Halvings
from harness.records.store import Store
from harness.spec import EvalSpec, EvalTask, FileItems, Runtime
from tests.models import tiny
from tests.specs import pinned_spec

REAL = Path(__file__).parents[3] / "shared" / "data"
RUNTIME = Runtime(num_threads=1, micro_batch_size=4, eval_batch_size=16, device="cpu")
MEASURES = {"generate": "learned", "perplexity": "fluency"}


@dataclass(frozen=True)
class Context:
    store: Store
    runtime: Runtime = RUNTIME
    report: Callable[..., None] = lambda **progress: None
    eval_halvings: Halvings = field(default_factory=Halvings)


def llama(seed: int = 0, **changes: object) -> Any:
    """Return a random Llama whose context holds every test text."""
    return tiny.llama(seed, **({"max_position_embeddings": 512} | changes))


def chat(tokenizer: PreTrainedTokenizerBase | None = None, template: str = "chatml_lite") -> ChatFormat:
    """Return a chat format over the tiny tokenizer or another."""
    spec = pinned_spec().data.replace({"template": template})
    return chat_format(tokenizer if tokenizer is not None else tiny.tokenizer(), spec)


def answer(text: str, **changes: Any) -> Generation:
    """Return an answer of as many tokens as words, which ended by itself."""
    return Generation(text, **({"stopped": True, "num_tokens": len(text.split()), "hit_limit": False} | changes))


def real_model(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a real small model in float32 and its tokenizer."""
    folder = REAL / "models" / name
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), AutoTokenizer.from_pretrained(folder)


def real_rows(file: str, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a real file."""
    return [json.loads(line) for line in (REAL / file).read_text().splitlines()[:count]]


def write_items(path: Path, items: Sequence[dict[str, Any]]) -> FileItems:
    """Write items and return their source."""
    content = "\n".join(json.dumps(item) for item in items).encode()
    path.write_bytes(content)
    return FileItems(sha256=hashlib.sha256(content).hexdigest(), path=str(path))


def task(kind: Any, source: FileItems, **changes: Any) -> EvalTask:
    """Return a task over a file."""
    plain = {
        "suite": "small",
        "name": kind,
        "kind": kind,
        "source": source,
        "measure": MEASURES.get(kind, "retained"),
        "primary": True,
        "chat": kind == "generate",
        "num_items": None,
        "max_new_tokens": 8 if kind == "generate" else 0,
    }
    return EvalTask(**(plain | changes))


def evals(*tasks: EvalTask, **changes: Any) -> EvalSpec:
    """Return an evaluation of these tasks."""
    plain = {"items_seed": 0, "val_share": 0.25, "dtype": "float32", "max_length": 512}
    return EvalSpec(tasks=tasks, **(plain | changes))


def every_kind(folder: Path, count: int = 12) -> tuple[EvalTask, ...]:
    """Return one task of each kind over made-up items."""
    names = [f"Person {number}" for number in range(count)]
    places = ["Paris by the sea", "Rome", "a park"]
    return (
        task("multiple_choice", write_items(folder / "mc.jsonl", [
            {"id": f"m{n}", "query": f"{name} lives in", "choices": places, "gold": n % 3}
            for n, name in enumerate(names)
        ])),
        task("schema", write_items(folder / "schema.jsonl", [
            {"id": f"s{n}", "contexts": [f"{name} told Ann that Ann", f"{name} told Ann that {name}"],
             "continuation": "was late.", "gold": n % 2} for n, name in enumerate(names)
        ])),
        task("greedy", write_items(folder / "greedy.jsonl", [
            {"id": f"g{n}", "context": f"{n} plus 7 is", "continuation": str(n + 7)} for n in range(count)
        ])),
        task("generate", write_items(folder / "generate.jsonl", [
            {"id": f"q{n}", "context": f"Where does {name} live?", "answer": "Paris", "aliases": ["In Paris"]}
            for n, name in enumerate(names)
        ])),
        task("perplexity", write_items(folder / "text.jsonl", [
            {"text": f"Once upon a time {name} went to the park. " * (1 + n % 3)} for n, name in enumerate(names)
        ])),
    )  # fmt: skip


def choices(rows: Sequence[dict[str, Any]]) -> list[Instance]:
    """Return lm-eval's log-likelihood requests of multiple-choice rows."""
    return [
        Instance("loglikelihood", row, (row["query"], (" " if row["query"] else "") + choice), place, ("mc", number, 1))
        for number, row in enumerate(rows)
        for place, choice in enumerate(row["choices"])
    ]


def documents(texts: Sequence[str]) -> list[Instance]:
    """Return lm-eval's rolling requests of texts."""
    return [Instance("loglikelihood_rolling", {}, (text,), 0, ("text", n, 1)) for n, text in enumerate(texts)]


def questions(contexts: Sequence[str], max_new_tokens: int, until: Sequence[str]) -> list[Instance]:
    """Return lm-eval's generation requests of raw contexts."""
    settings = {"until": list(until), "max_gen_toks": max_new_tokens, "do_sample": False}
    return [
        Instance("generate_until", {}, (context, dict(settings)), 0, ("qa", n, 1)) for n, context in enumerate(contexts)
    ]
