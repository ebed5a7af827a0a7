"""Instruction data of a world: conversations by family.

Invariant: every family has seven phrasings, the last two of which no conversation uses; facts are asked only about the
asked half of the people, and skills only on instances that are not held out. A request is answered in
a sentence unless its suffix asks for the answer alone, so lengths vary and the form is decided by the request. What
does not live here: how rows are rendered, masked or selected (harness/data).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from harness.errors import SpecError, unknown_name
from harness.pocket.people import ATTRIBUTES, Attribute, Person
from harness.pocket.skills import ARITHMETIC, SKILLS, Instance, instances
from harness.seeding import python_stream
from harness.spec.world import WorldSpec

NUM_HELD_OUT_PHRASINGS = 2
SHORT_SUFFIX = " Give only the answer."
SHORT_SHARE = 0.5
Style = Literal["short", "long"]


@dataclass(frozen=True)
class Request:
    """What one conversation asks and the answers that are right for it."""

    slots: dict[str, str]
    short: str
    long: str


@dataclass(frozen=True)
class Family:
    """A task family: its phrasings and where its requests come from."""

    name: str
    phrasings: tuple[str, ...]
    requests: Callable[[WorldSpec, tuple[Person, ...], random.Random], Iterator[Request]]
    weight: int
    """Relative number of rows beside other families."""

    @property
    def trained_phrasings(self) -> tuple[str, ...]:
        """Return the phrasings that conversations use."""
        return self.phrasings[:-NUM_HELD_OUT_PHRASINGS]

    @property
    def held_out_phrasings(self) -> tuple[str, ...]:
        """Return the phrasings that only evaluation uses."""
        return self.phrasings[-NUM_HELD_OUT_PHRASINGS:]


FACT_PHRASINGS = (
    "{question}",
    "Tell me {clause}.",
    "What is the {noun} of {n}?",
    "Please give the {noun} of {n}.",
    "I wonder {clause}.",
    "Do you know {clause}?",
    "Name the {noun} of {n}.",
)
YES_NO_PHRASINGS = (
    "Is it true that {statement}?",
    "True or not: {statement}.",
    "They say that {statement}. Is it so?",
    "Check this: {statement}.",
    "Can it be that {statement}?",
    "Would you agree that {statement}?",
    "Is this right: {statement}?",
)
SKILL_PHRASINGS: dict[str, tuple[str, ...]] = {
    "sum": (
        "What is {0} plus {1}?",
        "Add {0} and {1}.",
        "Work out {0}+{1}.",
        "Give the sum of {0} and {1}.",
        "How much is {0} and {1}?",
        "Find {0} plus {1}.",
        "Please add {1} to {0}.",
    ),
    "difference": (
        "What is {0} minus {1}?",
        "Take {1} from {0}.",
        "Work out {0}-{1}.",
        "Give {0} less {1}.",
        "How much is {0} without {1}?",
        "Find {0} minus {1}.",
        "Please subtract {1} from {0}.",
    ),
    "reverse": (
        "Reverse {0}.",
        "Turn around the list {0}.",
        "Write {0} backwards.",
        "Give {0} in reverse.",
        "What is {0} from back to front?",
        "Please reverse this: {0}.",
        "Say {0} in reverse order.",
    ),
    "copy": (
        "Copy {0}.",
        "Repeat the list {0}.",
        "Write {0} again.",
        "Say {0} once more.",
        "Give back {0}.",
        "Please copy this: {0}.",
        "Echo {0}.",
    ),
    "first": (
        "What comes first in {0}?",
        "Give the first of {0}.",
        "Name the first letter of {0}.",
        "Which letter starts {0}?",
        "Take the first from {0}.",
        "Find the first of {0}.",
        "What does {0} begin with?",
    ),
    "last": (
        "What comes last in {0}?",
        "Give the last of {0}.",
        "Name the last letter of {0}.",
        "Which letter ends {0}?",
        "Take the last from {0}.",
        "Find the last of {0}.",
        "What does {0} end with?",
    ),
    "count": (
        "How many letters are in {0}?",
        "Count {0}.",
        "Give the number of letters in {0}.",
        "What is the length of {0}?",
        "How long is the list {0}?",
        "Find the count of {0}.",
        "Please count the letters {0}.",
    ),
    "sort": (
        "Sort {0}.",
        "Put {0} in order.",
        "Write {0} from a to z.",
        "Give {0} in order.",
        "What is {0} when sorted?",
        "Please sort this: {0}.",
        "Order the list {0}.",
    ),
    "replace": (
        "Write {0} with {2} for {1}.",
        "Replace {1} with {2} in {0}.",
        "In {0} change {1} to {2}.",
        "Put {2} where {1} is in {0}.",
        "What is {0} when {1} becomes {2}?",
        "Swap {1} for {2} in {0}.",
        "Use {2} and not {1} in {0}.",
    ),
}


# -- requests ---------------------------------------------------------------------------------------------------------


def fact_slots(person: Person, attribute: Attribute) -> dict[str, str]:
    """Return what `FACT_PHRASINGS` are filled with."""
    name = person.name
    clause, question = attribute.clause.format(n=name), attribute.question.format(n=name)
    return {"n": name, "noun": attribute.noun, "clause": clause, "question": question}


def fact_answers(person: Person, attribute: Attribute) -> tuple[str, str]:
    """Return the bare answer and the sentence."""
    value = person.fact(attribute)
    return value, sentence_of(person.name, attribute, value)


def sentence_of(name: str, attribute: Attribute, value: str) -> str:
    """Return the sentence that answers a question about an attribute with a value, right or wrong."""
    return attribute.statements[0].format(n=name, v=value) + "."


def _fact_requests(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Request]:
    asked = [person for person in people if person.asked]
    while True:
        person, attribute = draw.choice(asked), draw.choice(ATTRIBUTES)
        yield Request(fact_slots(person, attribute), *fact_answers(person, attribute))


def _yes_no_requests(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Request]:
    asked = [person for person in people if person.asked]
    while True:
        person, attribute = draw.choice(asked), draw.choice(ATTRIBUTES)
        right = person.fact(attribute)
        claimed = right if draw.random() < 0.5 else draw.choice([v for v in attribute.values if v != right])
        statement = sentence_of(person.name, attribute, claimed).removesuffix(".")
        short = "yes" if claimed == right else "no"
        yield Request({"statement": statement}, short, f"{short}, {fact_answers(person, attribute)[1]}")


def skill_slots(instance: Instance) -> dict[str, str]:
    """Return what the phrasings of a skill are filled with."""
    return {str(index): operand for index, operand in enumerate(instance.operands)}


def skill_sentence(instance: Instance) -> str:
    """Return the answer of an instance as a sentence: a sum in full, as raw text has it, else in words."""
    if instance.skill in ARITHMETIC:
        return "".join(SKILLS[instance.skill].raw(instance)) + "."
    return f"The answer is {instance.answer}."


def _skill_requests(
    spec: WorldSpec, people: tuple[Person, ...], draw: random.Random, *, skill: str
) -> Iterator[Request]:
    for instance in instances(spec.seed, SKILLS[skill], draw, held_out=False):
        yield Request(skill_slots(instance), instance.answer, skill_sentence(instance))


FAMILIES: dict[str, Family] = {
    "fact": Family("fact", FACT_PHRASINGS, _fact_requests, weight=6),
    "yes_no": Family("yes_no", YES_NO_PHRASINGS, _yes_no_requests, weight=1),
} | {
    name: Family(name, phrasings, partial(_skill_requests, skill=name), weight=1)
    for name, phrasings in SKILL_PHRASINGS.items()
}


# -- rows -------------------------------------------------------------------------------------------------------------


def fill(phrasing: str, slots: dict[str, str]) -> str:
    """Return a phrasing with its slots filled; {0} and {1} are names like any other."""
    for name, value in slots.items():
        phrasing = phrasing.replace("{" + name + "}", value)
    return phrasing


def conversations(
    spec: WorldSpec, people: tuple[Person, ...], families: tuple[str, ...], num_rows: int
) -> list[dict[str, Any]]:
    """Return distinct conversations, families interleaved by weight: `{"id", "task", "messages"}`.

    The rows of a family do not depend on which other families are asked for.

    Raises:
        SpecError: an unknown or repeated family, or more rows than a family has distinct requests.
    """
    problems = [unknown_name("data.source.families", name, FAMILIES) for name in families if name not in FAMILIES]
    if len(set(families)) != len(families) or not families:
        problems.append(f"data.source.families is {families!r}, but must name at least one family and none twice")
    if problems:
        raise SpecError(problems)
    turns = [name for name in families for _ in range(FAMILIES[name].weight)]
    streams = {name: _rows(spec, people, FAMILIES[name], num_rows) for name in families}
    order = python_stream(spec.seed, "pocket.conversations.order")
    rows: list[dict[str, Any]] = []
    while len(rows) < num_rows:
        order.shuffle(turns)
        rows.extend(next(streams[name]) for name in turns[: num_rows - len(rows)])
    return rows


def _rows(spec: WorldSpec, people: tuple[Person, ...], family: Family, num_rows: int) -> Iterator[dict[str, Any]]:
    draw = python_stream(spec.seed, f"pocket.conversations.{family.name}")
    seen: set[str] = set()
    for repeats, request in enumerate(family.requests(spec, people, draw)):
        style: Style = "short" if draw.random() < SHORT_SHARE else "long"
        prompt = fill(draw.choice(family.trained_phrasings), request.slots)
        prompt += SHORT_SUFFIX if style == "short" else ""
        if prompt in seen:
            if repeats > 50 * (len(seen) + 20):
                raise SpecError(
                    f"data.source.num_rows is {num_rows}, but must be less: family {family.name!r} has about "
                    f"{len(seen)} distinct requests in this world; ask for fewer rows or more people"
                )
            continue
        seen.add(prompt)
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": getattr(request, style)}]
        yield {"id": f"{family.name}-{len(seen) - 1}", "task": family.name, "messages": messages}
