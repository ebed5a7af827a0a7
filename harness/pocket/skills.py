"""The skills of a world: small exact tasks, each with a raw form for pretraining and a held-out part.

Invariant: an instance is held out or not by its cluster alone - its operands, of sums in either order, or for `replace`
its rule - so no training text of any kind holds what a held-out slice asks, nor a sum with its two numbers swapped.
Numbers stay at 25 or below, lists at 2 to 4 letters or symbols. What does not live here: the wording of instructions
(phrasings.py).
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from harness.seeding import derive

LETTERS = tuple("abcdefghijkl")
RAW_SYMBOLS = tuple(string.ascii_lowercase)
"""What `replace` works on in pretraining and in evaluation: 650 rules "x becomes y", which the budget suffices for."""
SYMBOLS = (*string.ascii_lowercase, *(a + b for a, b in itertools.product("bdfgklmnprstv", "ao")))
"""What `replace` works on in conversations: these and 26 syllables, each a token or two, which make 2652 rules."""
MAX_OPERAND = 20
MAX_ADDEND = 25
"""Sums go further than differences: of 351 pairs two fifths can be held out, and enough remain to be learned."""
HELD_OUT: dict[str, Fraction] = {"sum": Fraction(2, 5), "replace": Fraction(6, 25)}
"""Skill -> share of its clusters that no training text holds: over 100 even without val, and 2000 rules remain."""
HELD_OUT_OTHERS = Fraction(1, 5)
"""The share of every other skill's clusters."""


@dataclass(frozen=True)
class Instance:
    """One task with its answer. `operands` fill the slots {0}, {1} of raw forms and instructions."""

    skill: str
    operands: tuple[str, ...]
    answer: str

    @property
    def cluster(self) -> str:
        """Return the id under which every item about this instance is grouped: for `replace` its rule, for sums the
        two numbers in ascending order."""
        named: Iterable[str] = self.operands
        if self.skill == "replace":
            named = self.operands[1:]
        elif self.skill == "sum":
            named = sorted(self.operands, key=int)
        return f"{self.skill}:{'|'.join(named)}"


@dataclass(frozen=True)
class Skill:
    """One skill: how an instance is drawn, and how it looks in raw text (`prompt` + `answer_prefix` + answer)."""

    name: str
    draw: Callable[[random.Random], Instance]
    prompt: str
    answer_prefix: str = " "

    def raw(self, instance: Instance) -> tuple[str, str]:
        """Return the raw context and its continuation; their concatenation is one line of pretraining text."""
        return self.prompt.format(*instance.operands), self.answer_prefix + instance.answer


def _letters(draw: random.Random) -> list[str]:
    return draw.sample(LETTERS, draw.randint(2, 4))


def _sum(draw: random.Random) -> Instance:
    left, right = draw.randint(0, MAX_ADDEND), draw.randint(0, MAX_ADDEND)
    return Instance("sum", (str(left), str(right)), str(left + right))


def _difference(draw: random.Random) -> Instance:
    left, right = sorted((draw.randint(0, MAX_OPERAND), draw.randint(0, MAX_OPERAND)), reverse=True)
    return Instance("difference", (str(left), str(right)), str(left - right))


def _reverse(draw: random.Random) -> Instance:
    letters = _letters(draw)
    return Instance("reverse", (" ".join(letters),), " ".join(reversed(letters)))


def _copy(draw: random.Random) -> Instance:
    letters = _letters(draw)
    return Instance("copy", (" ".join(letters),), " ".join(letters))


def _first(draw: random.Random) -> Instance:
    letters = _letters(draw)
    return Instance("first", (" ".join(letters),), letters[0])


def _last(draw: random.Random) -> Instance:
    letters = _letters(draw)
    return Instance("last", (" ".join(letters),), letters[-1])


def _count(draw: random.Random) -> Instance:
    letters = _letters(draw)
    return Instance("count", (" ".join(letters),), str(len(letters)))


def _sort(draw: random.Random) -> Instance:
    letters = _letters(draw)
    return Instance("sort", (" ".join(letters),), " ".join(sorted(letters)))


def replacement(draw: random.Random, old: str, new: str, among: tuple[str, ...] = SYMBOLS) -> Instance:
    """Return an instance of the rule "`old` becomes `new`", with other symbols from `among` around it."""
    symbols = draw.sample([symbol for symbol in among if symbol not in (old, new)], draw.randint(1, 3))
    symbols.insert(draw.randint(0, len(symbols)), old)
    replaced = [new if symbol == old else symbol for symbol in symbols]
    return Instance("replace", (" ".join(symbols), old, new), " ".join(replaced))


def _replace(draw: random.Random) -> Instance:
    old, new = draw.sample(RAW_SYMBOLS, 2)
    return replacement(draw, old, new, RAW_SYMBOLS)


SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill("sum", _sum, "{0}+{1}=", ""),
        Skill("difference", _difference, "{0}-{1}=", ""),
        Skill("reverse", _reverse, "reverse: {0} ->"),
        Skill("copy", _copy, "copy: {0} ->"),
        Skill("first", _first, "first: {0} ->"),
        Skill("last", _last, "last: {0} ->"),
        Skill("count", _count, "count: {0} ->"),
        Skill("sort", _sort, "sort: {0} ->"),
        Skill("replace", _replace, "{1} becomes {2}: {0} ->"),
    )
}
ARITHMETIC = ("sum", "difference")
LISTS = ("reverse", "copy", "first", "last", "count", "sort")


def is_held_out(seed: int, instance: Instance) -> bool:
    """Return whether an instance belongs to the part that no training text may hold.

    Where its clusters can be counted exactly its share, ranked by hash; of lists about a fifth, by hash.
    """
    if instance.skill in _COUNTED:
        return instance.cluster in _held_out_clusters(seed, instance.skill)
    return _rank(seed, instance.cluster) % HELD_OUT_OTHERS.denominator < HELD_OUT_OTHERS.numerator


def trained_rules(seed: int) -> tuple[tuple[str, str], ...]:
    """Return the rules of `replace` that are not held out, in an order of their own: a larger set begins with a
    smaller one."""
    kept = set(_COUNTED["replace"]) - _held_out_clusters(seed, "replace")
    order = sorted(kept, key=lambda cluster: _rank(seed, f"order.{cluster}"))
    pairs = (cluster.partition(":")[2].split("|") for cluster in order)
    return tuple((old, new) for old, new in pairs)


_COUNTED: dict[str, tuple[str, ...]] = {
    "sum": tuple(
        f"sum:{left}|{right}" for left, right in itertools.combinations_with_replacement(range(MAX_ADDEND + 1), 2)
    ),
    "difference": tuple(f"difference:{left}|{right}" for left in range(MAX_OPERAND + 1) for right in range(left + 1)),
    "replace": tuple(f"replace:{old}|{new}" for old, new in itertools.permutations(SYMBOLS, 2)),
}
"""Skill -> all its clusters, where they can be counted."""


@lru_cache(maxsize=64)
def _held_out_clusters(seed: int, skill: str) -> frozenset[str]:
    clusters = _COUNTED[skill]
    ranked = sorted(clusters, key=lambda cluster: _rank(seed, cluster))
    return frozenset(ranked[: int(len(clusters) * HELD_OUT.get(skill, HELD_OUT_OTHERS))])


def _rank(seed: int, cluster: str) -> int:
    return derive(seed, f"pocket.held_out.{cluster}")


def instances(seed: int, skill: Skill, draw: random.Random, *, held_out: bool) -> Iterator[Instance]:
    """Yield instances of one side of the split without end, with repeats."""
    while True:
        instance = skill.draw(draw)
        if is_held_out(seed, instance) is held_out:
            yield instance
