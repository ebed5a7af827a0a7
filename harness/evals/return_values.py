"""Return-value items: what a small Python function returns, four choices. Free of torch.

Invariant: items are a function of the kind, the seed and their number alone, a larger set begins with the smaller one,
and the right choice is what Python itself returns. Only text that this module wrote is ever run, without builtins that
reach outside; no model's output is. What does not live here: scoring them (by log-likelihood, as any multiple choice).
"""

from __future__ import annotations

import builtins
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.errors import DataError, unknown_name
from harness.seeding import python_stream

NUM_CHOICES = 4
MAX_ITEMS = 4_000

_BUILTINS = {
    name: getattr(builtins, name)
    for name in ("abs", "divmod", "enumerate", "len", "max", "min", "range", "reversed", "sorted", "sum", "zip")
}
_NAMES = ("f", "g", "run", "solve", "compute", "process", "check", "walk")
_WORDS = ("apple", "banana", "cherry", "lemon", "orange", "papaya", "tomato", "pepper", "ginger", "potato", "walnut")
_STREAM = "evals.return_values"
_MAX_TRIES = 200

Slots = dict[str, Any]


@dataclass(frozen=True)
class Template:
    """A function with slots, how these and its arguments are drawn, and small changes that make others of it."""

    name: str
    source: str
    """A body from `def NAME(...)` on; `$slot` stands for a drawn constant."""
    draw: Callable[[random.Random], tuple[Slots, tuple[Any, ...]]]
    twists: tuple[tuple[str, str], ...]
    """Text -> what it becomes; each function, and with any two of them, still ends."""


def items(kind: str, seed: int, num_items: int) -> list[dict[str, Any]]:
    """Return multiple-choice items: `id`, `task`, `cluster` (both name the template), `query`, `choices`, `gold`.

    Templates take turns, no query comes twice, and of any four items in a row, from the first on, each choice is right
    once. Wrong choices are what functions close to it return.

    Args:
        kind: `python_return_values`.
        seed: another one gives other items.
        num_items: how many.

    Raises:
        DataError: an unknown kind, or a number of items that cannot be.
    """
    if kind != "python_return_values":
        raise DataError(unknown_name("evals.return_values kind", kind, ("python_return_values",)))
    if not 1 <= num_items <= MAX_ITEMS:
        raise DataError(
            f"evals.return_values num_items is {num_items!r}, but must be from 1 to {MAX_ITEMS}; beyond, items repeat"
        )
    made: list[dict[str, Any]] = []
    asked: set[str] = set()
    for number in range(num_items):
        made.append(_item(seed, number, asked))
        asked.add(made[-1]["query"])
    return made


def _item(seed: int, number: int, asked: set[str]) -> dict[str, Any]:
    template = TEMPLATES[number % len(TEMPLATES)]
    draw = python_stream(seed, f"{_STREAM}.{number}")
    for _ in range(_MAX_TRIES):
        query, right, wrong = _question(template, draw)
        if wrong and query not in asked:
            break
    else:
        raise DataError(
            f"evals.return_values num_items is too large for template {template.name!r}, but must leave new ones"
        )
    gold = _place(seed, number)
    choices = draw.sample(wrong, len(wrong))
    choices.insert(gold, right)
    named = {"id": f"python_return_values-{seed}-{number}", "task": f"python_{template.name}", "cluster": template.name}
    return named | {"query": query, "choices": choices, "gold": gold}


def _place(seed: int, number: int) -> int:
    """Return where the right choice stands: every block of four items has each place once."""
    block, rank = divmod(number, NUM_CHOICES)
    return python_stream(seed, f"{_STREAM}.places.{block}").sample(range(NUM_CHOICES), NUM_CHOICES)[rank]


def _question(template: Template, draw: random.Random) -> tuple[str, str, list[str]]:
    """Return the text that asks, the right choice and three wrong ones; none where two of them are equal.

    Two twists make four functions: with neither, one, the other, both. One of the four is shown, drawn evenly, and the
    choices are what the four return. So nothing about the choices - length, likeness - says which of them is right.
    """
    name = draw.choice(_NAMES)
    slots, arguments = template.draw(draw)
    source = template.source.replace("NAME", name)
    for slot, value in slots.items():
        source = source.replace(f"${slot}", repr(value))
    call = f"{name}({', '.join(map(repr, arguments))})"
    pairs = list(itertools.combinations(template.twists, 2))
    for first, second in draw.sample(pairs, len(pairs)):
        four = [source, source.replace(*first), source.replace(*second), source.replace(*first).replace(*second)]
        shown = four.pop(draw.randrange(len(four)))
        values = [evaluate(text, call) for text in (shown, *four)]
        if _can_be_told_apart(values):
            return f"{shown}\n\nassert {call} ==", repr(values[0]), list(map(repr, values[1:]))
    return "", "", []


def _can_be_told_apart(values: list[Any]) -> bool:
    """Return whether values are of one type and all differ; dictionaries in another order do not."""
    differ = all(one != other for one, other in itertools.combinations(values, 2))
    return differ and len({type(value) for value in values}) == 1


def evaluate(source: str, call: str) -> Any:
    """Return what a call of a generated function gives; for text of this module alone, never for a model's."""
    scope: dict[str, Any] = {"__builtins__": _BUILTINS}
    exec(source, scope)
    return eval(call, scope)


# -- templates --------------------------------------------------------------------------------------------------------


def _numbers(draw: random.Random, low: int = 0, high: int = 20, size: tuple[int, int] = (4, 7)) -> list[int]:
    return [draw.randint(low, high) for _ in range(draw.randint(*size))]


def _words(draw: random.Random, size: tuple[int, int] = (3, 5)) -> list[str]:
    return [draw.choice(_WORDS) for _ in range(draw.randint(*size))]


def _text(draw: random.Random) -> str:
    return " ".join(_words(draw, (2, 3)))


def _letters(draw: random.Random) -> str:
    return "".join(draw.choice("abcde") for _ in range(draw.randint(6, 10)))


TEMPLATES: tuple[Template, ...] = (
    Template(
        "sum_of_chosen",
        "def NAME(xs):\n    total = $start\n    for x in xs:\n        if x % $step == 0:\n            total += x\n"
        "    return total",
        lambda d: ({"start": d.randint(0, 9), "step": d.choice((2, 3, 5))}, (_numbers(d),)),
        (("== 0", "!= 0"), ("+= x", "+= 1"), ("total += x", "total -= x"), ("in xs:", "in xs[1:]:")),
    ),
    Template(
        "slice_with_step",
        "def NAME(xs):\n    return xs[$low:$high:$step]",
        lambda d: (
            {"low": d.randint(0, 2), "high": d.randint(5, 7), "step": d.choice((1, 2))},
            (_numbers(d, 0, 30, (7, 9)),),
        ),
        (("xs[", "xs[1 + "), ("xs[", "xs[1:]["), ("]", "][1:]"), ("]", "][::-1]")),
    ),
    Template(
        "negative_slice",
        "def NAME(s):\n    return s[-$tail:] + s[:$head]",
        lambda d: ({"tail": d.randint(2, 4), "head": d.randint(2, 4)}, (d.choice(_WORDS) + d.choice(_WORDS),)),
        (("[-", "[:-"), (":] + s", ":][1:] + s"), ("] + s[:", "] + s["), ("[:", "[1:1 + ")),
    ),
    Template(
        "count_letters",
        "def NAME(s):\n    counts = {}\n    for c in s:\n        counts[c] = counts.get(c, $start) + 1\n"
        "    return counts",
        lambda d: ({"start": d.choice((0, 0, 1, 2))}, (_letters(d),)),
        (("+ 1", "+ 2"), ("in s:", "in s[1:]:"), ("in s:", "in s[:-1]:"), ("counts.get(c, ", "(")),
    ),
    Template(
        "string_methods",
        "def NAME(s):\n    parts = s.split()\n    return $glue.join(p.title()[$low:] for p in parts[::-1])",
        lambda d: ({"glue": d.choice(("-", "_", "+", "/")), "low": d.randint(0, 2)}, (_text(d),)),
        (("[::-1]", ""), ("parts[::-1]", "parts[1:]"), (".title()", ".upper()"), (".title()", "")),
    ),
    Template(
        "replace_and_count",
        "def NAME(s):\n    t = s.replace($old, $new)\n    return t.count($new) * $factor + len(t)",
        lambda d: (
            {"old": d.choice("ab"), "new": d.choice(("c", "de", "ee")), "factor": d.randint(2, 9)},
            (_letters(d),),
        ),
        ((" + len(t)", ""), ("len(t)", "len(s)"), ("t.count", "s.count"), ("* ", "+ ")),
    ),
    Template(
        "digits_of_a_number",
        "def NAME(n):\n    total = 0\n    while n > 0:\n        total = total * $factor + n % 10\n        n //= 10\n"
        "    return total",
        lambda d: ({"factor": d.randint(1, 10)}, (d.randint(120, 9999),)),
        (
            ("+ n % 10", "- n % 10"),
            ("total = total *", "total = 1 + total *"),
            ("n % 10", "n % 5"),
            ("total = 0", "total = 1"),
        ),
    ),
    Template(
        "floor_and_remainder",
        "def NAME(a, b):\n    q, r = divmod(a, b)\n    return q * $left - r * $right",
        lambda d: (
            {"left": d.randint(2, 9), "right": d.randint(2, 9)},
            (d.choice((-1, 1)) * d.randint(20, 90), d.randint(3, 11)),
        ),
        (("- r", "+ r"), ("q, r =", "r, q ="), ("divmod(a, b)", "divmod(abs(a), b)"), ("q *", "(q + 1) *")),
    ),
    Template(
        "branches",
        "def NAME(xs):\n    total = 0\n    for n in xs:\n        if n > $high:\n            total += n - $high\n"
        "        elif n % $step == 0:\n            total += n * 2\n        else:\n            total += $more\n"
        "    return total",
        lambda d: (
            {"high": d.randint(6, 14), "step": d.choice((2, 3)), "more": d.randint(3, 9)},
            (_numbers(d, 1, 20, (3, 5)),),
        ),
        (("n > ", "n < "), ("== 0", "!= 0"), ("n * 2", "n + 2"), ("+= n - ", "-= n - ")),
    ),
    Template(
        "recursion_with_step",
        "def NAME(n):\n    if n <= $base:\n        return $least\n    return n + NAME(n - $step)",
        lambda d: ({"base": d.randint(0, 3), "least": d.randint(0, 5), "step": d.randint(2, 5)}, (d.randint(8, 25),)),
        (("n <= ", "n < "), ("return n +", "return 1 +"), ("return n + ", "return "), ("(n - ", "(n - 1 - ")),
    ),
    Template(
        "recursion_on_two",
        "def NAME(n):\n    if n < 2:\n        return $first + n\n    return NAME(n - 1) + $factor * NAME(n - 2)",
        lambda d: ({"first": d.randint(0, 9), "factor": d.randint(1, 4)}, (d.randint(3, 7),)),
        (("n < 2", "n < 3"), (" + n\n", "\n"), ("(n - 1) + ", "(n - 1) - "), ("n - 2", "n - 3")),
    ),
    Template(
        "nested_loops",
        "def NAME(n, m):\n    count = $start\n    for i in range(n):\n        for j in range(i, m):\n"
        "            count += $step\n    return count",
        lambda d: ({"start": d.randint(0, 5), "step": d.randint(1, 4)}, (d.randint(2, 5), d.randint(4, 8))),
        (
            ("range(i, m)", "range(m)"),
            ("range(i, m)", "range(i, m + 1)"),
            ("range(n)", "range(1, n)"),
            ("range(i, m)", "range(i)"),
        ),
    ),
    Template(
        "early_exit",
        "def NAME(xs):\n    seen = 0\n    for i, x in enumerate(xs):\n        if x > $limit:\n            break\n"
        "        seen += x + i\n    return seen",
        lambda d: ({"limit": d.randint(9, 16)}, (_numbers(d, 1, 18, (5, 8)),)),
        (("break", "continue"), ("x + i", "x"), ("x + i", "x - i"), ("+= x", "-= x")),
    ),
    Template(
        "sorted_words",
        "def NAME(words):\n    chosen = [w for w in words if len(w) > $size or $letter in w]\n"
        "    return sorted(chosen)[:$most]",
        lambda d: (
            {"size": d.choice((5, 6)), "letter": d.choice("aeo"), "most": d.choice((2, 3))},
            (d.sample(_WORDS, d.randint(4, 6)),),
        ),
        (("sorted(chosen)", "chosen"), ("sorted(chosen)", "sorted(words)"), (" or ", " and "), ("[:", "[1:1 + ")),
    ),
    Template(
        "dictionary_of_lengths",
        "def NAME(words):\n    sizes = {}\n    for w in words:\n"
        "        sizes[w[0]] = sizes.get(w[0], 0) + len(w) - $less\n    return sizes",
        lambda d: ({"less": d.randint(0, 4)}, (_words(d, (2, 4)),)),
        (("sizes.get(w[0], 0) + ", ""), ("len(w) - ", "len(w) + "), ("w[0]", "w[-1]"), ("len(w) - ", "1 + ")),
    ),
    Template(
        "pairs",
        "def NAME(xs, ys):\n    return [x * $factor - y for x, y in zip(xs, ys) if x != y]",
        lambda d: ({"factor": d.randint(1, 5)}, (_numbers(d, 1, 9, (3, 5)), _numbers(d, 1, 9, (3, 5)))),
        ((" - y", " + y"), (" if x != y", ""), ("!=", ">"), ("zip(xs, ys)", "zip(ys, xs)")),
    ),
    Template(
        "running_maximum",
        "def NAME(xs):\n    best, out = $start, []\n    for x in xs:\n        best = max(best, x)\n"
        "        out.append(best)\n    return out[$low:]",
        lambda d: ({"start": d.randint(2, 9), "low": d.choice((0, 1, 2))}, (_numbers(d, 0, 15, (5, 6)),)),
        (("append(best)", "append(x)"), ("max(", "min("), ("max(best, x)", "best + x"), (":]", ":-1]")),
    ),
)
"""Loops, slices, dictionaries, strings, integer arithmetic, branches and recursion; in turn, so their order counts."""
