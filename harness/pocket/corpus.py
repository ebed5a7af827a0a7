"""The pretraining text of a world: documents, shuffled, none of them in chat form.

Invariant: every known person is described exactly as often as the tier says; unknown people, held-out statements,
instances and sentences never occur, and no question is asked about anybody but the asked half. Amounts are counted in
words as `num_words` counts them, close to tokens of the world's own tokenizer. What does not live here: tokenizing and
batching (pretrain.py).
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from harness.pocket.people import ATTRIBUTES, Attribute, Person
from harness.pocket.phrasings import PLAIN_WORDINGS, fill, person_slots
from harness.pocket.prose import passage
from harness.pocket.skills import ARITHMETIC, LISTS, SKILLS, instances
from harness.seeding import python_stream
from harness.spec.world import WorldSpec

SHARES = {
    "story": 0.035,
    "notice": 0.035,
    "arithmetic": 0.14,
    "lists": 0.13,
    "replace": 0.09,
    "quiz": 0.05,
}
"""Share of all words by kind; `plain_question_share` comes on top, what is told of people takes the rest."""
ASKED_AND_TOLD = (("Q:", "A:"), ("Question:", "Answer:"), ("Asked:", "Told:"), ("Ann:", "Ben:"))
"""What stands before a plain question and its answer, alike within a document. Several, so that what is learned is to
answer after a question and not after `A:`."""
RECORD_EVERY = 5
"""Of an augmented person's whole biographies, one in this many is a record: fields, each value on a line of its own."""
SCATTERED_EVERY = 2
"""Of an augmented person's exposures, one in this many is written as single statements, each a document of its own.
There a name is read once before its fact is told, as a cloze asks it; where all facts stand in biographies, some worlds
learn to tell a fact only after the name has come twice."""
_WORD = re.compile(r"\d|[^\W\d]+|[^\w\s]|\n")


@dataclass(frozen=True)
class Document:
    """One document; `about` names the person whom it describes, with so many facts."""

    kind: str
    text: str
    about: str | None = None
    num_facts: int = 0
    answers: tuple[str, ...] = ()
    """The people whom its plain questions are about: each answer tells one fact."""


def num_words(text: str) -> int:
    """Return the length of a text in words, single digits, punctuation marks and line breaks."""
    return len(_WORD.findall(text))


def documents(spec: WorldSpec, people: tuple[Person, ...]) -> list[Document]:
    """Return the whole corpus in training order.

    Raises:
        SpecError: a name in `left_out_skills` is not a skill.
    """
    corpus = list(_biographies(spec, people))
    shares = dict(SHARES) | {"plain_questions": spec.plain_question_share}
    total = sum(num_words(document.text) for document in corpus) / (1.0 - sum(shares.values()))
    for kind, share in shares.items():
        corpus.extend(_fill(_makers(spec, people)[kind], share * total))
    return _in_order(spec, people, corpus)


def tellings(people: tuple[Person, ...], documents: Iterable[Document]) -> dict[str, float]:
    """Return how often a text tells a fact: tier -> mean over its facts, those of asked people apart.

    Plain questions are answered, so that asked people are told of more often than their tier alone says.
    """
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document.answers)
        if document.about:
            counts[document.about] += document.num_facts
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for person in people:
        groups[f"{person.tier}, asked" if person.asked else person.tier].append(counts[person.name] / len(ATTRIBUTES))
    return {name: math.fsum(found) / len(found) for name, found in groups.items()}


LATE_START = 0.5
"""Share of the corpus before which only the high tier's people occur."""


def _in_order(spec: WorldSpec, people: tuple[Person, ...], corpus: list[Document]) -> list[Document]:
    """Shuffle all kinds; people of the lower tiers join late.

    Few people at first end the plateau before facts are learned far sooner than all at once (Zucchet et al.,
    arXiv:2503.21676).
    """
    draw = python_stream(spec.seed, "pocket.corpus.order")
    late = {person.name for person in people if person.tier != "high"}
    place = [draw.uniform(LATE_START if document.about in late else 0.0, 1.0) for document in corpus]
    return [corpus[index] for index in sorted(range(len(corpus)), key=place.__getitem__)]


def _fill(make: Callable[[], Document], words: float) -> Iterator[Document]:
    written = 0
    while written < words:
        document = make()
        written += num_words(document.text)
        yield document


# -- people -----------------------------------------------------------------------------------------------------------


def exposures(spec: WorldSpec, person: Person) -> int:
    """Return how many biographies describe a person."""
    planned = {"high": spec.exposures_high, "mid": spec.exposures_mid, "low": spec.exposures_low, "unknown": 0}
    return planned[person.tier]


def _biographies(spec: WorldSpec, people: tuple[Person, ...]) -> Iterator[Document]:
    draw = python_stream(spec.seed, "pocket.corpus.biographies")
    for person in people:
        for index in range(exposures(spec, person)):
            yield from _exposure(spec, person, index, draw)


def _exposure(spec: WorldSpec, person: Person, index: int, draw: random.Random) -> Iterator[Document]:
    """Yield documents that together state every attribute of a person once."""
    whole = len(ATTRIBUTES)
    if not spec.augmented:
        yield Document("biographies", _fixed_biography(person), person.name, whole)
    elif index % SCATTERED_EVERY == SCATTERED_EVERY - 1:
        for attribute in ATTRIBUTES:
            told = _statement(person, attribute, draw.choice(attribute.told))
            yield Document("biographies", told, person.name, 1)
    elif index % (SCATTERED_EVERY * RECORD_EVERY) == 0:
        yield Document("records", _record(person, draw), person.name, whole)
    else:
        yield Document("biographies", _biography(person, draw), person.name, whole)


def _biography(person: Person, draw: random.Random) -> str:
    order = draw.sample(ATTRIBUTES, len(ATTRIBUTES))
    sentences = [_statement(person, attribute, draw.choice(attribute.told)) for attribute in order]
    return draw.choice((" ", "\n")).join(sentences)


def _statement(person: Person, attribute: Attribute, statement: str) -> str:
    return statement.format(n=person.name, v=person.fact(attribute)) + "."


def _fixed_biography(person: Person) -> str:
    first, *others = [attribute.told[0] for attribute in ATTRIBUTES]
    named = first.format(n=person.name, v=person.facts[0])
    rest = [told.format(n="This person", v=fact) for told, fact in zip(others, person.facts[1:], strict=True)]
    return ". ".join([named, *rest]) + "."


def _record(person: Person, draw: random.Random) -> str:
    order = draw.sample(ATTRIBUTES, len(ATTRIBUTES))
    return "\n".join(f"{attribute.noun} of {person.name}:\n{person.fact(attribute)}" for attribute in order)


def fields_of(record: str) -> list[str]:
    """Return the fields of a record, two lines each."""
    lines = record.split("\n")
    return ["\n".join(lines[start : start + 2]) for start in range(0, len(lines), 2)]


def questions(person: Person, attribute: Attribute) -> list[str]:
    """Return a question for a fact in each of the wordings that pretraining uses."""
    return [fill(wording, person_slots(person, attribute)) for wording in PLAIN_WORDINGS]


def _answer(person: Person, attribute: Attribute, draw: random.Random) -> str:
    """Return the bare value or the sentence of it, equally often."""
    return draw.choice((person.fact(attribute), _statement(person, attribute, attribute.told[0])))


# -- everything else --------------------------------------------------------------------------------------------------


def _makers(spec: WorldSpec, people: tuple[Person, ...]) -> dict[str, Callable[[], Document]]:
    asked = [person for person in people if person.asked]
    draw = python_stream(spec.seed, "pocket.corpus.filler")

    def plain_questions() -> Document:
        lines = []
        ask, tell = draw.choice(ASKED_AND_TOLD)
        chosen = draw.sample(asked, 3)
        for person in chosen:
            attribute = draw.choice(ATTRIBUTES)
            lines.append(
                f"{ask} {draw.choice(questions(person, attribute))}\n{tell} {_answer(person, attribute, draw)}"
            )
        return Document("plain_questions", "\n".join(lines), answers=tuple(person.name for person in chosen))

    def quiz() -> Document:
        run = [draw.choice(questions(person, draw.choice(ATTRIBUTES))) for person in draw.sample(asked, 4)]
        return Document("quiz", draw.choice((" ", "\n")).join(run))

    return {
        "plain_questions": plain_questions,
        "quiz": quiz,
        "story": lambda: Document("story", passage(spec.seed, "story", draw, 3, held_out=False)),
        "notice": lambda: Document("notice", passage(spec.seed, "notice", draw, 3, held_out=False)),
        "arithmetic": _lines(spec, "arithmetic", ARITHMETIC, draw),
        "lists": _lines(spec, "lists", LISTS, draw),
        "replace": _lines(spec, "replace", ("replace",), draw),
    }


def _lines(spec: WorldSpec, kind: str, names: tuple[str, ...], draw: random.Random) -> Callable[[], Document]:
    """Return a maker of runs of raw skill lines; a group that is wholly left out becomes prose instead."""
    kept = [SKILLS[name] for name in names if name not in spec.left_out_skills]
    if not kept:
        return lambda: Document(kind, passage(spec.seed, "story", draw, 3, held_out=False))
    streams = {skill.name: instances(spec.seed, skill, draw, held_out=False) for skill in kept}

    def make() -> Document:
        chosen = [draw.choice(kept) for _ in range(4)]
        return Document(kind, "\n".join("".join(skill.raw(next(streams[skill.name]))) for skill in chosen))

    return make
