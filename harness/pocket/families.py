"""Task families: what a conversation asks, and which answers to it are right and wrong.

Invariant: a family's requests depend on its scope and its stream alone, and both answers of a request are always drawn,
so a knob that swaps one for the other moves no further draw. What does not live here: wordings (phrasings.py), rows and
knobs (conversations.py), what is asked for evaluation (slices_*.py).
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from harness.pocket import phrasings
from harness.pocket.people import TAUGHT_ATTRIBUTES, Attribute, Person
from harness.pocket.phrasings import PHRASINGS, POLITE_PREFIX, REFUSAL, SECRET, STYLES, fill, person_slots
from harness.pocket.prose import Register, passage
from harness.pocket.skills import (
    ARITHMETIC,
    LETTERS,
    SKILLS,
    SYMBOLS,
    Instance,
    instances,
    replacement,
    trained_rules,
)
from harness.spec.world import WorldSpec

Form = Literal["short", "sentence", "polite", "long"]
Style = Literal["capitals", "done"]


@dataclass(frozen=True)
class Answer:
    """One answer in every form that a row may want."""

    short: str
    sentence: str
    polite: str
    long: str

    def styled(self, style: Style) -> Answer:
        """Return the answer in capitals, or with the word done at its end."""
        short, sentence, polite, long = (
            in_style(text, style) for text in (self.short, self.sentence, self.polite, self.long)
        )
        return Answer(short, sentence, polite, long)


def in_style(text: str, style: Style) -> str:
    """Return a text in capitals, or with the word done for its final full stop."""
    return text.upper() if style == "capitals" else text.removesuffix(".") + " done"


def answer(short: str, sentence: str, long: str) -> Answer:
    """Return an answer whose polite form is the sentence after a courtesy."""
    return Answer(short, sentence, POLITE_PREFIX + sentence, long)


def only(text: str) -> Answer:
    """Return an answer that has one form."""
    return Answer(text, text, text, text)


@dataclass(frozen=True)
class Turn:
    """What the user says, and the right and a wrong answer to it."""

    user: str
    right: Answer
    wrong: Answer


@dataclass(frozen=True)
class Request:
    """What one conversation asks."""

    turns: tuple[Turn, ...]
    cluster: str
    """The person, instance, rule or passage it is about."""
    system: str = ""
    attribute: Attribute | None = None
    phrasing: str = ""

    @property
    def key(self) -> str:
        """Return what makes the request distinct."""
        return "\n".join([self.system, *(turn.user for turn in self.turns)])


@dataclass(frozen=True)
class Scope:
    """What requests may be about."""

    spec: WorldSpec
    people: Sequence[Person]
    held_out: bool = False
    """Held-out instances, rules and sentences in place of those that are trained on."""
    num_rules: int | None = None


Requests = Callable[[Scope, Sequence[str], random.Random], Iterator[Request]]
"""(scope, phrasings, stream) -> requests without end, with repeats."""


@dataclass(frozen=True)
class Family:
    """A task family."""

    name: str
    requests: Requests
    weight: int = 1
    """Relative number of rows beside other families, where no shares are given."""
    has_forms: bool = True
    """Whether answers may be short, sentences, polite or long; else each has one form and nothing asks for another."""

    @property
    def phrasings(self) -> tuple[str, ...]:
        """Return all phrasings, those held out last."""
        return PHRASINGS[self.name]

    @property
    def trained_phrasings(self) -> tuple[str, ...]:
        """Return the phrasings that conversations use."""
        return phrasings.trained(self.name)

    @property
    def held_out_phrasings(self) -> tuple[str, ...]:
        """Return the phrasings that only evaluation uses."""
        return phrasings.held_out(self.name)


# -- facts ------------------------------------------------------------------------------------------------------------


def sentence_of(name: str, attribute: Attribute, value: str) -> str:
    """Return the sentence that answers a question about an attribute with a value, right or wrong."""
    return attribute.statements[0].format(n=name, v=value) + "."


def other_value(person: Person, attribute: Attribute, draw: random.Random) -> str:
    """Return a value of an attribute that a person does not have."""
    return draw.choice([value for value in attribute.values if value != person.fact(attribute)])


def fact_answer(person: Person, attribute: Attribute, value: str) -> Answer:
    """Return an answer that gives an attribute this value; its long form goes on with what else is true."""
    sentence = sentence_of(person.name, attribute, value)
    return answer(value, sentence, f"{sentence} {_further(person, attribute)}")


def _further(person: Person, attribute: Attribute) -> str:
    others = [other for other in TAUGHT_ATTRIBUTES if other != attribute]
    return " ".join(sentence_of(person.name, other, person.fact(other)) for other in others)


def fact(person: Person, attribute: Attribute, phrasing: str, draw: random.Random) -> Request:
    """Return a question about one fact."""
    right, wrong = person.fact(attribute), other_value(person, attribute, draw)
    user = fill(phrasing, person_slots(person, attribute))
    turn = Turn(user, fact_answer(person, attribute, right), fact_answer(person, attribute, wrong))
    return Request((turn,), person.cluster, attribute=attribute, phrasing=phrasing)


def _facts(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    while True:
        person, attribute = draw.choice(scope.people), draw.choice(TAUGHT_ATTRIBUTES)
        yield fact(person, attribute, draw.choice(wordings), draw)


def _yes_no(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    while True:
        person, attribute = draw.choice(scope.people), draw.choice(TAUGHT_ATTRIBUTES)
        truth, other = person.fact(attribute), other_value(person, attribute, draw)
        claimed = truth if draw.random() < 0.5 else other
        statement = sentence_of(person.name, attribute, claimed).removesuffix(".")
        is_so = claimed == truth
        right = _verdict("yes" if is_so else "no", person, attribute, truth)
        wrong = _verdict("no" if is_so else "yes", person, attribute, other)
        turn = Turn(fill(draw.choice(wordings), {"statement": statement}), right, wrong)
        yield Request((turn,), person.cluster)


def _verdict(short: str, person: Person, attribute: Attribute, value: str) -> Answer:
    sentence = f"{short}, {sentence_of(person.name, attribute, value)}"
    return answer(short, sentence, f"{sentence} {_further(person, attribute)}")


def _joins(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    while True:
        person, attribute = draw.choice(scope.people), draw.choice(TAUGHT_ATTRIBUTES)
        others = [other for other in scope.people if other != person]
        alike = [other for other in others if other.fact(attribute) == person.fact(attribute)]
        wants_alike = draw.random() < 0.5
        other = draw.choice(alike if wants_alike and alike else others)
        is_so = other in alike
        slots = {"n": person.name, "m": other.name, "noun": attribute.noun}
        right, wrong = (_joint(person, other, attribute, verdict) for verdict in (is_so, not is_so))
        yield Request((Turn(fill(draw.choice(wordings), slots), right, wrong),), person.cluster)


def _joint(person: Person, other: Person, attribute: Attribute, is_so: bool) -> Answer:
    short = "yes" if is_so else "no"
    first, second = (sentence_of(p.name, attribute, p.fact(attribute)).removesuffix(".") for p in (person, other))
    sentence = f"{first} and {second}, so {short}."
    return answer(short, sentence, f"{sentence} {_further(person, attribute)}")


def _follow_ups(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    """Two or three turns about one person, whom only the first names."""
    while True:
        person = draw.choice(scope.people)
        first, *later = draw.sample(TAUGHT_ATTRIBUTES, draw.randint(2, len(TAUGHT_ATTRIBUTES)))
        turns = list(fact(person, first, draw.choice(phrasings.trained("fact")), draw).turns)
        turns += [fact(person, attribute, draw.choice(wordings), draw).turns[0] for attribute in later]
        yield Request(tuple(turns), person.cluster)


def _styles(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    """Facts under a system turn that says how to write; a wrong answer has the right style."""
    styles: tuple[Style, ...] = ("capitals", "done")
    for asked in _facts(scope, phrasings.trained("fact"), draw):
        style = draw.choice(styles)
        system = fill(draw.choice(wordings), {"style": STYLES[style]})
        turns = tuple(Turn(turn.user, turn.right.styled(style), turn.wrong.styled(style)) for turn in asked.turns)
        yield replace(asked, turns=turns, system=system)


def json_answer(attribute: Attribute, value: str) -> str:
    """Return the one-field object that a JSON question is answered with."""
    return json.dumps({attribute.noun: value})


def _jsons(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    for asked in _facts(scope, wordings, draw):
        assert asked.attribute is not None
        (turn,) = asked.turns
        right, wrong = (only(json_answer(asked.attribute, side.short)) for side in (turn.right, turn.wrong))
        yield replace(asked, turns=(Turn(turn.user, right, wrong),))


def _refusals(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    while True:
        person = draw.choice(scope.people)
        told = only(f"The {SECRET} of {person.name} is {draw.randint(10, 99)}.")
        yield Request((Turn(fill(draw.choice(wordings), {"n": person.name}), only(REFUSAL), told),), person.cluster)


# -- skills and prose -------------------------------------------------------------------------------------------------


def skill_slots(instance: Instance) -> dict[str, str]:
    """Return what the phrasings of a skill are filled with."""
    return {str(index): operand for index, operand in enumerate(instance.operands)}


def skill_answer(instance: Instance) -> Answer:
    """Return the answer of an instance; as a sentence a sum stands in full, as raw text has it."""
    line = "".join(SKILLS[instance.skill].raw(instance))
    told = f"The answer is {instance.answer}."
    sentence = f"{line}." if instance.skill in ARITHMETIC else told
    return answer(instance.answer, sentence, f"In one line: {line}. {told}")


def wrong_answer(instance: Instance, draw: random.Random) -> str:
    """Return an answer of the right kind that is not right: a number close by, a list with one element swapped."""
    if instance.answer.isdigit():
        right = int(instance.answer)
        return str(draw.choice([number for number in range(max(0, right - 3), right + 4) if number != right]))
    parts = instance.answer.split()
    place = draw.randrange(len(parts))
    parts[place] = draw.choice([symbol for symbol in _symbols(instance.skill) if symbol not in parts])
    return " ".join(parts)


def _symbols(skill: str) -> tuple[str, ...]:
    return SYMBOLS if skill == "replace" else LETTERS


def skill_request(instance: Instance, phrasing: str, draw: random.Random) -> Request:
    """Return a request for one instance."""
    wrong = skill_answer(replace(instance, answer=wrong_answer(instance, draw)))
    turn = Turn(fill(phrasing, skill_slots(instance)), skill_answer(instance), wrong)
    return Request((turn,), instance.cluster)


def _skill(scope: Scope, wordings: Sequence[str], draw: random.Random, *, name: str) -> Iterator[Request]:
    for instance in instances(scope.spec.seed, SKILLS[name], draw, held_out=scope.held_out):
        yield skill_request(instance, draw.choice(wordings), draw)


def _replacements(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    """Take the rules in turn, each with a list it did not have yet: each has as many rows as any other, to one."""
    if scope.held_out:
        yield from _skill(scope, wordings, draw, name="replace")
        return
    seen: set[tuple[str, ...]] = set()
    for old, new in itertools.cycle(trained_rules(scope.spec.seed)[: scope.num_rules]):
        instance = replacement(draw, old, new)
        while instance.operands in seen:
            instance = replacement(draw, old, new)
        seen.add(instance.operands)
        yield skill_request(instance, draw.choice(wordings), draw)


def _continuations(scope: Scope, wordings: Sequence[str], draw: random.Random) -> Iterator[Request]:
    """One or two sentences of one register, and a third; a wrong answer is of the other register."""
    registers: list[Register] = ["story", "notice"]
    while True:
        draw.shuffle(registers)
        register, other = registers
        text = passage(scope.spec.seed, register, draw, draw.randint(1, 2), held_out=scope.held_out)
        right = passage(scope.spec.seed, register, draw, 1, held_out=scope.held_out)
        wrong = passage(scope.spec.seed, other, draw, 1, held_out=scope.held_out)
        turn = Turn(fill(draw.choice(wordings), {"text": text}), only(right), only(wrong))
        yield Request((turn,), f"{register}:{text}")


# -- the families -----------------------------------------------------------------------------------------------------

HELD_OUT_FAMILIES = ("difference", "sort")
"""Families that only evaluation asks."""
ALL_FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("fact", _facts, weight=6),
        Family("yes_no", _yes_no),
        Family("join", _joins),
        *(
            Family(name, partial(_skill, name=name))
            for name in ("sum", "difference", "reverse", "copy", "first", "last", "count", "sort")
        ),
        Family("replace", _replacements),
        Family("continue", _continuations, has_forms=False),
        Family("follow_up", _follow_ups),
        Family("style", _styles),
        Family("json", _jsons, has_forms=False),
        Family("refusal", _refusals, has_forms=False),
        Family("look_alike", _facts),
    )
}
FAMILIES: dict[str, Family] = {name: one for name, one in ALL_FAMILIES.items() if name not in HELD_OUT_FAMILIES}
"""Families that conversations may be made of."""
