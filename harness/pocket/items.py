"""Evaluation items of a world, slice by slice.

Invariant: items are a function of the world alone; an item's `cluster` is the person, instance or passage it is about,
and what a slice calls unasked, unknown or held out occurs in no training text. What does not live here: scoring, and
the split into val and test (harness/evals).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

from harness.errors import SpecError, unknown_name
from harness.pocket.conversations import (
    FACT_PHRASINGS,
    FAMILIES,
    SHORT_SUFFIX,
    fact_answers,
    fact_slots,
    fill,
    sentence_of,
    skill_sentence,
    skill_slots,
)
from harness.pocket.people import ATTRIBUTES, Attribute, Person, Tier
from harness.pocket.prose import Register, passage
from harness.pocket.skills import SKILLS, instances
from harness.seeding import python_stream
from harness.spec.trial import Measure
from harness.spec.world import WorldSpec

Item = dict[str, Any]
Maker = Callable[[WorldSpec, tuple[Person, ...], random.Random], list[Item]]
NUM_ITEMS = 480
MAX_DRAWS = 50 * NUM_ITEMS
"""Draws after which no further distinct request is looked for."""
_KNOWN: tuple[Tier, ...] = ("high", "mid")
_TRAINED = FACT_PHRASINGS[:-2]
_HELD_OUT = FACT_PHRASINGS[-2:]


@dataclass(frozen=True)
class SliceInfo:
    """What an `EvalTask` over this slice should say."""

    kind: Literal["multiple_choice", "greedy", "generate", "perplexity"]
    measure: Measure
    chat: bool
    primary: bool
    make: Maker
    max_new_tokens: int = 0


def _about(people: tuple[Person, ...], tiers: tuple[Tier, ...], asked: bool | None = None) -> list[Person]:
    return [p for p in people if p.tier in tiers and (asked is None or p.asked is asked)]


def _choices(item_id: str, person: Person, attribute: Attribute, query: str) -> Item:
    values = list(attribute.values)
    gold = values.index(person.fact(attribute))
    return {"id": item_id, "cluster": person.cluster, "query": query, "choices": values, "gold": gold}


def _generated(item_id: str, cluster: str, context: str, answer: str, others: list[str]) -> Item:
    aliases = [*others, *(text.removesuffix(".") for text in [answer, *others] if text.endswith("."))]
    return {"id": item_id, "cluster": cluster, "context": context, "answer": answer, "aliases": aliases}


def _pairs(people: list[Person], draw: random.Random) -> list[tuple[Person, Attribute]]:
    """Return up to NUM_ITEMS pairs that cover every person as evenly as that number allows."""
    rounds = [
        [(person, attribute) for person, attribute in zip(people, _rotation(len(people), shift), strict=True)]
        for shift in range(len(ATTRIBUTES))
    ]
    for pairs in rounds:
        draw.shuffle(pairs)
    return [pair for pairs in rounds for pair in pairs][:NUM_ITEMS]


def _rotation(count: int, shift: int) -> list[Attribute]:
    return [ATTRIBUTES[(index + shift) % len(ATTRIBUTES)] for index in range(count)]


# -- makers -----------------------------------------------------------------------------------------------------------


def _cloze(
    spec: WorldSpec, people: tuple[Person, ...], draw: random.Random, *, tiers: tuple[Tier, ...], held_out: bool
) -> list[Item]:
    items = []
    for index, (person, attribute) in enumerate(_pairs(_about(people, tiers), draw)):
        statement = attribute.held_out_statement if held_out else draw.choice(attribute.told)
        query = statement.format(n=person.name, v="").rstrip()
        items.append(_choices(f"cloze-{index}", person, attribute, query))
    return items


def _question(
    spec: WorldSpec,
    people: tuple[Person, ...],
    draw: random.Random,
    *,
    asked: bool,
    phrasings: tuple[str, ...],
    form: Literal["sentence", "short", "choice"],
) -> list[Item]:
    items = []
    for index, (person, attribute) in enumerate(_pairs(_about(people, _KNOWN, asked), draw)):
        query = fill(draw.choice(phrasings), fact_slots(person, attribute))
        item_id = f"question-{index}"
        value, sentence = fact_answers(person, attribute)
        if form == "choice":
            item = _choices(item_id, person, attribute, query)
            items.append(item | {"choices": [sentence_of(person.name, attribute, v) for v in attribute.values]})
        elif form == "short":
            items.append(_generated(item_id, person.cluster, query + SHORT_SUFFIX, value, [f"{value}."]))
        else:
            aliases = [told.format(n=person.name, v=value) + "." for told in attribute.told[1:]]
            items.append(_generated(item_id, person.cluster, query, sentence, [*aliases, value]))
    return items


def _form(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> list[Item]:
    """Questions of which half ask for the answer alone: any value of the attribute is right, in the form asked for."""
    items = []
    for index, (person, attribute) in enumerate(_pairs(_about(people, _KNOWN, asked=False), draw)):
        query = fill(draw.choice(_TRAINED), fact_slots(person, attribute))
        if index % 2:
            query, forms = query + SHORT_SUFFIX, list(attribute.values)
        else:
            forms = [sentence_of(person.name, attribute, value) for value in attribute.values]
        items.append(_generated(f"form-{index}", person.cluster, query, forms[0], forms[1:]))
    return items


def _skill_raw(
    spec: WorldSpec, people: tuple[Person, ...], draw: random.Random, *, skills: tuple[str, ...], held_out: bool
) -> list[Item]:
    """Raw lines, each after two solved lines of the same skill as they stand in pretraining text."""
    items = []
    for index in range(NUM_ITEMS):
        skill = SKILLS[skills[index % len(skills)]]
        shown = instances(spec.seed, skill, draw, held_out=False)
        lines = ["".join(skill.raw(next(shown))) for _ in range(2)]
        instance = next(instances(spec.seed, skill, draw, held_out=held_out))
        context, continuation = skill.raw(instance)
        context = "\n".join([*lines, context])
        items.append(
            {"id": f"raw-{index}", "cluster": instance.cluster, "context": context, "continuation": continuation}
        )
    return items


def _skill_chat(
    spec: WorldSpec, people: tuple[Person, ...], draw: random.Random, *, skill: str, held_out: bool
) -> list[Item]:
    """Return distinct requests; a skill with few held-out instances may have fewer than NUM_ITEMS of them."""
    items: list[Item] = []
    seen: set[str] = set()
    for instance in islice(instances(spec.seed, SKILLS[skill], draw, held_out=held_out), MAX_DRAWS):
        context = fill(draw.choice(FAMILIES[skill].trained_phrasings), skill_slots(instance))
        if context not in seen:
            seen.add(context)
            item_id, sentence = f"{skill}-{len(items)}", skill_sentence(instance)
            items.append(_generated(item_id, instance.cluster, context, sentence, [instance.answer]))
        if len(items) == NUM_ITEMS:
            break
    return items


def _prose(spec: WorldSpec, people: tuple[Person, ...], draw: random.Random) -> list[Item]:
    registers: tuple[Register, ...] = ("story", "notice")
    return [
        {
            "id": f"prose-{i}",
            "cluster": f"passage-{i}",
            "text": passage(spec.seed, registers[i % 2], draw, 3, held_out=True),
        }
        for i in range(NUM_ITEMS)
    ]


def _cloze_slice(tiers: tuple[Tier, ...], *, held_out: bool = False, primary: bool = False) -> SliceInfo:
    make = partial(_cloze, tiers=tiers, held_out=held_out)
    return SliceInfo("multiple_choice", "retained", chat=False, primary=primary, make=make)


def _question_slice(
    *,
    asked: bool,
    phrasings: tuple[str, ...] = _TRAINED,
    form: Literal["sentence", "short"] = "sentence",
    primary: bool = False,
) -> SliceInfo:
    make = partial(_question, asked=asked, phrasings=phrasings, form=form)
    return SliceInfo("generate", "learned", chat=True, primary=primary, make=make, max_new_tokens=16)


def _question_choice_slice(*, asked: bool) -> SliceInfo:
    make = partial(_question, asked=asked, phrasings=_TRAINED, form="choice")
    return SliceInfo("multiple_choice", "retained", chat=True, primary=False, make=make)


def _raw_slice(*skills: str, held_out: bool = False) -> SliceInfo:
    make = partial(_skill_raw, skills=skills, held_out=held_out)
    return SliceInfo("greedy", "retained", chat=False, primary=False, make=make)


def _chat_skill_slice(skill: str, *, held_out: bool = False) -> SliceInfo:
    make = partial(_skill_chat, skill=skill, held_out=held_out)
    return SliceInfo("generate", "learned", chat=True, primary=False, make=make, max_new_tokens=16)


SLICES: dict[str, SliceInfo] = {
    "cloze_known": _cloze_slice(_KNOWN, primary=True),
    "cloze_high": _cloze_slice(("high",)),
    "cloze_mid": _cloze_slice(("mid",)),
    "cloze_low": _cloze_slice(("low",)),
    "cloze_unknown": _cloze_slice(("unknown",)),
    "cloze_paraphrase": _cloze_slice(_KNOWN, held_out=True),
    "question_asked": _question_slice(asked=True, primary=True),
    "question_unasked": _question_slice(asked=False, primary=True),
    "answer_form": SliceInfo("generate", "format", chat=True, primary=True, make=_form, max_new_tokens=16),
    "question_rephrased": _question_slice(asked=False, phrasings=_HELD_OUT),
    "question_short": _question_slice(asked=False, form="short"),
    "choice_asked": _question_choice_slice(asked=True),
    "choice_unasked": _question_choice_slice(asked=False),
    "arithmetic": _raw_slice("sum", "difference"),
    "arithmetic_held_out": _raw_slice("sum", "difference", held_out=True),
    "lists": _raw_slice("reverse", "copy", "first", "last", "count", "sort"),
    "replace": _raw_slice("replace"),
    "sum_chat": _chat_skill_slice("sum"),
    "sum_chat_held_out": _chat_skill_slice("sum", held_out=True),
    "first_chat": _chat_skill_slice("first"),
    "reverse_chat": _chat_skill_slice("reverse"),
    "prose": SliceInfo("perplexity", "fluency", chat=False, primary=True, make=_prose),
}


def items(spec: WorldSpec, people: tuple[Person, ...], slice_name: str) -> list[Item]:
    """Return the items of a slice in a fixed order.

    Raises:
        SpecError: there is no slice of that name.
    """
    if slice_name not in SLICES:
        raise SpecError(unknown_name("evals.tasks.source.slice", slice_name, SLICES))
    draw = python_stream(spec.seed, f"pocket.items.{slice_name}")
    return SLICES[slice_name].make(spec, people, draw)
