"""The people of a world: who they are, what is true of them, and in which words it is told and asked.

Invariant: facts are drawn uniformly and independently, so nothing about one fact follows from another or from a name;
the values of an attribute start with different letters, so in a vocabulary that is not too small no first token begins
two of them. People come in three tiers of exposure and, apart from these, as unknown people whose name parts all occur
in known names. What does not live here: how often and in which documents a fact is told (corpus.py).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from harness.errors import SpecError
from harness.seeding import python_stream
from harness.spec.world import WorldSpec

Tier = Literal["high", "mid", "low", "unknown"]
ASKED_TIERS: tuple[Tier, ...] = ("high", "mid")
"""Tiers whose people are split into an asked half and an unasked half."""


@dataclass(frozen=True)
class Attribute:
    """One attribute: its closed value set and its wordings.

    Statements end in the value, so that each is also a cloze; the last one is held out of pretraining.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    question: str
    """Direct question about {n}."""
    clause: str
    """Indirect question about {n}."""
    noun: str

    @property
    def told(self) -> tuple[str, ...]:
        """Return the statements that pretraining may use."""
        return self.statements[:-1]

    @property
    def held_out_statement(self) -> str:
        """Return the statement that no training text uses."""
        return self.statements[-1]


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        name="birthplace",
        values=(
            "Arden",
            "Brill",
            "Corva",
            "Delph",
            "Elmet",
            "Fenny",
            "Garth",
            "Holme",
            "Ilsley",
            "Jarrow",
            "Kelso",
            "Lorne",
        ),
        statements=(
            "{n} was born in {v}",
            "{n} comes from {v}",
            "{n} grew up in {v}",
            "The birthplace of {n} is {v}",
            "{n} is a native of {v}",
            "The town where {n} was born is {v}",
        ),
        question="Where was {n} born?",
        clause="where {n} was born",
        noun="birthplace",
    ),
    Attribute(
        name="job",
        values=(
            "potter",
            "baker",
            "carver",
            "diver",
            "farmer",
            "guard",
            "healer",
            "judge",
            "miner",
            "sailor",
            "tailor",
            "weaver",
        ),
        statements=(
            "{n} works as a {v}",
            "{n} earns money as a {v}",
            "{n} was trained as a {v}",
            "The job of {n} is {v}",
            "{n} found work as a {v}",
            "The work that {n} does is that of a {v}",
        ),
        question="What does {n} work as?",
        clause="what {n} works as",
        noun="job",
    ),
    Attribute(
        name="food",
        values=(
            "bread",
            "cheese",
            "dates",
            "figs",
            "grapes",
            "honey",
            "lentils",
            "melon",
            "nuts",
            "olives",
            "plums",
            "rice",
        ),
        statements=(
            "{n} likes to eat {v}",
            "{n} often buys {v}",
            "{n} is fond of {v}",
            "The favourite food of {n} is {v}",
            "{n} always asks for {v}",
            "The food that {n} likes best is {v}",
        ),
        question="What does {n} like to eat?",
        clause="what {n} likes to eat",
        noun="favourite food",
    ),
    Attribute(
        name="pet",
        values=("cat", "dog", "fox", "goat", "hen", "lamb", "mule", "pony", "rabbit", "swan", "toad", "wolf"),
        statements=(
            "{n} keeps a {v}",
            "{n} takes care of a {v}",
            "{n} lives with a {v}",
            "The pet of {n} is a {v}",
            "{n} owns a {v}",
            "The animal that {n} keeps is a {v}",
        ),
        question="Which animal does {n} keep?",
        clause="which animal {n} keeps",
        noun="pet",
    ),
)

HELD_OUT_ATTRIBUTE = "pet"
"""No conversation asks or tells about it; pretraining tells it like any other."""
TAUGHT_ATTRIBUTES = tuple(attribute for attribute in ATTRIBUTES if attribute.name != HELD_OUT_ATTRIBUTE)
"""What conversations are about."""

_FIRST = tuple(
    a + b
    for a, b in itertools.product(
        ("Mi", "To", "Ka", "Be", "Lu", "Ne", "Sa", "Ro"), ("ra", "lin", "do", "mar", "vi", "sa", "na", "ten")
    )
)
_LAST = tuple(
    a + b
    for a, b in itertools.product(
        ("Tol", "Bar", "Hen", "Gri", "Wes", "Dor", "Fal", "Kes"),
        ("den", "wick", "man", "son", "ley", "ford", "by", "ker"),
    )
)
POOL_FACTOR = 8
MAX_PEOPLE = len(_FIRST) * len(_LAST) // 2


@dataclass(frozen=True)
class Person:
    """One person and everything that is true of them."""

    name: str
    tier: Tier
    asked: bool
    """Questions about this person may occur in training texts; about all others they never do."""
    facts: tuple[str, ...]
    """Values in the order of `ATTRIBUTES`."""
    trainable_unknown: bool = False
    """An unknown person whom conversations may teach (`unknown_share`); about the other half nothing is ever told."""

    def fact(self, attribute: Attribute) -> str:
        """Return the value of an attribute."""
        return self.facts[ATTRIBUTES.index(attribute)]

    @property
    def cluster(self) -> str:
        """Return the id under which every item about this person is grouped."""
        return self.name.replace(" ", "_").lower()


def population(spec: WorldSpec) -> tuple[Person, ...]:
    """Return all people of a world, tier by tier, unknown people last.

    Raises:
        SpecError: more people than names.
    """
    total = 3 * spec.people_per_tier + spec.num_unknown_people
    if total > MAX_PEOPLE:
        raise SpecError(
            f"world.people_per_tier is {spec.people_per_tier} and world.num_unknown_people {spec.num_unknown_people}, "
            f"but must be at most {MAX_PEOPLE} people in all three tiers and unknown together; lower either"
        )
    known_names, unknown_names = _names(spec, total)
    draw = python_stream(spec.seed, "pocket.facts")
    people = []
    for index, name in enumerate(known_names + unknown_names):
        tier = _tier(index, spec.people_per_tier)
        facts = tuple(draw.choice(attribute.values) for attribute in ATTRIBUTES)
        first_of_two = index % 2 == 0
        people.append(
            Person(
                name=name,
                tier=tier,
                asked=tier in ASKED_TIERS and first_of_two,
                facts=facts,
                trainable_unknown=tier == "unknown" and first_of_two,
            )
        )
    return tuple(people)


def _tier(index: int, people_per_tier: int) -> Tier:
    tiers: tuple[Tier, ...] = ("high", "mid", "low")
    return tiers[index // people_per_tier] if index < 3 * people_per_tier else "unknown"


def _names(spec: WorldSpec, total: int) -> tuple[list[str], list[str]]:
    """Return known and unknown names; pools grow with the world: parts recur often, combinations are sparse."""
    pool = min(len(_FIRST), max(8, math.ceil(math.sqrt(POOL_FACTOR * total))))
    draw = python_stream(spec.seed, "pocket.names")
    pairs = list(itertools.product(draw.sample(_FIRST, pool), draw.sample(_LAST, pool)))
    draw.shuffle(pairs)
    num_known = 3 * spec.people_per_tier
    known, rest = pairs[:num_known], pairs[num_known:]
    firsts, lasts = {first for first, _ in known}, {last for _, last in known}
    unknown = [pair for pair in rest if pair[0] in firsts and pair[1] in lasts][: spec.num_unknown_people]
    if len(unknown) < spec.num_unknown_people:
        raise SpecError(
            f"world.num_unknown_people is {spec.num_unknown_people}, but must be at most {len(unknown)} beside "
            f"{num_known} known people, whose name parts they share; lower it or raise world.people_per_tier"
        )
    return [" ".join(pair) for pair in known], [" ".join(pair) for pair in unknown]
