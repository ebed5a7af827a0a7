"""The texts on which a trained model is compared with its base, as tokens.

    answers         what the validation rows say after the prompts of the new task
    base_answers    what the base says there, greedily
    tuned_answers   what the trained model says there, greedily
    neutral         val items of the slices of raw text

Invariant: every text but `tuned_answers` is the same for every condition of a sweep: the first validation rows, the
first val items. A place is that of a predicted token, so never the first of a text; a position counts from 1 at each
answer's first token, and in raw text at the first predicted one. What does not live here: comparing (divergence.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.data.masks import PARTS
from harness.evals.items import select
from harness.spec import EvalSpec

if TYPE_CHECKING:
    from harness.data.example import Example
    from harness.evals.generation import Decoded
    from harness.evals.scorer import Scorer

ANSWER_PARTS = tuple(PARTS.index(name) for name in ("assistant", "end_of_turn"))
NO_ROWS = "there are no validation rows"
NO_ANSWERS = "no validation row that fits the context has an answer after a prompt"
NO_NEUTRAL = "no slice of raw text has val items of two tokens or more"
NO_TOKENS = "the model ended every answer before its first token"


@dataclass(frozen=True)
class DriftText:
    """One text and which of its tokens are looked at."""

    text_set: str
    item_id: str
    input_ids: tuple[int, ...]
    places: tuple[int, ...]
    """Of the predicted tokens, ascending, each at least 1."""
    positions: tuple[int, ...]
    """The same, counted from 1 within an answer."""


@dataclass(frozen=True)
class Prompt:
    """What stands before the first answer of a row."""

    item_id: str
    input_ids: tuple[int, ...]


def of_rows(rows: Sequence[Example], num_texts: int, max_length: int) -> tuple[list[DriftText], list[Prompt]]:
    """Return the answers of the first rows and the prompts before them; rows are cut on the right to `max_length`.

    Args:
        rows: validation rows, none packed.
        num_texts: rows looked at; one without an answer after a prompt is left out.
        max_length: tokens that the models read.
    """
    texts: list[DriftText] = []
    prompts: list[Prompt] = []
    for row in rows[:num_texts]:
        is_answer_T = _is_answer(row)[:max_length]
        places = np.flatnonzero(is_answer_T)
        if not len(places) or is_answer_T[0]:
            continue
        ids = tuple(row.input_ids[:max_length].tolist())
        texts.append(DriftText("answers", row.row_id, ids, tuple(places.tolist()), _positions(places)))
        prompts.append(Prompt(row.row_id, ids[: int(places[0])]))
    return texts, prompts


def _is_answer(row: Example) -> np.ndarray:
    """Return which tokens are an assistant's; a slow tokenizer cannot tell, and then it is those with a loss weight."""
    return row.loss_weights > 0 if row.parts is None else np.isin(row.parts, ANSWER_PARTS)


def _positions(places: np.ndarray) -> tuple[int, ...]:
    """Return places counted from 1 within each run of neighbours."""
    numbers = np.arange(len(places))
    starts = np.where(np.diff(places, prepend=-2) > 1, numbers, 0)
    return tuple((numbers - np.maximum.accumulate(starts) + 1).tolist())


def of_answers(text_set: str, prompts: Sequence[Prompt], answers: Sequence[Decoded]) -> list[DriftText]:
    """Return prompts with what a model said to them, the token that ended it included; empty answers are left out."""
    texts: list[DriftText] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        said = (*answer.tokens, *(() if answer.stop_id is None else (answer.stop_id,)))
        if said:
            start = len(prompt.input_ids)
            places = tuple(range(start, start + len(said)))
            positions = tuple(range(1, len(said) + 1))
            texts.append(DriftText(text_set, prompt.item_id, (*prompt.input_ids, *said), places, positions))
    return texts


def neutral(scorer: Scorer, spec: EvalSpec, num_texts: int) -> list[DriftText]:
    """Return the beginnings, as far as the context reaches, of val items of the slices of raw text, after the prefix
    token; the slices have equal parts in `num_texts`, rounded up.

    Args:
        scorer: knows how raw text is read.
        spec: whose `perplexity` slices are taken.
        num_texts: texts of all slices together.
    """
    tasks = [task for task in spec.tasks if task.kind == "perplexity"]
    texts: list[DriftText] = []
    for task in tasks:
        chosen = select(task, spec)
        items = [item for item, split in zip(chosen.items, chosen.splits, strict=True) if split == "val"]
        for item in items[: -(-num_texts // len(tasks))]:
            body = scorer.tok_encode(item["text"], add_special_tokens=False)
            body = body[1:] if body[:1] == [scorer.prefix_token_id] else body
            ids = (scorer.prefix_token_id, *body)[: scorer.max_length]
            if len(ids) > 1:
                places = tuple(range(1, len(ids)))
                texts.append(DriftText("neutral", f"{task.key}/{item['id']}", ids, places, places))
    return texts
