"""How a question is laid out: the words before it and before the answer, what stands between, and listed choices.

    bare               Which gas do plants take in?
    question_answer    Question: Which gas do plants take in?
                       Answer:
    q_a, upper, double_colon, spaced, one_line    the same but for one thing: `Q:` and `A:`, capitals, `::`, an empty
                       line between, ` || ` between
    choices_listed     the choices as lines `A. oxygen` between question and answer; the text of a choice is scored
    choices_lettered   the same lines; the letter of a choice is scored

Invariant: every layout of an item asks the same words, with the same right answer; only what stands around them
differs. A layout of an item's own (`Question: ...`, `Answer:` at its end) is taken away first, `as_is` leaves it. What
does not live here: the chat template (documents.py), which slices are asked in which layouts (suites.py).

Source: the parts of a format are those of Sclar et al., arXiv:2310.11324, section 3 (descriptor, separator, casing,
space); the formats here are our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from harness.evals.typos import misspelled
from harness.spec import EvalTask, Layout

Item = dict[str, Any]

_LEAD = re.compile(r"\A\s*(?:question|q)\s?:{1,2}\s*", re.IGNORECASE)
_TAIL = re.compile(r"(?:\n\s*(?i:answer|a)|\s(?:Answer|ANSWER))\s?:{1,2}\s*\Z")
_SOLVED = re.compile(r"^\s*(?:answer|a)\s?:.*^\s*(?:question|q)\s?:", re.IGNORECASE | re.MULTILINE | re.DOTALL)
"""An answer, and after it another question."""


@dataclass(frozen=True)
class _Form:
    lead: str
    """Before the question."""
    tail: str
    """After it and its choices: what the answer follows, after a space."""
    choices: Literal["unlisted", "listed", "lettered"] = "unlisted"


FORMS: Mapping[Layout, _Form] = {
    "bare": _Form("", ""),
    "question_answer": _Form("Question: ", "\nAnswer:"),
    "q_a": _Form("Q: ", "\nA:"),
    "upper": _Form("QUESTION: ", "\nANSWER:"),
    "double_colon": _Form("Question:: ", "\nAnswer::"),
    "spaced": _Form("Question: ", "\n\nAnswer:"),
    "one_line": _Form("Question: ", " || Answer:"),
    "choices_listed": _Form("Question: ", "\nAnswer:", "listed"),
    "choices_lettered": _Form("Question: ", "\nAnswer:", "lettered"),
}
"""Layout -> what stands around a question; `as_is` is none of them."""


def as_asked(item: Item, task: EvalTask, seed: int) -> Item:
    """Return an item as the model is shown it: its question with the task's typing errors, in the task's layout.

    An item's own `delimiter` belongs to its own layout and goes with it; the letters of `choices_lettered` take the
    place of the choices.

    Args:
        item: of any kind; of a conversation the last turn is laid out.
        task: `typo_rate` and `layout` are used.
        seed: `evals.items_seed`: the same typing errors before and after.
    """
    if task.layout == "as_is":
        return misspelled(item, task, seed)
    # Bare first: a misspelled `Question:` would no longer be known for one.
    typed = misspelled(_saying(item, bare(_question(item, task)), task), task, seed)
    form = FORMS[task.layout]
    laid_out = _saying(typed, form.lead + _question(typed, task) + _listed(item, form) + form.tail, task)
    laid_out.pop("delimiter", None)
    return laid_out | ({"choices": _letters(item)} if form.choices == "lettered" else {})


def bare(question: str) -> str:
    """Return a question without the layout of its own: `Question:` or `Q:` before it, `Answer:` or `A:` at its end."""
    return _LEAD.sub("", _TAIL.sub("", question)).strip()


def problem(item: Item, task: EvalTask) -> str | None:
    """Return why an item cannot be asked in its task's layout, as the rest of a sentence; None where it can."""
    if task.layout == "as_is":
        return None
    question, choices = _question(item, task), item.get("choices", [])
    if not bare(question):
        return f"layout is {task.layout!r}, but must be 'as_is' for an item without a question"
    if _SOLVED.search(question):
        return f"layout is {task.layout!r}, but must be 'as_is' for an item with solved examples, which have a layout"
    if FORMS[task.layout].choices == "unlisted":
        return None
    if len(choices) > len(ascii_uppercase):
        return f"layout is {task.layout!r}, but must list no choices where there are {len(choices)} and 26 letters"
    if [choice.strip() for choice in choices] == _letters(item):
        return f"layout is {task.layout!r}, but must list no choices where they are letters already"
    return None


def _question(item: Item, task: EvalTask) -> str:
    if task.kind == "multiple_choice":
        return item["query"]
    return item["messages"][-1]["content"] if "messages" in item else item["context"]


def _saying(item: Item, question: str, task: EvalTask) -> Item:
    """Return an item that asks something else."""
    if task.kind == "multiple_choice":
        return item | {"query": question}
    if "messages" not in item:
        return item | {"context": question}
    *before, last = item["messages"]
    return item | {"messages": [*before, last | {"content": question}]}


def _listed(item: Item, form: _Form) -> str:
    if form.choices == "unlisted":
        return ""
    return "".join(f"\n{letter}. {choice}" for letter, choice in zip(_letters(item), item["choices"], strict=True))


def _letters(item: Item) -> list[str]:
    return list(ascii_uppercase[: len(item["choices"])])
