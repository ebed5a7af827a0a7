"""The skills of a world: small exact tasks, each with a raw form for pretraining and a held-out part.

Invariant: an instance is held out or not by the hash of its operands alone, so no training text of any kind holds an
instance that a held-out slice asks. Operands stay at 20 or below, lists at 2 to 4 letters. What does not live here: the
wording of instructions (conversations.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.errors import unknown_name
from harness.seeding import derive

LETTERS = tuple("abcdefghijkl")
MAX_OPERAND = 20
HELD_OUT_ONE_IN = 5


@dataclass(frozen=True)
class Instance:
    """One task with its answer. `operands` fill the slots {0}, {1} of raw forms and instructions."""

    skill: str
    operands: tuple[str, ...]
    answer: str

    @property
    def cluster(self) -> str:
        """Return the id under which every item about this instance is grouped."""
        return f"{self.skill}:{'|'.join(self.operands)}"


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
    left, right = draw.randint(0, MAX_OPERAND), draw.randint(0, MAX_OPERAND)
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


def _replace(draw: random.Random) -> Instance:
    letters = _letters(draw)
    old, new = draw.choice(letters), draw.choice([letter for letter in LETTERS if letter not in letters])
    replaced = [new if letter == old else letter for letter in letters]
    return Instance("replace", (" ".join(letters), old, new), " ".join(replaced))


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


def skill_named(name: str) -> Skill:
    """Return a skill.

    Raises:
        KeyError: there is none of that name; the message lists those that exist.
    """
    if name not in SKILLS:
        raise KeyError(unknown_name("skill", name, SKILLS))
    return SKILLS[name]


def is_held_out(seed: int, instance: Instance) -> bool:
    """Return whether an instance belongs to the fifth that no training text may hold."""
    return derive(seed, f"pocket.held_out.{instance.cluster}") % HELD_OUT_ONE_IN == 0


def instances(seed: int, skill: Skill, draw: random.Random, *, held_out: bool) -> Iterator[Instance]:
    """Yield instances of one side of the split without end, with repeats."""
    while True:
        instance = skill.draw(draw)
        if is_held_out(seed, instance) is held_out:
            yield instance
