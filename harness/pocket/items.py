"""The evaluation slices of a world, and their items.

Invariant: items are a function of the world alone, distinct, and a larger number of them begins with the smaller one's;
an item's `cluster` is the person, instance, rule or passage it is about, and what a slice calls unasked, unknown or
held out occurs in no training text. What does not live here: how items are made (slices_people.py, slices_tasks.py),
scoring, and the split into val and test (harness/evals).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from harness.errors import SpecError, unknown_name
from harness.pocket.people import ATTRIBUTES, HELD_OUT_ATTRIBUTE, TAUGHT_ATTRIBUTES, Person
from harness.pocket.phrasings import held_out
from harness.pocket.skills import SKILLS
from harness.pocket.slices_people import (
    Cloze,
    Item,
    Maker,
    Plain,
    Question,
    answer_form,
    asked,
    known,
    never_told,
    quiz_continuation,
    reversal,
    unasked,
)
from harness.pocket.slices_tasks import Chat, Continuation, Json, OverRefusal, Raw, Styled, prose
from harness.seeding import python_stream
from harness.spec.evals import PocketItems
from harness.spec.names import Measure
from harness.spec.world import WorldSpec

NUM_ITEMS: int = PocketItems.model_fields["max_items"].default
DRAWS_PER_ITEM = 50
"""Draws per item asked for, after which no further distinct one is looked for."""
Kind = Literal["multiple_choice", "greedy", "generate", "perplexity"]


@dataclass(frozen=True)
class SliceInfo:
    """What an `EvalTask` over this slice should say, and what the slice shows."""

    kind: Kind
    measure: Measure
    make: Maker
    shows: str
    chat: bool = False
    primary: bool = False
    max_new_tokens: int = 0


def _tier(*tiers: str) -> Cloze:
    return Cloze(lambda person: person.tier in tiers)


def _retained(make: Maker, shows: str, *, chat: bool = False, primary: bool = False) -> SliceInfo:
    return SliceInfo("multiple_choice", "retained", make, shows, chat=chat, primary=primary)


def _raw(make: Maker, shows: str) -> SliceInfo:
    return SliceInfo("greedy", "retained", make, shows)


def _taught(make: Maker, shows: str, *, primary: bool = False, max_new_tokens: int = 24) -> SliceInfo:
    return SliceInfo("generate", "learned", make, shows, chat=True, primary=primary, max_new_tokens=max_new_tokens)


def _form(make: Maker, shows: str, *, primary: bool = False) -> SliceInfo:
    return SliceInfo("generate", "format", make, shows, chat=True, primary=primary, max_new_tokens=16)


def _fluency(make: Maker, shows: str, *, primary: bool = False) -> SliceInfo:
    return SliceInfo("perplexity", "fluency", make, shows, primary=primary)


_PET = tuple(attribute for attribute in ATTRIBUTES if attribute.name == HELD_OUT_ATTRIBUTE)
_TAUGHT_SKILLS = ("sum", "reverse", "copy", "first", "last", "count", "replace")
_PEOPLE: dict[str, SliceInfo] = {
    "cloze_unasked": _retained(
        Cloze(unasked, attributes=TAUGHT_ATTRIBUTES),
        "facts that question_unasked asks for, as pretraining tells them",
        primary=True,
    ),
    "cloze_known": _retained(Cloze(known), "facts of well-known people; conversations may repeat those of the asked"),
    "cloze_high": _retained(_tier("high"), "facts told most often; asked people's in answers as well"),
    "cloze_mid": _retained(_tier("mid"), "facts told less often; asked people's in answers as well"),
    "cloze_low": _retained(_tier("low"), "facts told seldom"),
    "cloze_unknown": _retained(Cloze(never_told), "facts that nothing ever tells: chance"),
    "cloze_paraphrase": _retained(Cloze(known, held_out=True), "facts in a wording that no text uses"),
    "reversal": _retained(reversal, "from a value to the one of twelve names that has it"),
    "question_asked": _taught(
        Question(asked), "questions about people whom conversations ask about", primary=True, max_new_tokens=16
    ),
    "question_unasked": _taught(
        Question(unasked), "questions about people never asked about", primary=True, max_new_tokens=16
    ),
    "answer_form": _form(answer_form, "the form asked for, whatever the value", primary=True),
    "question_rephrased": _taught(Question(unasked, wordings=held_out("fact")), "questions in held-out phrasings"),
    "question_short": _taught(Question(unasked, "short"), "questions that ask for the answer alone"),
    "question_held_out_attribute": _taught(
        Question(unasked, attributes=_PET), "questions about an attribute that no conversation is about"
    ),
    "question_unknown": _taught(Question(never_told), "questions whose answer nothing ever tells"),
    "question_unknown_trained": _taught(
        Question(lambda p: p.trainable_unknown, wordings=held_out("fact")),
        "questions in held-out phrasings whose answer conversations alone may tell",
    ),
    "choice_asked": _retained(Question(asked, "choice"), "asked people's facts as a choice in chat", chat=True),
    "choice_unasked": _retained(Question(unasked, "choice"), "unasked people's facts as a choice in chat", chat=True),
    "plain_asked": _retained(Plain(asked), "plain questions without a template, asked people"),
    "plain_unasked": _retained(Plain(unasked), "plain questions without a template, unasked people"),
    "few_shot": _retained(Plain(unasked, num_shots=3), "plain questions after three solved ones"),
    "quiz_continuation": _retained(quiz_continuation, "after questions another question, as in pretraining"),
}
_SKILLS: dict[str, SliceInfo] = (
    {
        "arithmetic": _raw(Raw(("sum", "difference")), "raw sums and differences"),
        "arithmetic_held_out": _raw(Raw(("sum", "difference"), held_out=True), "raw held-out sums and differences"),
        "lists": _raw(Raw(("reverse", "copy", "first", "last", "count", "sort")), "raw list skills"),
        "replace": _raw(Raw(("replace",)), "raw rules"),
    }
    | {f"raw_{name}": _raw(Raw((name,)), f"raw {name}") for name in SKILLS if name != "replace"}
    # of differences too few are held out for a slice of their own
    | {
        f"raw_{name}_held_out": _raw(Raw((name,), held_out=True), f"raw {name}, held-out instances")
        for name in SKILLS
        if name != "difference"
    }
)
_CHAT_NAMES = {"sum": "sum_chat", "first": "first_chat", "reverse": "reverse_chat"}


def _in_chat(skill: str) -> str:
    return _CHAT_NAMES.get(skill, f"chat_{skill}")


_CHAT_SKILLS: dict[str, SliceInfo] = (
    {_in_chat(name): _taught(Chat(name), f"{name} in chat") for name in _TAUGHT_SKILLS}
    | {
        f"{_in_chat(name)}_held_out": _taught(
            Chat(name, held_out=True), f"{name} in chat, held-out {'rules' if name == 'replace' else 'instances'}"
        )
        for name in _TAUGHT_SKILLS
    }
    | {
        f"{_in_chat(name)}_rephrased": _taught(Chat(name, rephrased=True), f"{name} in chat, held-out phrasings")
        for name in _TAUGHT_SKILLS
    }
    | {
        _in_chat(name): _taught(Chat(name), f"{name} in chat: a family that no conversation is of")
        for name in ("difference", "sort")
    }
)
_TASKS: dict[str, SliceInfo] = {
    "chat_yes_no": _taught(Chat("yes_no"), "is a statement true? (guessing gets half)"),
    "chat_join": _taught(Chat("join"), "have two people one value? (guessing gets half)", max_new_tokens=32),
    "follow_up": _taught(Chat("follow_up"), "the last question of a conversation that named the person earlier"),
    "chat_continue": _retained(
        Continuation("continue", held_out=True), "text goes on in its own register, asked in chat", chat=True
    ),
    "refusal": _taught(Chat("refusal"), "requests that conversations refuse"),
    "refusal_rephrased": _taught(Chat("refusal", who=known, rephrased=True), "refused requests in held-out phrasings"),
    "over_refusal": _retained(
        OverRefusal("look_alike"), "a true answer rather than a refusal, asked safely", chat=True
    ),
    "chat_look_alike": _taught(Chat("look_alike"), "safe requests that look like refused ones"),
    "style": _form(Styled("style"), "the style that a system turn asks for, whatever the value"),
    "style_rephrased": _form(Styled("style", who=known, rephrased=True), "the same in held-out phrasings"),
    "json_format": _form(Json("json"), "JSON where it is asked for, whatever the value"),
}
SLICES: dict[str, SliceInfo] = (
    _PEOPLE
    | _SKILLS
    | _CHAT_SKILLS
    | _TASKS
    | {
        "prose": _fluency(prose("story", "notice"), "held-out prose", primary=True),
        "prose_story": _fluency(prose("story"), "held-out stories"),
        "prose_notice": _fluency(prose("notice"), "held-out notices"),
    }
)


def items(spec: WorldSpec, people: tuple[Person, ...], slice_name: str, max_items: int = NUM_ITEMS) -> list[Item]:
    """Return the items of a slice in a fixed order: `max_items`, or all that can be told apart where those are fewer.

    Raises:
        SpecError: there is no slice of that name, or the world has too few people for it.
    """
    if slice_name not in SLICES:
        raise SpecError(unknown_name("evals.tasks.source.slice", slice_name, SLICES))
    draw = python_stream(spec.seed, f"pocket.items.{slice_name}")
    found: dict[str, Item] = {}
    try:
        for item in islice(SLICES[slice_name].make(spec, people, draw), DRAWS_PER_ITEM * max_items):
            text = {name: value for name, value in item.items() if name != "cluster"}
            found.setdefault(json.dumps(text, sort_keys=True), item)
            if len(found) == max_items:
                break
    except SpecError as error:
        raise SpecError(
            f"evals.tasks.source.slice is {slice_name!r}, but {problem}" for problem in error.problems
        ) from None
    return [{"id": f"{slice_name}-{number}"} | item for number, item in enumerate(found.values())]


def table(spec: WorldSpec, people: tuple[Person, ...]) -> list[dict[str, Any]]:
    """Return one row a slice: what it measures and shows, and how many items in how many clusters it has here."""
    rows: list[dict[str, Any]] = []
    for name, info in SLICES.items():
        found = items(spec, people, name)
        rows.append(
            {
                "slice": name,
                "kind": info.kind,
                "measure": info.measure,
                "chat": info.chat,
                "primary": info.primary,
                "items": len(found),
                "clusters": len({item["cluster"] for item in found}),
                "shows": info.shows,
            }
        )
    return rows
