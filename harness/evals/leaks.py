"""Evaluation items that are trained on, on purpose: what contamination does to a score.

Invariant: which items leak is decided by seed, slice and share alone, and a larger share leaks every item that a
smaller one does; a leaked row names its slice and item, so that scores of leaked and other items can be told apart.
What does not live here: putting them among the training rows (harness/data/prepare.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from harness.data.conversations import Conversation, UnusableRow, conversation
from harness.errors import DataError
from harness.evals.items import Item, select
from harness.seeding import numpy_stream
from harness.spec import EvalTask, TrialSpec

_WITHOUT_ANSWER = ("perplexity", "instruct", "refusal", "open", "program")
"""Kinds whose items have no answer that could leak."""


def leaked(spec: TrialSpec) -> list[Conversation]:
    """Return the items that a trial trains on, as conversations with `leaked/<slice>/<item>` for a row id.

    Of each slice the share that the spec leaks, to the nearest item; items without a reference are not leaked.

    Raises:
        DataError: a share is to leak, but no slice holds an item with an answer.
    """
    share = Fraction(repr(spec.data.leak_share))
    if not share:
        return []
    slices = {task.key: list(_answered(task, spec)) for task in spec.evals.tasks}
    if not any(slices.values()):
        raise DataError(
            f"data.leak_share is {spec.data.leak_share!r}, but must be 0.0 where every slice is raw text, which has no "
            "answer to leak; add a slice that asks something"
        )
    chosen: list[Conversation] = []
    for key, rows in slices.items():
        order = numpy_stream(spec.seed, f"data.leak/{key}").permutation(len(rows))
        chosen.extend(rows[place] for place in order[: math.floor(share * len(rows) + Fraction(1, 2))])
    return chosen


def _answered(task: EvalTask, spec: TrialSpec) -> Iterator[Conversation]:
    for item in select(task, spec.evals).items:
        if task.kind in _WITHOUT_ANSWER:
            continue
        asked, answer = _asked_and_answered(item, task)
        try:
            row_id = f"leaked/{task.key}/{item['id']}"
            yield conversation(
                [*asked, {"role": "assistant", "content": answer.strip()}], row_id=row_id, task=f"leaked/{task.key}"
            )
        except UnusableRow:  # an answer of white space, which no row could teach
            continue


def _asked_and_answered(item: Item, task: EvalTask) -> tuple[list[dict[str, str]], str]:
    if task.kind == "multiple_choice":
        return _turn(item["query"]), item["choices"][item["gold"]]
    if task.kind == "schema":
        return _turn(item["contexts"][item["gold"]]), item["continuation"]
    if task.kind == "greedy":
        return _turn(item["context"]), item["continuation"]
    return item["messages"] if "messages" in item else _turn(item["context"]), item["answer"]


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
