"""The generator: counts, disjointness, determinism, and refusals."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from itertools import islice

import pytest

from experiments.pocket import WORLD
from harness.errors import SpecError
from harness.pocket import corpus as pocket_corpus
from harness.pocket.audit import corpus_leaks
from harness.pocket.corpus import Document, num_words
from harness.pocket.people import ATTRIBUTES
from harness.pocket.skills import SKILLS, SYMBOLS, Instance, instances, is_held_out, trained_rules
from harness.pocket.world import FAMILIES, SLICES, World, build
from harness.spec import PocketData
from harness.versions import POCKET_BEHAVIOURS
from tests.pocket.tiny import TINY_WORLD

SEEDS = (0, 1, 2)


def world(seed: int = 0) -> World:
    return build(TINY_WORLD.replace({"seed": seed}))


ALTERED = PocketData(
    world=TINY_WORLD,
    families=("fact", "sum"),
    num_rows=20,
    unknown_share=0.1,
    wrong_answer_share=0.1,
    off_style_share=0.1,
    truncated_share=0.1,
    duplicate_share=0.2,
    prompt_sentences=1,
)


def test_world_has_the_bytes_of_its_version() -> None:
    """Trial ids trust the version of the world: whoever moves a byte raises it, tells CHANGELOG.md, and pins anew."""
    tiny = world()
    parts: dict[str, object] = {
        "corpus": [document.text for document in tiny.corpus()],
        "conversations": tiny.conversations(tuple(FAMILIES), 300),
        "altered": tiny.rows(ALTERED),
        "items": {name: tiny.items(name) for name in SLICES},
    }
    digests = {name: hashlib.sha256(json.dumps(part).encode()).hexdigest()[:12] for name, part in parts.items()}
    pinned = {
        "corpus": "e20f42639c73",
        "conversations": "7a06238aadfb",
        "altered": "31e689c58d58",
        "items": "f0002afe7089",
    }
    assert (POCKET_BEHAVIOURS["pocket_world"], digests) == (5, pinned)


# -- people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_people_of_a_world_have_distinct_names_and_planned_tiers(seed: int) -> None:
    people = build(WORLD.replace({"seed": seed})).people
    assert len({person.name for person in people}) == len(people) == 700
    assert Counter(person.tier for person in people) == {"high": 140, "mid": 140, "low": 140, "unknown": 280}
    assert Counter(person.tier for person in people if person.asked) == {"high": 70, "mid": 70}
    assert Counter(person.tier for person in people if person.trainable_unknown) == {"unknown": 140}


def test_unknown_people_share_every_name_part_with_known_ones() -> None:
    people = build(WORLD).people
    known = {part for person in people if person.tier != "unknown" for part in person.name.split()}
    assert all(part in known for person in people if person.tier == "unknown" for part in person.name.split())


def test_values_of_an_attribute_start_with_different_letters() -> None:
    for attribute in ATTRIBUTES:
        assert len({value[0].lower() for value in attribute.values}) == len(attribute.values)


def test_facts_are_spread_evenly_over_the_closed_sets() -> None:
    people = build(WORLD).people
    for attribute in ATTRIBUTES:
        counts = Counter(person.fact(attribute) for person in people)
        # 700 draws over 12 values: mean 58, standard deviation 7.3; five of them either way
        assert set(counts) == set(attribute.values)
        assert all(22 <= count <= 94 for count in counts.values())


# -- corpus -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_corpus_describes_each_person_as_often_as_planned(seed: int) -> None:
    counted: Counter[str] = Counter()
    for document in world(seed).corpus():
        if document.about:
            person = world(seed).people_by_name[document.about]
            # looked up in the text, not taken from what the generator says of itself
            told = [value for value in person.facts if re.search(rf"\b{value}\b", document.text)]
            assert len(told) == document.num_facts
            counted[document.about] += document.num_facts
    planned = {"high": 12, "mid": 6, "low": 2}
    assert counted == {p.name: planned[p.tier] * 4 for p in world(seed).people if p.tier != "unknown"}


def test_biography_states_every_fact_of_its_person() -> None:
    people = world().people_by_name
    for document in world().corpus():
        if document.about and document.num_facts == 4:
            assert all(value in document.text for value in people[document.about].facts), document.text


def test_plain_question_share_is_met_and_can_be_zero() -> None:
    for share in (0.0, 0.11, 0.3):
        documents = build(WORLD.replace({"plain_question_share": share, "exposures_high": 20})).corpus()
        words = Counter()
        for document in documents:
            words[document.kind] += num_words(document.text)
        # a kind stops at the first document over its quota, so the error is one document of 60 words in 500 000
        assert words["plain_questions"] / words.total() == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("augmented", [True, False])
def test_corpus_holds_nothing_that_is_held_out(seed: int, augmented: bool) -> None:
    sound = build(TINY_WORLD.replace({"seed": seed, "augmented": augmented}))
    assert corpus_leaks(sound, sound.corpus()) == []


def test_audit_finds_each_kind_of_leak_when_planted() -> None:
    tiny = world()
    unknown = next(p for p in tiny.people if p.tier == "unknown")
    unasked = next(p for p in tiny.people if p.tier == "high" and not p.asked)
    instance = next(
        Instance("sum", (str(a), str(b)), str(a + b))
        for a in range(20)
        for b in range(20)
        if is_held_out(0, Instance("sum", (str(a), str(b)), ""))
    )
    planted = {
        "unknown person": f"{unknown.name} was born in Kelso.",
        "unasked": f"Q: Where was {unasked.name} born?\nA: Kelso",
        "held-out statement": f"The town where {unasked.name} was born is Kelso.",
        "held-out instance": "".join(SKILLS["sum"].raw(instance)),
        "held-out sentence": tiny.items("prose")[0]["text"],
    }
    for what, text in planted.items():
        kind = "story" if what == "held-out sentence" else "biographies"
        found = corpus_leaks(tiny, [Document(kind, text)])
        assert found, what
        assert all(what in leak for leak in found), found


def test_left_out_skill_occurs_nowhere_in_pretraining() -> None:
    documents = build(TINY_WORLD.replace({"left_out_skills": ["reverse", "replace"]})).corpus()
    text = "\n".join(document.text for document in documents)
    assert "reverse:" not in text
    assert "becomes" not in text
    assert "copy:" in text


def test_unaugmented_world_tells_every_fact_in_one_way() -> None:
    plain = build(TINY_WORLD.replace({"augmented": False}))
    texts: dict[str, set[str]] = {}
    for document in plain.corpus():
        if document.about:
            texts.setdefault(document.about, set()).add(document.text)
    assert all(len(told) == 1 for told in texts.values())
    assert all(told.count(name) == 1 for name, (told,) in texts.items())


# -- skills ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SKILLS))
def test_skill_answers_are_right(name: str) -> None:
    recomputed = {
        "sum": lambda a, b: str(int(a) + int(b)),
        "difference": lambda a, b: str(int(a) - int(b)),
        "reverse": lambda x: x[::-1],
        "copy": lambda x: x,
        "first": lambda x: x.split()[0],
        "last": lambda x: x.split()[-1],
        "count": lambda x: str(len(x.split())),
        "sort": lambda x: " ".join(sorted(x.split())),
        "replace": lambda x, old, new: " ".join(new if symbol == old else symbol for symbol in x.split()),
    }[name]
    slices = {"sum": "sum_chat", "reverse": "reverse_chat"}
    if name in slices:
        for item in world().items(slices[name])[:50]:
            operands = item["cluster"].partition(":")[2].split("|")
            assert recomputed(*operands) in item["aliases"]
    for document in build(WORLD.replace({"exposures_high": 3})).corpus()[:3000]:
        for line in document.text.split("\n") if document.kind in ("arithmetic", "lists", "replace") else ():
            if operands := _operands(name, line):
                prompt, answer = SKILLS[name].prompt.format(*operands), recomputed(*operands)
                assert line == prompt + SKILLS[name].answer_prefix + answer


@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_parts_of_counted_skills_are_exact(seed: int) -> None:
    sums = [Instance("sum", (str(a), str(b)), "") for a in range(26) for b in range(a + 1)]
    differences = [Instance("difference", (str(a), str(b)), "") for a in range(21) for b in range(a + 1)]
    rules = [Instance("replace", ("", old, new), "") for old in SYMBOLS for new in SYMBOLS if old != new]
    for whole, expected in ((sums, 140), (differences, 46), (rules, 636)):
        assert sum(is_held_out(seed, instance) for instance in whole) == expected
    free = {(instance.operands[1], instance.operands[2]) for instance in rules if not is_held_out(seed, instance)}
    assert set(trained_rules(seed)) == free
    assert len(free) >= 2000


def test_no_instance_is_on_both_sides_of_the_split() -> None:
    for name, skill in SKILLS.items():
        sides = [
            {instance.cluster for instance in islice(instances(0, skill, random.Random(0), held_out=side), 400)}
            for side in (False, True)
        ]
        assert not sides[0] & sides[1], name


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sum_is_held_out_together_with_its_two_numbers_swapped(seed: int) -> None:
    built = build(WORLD.replace({"seed": seed}))
    texts = [document.text for document in built.corpus() if document.kind == "arithmetic"]
    trained = {frozenset(found) for text in texts for found in re.findall(r"(\d+)\+(\d+)=", text)}
    for name in ("raw_sum_held_out", "sum_chat_held_out"):
        asked = {frozenset(item["cluster"].partition(":")[2].split("|")) for item in built.items(name)}
        assert len(asked) > 100
        assert not asked & trained


def _operands(name: str, line: str) -> tuple[str, ...] | None:
    pattern = re.escape(SKILLS[name].prompt)
    order = [int(digit) for digit in re.findall(r"\\\{(\d)\\\}", pattern)]
    found = re.match(re.sub(r"\\\{\d\\\}", r"([a-z ]+|\\d+)", pattern), line)
    return tuple(found.group(order.index(slot) + 1) for slot in sorted(order)) if found else None


# -- bytes and refusals -----------------------------------------------------------------------------------------------


def _digest(tiny: World) -> str:
    parts = [
        [[d.kind, d.text, d.about] for d in tiny.corpus()],
        tiny.conversations(tuple(FAMILIES), 60),
        {name: tiny.items(name) for name in SLICES},
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def test_generator_bytes_are_pinned_per_seed() -> None:
    # these move only together with POCKET_BEHAVIOURS["pocket_world"] in harness/versions.py
    assert [_digest(world(seed)) for seed in SEEDS] == PINNED


PINNED = ["4dca6a0ed54712fb", "57be3f15d147251a", "9b898792d168d2a6"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"people_per_tier": 700}, "at most 2048 people"),
        ({"left_out_skills": ["revers"]}, "Did you mean 'reverse'?"),
        ({"plain_question_share": 0.5}, "but must be at most 0.42"),
        ({"plain_question_share": 0.4, "exposures_high": 1}, None),
    ],
)
def test_impossible_world_is_refused_in_one_sentence(changes: dict[str, object], sentence: str | None) -> None:
    spec = TINY_WORLD.replace(changes)
    if sentence is None:
        assert build(spec).corpus()
        return
    with pytest.raises(SpecError, match=re.escape(sentence)):
        build(spec)


def test_shares_leave_the_largest_part_of_the_corpus_to_what_is_told_of_people() -> None:
    rest = 1 - sum(pocket_corpus.SHARES.values()) - WORLD.plain_question_share
    assert rest > 2 * max(*pocket_corpus.SHARES.values(), WORLD.plain_question_share)


def test_scattered_and_whole_exposures_are_about_equally_many() -> None:
    documents = [document for document in build(WORLD).corpus() if document.about]
    told = Counter("scattered" if document.num_facts == 1 else document.kind for document in documents)
    assert told["scattered"] / 4 == told["biographies"] + told["records"]
    assert told["records"] / (told["biographies"] + told["records"]) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("changes", [{}, {"augmented": False}, {"plain_question_share": 0.0}])
def test_kinds_of_documents_are_those_that_the_corpus_has(changes: dict[str, object]) -> None:
    made = build(TINY_WORLD.replace(changes))
    assert set(made.kinds) == {document.kind for document in made.corpus()}
