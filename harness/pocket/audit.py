"""Proof that what is held out was held out: every training text of a world searched for what only evaluation may hold.

Invariant: these functions look at finished text, not at how it was made, so a leak in any generator is found. What does
not live here: the generators.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from harness.pocket import prose, skills
from harness.pocket.corpus import Document
from harness.pocket.families import HELD_OUT_FAMILIES
from harness.pocket.people import ATTRIBUTES, HELD_OUT_ATTRIBUTE, Person
from harness.pocket.phrasings import NAME, PHRASINGS, held_out, pattern
from harness.pocket.world import World

_QUESTION = re.compile(r"[^.?\n]*\?")
_ARITHMETIC = re.compile(r"(\d+)([+-])(\d+)=")
_LIST = re.compile(r"\b(\w+): ([a-l](?: [a-l])*) ->")
_REPLACE = re.compile(r"\b([a-z]{1,2}) becomes ([a-z]{1,2}): ([a-z]{1,2}(?: [a-z]{1,2})*) ->")
_PARTS = re.compile(r"[^.:?!\n]+\.")
_WORD = re.compile(r"\w+")
_HELD_OUT_PHRASINGS = tuple(
    (f"{'family' if name in HELD_OUT_FAMILIES else 'phrasing'} {name!r}, as {phrasing!r}", pattern(phrasing))
    for name, phrasings in PHRASINGS.items()
    for phrasing in (phrasings if name in HELD_OUT_FAMILIES else held_out(name))
)
_SKILL_PHRASINGS = tuple((name, pattern(phrasing)) for name in skills.SKILLS for phrasing in PHRASINGS[name])


def corpus_leaks(world: World, documents: Iterable[Document]) -> list[str]:
    """Return one sentence per held-out thing that pretraining text holds; none for a sound world."""
    held_out_statements = _held_out_statements()
    leaks: list[str] = []
    for document in documents:
        text = document.text
        leaks.extend(
            f"unknown person {person.name!r} occurs in a document of kind {document.kind!r}"
            for person in _named(world, text)
            if person.tier == "unknown"
        )
        for question in _QUESTION.findall(text):
            leaks.extend(f"a question about unasked {name!r}: {question!r}" for name in _unasked(world, question))
        leaks.extend(f"held-out statement {found!r}" for found in held_out_statements.findall(text))
        leaks.extend(f"held-out instance {found.cluster!r}" for found in _instances(text) if _held(world, found))
        if document.kind in ("story", "notice"):
            leaks.extend(f"held-out sentence {found!r}" for found in _sentences(text) if _held_prose(world, found))
    return leaks


def conversation_leaks(world: World, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return one sentence per held-out thing that instruction rows hold; none for sound data.

    Looked for are people nobody may ask about, unknown people who are never taught (or who are outside facts), the
    held-out attribute, held-out phrasings and families, held-out instances and rules, and held-out prose.
    """
    leaks: list[str] = []
    for row in rows:
        for message in row["messages"]:
            found = _message_leaks(world, row["task"], message["role"], message["content"])
            leaks.extend(f"{row['id']} holds the {leak}" for leak in found)
    return leaks


def _message_leaks(world: World, task: str, role: str, text: str) -> Iterator[str]:
    for person in _named(world, text):
        if person.tier == "unknown" and not (person.trainable_unknown and task == "fact"):
            yield f"unknown person {person.name!r}"
        elif person.tier != "unknown" and not person.asked:
            yield f"unasked person {person.name!r}"
    if found := _HELD_OUT_ATTRIBUTE.search(text):
        yield f"held-out attribute, as {found[0]!r}"
    if role != "assistant":
        yield from (f"held-out {what}" for what, found in _HELD_OUT_PHRASINGS if found.search(text))
    held = {found.cluster for found in (*_instances(text), *_asked_instances(text)) if _held(world, found)}
    yield from (f"held-out instance {cluster!r}" for cluster in sorted(held))
    prose_sentences = [part.strip() for part in _PARTS.findall(text) if _is_prose(part)]
    yield from (f"held-out sentence {sentence!r}" for sentence in prose_sentences if _held_prose(world, sentence))


def _is_prose(text: str) -> bool:
    """Return whether every word is one that prose is made of, as of no request or answer."""
    words = _WORD.findall(text)
    return len(words) > 3 and _prose_words().issuperset(words)


@lru_cache(maxsize=1)
def _prose_words() -> frozenset[str]:
    draw = random.Random(0)
    registers: tuple[prose.Register, ...] = ("story", "notice")
    texts = (prose.passage(0, register, draw, 2000, held_out=False) for register in registers)
    return frozenset(word for text in texts for word in _WORD.findall(text))


def _held_out_attribute() -> re.Pattern[str]:
    """Return what tells or asks about the held-out attribute: its noun, question, clause, statements, a bare value."""
    (attribute,) = (attribute for attribute in ATTRIBUTES if attribute.name == HELD_OUT_ATTRIBUTE)
    values = "|".join(map(re.escape, attribute.values))
    texts = [attribute.question, attribute.clause, *attribute.statements]
    forms = [re.escape(text).replace(r"\{n\}", NAME).replace(r"\{v\}", f"(?:{values})") for text in texts]
    noun = rf"\b{re.escape(attribute.noun)}\b"
    bare = rf"^(?:Of course\. )?(?:{values})(?:\.| done|\.? done)?$"
    return re.compile("|".join([*forms, noun, bare]), re.IGNORECASE)


_HELD_OUT_ATTRIBUTE = _held_out_attribute()


def _unasked(world: World, text: str) -> Iterator[str]:
    return (person.name for person in _named(world, text) if not person.asked)


def _named(world: World, text: str) -> Iterator[Person]:
    """Yield every person whose name is any two words in a row, whatever stands before it."""
    words = _WORD.findall(text)
    names = (f"{first} {last}" for first, last in itertools.pairwise(words))
    return (world.people_by_name[name] for name in names if name in world.people_by_name)


def _held_out_statements() -> re.Pattern[str]:
    forms = [re.escape(a.held_out_statement).replace(r"\{n\}", NAME).split(r"\{v\}")[0] for a in ATTRIBUTES]
    return re.compile("|".join(forms))


def _sentences(text: str) -> list[str]:
    return [sentence.strip() + "." for sentence in text.split(".") if sentence.strip()]


def _held_prose(world: World, sentence: str) -> bool:
    return prose.is_held_out(world.spec.seed, sentence)


def _held(world: World, instance: skills.Instance) -> bool:
    return skills.is_held_out(world.spec.seed, instance)


def _instances(text: str) -> Iterator[skills.Instance]:
    for left, sign, right in _ARITHMETIC.findall(text):
        yield skills.Instance("sum" if sign == "+" else "difference", (left, right), "")
    for name, letters in _LIST.findall(text):
        if name in skills.LISTS:
            yield skills.Instance(name, (letters,), "")
    for old, new, letters in _REPLACE.findall(text):
        yield skills.Instance("replace", (letters, old, new), "")


def _asked_instances(text: str) -> Iterator[skills.Instance]:
    """Yield every instance that a request could be read as."""
    for name, found in ((name, wording.search(text)) for name, wording in _SKILL_PHRASINGS):
        if found:
            slots = found.groupdict()
            yield skills.Instance(name, tuple(slots[key] for key in sorted(slots)), "")
