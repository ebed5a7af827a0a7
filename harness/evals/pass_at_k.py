"""Several sampled answers to one item: how many are right, whether one of k is, and how much they differ.

    sampled.parquet    one row per item and sampled answer, beside items.parquet

Invariant: what an answer is sampled with depends on `items_seed`, the slice, the item and the number of the sample
alone, so it is the same before and after and for every model, whatever else is asked or shares a batch; and a smaller
number of samples is the first of a larger one's. What does not live here: taking tokens (sampling.py), whether one
answer is right (kinds/).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from harness.evals.documents import Document
from harness.evals.generated import Generation, Results, unknown
from harness.evals.kinds import KINDS
from harness.evals.lm_tasks import ends_of
from harness.evals.normalise import normalise
from harness.evals.table import columns_of, shortened, write_parquet
from harness.seeding import numpy_stream
from harness.spec import EvalTask
from harness.spec.metrics import UNIQUE_SHARE, primary_metric, sampled_metrics

if TYPE_CHECKING:
    from harness.evals.scorer import Scorer

SAMPLED_FILE = "sampled.parquet"


class Judged(NamedTuple):
    """One sampled answer."""

    answer: Generation
    is_right: bool | None
    """By the primary metric of the task's kind; None where the model's logits were not finite."""


Samples = Mapping[str, Sequence[Judged]]
"""Item id -> its sampled answers, in the order of their numbers."""


class SampledRow(NamedTuple):
    """One sampled answer; the columns of sampled.parquet."""

    suite: str
    task: str
    item_id: str
    sample: int
    """Its number, from 0."""
    answer: str
    """Cut as questions are."""
    is_right: bool | None
    num_tokens: int


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("suite", "task", "item_id")),
        ("sample", pa.int32()),
        ("answer", pa.string()),
        ("is_right", pa.bool_()),
        ("num_tokens", pa.int32()),
    ]
)


def sampled(scorer: Scorer, task: EvalTask, documents: Sequence[Document], seed: int) -> Samples:
    """Return `num_samples` judged answers to each document, in the prompts and lengths of the task.

    What shares a batch moves an answer only where a number is within rounding of the edge between two tokens.

    Args:
        scorer: the model behind its tokenizer and template, evaluating.
        task: how documents are asked, how often and how hot.
        documents: of its items.
        seed: `evals.items_seed`.

    Raises:
        DataError: the context has no room for an answer, or programs cannot run here.
    """
    repeated = [document for document in documents for _ in range(task.num_samples)]
    answers = scorer.sampled_answers(
        [document["context"] for document in repeated],
        np.concatenate([_draws(task, document["id"], seed) for document in documents]),
        ends_of(task),
        temperature=task.temperature,
        is_chat=task.chat,
    )
    found: dict[str, list[Judged]] = {document["id"]: [] for document in documents}
    is_right = _judge(task)
    for document, answer in zip(repeated, answers, strict=True):
        found[document["id"]].append(Judged(answer, is_right(document, answer)))
    return found


def _draws(task: EvalTask, item_id: str, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each sample and token of an item, float64 [num_samples, max_new_tokens]."""
    streams = (f"evals.sampled/{task.key}/{item_id}/{number}" for number in range(task.num_samples))
    return np.stack([numpy_stream(seed, stream).random(task.max_new_tokens) for stream in streams])


def _judge(task: EvalTask) -> Callable[[Document, Generation], bool | None]:
    """Return what judges an answer by the primary metric of its kind; the same answer to an item once."""
    known: dict[tuple[str, str], bool] = {}

    def is_right(document: Document, answer: Generation) -> bool | None:
        if not answer.is_finite:
            return None
        key = (document["id"], str(answer))
        if key not in known:
            known[key] = KINDS[task.kind].metrics(document, [answer])[primary_metric(task)] == 1.0
        return known[key]

    return is_right


# -- metrics ----------------------------------------------------------------------------------------------------------


def measure_of(task: EvalTask, samples: Samples) -> Callable[[Document, Results], dict[str, float]]:
    """Return what gives the metrics of an item's samples, whatever its greedy answer."""
    return lambda document, _results: metrics(task, document, samples[document["id"]])


def metrics(task: EvalTask, document: Document, samples: Sequence[Judged]) -> dict[str, float]:
    """Return `pass_1`, `pass_2`, `pass_4`, ... and `unique_share` of the n answers sampled to one item.

    pass_k: see `pass_at_k`, for the powers of two up to n; pass_1 is the share that is right. More is better.
    unique_share: different answers / n, compared in the form in which they are judged: normalised, programs as they
    stand. Neither more nor less is better. All are nan where the logits of any sample were not finite.
    """
    names = sampled_metrics(len(samples))
    if any(one.is_right is None for one in samples):
        return unknown(names)
    num_right = sum(bool(one.is_right) for one in samples)
    passes = {name: pass_at_k(len(samples), num_right, int(name.removeprefix("pass_"))) for name in names[:-1]}
    different = {_compared(task, document, str(one.answer)) for one in samples}
    return passes | {UNIQUE_SHARE: len(different) / len(samples)}


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Return the chance that of k answers, drawn without replacement from n of which c are right, one is right.

    1 - C(n - c, k) / C(n, k), which over samples is an unbiased estimate of pass@k; 1 - (1 - c/n)^k is not. nan where k
    is not from 1 to n.

    Source: Chen et al. (HumanEval), arXiv:2107.03374, section 2.1.
    """
    if not 1 <= k <= num_samples:
        return math.nan
    every = math.comb(num_samples, k)
    return (every - math.comb(num_samples - num_right, k)) / every


def _compared(task: EvalTask, document: Document, answer: str) -> str:
    # Case and indentation mean something in a program.
    return answer if task.kind == "program" else normalise(answer, keep_case=document.get("keep_case", False))


# -- rows -------------------------------------------------------------------------------------------------------------


def rows_of(task: EvalTask, samples: Samples) -> Iterator[SampledRow]:
    """Yield a row for each sampled answer, by item and number."""
    for item_id, answers in samples.items():
        for number, (answer, is_right) in enumerate(answers):
            yield SampledRow(task.suite, task.name, item_id, number, str(answer), is_right, answer.num_tokens)


def write_rows(path: Path, rows: Sequence[SampledRow]) -> None:
    """Write sampled.parquet as a whole, long answers cut with a mark.

    Raises:
        DiskError: the disk is full or read-only.
    """
    cut = [row._replace(answer=shortened(row.answer)) for row in rows]
    write_parquet(path, columns_of(cut, SCHEMA.names), SCHEMA)
