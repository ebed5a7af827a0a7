"""Scoring a model: after training, and its base before.

Invariant: an evaluation changes nothing - weights, mode, random state, config - and a model scored twice on one machine
gives the same bytes. The base is scored once per `before_key`, by whoever comes first. What does not live here: forward
passes, metrics.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from harness import models, versions
from harness.data import bounds
from harness.evals import pass_at_k
from harness.evals.asking import Sample, asked
from harness.evals.choices import CHOICES_FILE, write_choices
from harness.evals.documents import documents
from harness.evals.forward import evaluating
from harness.evals.items import Slice, items_sha256, reference_of, select
from harness.evals.layouts import as_asked
from harness.evals.metrics import output
from harness.evals.panel import why_unknown
from harness.evals.scorer import Scorer
from harness.evals.table import (
    CUT,
    NOT_FINITE,
    TOO_LONG,
    ItemRow,
    QuestionRow,
    aggregate,
    write_questions,
    write_rows,
)
from harness.identity import canonical, evaluation_behaviours
from harness.records import before
from harness.records.schema import EvalScores, Scores, TrainSummary
from harness.records.store import Store
from harness.spec import EvalSpec, EvalTask, Quantisation, Runtime, TrialSpec
from harness.spec.metrics import CHANCE_METRICS, PANEL_METRICS

if TYPE_CHECKING:
    from harness.data import ChatFormat
    from harness.evals.targets import Targets
    from harness.models import BaseFiles

ITEMS_FILE = "items.parquet"
QUESTIONS_FILE = "questions.parquet"
SAMPLE_BATCH_SIZE = 8
SAMPLE_MAX_NEW_TOKENS = 64

Sampler = Callable[[nn.Module, str], list[dict[str, Any]]]


class Context(Protocol):
    """What scoring needs to know about where it runs."""

    @property
    def store(self) -> Store: ...
    @property
    def runtime(self) -> Runtime: ...
    @property
    def report(self) -> Callable[..., None]: ...
    @property
    def eval_halvings(self) -> models.Halvings: ...


def score_after(
    model: nn.Module,
    chat: ChatFormat,
    spec: EvalSpec,
    context: Context,
    folder: Path,
    summary: TrainSummary,
    targets: Targets | None = None,
) -> EvalScores | None:
    """Score a trained model and write its `items.parquet` and `choices.parquet`; None where training diverged.

    Args:
        model: as training left it; it is not changed.
        chat: the trial's tokenizer and template.
        spec: what to ask.
        context: the store and how to run.
        folder: the trial's folder, named by its id; gets sampled.parquet, too, where the spec asks for samples.
        summary: what training did.
        targets: gives the index of training targets, for the behaviour panel.

    Raises:
        DataError: items that are missing or cannot be asked.
        DiskError: the disk is full or read-only.
    """
    if summary.divergence is not None:
        return None
    report_phase(context, "scoring after")
    key = _hash({"trial": folder.name, **_settings(chat, spec)})
    return _score_into(folder, folder, key, model, chat, spec, context, targets)


def score_before(
    base: BaseFiles, chat: ChatFormat, spec: TrialSpec, context: Context, quantisation: Quantisation | None
) -> tuple[EvalScores, EvalScores | None]:
    """Return the scores of the base as the method trains it and, where that is quantised, in full precision too.

    Each is measured once per key and shared by every trial.

    Raises:
        DataError, DiskError: as `score_after`.
        ModelError: the base cannot be loaded.
    """
    own = _score_base(base, chat, spec, context, quantisation)
    return own, _score_base(base, chat, spec, context, None) if quantisation is not None else None


def before_key(base: BaseFiles, chat: ChatFormat, spec: TrialSpec, quantisation: Quantisation | None) -> str:
    """Return the store key of a base's scores: everything that could move one of them."""
    return _hash(
        {
            "weights": base.weights_sha256,
            "tokenizer": base.tokenizer_sha256,
            "weights_dtype": _weights_dtype(spec, quantisation),
            "quantisation": str(quantisation) if quantisation is not None else None,
            **_settings(chat, spec.evals),
        }
    )


def item_rows(
    model: nn.Module, chat: ChatFormat, spec: EvalSpec, *, batch_size: int, targets: Targets | None = None
) -> list[ItemRow]:
    """Return every metric of every item of every task, in the order of tasks and items.

    Args:
        model: a causal language model; mode, random state and config are the same afterwards.
        chat: tokenizer and template.
        spec: what to ask.
        batch_size: rows computed together.
        targets: as of `ask`.

    Raises:
        DataError: items that are missing or cannot be asked.
    """
    return ask(scorer_of(model, chat, spec, batch_size), spec, targets=targets)


def scorer_of(
    model: nn.Module, chat: ChatFormat, spec: EvalSpec, batch_size: int, halvings: models.Halvings | None = None
) -> Scorer:
    """Return what asks the tasks of a spec; arguments as of `Scorer`."""
    chat = chat.asking(spec)
    return Scorer(
        model,
        chat,
        spec,
        batch_size=batch_size,
        chat_tasks=[task.key for task in spec.tasks if task.chat],
        raw_tasks=[task.key for task in spec.tasks if task.panel != "none"],
        halvings=halvings,
    )


def ask(
    scorer: Scorer, spec: EvalSpec, slices: Mapping[str, Slice] | None = None, targets: Targets | None = None
) -> list[ItemRow]:
    """Return the rows of `item_rows`; asked again, with other weights behind the scorer, nothing is encoded again.

    Args:
        scorer: the model behind its tokenizer and template.
        spec: what to ask.
        slices: task key -> items, where not all that the spec chooses are asked.
        targets: gives the index of training targets, which the behaviour panel compares answers with; None is a base's.

    Raises:
        DataError: items that are missing or cannot be asked.
    """
    slices = _slices(spec) if slices is None else slices
    return _rows(scorer, spec, slices, asked(scorer, spec, slices, targets).by_task)


@bounds.watching()
def sampler(
    chat: ChatFormat,
    prompts: Sequence[Sequence[Mapping[str, Any]]],
    spec: EvalSpec,
    halvings: models.Halvings | None = None,
) -> Sampler:
    """Return the function that training calls to sample: (model, phase) -> rows for samples.jsonl.

    Each row is {"phase", "prompt", "answer", "stopped"}: the rendered prompt, the greedy answer, and whether it ended
    by itself. The model and all random state are the same afterwards.

    Args:
        chat: tokenizer and template.
        prompts: messages up to and including a user's turn, one list per sample.
        spec: `dtype` and `max_length` are used, and the longest answer that any task asks for.
        halvings: of the prompts answered together, where memory runs out.
    """
    chat = chat.asking(spec)
    rendered = [chat.render(messages, add_generation_prompt=True) for messages in prompts]
    max_new_tokens = max([task.max_new_tokens for task in spec.tasks if task.max_new_tokens] or [SAMPLE_MAX_NEW_TOKENS])

    def sample(model: nn.Module, phase: str) -> list[dict[str, Any]]:
        scorer = Scorer(model, chat, spec, batch_size=SAMPLE_BATCH_SIZE, halvings=halvings)
        with evaluating(model, spec.dtype):
            questions = [tuple(encoded.ids) for encoded in chat.encode_batch(rendered)]
            answers = scorer.answer(questions, scorer.turn_ends, max_new_tokens, is_chat=True)
        return [
            {"phase": phase, "prompt": chat.readable(text), "answer": str(answer), "stopped": answer.stopped}
            for text, answer in zip(rendered, answers, strict=True)
        ]

    return sample


def continuations(
    model: nn.Module, chat: ChatFormat, spec: EvalSpec, texts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Return the greedy continuation of each raw text; the model and all random state are the same afterwards."""
    scorer = Scorer(model, chat, spec, batch_size=SAMPLE_BATCH_SIZE)
    with evaluating(model, spec.dtype):
        prompts = [tuple(scorer.tok_encode(text)) for text in texts]
        return [str(answer) for answer in scorer.answer(prompts, (), max_new_tokens, is_chat=False)]


# -- one model into one folder ----------------------------------------------------------------------------------------


def _score_into(
    folder: Path,
    final: Path,
    key: str,
    model: nn.Module,
    chat: ChatFormat,
    spec: EvalSpec,
    context: Context,
    targets: Targets | None = None,
) -> EvalScores:
    scorer = scorer_of(model, chat, spec, context.runtime.eval_batch_size, context.eval_halvings)
    rows = _ask_and_write_the_rest(folder, scorer, spec, targets)
    write_rows(folder / ITEMS_FILE, rows)
    return EvalScores(
        key=key,
        test=_remarked(aggregate(rows, "test"), spec),
        val=_remarked(aggregate(rows, "val"), spec),
        items_file=str((final / ITEMS_FILE).relative_to(context.store.root)),
        asked_with_sha256=None if (asked := chat.asking(spec)) is chat else asked.sha256,
    )


def _ask_and_write_the_rest(folder: Path, scorer: Scorer, spec: EvalSpec, targets: Targets | None) -> list[ItemRow]:
    """Return the items' rows; choices and sampled answers are written."""
    # Apart, so that what was asked, prompts and all, is gone when the items are written.
    slices = _slices(spec)
    answers = asked(scorer, spec, slices, targets)
    write_choices(folder / CHOICES_FILE, spec.tasks, answers.by_task)
    if any(task.num_samples for task in spec.tasks):
        pass_at_k.write_rows(folder / pass_at_k.SAMPLED_FILE, answers.sampled)
    return _rows(scorer, spec, slices, answers.by_task)


def _remarked(scores: Scores, spec: EvalSpec) -> Scores:
    """Return scores with a remark on each whose slice leaves out items that cannot be asked here."""
    found = dict(scores)
    for task in spec.tasks:
        remarks = [f"{count} items are left out: {reason}" for reason, count in select(task, spec).left_out.items()]
        for key in (key for key in scores if remarks and key.rpartition("/")[0] == task.key):
            said = [scores[key].reason, *remarks]
            found[key] = scores[key].model_copy(update={"reason": "; ".join(text for text in said if text)})
    return found


def questions(chat: ChatFormat, spec: EvalSpec) -> list[QuestionRow]:
    """Return what every item of every task asks, in order: the prompt as a model reads it, and the right answer."""
    chat = chat.asking(spec)
    return [
        QuestionRow(
            *(task.suite, task.name, item["id"]),
            prompt=chat.readable(_shown(document)),
            reference=reference_of(shown, task.kind),
            instructions=" ".join(item.get("instruction_id_list", ())) or None,
        )
        for task in spec.tasks
        for items in [select(task, spec).items]
        for item, document in zip(items, documents(items, task, chat, spec.items_seed), strict=True)
        for shown in [as_asked(item, task, spec.items_seed)]
    ]


def _shown(document: Mapping[str, Any]) -> str:
    if "contexts" in document:
        return " / ".join(document["contexts"])
    return document["context"] if "context" in document else document["text"]


def _score_base(
    base: BaseFiles, chat: ChatFormat, spec: TrialSpec, context: Context, quantisation: Quantisation | None
) -> EvalScores:
    key = before_key(base, chat, spec, quantisation)
    final = context.store.artefact("before", key)

    def build(folder: Path) -> None:
        model = models.load_model(base, spec.train.dtype, context.runtime.device, quantisation)
        models.add_rows(model, chat.tokenizer, chat.added)
        scores = _score_into(folder, final, key, model, chat, spec.evals, context)
        write_questions(folder / QUESTIONS_FILE, questions(chat, spec.evals))
        before.write(folder, scores)
        del model
        _free_memory()

    report_phase(context, "scoring before")
    return before.ensure(context.store, key, build)


def _slices(spec: EvalSpec) -> dict[str, Slice]:
    return {task.key: select(task, spec) for task in spec.tasks}


def _rows(
    scorer: Scorer, spec: EvalSpec, slices: Mapping[str, Slice], asked: Mapping[str, Sequence[Sample]]
) -> list[ItemRow]:
    return [
        row
        for task in spec.tasks
        for sample in asked.get(task.key, ())
        for row in _rows_of(task, slices[task.key], sample, scorer)
    ]


def _rows_of(task: EvalTask, chosen: Slice, sample: Sample, scorer: Scorer) -> Iterator[ItemRow]:
    number = sample["doc_id"]
    item, split = chosen.items[number], chosen.splits[number]
    said = output(task.kind, sample["doc"], sample["filtered_resps"])
    cut = CUT if (task.key, number) in scorer.cut else None
    chance = 1 / len(sample["doc"]["choices"]) if "choices" in sample["doc"] else None
    for metric in sample["metrics"]:
        value = float(sample[metric]) if math.isfinite(sample[metric]) else None
        reason = cut if value is not None else _why_unmeasured(task, number, metric, sample, scorer)
        guessed = chance if metric in CHANCE_METRICS else None
        yield ItemRow(task.suite, task.name, item["id"], item["cluster"], split, metric, value, said, reason, guessed)


def _why_unmeasured(task: EvalTask, number: int, metric: str, sample: dict[str, Any], scorer: Scorer) -> str:
    if (task.key, number) in scorer.too_long:
        return TOO_LONG
    if metric in PANEL_METRICS and sample["filtered_resps"][0].is_finite:
        return why_unknown(metric)
    return NOT_FINITE


def _weights_dtype(spec: TrialSpec, quantisation: Quantisation | None) -> str:
    # float32 and bfloat16_autocast hold the same weights; but 4-bit layers compute in what the training dtype says.
    return "float32" if quantisation is None and spec.train.dtype == "bfloat16_autocast" else spec.train.dtype


def _settings(chat: ChatFormat, spec: EvalSpec) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "template": chat.sha256 if any(task.chat for task in spec.tasks) else None,
        "evals": canonical(spec),
        "items": items_sha256(spec),
        "behaviour": versions.BEHAVIOURS["evals"],
    }
    if used := evaluation_behaviours(spec):
        settings["used"] = used
    # A further token takes probability from all others, so it moves scores of raw text as well, as does one fewer that
    # reads what an item spells.
    read: dict[str, Any] = {"added": chat.changed.made_tokens, "made_text": chat.changed.made_text}
    read = {name: value for name, value in read.items() if value}
    return settings | (_rendering(chat, spec) if settings["template"] else {}) | read


def _rendering(chat: ChatFormat, spec: EvalSpec) -> dict[str, Any]:
    """Return what bears on prompts in chat besides the template of training, neutral values left out."""
    asked = chat.asking(spec)
    rendering = {
        "control_text": "as_is" if chat.control_text == "as_is" else None,
        "system_turn": chat.system_turn,
        "asked_with": None if asked is chat else asked.sha256,
    }
    return {name: value for name, value in rendering.items() if value is not None}


def _hash(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, allow_nan=False).encode()).hexdigest()


def report_phase(context: Context, phase: str) -> None:
    """Say what a trial is doing now."""
    context.report(phase=phase, step=0, num_steps=0, loss=None, tokens_per_second=None)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
