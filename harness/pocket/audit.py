"""Proof that what is held out was held out: every training text of a world searched for what only evaluation may hold.

Invariant: these functions look at finished text, not at how it was made, so a leak in any generator is found. What does
not live here: the generators.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from harness.pocket import prose, skills
from harness.pocket.conversations import FAMILIES, SHORT_SUFFIX
from harness.pocket.corpus import Document
from harness.pocket.people import ATTRIBUTES
from harness.pocket.world import World

_NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
_QUESTION = re.compile(r"[^.?\n]*\?|^Q: .*$", re.MULTILINE)
_SUM = re.compile(r"(\d+)([+-])(\d+)=")
_LIST = re.compile(r"^(\w+): ([a-l ]+) ->", re.MULTILINE)
_REPLACE = re.compile(r"^([a-l]) becomes ([a-l]): ([a-l ]+) ->", re.MULTILINE)


def corpus_leaks(world: World, documents: Iterable[Document]) -> list[str]:
    """Return one sentence per held-out thing that pretraining text holds; none for a sound world."""
    held_out_statements = _held_out_statements()
    leaks: list[str] = []
    for document in documents:
        text = document.text
        for name in _NAME.findall(text):
            person = world.people_by_name.get(name)
            if person is not None and person.tier == "unknown":
                leaks.append(f"unknown person {name!r} occurs in a document of kind {document.kind!r}")
        for question in _QUESTION.findall(text):
            leaks.extend(f"a question about unasked {name!r}: {question!r}" for name in _unasked(world, question))
        leaks.extend(f"held-out statement {found!r}" for found in held_out_statements.findall(text))
        leaks.extend(f"held-out instance {found.cluster!r}" for found in _instances(text) if _held(world, found))
        if document.kind in ("story", "notice"):
            leaks.extend(f"held-out sentence {found!r}" for found in _sentences(text) if _held_prose(world, found))
    return leaks


def conversation_leaks(world: World, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return one sentence per held-out thing that instruction rows hold; none for sound data."""
    leaks: list[str] = []
    for row in rows:
        text = "\n".join(message["content"] for message in row["messages"])
        leaks.extend(f"{row['id']} is about {name!r}, whom nobody may ask about" for name in _unasked(world, text))
        request = row["messages"][0]["content"].removesuffix(SHORT_SUFFIX)
        held_out = FAMILIES[row["task"]].held_out_phrasings
        leaks.extend(f"{row['id']} uses the held-out phrasing {p!r}" for p in held_out if _matches(p, request))
        leaks.extend(f"{row['id']} holds {found.cluster!r}" for found in _asked_instances(row) if _held(world, found))
    return leaks


def _unasked(world: World, text: str) -> Iterator[str]:
    for name in _NAME.findall(text):
        person = world.people_by_name.get(name)
        if person is not None and not person.asked:
            yield name


def _held_out_statements() -> re.Pattern[str]:
    forms = [re.escape(a.held_out_statement).replace(r"\{n\}", _NAME.pattern).split(r"\{v\}")[0] for a in ATTRIBUTES]
    return re.compile("|".join(forms))


def _matches(phrasing: str, request: str) -> bool:
    pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrasing))
    return re.fullmatch(pattern, request) is not None


def _sentences(text: str) -> list[str]:
    plain = re.sub(r"<\|[a-z_]+\|>(story\n|notice\n)?", "", text)
    return [sentence.strip() + "." for sentence in plain.split(".") if sentence.strip()]


def _held_prose(world: World, sentence: str) -> bool:
    return prose.is_held_out(world.spec.seed, sentence)


def _held(world: World, instance: skills.Instance) -> bool:
    return skills.is_held_out(world.spec.seed, instance)


def _instances(text: str) -> Iterator[skills.Instance]:
    for left, sign, right in _SUM.findall(text):
        yield skills.Instance("sum" if sign == "+" else "difference", (left, right), "")
    for name, letters in _LIST.findall(text):
        yield skills.Instance(name, (letters,), "")
    for old, new, letters in _REPLACE.findall(text):
        yield skills.Instance("replace", (letters, old, new), "")


def _asked_instances(row: dict[str, Any]) -> Iterator[skills.Instance]:
    """Yield every instance that the request of a skill row could be read as."""
    if row["task"] not in skills.SKILLS:
        return
    request = row["messages"][0]["content"].removesuffix(SHORT_SUFFIX)
    for phrasing in FAMILIES[row["task"]].phrasings:
        pattern = re.sub(r"\\\{(\d)\\\}", r"(?P<s\1>[a-l ]+|\\d+)", re.escape(phrasing))
        if found := re.fullmatch(pattern, request):
            slots = found.groupdict()
            yield skills.Instance(row["task"], tuple(slots[key] for key in sorted(slots)), "")
