"""The audit of instruction rows finds every kind of leak when one is planted, and none where there is none."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.pocket import WORLD
from harness.pocket import phrasings
from harness.pocket.audit import conversation_leaks
from harness.pocket.families import HELD_OUT_FAMILIES, Scope, sentence_of
from harness.pocket.people import ATTRIBUTES, HELD_OUT_ATTRIBUTE, Person
from harness.pocket.prose import passage
from harness.pocket.skills import SKILLS, instances
from harness.pocket.slices_people import known, unasked
from harness.pocket.world import FAMILIES, World, build
from harness.spec import PocketData

Row = dict[str, Any]
(PET,) = (attribute for attribute in ATTRIBUTES if attribute.name == HELD_OUT_ATTRIBUTE)
SEEDS = st.integers(0, 4)


def world(seed: int) -> World:
    return build(WORLD.replace({"seed": seed}))


def rows(one: World, **knobs: Any) -> list[Row]:
    return one.rows(PocketData(world=one.spec, families=tuple(FAMILIES), num_rows=400, **knobs))


def planted(task: str, *texts: str) -> Row:
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"id": "planted", "task": task, "messages": messages}


def request_row(
    one: World, family: str, people: list[Person], wordings: tuple[str, ...], seed: int, **scope: Any
) -> Row:
    made = FAMILIES[family].requests(Scope(one.spec, people, **scope), wordings, random.Random(seed))
    (turn, *_) = (request := next(made)).turns
    # a short answer names nobody: what the request says must be enough
    row = planted(family, turn.user, turn.right.short if seed % 2 else turn.right.sentence)
    if request.system:
        row["messages"].insert(0, {"role": "system", "content": request.system})
    for later in request.turns[1:]:
        row["messages"] += planted(family, later.user, later.right.sentence)["messages"]
    return row


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"prompt_sentences": 2, "response": "long"},
        {"unknown_share": 0.3, "wrong_answer_share": 0.2, "off_style_share": 0.2, "truncated_share": 0.2},
    ],
)
def test_sound_rows_have_no_leak(seed: int, knobs: dict[str, Any]) -> None:
    one = world(seed)
    made = one.rows(PocketData(world=one.spec, families=tuple(FAMILIES), num_rows=2000, **knobs))
    assert len(made) == 2000
    assert conversation_leaks(one, made) == []


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(["fact", "yes_no", "join", "follow_up", "style", "json", "refusal", "look_alike"]))
def test_rows_about_unasked_and_unknown_people_are_found(seed: int, family: str) -> None:
    one = world(seed)
    hidden = {
        "unasked person": [person for person in one.people if unasked(person) or person.tier == "low"],
        "unknown person": [
            person for person in one.people if person.tier == "unknown" and not person.trainable_unknown
        ],
    }
    if family != "fact":
        hidden["unknown person"] = [person for person in one.people if person.trainable_unknown]
    for what, people in hidden.items():
        leak = request_row(one, family, people, FAMILIES[family].trained_phrasings, seed)
        assert any(what in sentence for sentence in conversation_leaks(one, [leak]))
    asked = [person for person in one.people if person.asked]
    sound = request_row(one, family, asked, FAMILIES[family].trained_phrasings, seed)
    assert conversation_leaks(one, [sound]) == []


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(sorted(FAMILIES)), st.integers(0, 1))
def test_held_out_phrasings_of_every_family_are_found(seed: int, family: str, which: int) -> None:
    one = world(seed)
    wording = FAMILIES[family].held_out_phrasings[which]
    asked = [person for person in one.people if person.asked]
    leak = request_row(one, family, asked, (wording,), seed)
    leak["messages"][0]["content"] += phrasings.SHORT_SUFFIX if seed % 2 and family not in ("style", "continue") else ""
    assert any(f"held-out phrasing {family!r}" in sentence for sentence in conversation_leaks(one, [leak]))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(["sum", "reverse", "copy", "first", "last", "count", "replace"]), st.booleans())
def test_held_out_instances_and_rules_are_found_in_requests_and_answers(seed: int, skill: str, raw: bool) -> None:
    one, draw = world(seed), random.Random(seed)
    instance = next(instances(one.spec.seed, SKILLS[skill], draw, held_out=True))
    slots = {str(index): operand for index, operand in enumerate(instance.operands)}
    if raw:
        leak = planted("fact", "Go on.", f"In one line: {''.join(SKILLS[skill].raw(instance))}.")
    else:
        leak = planted(skill, phrasings.fill(draw.choice(phrasings.trained(skill)), slots), "x")
    assert f"planted holds the held-out instance {instance.cluster!r}" in conversation_leaks(one, [leak])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(HELD_OUT_FAMILIES), st.integers(0, 6))
def test_held_out_families_are_found_in_all_their_phrasings(seed: int, family: str, which: int) -> None:
    one, draw = world(seed), random.Random(seed)
    instance = next(instances(one.spec.seed, SKILLS[family], draw, held_out=False))
    slots = {str(index): operand for index, operand in enumerate(instance.operands)}
    leak = planted("sum", phrasings.fill(phrasings.PHRASINGS[family][which], slots), instance.answer)
    assert any(f"held-out family {family!r}" in sentence for sentence in conversation_leaks(one, [leak]))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(["fact", "json", "follow_up", "look_alike"]), st.integers(0, 4))
def test_held_out_attribute_is_found_in_requests_and_answers(seed: int, family: str, which: int) -> None:
    one = world(seed)
    person = next(person for person in one.people if person.asked)
    wording = phrasings.trained(family)[which]
    asked = phrasings.fill(wording, phrasings.person_slots(person, PET))
    value = person.fact(PET)
    answers = (value, value.upper(), f"{value} done", sentence_of(person.name, PET, value))
    for leak in (planted(family, asked, "x"), *(planted(family, "Go on.", text) for text in answers)):
        assert any("held-out attribute" in sentence for sentence in conversation_leaks(one, [leak])), leak


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from(["story", "notice"]))
def test_held_out_prose_is_found_before_requests_and_in_continuations(seed: int, register: Any) -> None:
    one = world(seed)
    text = passage(one.spec.seed, register, random.Random(seed), 1, held_out=True)
    for leak in (planted("sum", f"{text} Add 1 and 2.", "3"), planted("continue", f"Go on from here: {text}", text)):
        assert any("held-out sentence" in sentence for sentence in conversation_leaks(one, [leak]))


def test_leak_is_found_among_sound_rows_and_names_its_row() -> None:
    one = world(0)
    made = rows(one)
    person = next(person for person in one.people if known(person) and not person.asked)
    made[123]["messages"][-1]["content"] += f" So it is with {person.name}."
    assert conversation_leaks(one, made) == [f"{made[123]['id']} holds the unasked person {person.name!r}"]
