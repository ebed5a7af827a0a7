"""Evaluation items of skills, of the other task families, and of prose.

Invariant: what a held-out slice asks - an instance, a rule, a phrasing, a family, a sentence - is in no training text.
What does not live here: questions about people (slices_people.py), and which slices there are (items.py).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.pocket.families import (
    ALL_FAMILIES,
    Request,
    Scope,
    Style,
    fact_answer,
    in_style,
    json_answer,
)
from harness.pocket.people import TAUGHT_ATTRIBUTES, Person
from harness.pocket.phrasings import REFUSAL, SHORT_SUFFIX, STYLES, fill
from harness.pocket.prose import Register, passage
from harness.pocket.skills import SKILLS, instances
from harness.pocket.slices_people import Item, Who, generated, selected, unasked
from harness.spec.world import WorldSpec

NUM_SHOTS = 2
"""Solved lines before a raw one, as they stand in pretraining text."""


@dataclass(frozen=True)
class Raw:
    """Raw lines of skills, each after solved lines of the same skill."""

    skills: tuple[str, ...]
    held_out: bool = False

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        for name in itertools.cycle(self.skills):
            skill = SKILLS[name]
            shown = instances(spec.seed, skill, draw, held_out=False)
            lines = ["".join(skill.raw(next(shown))) for _ in range(NUM_SHOTS)]
            instance = next(instances(spec.seed, skill, draw, held_out=self.held_out))
            context, continuation = skill.raw(instance)
            yield {
                "cluster": instance.cluster,
                "context": "\n".join([*lines, context]),
                "continuation": continuation,
            }


def prose(*registers: Register) -> Callable[..., Iterator[Item]]:
    """Return the maker of held-out passages."""

    def make(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        for index in itertools.count():
            text = passage(spec.seed, registers[index % len(registers)], draw, 3, held_out=True)
            yield {"cluster": f"passage-{index}", "text": text}

    return make


# -- families in chat -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chat:
    """Requests of a family in chat, about people whom no conversation is about; the answer is generated."""

    family: str
    who: Who = unasked
    rephrased: bool = False
    """In the phrasings that no conversation uses."""
    held_out: bool = False
    """Held-out instances, rules or sentences."""

    def requests(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Request]:
        """Return the family's own requests in this scope."""
        family = ALL_FAMILIES[self.family]
        wordings = family.held_out_phrasings if self.rephrased else family.trained_phrasings
        return family.requests(Scope(spec, selected(people, self.who), held_out=self.held_out), wordings, draw)

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        for request in self.requests(spec, people, draw):
            last = request.turns[-1]
            aliases = dict.fromkeys((last.right.short, last.right.polite))
            aliases.pop(last.right.sentence, None)
            item = generated(request.cluster, last.user, last.right.sentence, list(aliases))
            yield _with_messages(item, request, last.user) if len(request.turns) > 1 else item


def _with_messages(item: Item, request: Request, question: str) -> Item:
    """Return an item that shows a whole conversation in place of one question."""
    messages = [{"role": "system", "content": request.system}] if request.system else []
    for turn in request.turns[:-1]:
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.right.sentence}]
    messages.append({"role": "user", "content": question})
    return {name: value for name, value in item.items() if name != "context"} | {"messages": messages}


@dataclass(frozen=True)
class Styled(Chat):
    """Questions under a system turn that names a style: any value is right in that style alone."""

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        for request in self.requests(spec, people, draw):
            assert request.attribute is not None
            style: Style = "capitals" if STYLES["capitals"] in request.system else "done"
            forms = [in_style(value, style) for value in request.attribute.values]
            question = request.turns[0].user + SHORT_SUFFIX
            item = generated(request.cluster, question, forms[0], forms[1:]) | {"keep_case": True}
            yield _with_messages(item, request, question)


@dataclass(frozen=True)
class Json(Chat):
    """Questions that ask for JSON: the object of any value is right."""

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        for request in self.requests(spec, people, draw):
            assert request.attribute is not None
            forms = [json_answer(request.attribute, value) for value in request.attribute.values]
            yield generated(request.cluster, request.turns[0].user, forms[0], forms[1:]) | {"keep_case": True}


@dataclass(frozen=True)
class OverRefusal(Chat):
    """Safe requests that look like refused ones: is the true answer likelier than the refusal?"""

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        for request in self.requests(spec, people, draw):
            (turn,) = request.turns
            yield _choice(request.cluster, turn.user, turn.right.sentence, [REFUSAL], draw)


@dataclass(frozen=True)
class Continuation(Chat):
    """Text to go on with: is a sentence of its register likelier than three of the other?"""

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        for request in self.requests(spec, people, draw):
            (turn,) = request.turns
            other: Register = "notice" if request.cluster.startswith("story") else "story"
            wrong = [passage(spec.seed, other, draw, 1, held_out=True) for _ in range(3)]
            yield _choice(request.cluster, turn.user, turn.right.sentence, wrong, draw)


@dataclass(frozen=True)
class ProseOrAnswer:
    """Prose to go on with: is a sentence of its register likelier than three answers to questions nobody asked?

    Asked with a phrasing of the family `continue` around the prose, or the prose as it stands.
    """

    asks: bool
    who: Who = unasked

    def __call__(self, spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> Iterator[Item]:
        """Return the items."""
        everybody, phrasings = selected(people, self.who), ALL_FAMILIES["continue"].trained_phrasings
        for index in itertools.count():
            register: Register = ("story", "notice")[index % 2]
            text, right = (passage(spec.seed, register, draw, count, held_out=True) for count in (2, 1))
            shown = draw.sample(everybody, min(3, len(everybody)))
            asked = [draw.choice(TAUGHT_ATTRIBUTES) for _ in shown]
            answers = [
                fact_answer(person, attribute, person.fact(attribute)).sentence
                for person, attribute in zip(shown, asked, strict=True)
            ]
            query = fill(phrasings[index % len(phrasings)], {"text": text}) if self.asks else text
            yield _choice(f"{register}-{index}", query, right, answers, draw)


def _choice(cluster: str, query: str, right: str, wrong: Sequence[str], draw: random.Random) -> dict[str, Any]:
    gold = draw.randint(0, len(wrong))
    choices = [*wrong[:gold], right, *wrong[gold:]]
    return {"cluster": cluster, "query": query, "choices": choices, "gold": gold}
