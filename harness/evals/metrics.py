"""The number that one item gets, for every task kind.

Invariant: a metric of a slice is the plain mean of its items' values, so paired differences of items add up to the
difference in the table; what could not be measured is nan, never 0. What does not live here: the mean (table.py),
kinds with a module of their own (kinds/).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from harness.evals.documents import Document
from harness.evals.generated import Results
from harness.evals.kinds import KINDS
from harness.spec import GENERATED


def multiple_choice(document: Document, results: Results) -> dict[str, float]:
    """Return `acc`, `acc_norm` and `gold_logprob` of one item.

    acc: 1 if the gold choice has the largest summed log-probability (the first of equal ones counts). acc_norm: the
    same with each sum divided by the choice's UTF-8 bytes. gold_logprob: natural-log probability of the gold choice.
    Higher is better for all three; nan where a log-likelihood is not finite.
    """
    sums = _sums(results)
    per_byte = sums / [len(choice.encode()) for choice in document["choices"]]
    gold = document["gold"]
    return {"acc": _hit(sums, gold), "acc_norm": _hit(per_byte, gold), "gold_logprob": float(sums[gold])}


def schema(document: Document, results: Results) -> dict[str, float]:
    """Return `acc` (the gold context makes the continuation likeliest) and `gold_logprob`, as in `multiple_choice`."""
    sums = _sums(results)
    return {"acc": _hit(sums, document["gold"]), "gold_logprob": float(sums[document["gold"]])}


def greedy(document: Document, results: Results) -> dict[str, float]:
    """Return `acc` (1 if every token of the continuation is the model's first choice) and its `logprob` (natural log).

    Higher is better for both; nan where the log-likelihood is not finite.
    """
    ((logprob, is_greedy),) = results
    return {"acc": float(is_greedy) if math.isfinite(logprob) else math.nan, "logprob": float(logprob)}


def perplexity(document: Document, results: Results) -> dict[str, float]:
    """Return `bits_per_byte` of one document: -log2 P(text) / UTF-8 bytes. Lower is better."""
    (logprob,) = results
    return {"bits_per_byte": -float(logprob) / math.log(2) / len(document["text"].encode())}


METRICS: dict[str, Callable[[Document, Results], dict[str, float]]] = {
    "multiple_choice": multiple_choice,
    "schema": schema,
    "greedy": greedy,
    "perplexity": perplexity,
    **{name: kind.metrics for name, kind in KINDS.items()},
}


def output(kind: str, document: Document, results: Results) -> str | None:
    """Return what the model answered: its choice by summed log-probability, or the generated text; else None."""
    if kind in GENERATED:
        return str(results[0])
    if kind in ("multiple_choice", "schema"):
        sums = _sums(results)
        return document["choices"][int(np.argmax(sums))] if np.isfinite(sums).all() else None
    return None


def _sums(results: Results) -> np.ndarray:
    return np.array([logprob for logprob, _ in results], dtype=np.float64)


def _hit(scores: np.ndarray, gold: int) -> float:
    return float(np.argmax(scores) == gold) if np.isfinite(scores).all() else math.nan
