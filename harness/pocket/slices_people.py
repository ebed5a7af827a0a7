"""Evaluation items about people: clozes, questions, choices, reversal, and what a base does without a template.

Invariant: items come in rounds that take every person once, so any beginning covers people, attributes and wordings
evenly; an item's cluster is the person it is about. What does not live here: skills and other families
(slices_tasks.py), and which slices there are (items.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import SpecError
from harness.pocket.families import fact_answer, sentence_of
from harness.pocket.people import ATTRIBUTES, TAUGHT_ATTRIBUTES, Attribute, Person
from harness.pocket.phrasings import PLAIN_WORDINGS, SHORT_SUFFIX, fill, person_slots, trained
from harness.spec.world import WorldSpec

Item = dict[str, Any]
Maker = Callable[[WorldSpec, tuple[Person, ...], random.Random], Iterator[Item]]
"""(world, its people, stream) -> items without ids; may repeat one and may end."""
Who = Callable[[Person], bool]
NUM_NAMES = 12


def known(person: Person) -> bool:
    """Return whether a person belongs to the tiers that are split into an asked and an unasked half."""
    return person.tier in ("high", "mid")


def asked(person: Person) -> bool:
    """Return whether conversations ask about a person."""
    return person.asked


def unasked(person: Person) -> bool:
    """Return whether a person is of the tiers of those asked about, but never asked about, so no answer tells them."""
    return known(person) and not person.asked


def never_told(person: Person) -> bool:
    """Return whether neither pretraining nor any conversation says anything about a person."""
    return person.tier == "unknown" and not person.trainable_unknown


def selected(people: tuple[Person, ...], who: Who) -> list[Person]:
    """Return the people that a slice is about.

    Raises:
        SpecError: fewer than two.
    """
    chosen = [person for person in people if who(person)]
    if len(chosen) < 2:
        raise SpecError(
            f"the slice has {len(chosen)} people of {len(people)} to ask about, but must have at least 2; raise "
            "world.people_per_tier or world.num_unknown_people"
        )
    return chosen


def rounds(
    people: Sequence[Person],
    attributes: Sequence[Attribute],
    wordings: Callable[[Attribute], Sequence[str]],
    draw: random.Random,
) -> Iterator[tuple[Person, Attribute, str]]:
    """Yield every person with every attribute in every wording once; a round takes each person once."""
    order = draw.sample(people, len(people))
    num_wordings = max(len(wordings(attribute)) for attribute in attributes)
    for turn in range(len(attributes) * num_wordings):
        batch: list[tuple[Person, Attribute, str]] = []
        for index, person in enumerate(order):
            attribute = attributes[(index + turn) % len(attributes)]
            texts = wordings(attribute)
            batch.append((person, attribute, texts[(index + turn) // len(attributes) % len(texts)]))
        draw.shuffle(batch)
        yield from batch


def generated(cluster: str, context: str, answer: str, others: Sequence[str] = ()) -> Item:
    """Return an item whose answer is generated; a final full stop is never required."""
    aliases = [*others, *(text.removesuffix(".") for text in [answer, *others] if text.endswith("."))]
    return {"cluster": cluster, "context": context, "answer": answer, "aliases": aliases}


def values_item(person: Person, attribute: Attribute, query: str) -> Item:
    """Return a choice between the values of an attribute."""
    values = list(attribute.values)
    return {
        "cluster": person.cluster,
        "query": query,
        "choices": values,
        "gold": values.index(person.fact(attribute)),
    }


# -- makers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cloze:
    """Statements up to their value, as raw text; the values to choose from."""

    who: Who
    held_out: bool = False
    attributes: tuple[Attribute, ...] = ATTRIBUTES

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""

        def statements(attribute: Attribute) -> Sequence[str]:
            return [attribute.held_out_statement] if self.held_out else attribute.told

        for person, attribute, statement in rounds(selected(people, self.who), self.attributes, statements, draw):
            yield values_item(person, attribute, statement.format(n=person.name, v="").rstrip())


@dataclass(frozen=True)
class Question:
    """Questions in chat: answered in a sentence, by the value alone, or by a choice between sentences."""

    who: Who
    form: Literal["sentence", "short", "choice"] = "sentence"
    wordings: tuple[str, ...] = trained("fact")
    attributes: tuple[Attribute, ...] = TAUGHT_ATTRIBUTES

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        chosen = selected(people, self.who)
        for person, attribute, wording in rounds(chosen, self.attributes, lambda _: self.wordings, draw):
            query, value = fill(wording, person_slots(person, attribute)), person.fact(attribute)
            if self.form == "choice":
                sentences = [sentence_of(person.name, attribute, other) for other in attribute.values]
                yield values_item(person, attribute, query) | {"choices": sentences}
            elif self.form == "short":
                yield generated(person.cluster, query + SHORT_SUFFIX, value, [f"{value}."])
            else:
                told = [statement.format(n=person.name, v=value) + "." for statement in attribute.told[1:]]
                right = fact_answer(person, attribute, value)
                yield generated(person.cluster, query, right.sentence, [*told, right.polite, value])


def answer_form(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
    """Yield questions of which half ask for the answer alone: any value is right, in the form and case asked for."""
    triples = rounds(selected(people, unasked), TAUGHT_ATTRIBUTES, lambda _: trained("fact"), draw)
    for index, (person, attribute, wording) in enumerate(triples):
        query = fill(wording, person_slots(person, attribute))
        if index % 2:
            query, forms = query + SHORT_SUFFIX, list(attribute.values)
        else:
            forms = [sentence_of(person.name, attribute, value) for value in attribute.values]
        yield generated(person.cluster, query, forms[0], forms[1:]) | {"keep_case": True}


@dataclass(frozen=True)
class Plain:
    """Pretraining's plain questions without a template, after so many solved ones about the same attribute."""

    who: Who
    num_shots: int = 0

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        shown = selected(people, asked)
        chosen = selected(people, self.who)
        for person, attribute, wording in rounds(chosen, ATTRIBUTES, lambda _: PLAIN_WORDINGS, draw):
            lines = [
                f"{_plain(other, attribute, wording)} {other.fact(attribute)}"
                for other in draw.sample(shown, min(self.num_shots, len(shown)))
            ]
            yield values_item(person, attribute, "\n".join([*lines, _plain(person, attribute, wording)]))


def _plain(person: Person, attribute: Attribute, wording: str) -> str:
    return f"Q: {fill(wording, person_slots(person, attribute))}\nA:"


def reversal(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
    """Yield a value and up to twelve names, of which one person alone has it."""
    everybody = selected(people, known)
    for person, attribute, statement in rounds(everybody, ATTRIBUTES, lambda a: [a.told[0]], draw):
        value = person.fact(attribute)
        others = [other for other in everybody if other.fact(attribute) != value]
        if not others:
            continue
        names = [other.name for other in draw.sample(others, min(NUM_NAMES - 1, len(others)))]
        gold = draw.randint(0, len(names))
        names.insert(gold, person.name)
        query = statement.format(n="The one who", v=value) + " is"
        yield {"cluster": person.cluster, "query": query, "choices": names, "gold": gold}


def quiz_continuation(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
    """Yield three questions in a row: does another question follow, as in pretraining, or an answer to the third?"""
    everybody = selected(people, asked)
    for person, attribute, wording in rounds(everybody, ATTRIBUTES, lambda _: PLAIN_WORDINGS, draw):
        *before, after = draw.sample([other for other in everybody if other != person], min(3, len(everybody) - 1))
        asks = [fill(draw.choice(PLAIN_WORDINGS), person_slots(other, draw.choice(ATTRIBUTES))) for other in before]
        asks.append(fill(wording, person_slots(person, attribute)))
        question = fill(draw.choice(PLAIN_WORDINGS), person_slots(after, draw.choice(ATTRIBUTES)))
        statement = sentence_of(person.name, attribute, person.fact(attribute))
        gold = draw.randint(0, 1)
        choices = [statement, question] if gold else [question, statement]
        yield {"cluster": person.cluster, "query": " ".join(asks), "choices": choices, "gold": gold}
