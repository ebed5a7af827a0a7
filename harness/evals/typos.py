"""Misspelled questions: what a model makes of them says how much its answers hang on exact wording.

Invariant: which words are misspelled, and how, is decided by item, seed and rate alone, and a higher rate misspells
every word that a lower one does. References and choices stay as they are. What does not live here: choosing items.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from harness.seeding import numpy_stream
from harness.spec import EvalTask

if TYPE_CHECKING:
    import numpy as np

_WORD = re.compile(r"[^\W\d_]{4,}")
"""Shorter words and numbers stay: with another letter they are often other words."""
_ASKED = ("query", "context", "prompt")


def misspelled(item: dict[str, Any], task: EvalTask, seed: int) -> dict[str, Any]:
    """Return an item with `task.typo_rate` of the longer words of its question misspelled.

    Args:
        item: of any kind that asks something; of a conversation the last turn is changed.
        task: `typo_rate` is used.
        seed: `evals.items_seed`.
    """
    if not task.typo_rate:
        return item

    def changed(text: str) -> str:
        return with_typos(text, task.typo_rate, numpy_stream(seed, f"evals.typos/{item['id']}"))

    changes: dict[str, Any] = {name: changed(item[name]) for name in _ASKED if name in item}
    if "turns" in item:
        changes["turns"] = [changed(item["turns"][0]), *item["turns"][1:]]
    if "messages" in item:
        *before, last = item["messages"]
        changes["messages"] = [*before, last | {"content": changed(last["content"])}]
    return item | changes


def with_typos(text: str, rate: float, stream: np.random.Generator) -> str:
    """Return a text with a share of its words of four letters or more misspelled.

    One inner letter is doubled, left out, or changes places with the next. Three draws a word, whatever the rate, so
    that rates are nested.
    """

    def spelled(match: re.Match[str]) -> str:
        word = match[0]
        place, way, chance = int(stream.integers(1, len(word) - 2)), int(stream.integers(3)), stream.random()
        if chance >= rate:
            return word
        here, after = word[place], word[place + 1]
        way = 0 if here == after else way  # changing places would change nothing
        return word[:place] + (here + here + after, after, after + here)[way] + word[place + 2 :]

    return _WORD.sub(spelled, text)
