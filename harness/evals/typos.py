"""Typing errors in a prompt: how much a score depends on clean spelling.

Invariant: the same text, rate and seed give the same errors, a larger rate changes every word that a smaller one does
in the same way, and no word becomes empty. Only letters of words change: digits, punctuation, white space, and whatever
is markup, code or an address stay; references and choices are never changed. What does not live here: choosing items.
"""

from __future__ import annotations

import random
import re
from typing import Any

from harness.seeding import derive, python_stream
from harness.spec import EvalTask

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Of a QWERTY keyboard; each row lies half a key to the right of the one above."""

_KEPT = re.compile(
    r"```.*?```|`[^`\n]*`|<[^<>\n]*>|\[/?[A-Z_]+\]|\{[^{}\n]*\}|(?<!\w)\w+://\S+|(?<!\S)\S+@\S+", re.DOTALL
)
"""Code, tags and control tokens, `[INST]`, placeholders, addresses."""
_WORD = re.compile(r"(?<![\w\u0300-\u036f])[^\W\d_]{4,}(?![\w\u0300-\u036f])")
"""Four letters or more: with another letter shorter ones are often other words. `x86` and `snake_case` are no words."""


_ASKED = ("query", "context", "prompt")


def _neighbours() -> dict[str, str]:
    """Return letter -> the letters on the keys around it."""
    found: dict[str, str] = {}
    for number, row in enumerate(_ROWS):
        above, below = (_ROWS[other] if 0 <= other < len(_ROWS) else "" for other in (number - 1, number + 1))
        for place, letter in enumerate(row):
            beside = row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
            found[letter] = beside + above[place : place + 2] + below[max(place - 1, 0) : place + 1]
    return found


_NEIGHBOURS = _neighbours()


def misspelled(item: dict[str, Any], task: EvalTask, seed: int) -> dict[str, Any]:
    """Return an item with typing errors in its question, each word with probability `task.typo_rate`.

    Args:
        item: of any kind that asks something; of a conversation the last turn is changed.
        task: `typo_rate` is used.
        seed: `evals.items_seed`: the same errors before and after.
    """
    if not task.typo_rate:
        return item

    def changed(text: str) -> str:
        return with_typos(text, task.typo_rate, derive(seed, f"evals.typos/{item['id']}"))

    changes: dict[str, Any] = {name: changed(item[name]) for name in _ASKED if name in item}
    if "turns" in item:
        changes["turns"] = [changed(item["turns"][0]), *item["turns"][1:]]
    if "messages" in item:
        *before, last = item["messages"]
        changes["messages"] = [*before, last | {"content": changed(last["content"])}]
    return item | changes


def with_typos(text: str, rate: float, seed: int) -> str:
    """Return a text in which each word has one typing error with probability `rate`.

    The error is one of four, equally likely: a letter replaced by one on a neighbouring key, two different neighbouring
    letters swapped, a letter dropped, a letter doubled; where the word has no place for the first two, a doubled one. A
    word has four letters or more of an alphabet with capitals; shorter ones stay.

    Args:
        text: a prompt, before the chat template.
        rate: between 0 and 1; 0 returns the text as it is.
        seed: whose stream the errors are drawn from.
    """
    draw = python_stream(seed, "evals.typos")
    parts: list[str] = []
    end = 0
    for kept in _KEPT.finditer(text):
        parts += [_typed(text[end : kept.start()], rate, draw), kept[0]]
        end = kept.end()
    return "".join([*parts, _typed(text[end:], rate, draw)])


def _typed(text: str, rate: float, draw: random.Random) -> str:
    def word(found: re.Match[str]) -> str:
        # Drawn for every word, so that a larger rate adds errors and moves none.
        place, wrong = draw.random(), _with_error(found[0], random.Random(draw.getrandbits(64)))
        return wrong if place < rate else found[0]

    return _WORD.sub(word, text)


def _with_error(word: str, draw: random.Random) -> str:
    if word.lower() == word.upper():
        return word
    place = draw.randrange(len(word))
    kind = draw.choice(("neighbour", "swap", "drop", "double"))
    swaps = [at for at in range(len(word) - 1) if word[at] != word[at + 1]]
    near = [at for at, letter in enumerate(word) if letter.lower() in _NEIGHBOURS]
    if kind == "neighbour" and near:
        place = draw.choice(near)
        typed = draw.choice(_NEIGHBOURS[word[place].lower()])
        return word[:place] + (typed.upper() if word[place].isupper() else typed) + word[place + 1 :]
    if kind == "swap" and swaps:
        place = draw.choice(swaps)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == "drop":
        return word[:place] + word[place + 1 :]
    return word[:place] + word[place] + word[place:]
