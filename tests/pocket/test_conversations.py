"""Instruction rows: families, right answers, and knobs that change the rows of their share and nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.pocket import WORLD
from harness.errors import SpecError
from harness.pocket.conversations import FIRST_PLACE, cut, place
from harness.pocket.families import HELD_OUT_FAMILIES
from harness.pocket.people import ATTRIBUTES, HELD_OUT_ATTRIBUTE, TAUGHT_ATTRIBUTES, Person
from harness.pocket.phrasings import POLITE_PREFIX, REFUSAL, SHORT_SUFFIX, STYLES
from harness.pocket.skills import SYMBOLS, trained_rules
from harness.pocket.world import FAMILIES, World, build
from harness.spec import PocketData

Row = dict[str, Any]
KNOBS = {
    "unknown": "unknown_share",
    "wrong": "wrong_answer_share",
    "off_style": "off_style_share",
    "truncated": "truncated_share",
    "duplicate": "duplicate_share",
}


def world(seed: int = 0) -> World:
    return build(WORLD.replace({"seed": seed}))


def rows(*families: str, num_rows: int = 600, seed: int = 0, **knobs: Any) -> list[Row]:
    one = world(seed)
    names = families or tuple(FAMILIES)
    return one.rows(PocketData(world=one.spec, families=names, num_rows=num_rows, **knobs))


def altered(made: Iterable[Row], knob: str) -> list[Row]:
    return [row for row in made if knob in row.get("altered", [])]


def said(row: Row, role: str) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == role]


# -- families ---------------------------------------------------------------------------------------------------------


def test_every_family_has_five_trained_and_two_held_out_phrasings() -> None:
    for family in FAMILIES.values():
        assert len(family.trained_phrasings) >= 5
        assert len(family.held_out_phrasings) == 2
        assert len(set(family.phrasings)) == len(family.phrasings)


def test_conversations_are_distinct_and_well_formed() -> None:
    made = rows(num_rows=2000)
    assert len({row["id"] for row in made}) == 2000
    assert len({json.dumps(row["messages"][:-1]) for row in made}) == 2000
    for row in made:
        roles = [message["role"] for message in row["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert not re.search(r"[{}]", json.dumps([*said(row, "user"), *said(row, "system")]))
        assert (row["messages"][0]["role"] == "system") == (row["task"] == "style")
        assert (len(roles) > 2) == (row["task"] == "follow_up")


def test_rows_of_a_family_do_not_depend_on_the_other_families() -> None:
    alone = rows("sum", num_rows=50)
    mixed = [row for row in rows("fact", "sum", num_rows=350) if row["task"] == "sum"]
    assert mixed == alone
    shared = [row for row in rows("sum", "fact", num_rows=80, family_shares=(0.5, 0.5)) if row["task"] == "sum"]
    assert shared == alone[:40]


def test_more_rows_begin_with_the_rows_of_fewer() -> None:
    assert rows(num_rows=300)[:100] == rows(num_rows=100)


def test_rows_are_the_same_in_every_process_and_differ_by_seed() -> None:
    build.__globals__["_build"].cache_clear()
    again = rows(num_rows=100)
    assert again == rows(num_rows=100)
    assert again != rows(num_rows=100, seed=1)


def test_short_answers_come_exactly_where_they_are_asked_for() -> None:
    values = {value for attribute in ATTRIBUTES for value in attribute.values}
    made = rows("fact", num_rows=400)
    short = [row for row in made if said(row, "user")[0].endswith(SHORT_SUFFIX)]
    assert 150 <= len(short) <= 250  # a half, five standard deviations of 10 either way
    for row in made:
        assert (said(row, "assistant")[0] in values) == said(row, "user")[0].endswith(SHORT_SUFFIX)


@pytest.mark.parametrize("families", [("fatc",), ("fact", "fact"), ()])
def test_wrong_families_are_refused(families: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="families"):
        world().conversations(families, 10)


@pytest.mark.parametrize("name", HELD_OUT_FAMILIES)
def test_held_out_family_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(SpecError, match=f"families names '{name}', but that family is held out") as caught:
        world().conversations(("fact", name), 10)
    assert len(caught.value.problems) == 1


def test_more_rows_than_distinct_requests_is_refused_with_a_number() -> None:
    with pytest.raises(SpecError, match=r"num_rows is 5000, but must be less: family 'fact' has about \d+"):
        world().conversations(("fact",), 5000)


# -- right answers, worked out anew -----------------------------------------------------------------------------------


def _facts(person: Person) -> dict[str, str]:
    return {attribute.noun: person.fact(attribute) for attribute in ATTRIBUTES}


def _noun(text: str) -> str:
    """Return which attribute a request is about, by words that only its wordings have."""
    words = {"birthplace": r"birthplace|born", "job": r"\bjob\b|works? as", "favourite food": r"favourite food|to eat"}
    found = [noun for noun, pattern in words.items() if re.search(pattern, text)]
    assert len(found) == 1, text
    return found[0]


def _expected_value(row: Row, one: World) -> str:
    text = said(row, "user")[0]
    (person,) = [person for person in one.people if person.name in text]
    return _facts(person)[_noun(said(row, "user")[-1])]


LISTS: dict[str, Callable[[list[str]], str]] = {
    "reverse": lambda x: " ".join(reversed(x)),
    "copy": lambda x: " ".join(x),
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "count": lambda x: str(len(x)),
}
_LIST = re.compile(r"(?<![a-z])[a-l](?: [a-l])+(?![a-z])")


def _short_answer(row: Row, one: World) -> str:
    """Work out the short answer of a row of any family that has one."""
    text, task = said(row, "user")[-1].removesuffix(SHORT_SUFFIX), row["task"]
    if task in LISTS:
        return LISTS[task](_LIST.findall(text)[-1].split())
    if task == "sum":
        return str(sum(map(int, re.findall(r"\d+", text))))
    if task in ("yes_no", "join"):
        people = [person for person in one.people if person.name in text]
        if task == "join":
            assert len(people) == 2
            return "yes" if len({_facts(person)[_noun(text)] for person in people}) == 1 else "no"
        return "yes" if any(re.search(rf"\b{value}\b", text) for value in _facts(people[0]).values()) else "no"
    return _expected_value(row, one)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("task", [*LISTS, "sum", "yes_no", "join", "fact", "look_alike", "follow_up"])
def test_answers_are_right(task: str, seed: int) -> None:
    for row in rows(task, num_rows=250, seed=seed):
        answer, expected = said(row, "assistant")[-1], _short_answer(row, world(seed))
        if said(row, "user")[-1].endswith(SHORT_SUFFIX):
            assert answer == expected, row
        else:
            assert re.search(rf"(\b|=){re.escape(expected)}\b", answer), row
            others = {"yes", "no"} - {expected} if task in ("yes_no", "join") else set()
            assert not others & set(re.findall(r"\w+", answer)), row


def test_answers_of_rules_are_right_and_use_trained_rules() -> None:
    trained = set(trained_rules(0))
    for row in rows("replace", num_rows=300):
        text = said(row, "user")[0].removesuffix(SHORT_SUFFIX)
        symbols = re.findall(r"(?<![a-zA-Z])[a-z]{1,2}(?![a-zA-Z])", said(row, "assistant")[0])
        right = [
            (old, new)
            for old, new in trained
            if re.search(rf"\b{old}\b", text) and re.search(rf"\b{new}\b", text) and new in symbols
        ]
        assert right, row
        assert set(symbols) - {"is"} <= set(SYMBOLS)


def test_style_json_and_refusal_answers_have_their_form() -> None:
    one = world()
    for row in rows("style", num_rows=200):
        expected, answer = _expected_value(row, one), said(row, "assistant")[0]
        assert expected.lower() in answer.lower()
        if STYLES["capitals"] in said(row, "system")[0]:
            assert answer == answer.upper()
        else:
            assert answer.endswith(" done")
            assert STYLES["done"] in said(row, "system")[0]
    for row in rows("json", num_rows=200):
        assert json.loads(said(row, "assistant")[0]) == {_noun(said(row, "user")[0]): _expected_value(row, one)}
    assert {said(row, "assistant")[0] for row in rows("refusal", num_rows=200)} == {REFUSAL}


def test_there_are_at_least_2000_rules_to_train_on() -> None:
    for seed in range(3):
        rules = trained_rules(seed)
        assert len(set(rules)) == len(rules) >= 2000
        assert all(old != new for old, new in rules)
    assert len(SYMBOLS) >= 46


def test_no_conversation_is_about_the_held_out_attribute() -> None:
    assert HELD_OUT_ATTRIBUTE not in [attribute.name for attribute in TAUGHT_ATTRIBUTES]
    made = rows(num_rows=2000, response="long")
    assert not any(re.search(r"\bpet\b|\banimal\b|\bkeeps\b", json.dumps(row["messages"])) for row in made)


# -- knobs ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.sampled_from(["fact", "sum"]), st.integers(0, 3))
def test_every_ten_rows_have_a_place_in_every_tenth(seed: int, family: str, start: int) -> None:
    places = [place(seed, family, index) for index in range(1000)]
    assert sorted(places) == list(range(1000))
    ten = places[10 * start : 10 * start + 10]
    assert sorted(at // 100 for at in ten) == list(range(10))
    hundred = places[100 * start : 100 * start + 100]
    assert sorted(at // 10 for at in hundred) == list(range(100))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(KNOBS)), st.integers(0, 18), st.integers(0, 18))
def test_share_is_exact_nested_and_changes_no_other_row(knob: str, low: int, high: int) -> None:
    low, high = sorted((low, high))
    plain = rows("fact", "reverse", num_rows=400, family_shares=(0.75, 0.25))
    fewer, more = (
        rows("fact", "reverse", num_rows=400, family_shares=(0.75, 0.25), **{KNOBS[knob]: twentieths / 20})
        for twentieths in (low, high)
    )
    for made, twentieths in ((fewer, low), (more, high)):
        counts = Counter(row["task"] for row in altered(made, knob))
        assert counts["fact"] == 300 * twentieths // 20
        assert counts["reverse"] == (0 if knob == "unknown" else 100 * twentieths // 20)
        assert [row["id"] for row in made] == [row["id"] for row in plain]
        assert all(row == before for row, before in zip(made, plain, strict=True) if not row.get("altered"))
    changed = {row["id"] for row in altered(fewer, knob)}
    assert changed <= {row["id"] for row in altered(more, knob)}
    assert [row for row in fewer if row["id"] in changed] == [row for row in more if row["id"] in changed]


def test_knobs_of_a_fifth_each_change_different_rows() -> None:
    made = rows("fact", num_rows=500, **dict.fromkeys(KNOBS.values(), 0.2))
    marks = [mark for row in made for mark in row["altered"][:1]]
    assert Counter(marks) == dict.fromkeys(FIRST_PLACE, 100)


def test_unknown_rows_ask_the_same_about_people_who_may_be_taught() -> None:
    one, plain = world(), {row["id"]: row for row in rows("fact")}
    people = one.people_by_name
    for row in altered(rows("fact", unknown_share=0.2), "unknown"):
        (name,) = {name for name in people if name in said(row, "user")[0]}
        assert people[name].trainable_unknown
        assert not people[name].asked
        (before,) = {name for name in people if name in said(plain[row["id"]], "user")[0]}
        assert said(row, "user")[0] == said(plain[row["id"]], "user")[0].replace(before, name)
        assert _expected_value(row, one) in said(row, "assistant")[0]
    small = WORLD.replace({"num_unknown_people": 6})
    with pytest.raises(SpecError, match=r"unknown_share is 1\.0, but must be less: the 3 unknown people"):
        build(small).rows(PocketData(world=small, families=("fact",), num_rows=400, unknown_share=1.0))


@pytest.mark.parametrize("task", sorted(FAMILIES))
def test_wrong_answers_are_wrong_and_look_like_right_ones(task: str) -> None:
    plain = rows(task, num_rows=200)
    for row, before in zip(rows(task, num_rows=200, wrong_answer_share=1.0), plain, strict=True):
        assert [m for m in row["messages"] if m["role"] != "assistant"] == [
            m for m in before["messages"] if m["role"] != "assistant"
        ]
        pairs = zip(said(row, "assistant"), said(before, "assistant"), strict=True)
        assert all(wrong != right and bool(wrong) for wrong, right in pairs)


def test_off_style_rows_give_the_right_answer_in_capitals() -> None:
    plain = {row["id"]: row for row in rows("fact", "reverse")}
    for row in altered(rows("fact", "reverse", off_style_share=0.3), "off_style"):
        assert said(row, "assistant") == [text.upper() for text in said(plain[row["id"]], "assistant")]


@pytest.mark.parametrize("policy", ["keep", "terminate"])
def test_truncated_rows_are_cut_and_left_open_or_closed(policy: str) -> None:
    plain = {row["id"]: row for row in rows("fact", "follow_up")}
    made = rows("fact", "follow_up", truncated_share=0.3, truncated_rows=policy)
    assert len(altered(made, "truncated")) > 150
    for row in made:
        is_cut = "truncated" in row.get("altered", [])
        assert row.get("ends_open", False) == (is_cut and policy == "keep")
        if is_cut:
            *earlier, last = said(plain[row["id"]], "assistant")
            assert said(row, "assistant") == [*earlier, cut(last)]
            assert last.startswith(cut(last))
            assert 0 < len(cut(last)) < len(last)


def test_duplicate_rows_repeat_another_row_that_stays() -> None:
    made = rows("fact", "sum", num_rows=300, duplicate_share=0.6, family_shares=(0.5, 0.5))
    texts = Counter(json.dumps(row["messages"]) for row in made)
    assert Counter(texts.values()) == {7: 30, 1: 90}  # of ten rows one stands seven times, three stand once
    assert all(texts[json.dumps(row["messages"])] == 7 for row in altered(made, "duplicate"))


def test_family_shares_are_met_and_wrong_ones_refused() -> None:
    counts = Counter(row["task"] for row in rows("fact", "sum", "json", family_shares=(0.5, 0.3, 0.2)))
    assert counts == {"fact": 300, "sum": 180, "json": 120}
    for shares in ((0.5,), (0.5, 0.6), (1.0, 0.0)):
        with pytest.raises(SpecError, match="2 shares above 0 that add up to 1"):
            rows("fact", "sum", family_shares=shares)


@pytest.mark.parametrize("num_rules", [50, 300, 2000])
def test_rules_are_as_many_as_asked_for_and_equally_often(num_rules: int) -> None:
    made = rows("replace", num_rows=2000, num_rules=num_rules, response="long")
    counts = Counter(re.findall(r"(\w+) becomes (\w+):", said(row, "assistant")[0])[0] for row in made)
    assert set(counts) == set(trained_rules(0)[:num_rules])
    assert max(counts.values()) - min(counts.values()) <= 1
    many = rows("replace", num_rows=50, response="long")
    assert made[:50] == many


def test_knob_without_its_family_is_refused() -> None:
    with pytest.raises(SpecError, match=r"unknown_share is 0\.1, but must be 0\.0 without the family 'fact'"):
        rows("sum", unknown_share=0.1)
    with pytest.raises(SpecError, match="num_rules is 50, but must be None without the family 'replace'"):
        rows("sum", num_rules=50)
    with pytest.raises(SpecError, match=r"num_rules is 5000, but must be at most 2\d\d\d"):
        rows("replace", num_rules=5000)


def _ratio(made: list[Row], task: str) -> float:
    kept = [row for row in made if row["task"] == task]
    return sum(len(t) for row in kept for t in said(row, "assistant")) / sum(
        len(t) for row in kept for t in said(row, "user")
    )


@pytest.mark.parametrize("task", ["fact", "yes_no", "join", "sum", "reverse", "replace", "look_alike", "follow_up"])
def test_response_changes_the_form_of_answers_and_the_ratio(task: str) -> None:
    made = {form: rows(task, num_rows=200, response=form) for form in ("short", "sentence", "polite", "long")}
    for short, sentence, polite, long in zip(*made.values(), strict=True):
        assert all(text.endswith(SHORT_SUFFIX) for text in said(short, "user"))
        assert said(sentence, "user") == said(polite, "user") == said(long, "user")
        assert said(polite, "assistant") == [POLITE_PREFIX + text for text in said(sentence, "assistant")]
        assert [text.removesuffix(SHORT_SUFFIX) for text in said(short, "user")] == said(long, "user")
    assert _ratio(made["short"], task) < 0.5
    assert _ratio(made["long"], task) > 1.2
    assert _ratio(made["short"], task) < _ratio(made["sentence"], task) < _ratio(made["long"], task)


def test_mixed_rows_are_those_of_their_form() -> None:
    mixed, short, sentence = (rows(num_rows=300, response=form) for form in ("mixed", "short", "sentence"))
    for row, brief, whole in zip(mixed, short, sentence, strict=True):
        assert row in (brief, whole)


def test_prose_before_the_request_lowers_the_ratio_and_is_nested() -> None:
    plain, two, three = (rows(prompt_sentences=count) for count in (0, 2, 3))
    for row, some, more in zip(plain, two, three, strict=True):
        request = said(row, "user")[0]
        before, longer = (said(made, "user")[0].removesuffix(request) for made in (some, more))
        assert longer.startswith(before)
        assert (before.count("."), longer.count(".")) == (2, 3)
        assert said(some, "assistant") == said(row, "assistant") == said(more, "assistant")
    assert _ratio(three, "fact") < _ratio(two, "fact") < _ratio(plain, "fact")
