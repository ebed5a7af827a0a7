"""The generator: counts, disjointness, determinism, and refusals."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

from experiments.pocket import EXPERIMENT, WORLD
from harness.errors import SpecError
from harness.pocket import corpus as pocket_corpus
from harness.pocket.audit import conversation_leaks, corpus_leaks
from harness.pocket.conversations import SHORT_SUFFIX, fill
from harness.pocket.corpus import Document, num_words
from harness.pocket.people import ATTRIBUTES
from harness.pocket.skills import SKILLS, Instance, is_held_out
from harness.pocket.world import FAMILIES, SLICES, World, build
from harness.versions import POCKET_BEHAVIOURS
from tests.pocket.tiny import TINY_WORLD

SEEDS = (0, 1, 2)


def world(seed: int = 0) -> World:
    return build(TINY_WORLD.replace({"seed": seed}))


def test_world_has_the_bytes_of_its_version() -> None:
    """Trial ids trust the version of the world: whoever moves a byte raises it, tells CHANGELOG.md, and pins anew."""
    tiny = world()
    parts: dict[str, object] = {
        "corpus": [document.text for document in tiny.corpus()],
        "conversations": tiny.conversations(tuple(FAMILIES), 300),
        "items": {name: tiny.items(name) for name in SLICES},
    }
    digests = {name: hashlib.sha256(json.dumps(part).encode()).hexdigest()[:12] for name, part in parts.items()}
    pinned = {"corpus": "5094a5450163", "conversations": "d2703e9856e3", "items": "f0eb796329b7"}
    assert (POCKET_BEHAVIOURS["pocket_world"], digests) == (2, pinned)


# -- people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_people_of_a_world_have_distinct_names_and_planned_tiers(seed: int) -> None:
    people = build(WORLD.replace({"seed": seed})).people
    assert len({person.name for person in people}) == len(people) == 480
    assert Counter(person.tier for person in people) == {"high": 120, "mid": 120, "low": 120, "unknown": 120}
    assert Counter(person.tier for person in people if person.asked) == {"high": 60, "mid": 60}


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
        # 480 draws over 12 values: mean 40, standard deviation 6; five of them either way
        assert set(counts) == set(attribute.values)
        assert all(10 <= count <= 70 for count in counts.values())


# -- corpus -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_corpus_describes_each_person_as_often_as_planned(seed: int) -> None:
    counted = Counter(document.about for document in world(seed).corpus() if document.about)
    planned = {"high": 12, "mid": 6, "low": 2}
    assert counted == {p.name: planned[p.tier] for p in world(seed).people if p.tier != "unknown"}


def test_biography_states_every_fact_of_its_person() -> None:
    people = world().people_by_name
    for document in world().corpus():
        if document.about:
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


# -- conversations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_conversations_hold_nothing_that_is_held_out(seed: int) -> None:
    full_size = build(WORLD.replace({"seed": seed}))
    rows = full_size.conversations(tuple(FAMILIES), 2000)
    assert len(rows) == 2000
    assert conversation_leaks(full_size, rows) == []


def test_conversation_audit_finds_a_held_out_phrasing_person_and_instance() -> None:
    tiny = world()
    unasked = next(p for p in tiny.people if p.tier == "high" and not p.asked)
    held = next(i for i in (Instance("reverse", (f"a b {c}",), "") for c in "cdefghijkl") if is_held_out(0, i))
    requests = {
        "fact": f"Where was {unasked.name} born?",
        "copy": FAMILIES["copy"].held_out_phrasings[0].replace("{0}", "a b c"),
        "reverse": fill("Write {0} backwards.", {"0": held.operands[0]}),
    }
    for task, request in requests.items():
        messages = [{"role": "user", "content": request}, {"role": "assistant", "content": "x"}]
        assert conversation_leaks(tiny, [{"id": "planted", "task": task, "messages": messages}]), request


def test_every_family_has_five_trained_and_two_held_out_phrasings() -> None:
    for family in FAMILIES.values():
        assert len(family.trained_phrasings) >= 5
        assert len(family.held_out_phrasings) == 2
        assert len(set(family.phrasings)) == len(family.phrasings)


def test_conversations_are_distinct_and_well_formed() -> None:
    rows = build(WORLD).conversations(("fact", "sum", "reverse"), 1000)
    assert len({row["id"] for row in rows}) == 1000
    assert len({row["messages"][0]["content"] for row in rows}) == 1000
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert not re.search(r"[{}]", json.dumps(row["messages"][0]["content"]))


def test_rows_of_a_family_do_not_depend_on_the_other_families() -> None:
    alone = build(WORLD).conversations(("sum",), 50)
    mixed = [row for row in build(WORLD).conversations(("fact", "sum"), 350) if row["task"] == "sum"]
    assert mixed == alone[: len(mixed)]
    assert len(mixed) >= 40


def test_more_rows_begin_with_the_rows_of_fewer() -> None:
    families = ("fact", "reverse")
    assert build(WORLD).conversations(families, 300)[:100] == build(WORLD).conversations(families, 100)


def test_short_answers_come_exactly_where_they_are_asked_for() -> None:
    people = build(WORLD).people_by_name
    values = {value for attribute in ATTRIBUTES for value in attribute.values}
    rows = build(WORLD).conversations(("fact",), 400)
    short = [row for row in rows if row["messages"][0]["content"].endswith(SHORT_SUFFIX)]
    assert 150 <= len(short) <= 250  # a half, five standard deviations of 10 either way
    for row in rows:
        request, answer = (message["content"] for message in row["messages"])
        assert (answer in values) == request.endswith(SHORT_SUFFIX)
        person = next(person for name, person in people.items() if name in request)
        assert any(value in answer for value in person.facts)


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
        "replace": lambda x, old, new: x.replace(old, new),
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


def _operands(name: str, line: str) -> tuple[str, ...] | None:
    pattern = re.escape(SKILLS[name].prompt)
    order = [int(digit) for digit in re.findall(r"\\\{(\d)\\\}", pattern)]
    found = re.match(re.sub(r"\\\{\d\\\}", r"([a-l ]+|\\d+)", pattern), line)
    return tuple(found.group(order.index(slot) + 1) for slot in sorted(order)) if found else None


# -- items ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SLICES))
def test_slice_of_the_default_world_has_400_items_in_100_clusters(name: str) -> None:
    items = build(WORLD).items(name)
    assert len(items) >= 400
    # a fifth of the 441 sums of two numbers up to 20 is held out, and there are no more
    assert len({item["cluster"] for item in items}) >= (75 if name == "sum_chat_held_out" else 100)
    assert len({item["id"] for item in items}) == len(items)
    fields = {
        "multiple_choice": {"id", "cluster", "query", "choices", "gold"},
        "greedy": {"id", "cluster", "context", "continuation"},
        "generate": {"id", "cluster", "context", "answer", "aliases"},
        "perplexity": {"id", "cluster", "text"},
    }[SLICES[name].kind]
    assert all(set(item) == fields for item in items)


def test_questions_about_unasked_people_name_only_people_no_training_text_asks_about() -> None:
    full_size = build(WORLD)
    rows = full_size.conversations(("fact", "yes_no"), 1500)
    asked_text = "\n".join(message["content"] for row in rows for message in row["messages"])
    for name in ("question_unasked", "question_rephrased", "choice_unasked"):
        for item in full_size.items(name):
            text = item.get("context", item.get("query"))
            person = next(person for person in full_size.people if person.name in text)
            assert not person.asked
            assert person.tier in ("high", "mid")
            assert person.name not in asked_text


def test_gold_choice_is_the_fact_of_the_person() -> None:
    full_size = build(WORLD)
    for name in ("cloze_known", "cloze_paraphrase", "choice_unasked"):
        for item in full_size.items(name):
            person = next(person for person in full_size.people if person.name in item["query"])
            assert any(fact in item["choices"][item["gold"]] for fact in person.facts)
            assert len(item["choices"]) == 12


def test_held_out_arithmetic_is_in_no_training_line() -> None:
    full_size = build(WORLD.replace({"exposures_high": 20}))
    lines = {line for d in full_size.corpus() if d.kind == "arithmetic" for line in d.text.split("\n")}
    for item in full_size.items("arithmetic_held_out"):
        *shown, asked = (item["context"] + item["continuation"]).split("\n")
        assert asked not in lines
        assert shown


def test_pocket_experiment_describes_every_slice_as_the_world_does() -> None:
    tasks = {task.name: task for task in EXPERIMENT.spec.evals.tasks}
    assert set(tasks) == set(SLICES)
    for name, info in SLICES.items():
        described = (tasks[name].kind, tasks[name].measure, tasks[name].chat, tasks[name].primary)
        assert described == (info.kind, info.measure, info.chat, info.primary), name


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


PINNED = ["cf6247e9bf7f6ddc", "2541cea8e999a5b8", "4455d3ef7b65e0d5"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"people_per_tier": 700}, "at most 2048 people"),
        ({"left_out_skills": ["revers"]}, "Did you mean 'reverse'?"),
        ({"plain_question_share": 0.5, "exposures_high": 1}, None),
    ],
)
def test_impossible_world_is_refused_in_one_sentence(changes: dict[str, object], sentence: str | None) -> None:
    spec = TINY_WORLD.replace(changes)
    if sentence is None:
        assert build(spec).corpus()
        return
    with pytest.raises(SpecError, match=re.escape(sentence)):
        build(spec)


@pytest.mark.parametrize("families", [("fatc",), ("fact", "fact"), ()])
def test_wrong_families_are_refused(families: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="families"):
        world().conversations(families, 10)


def test_more_rows_than_distinct_requests_is_refused_with_a_number() -> None:
    with pytest.raises(SpecError, match=r"num_rows is 5000, but must be less: family 'fact' has about \d+"):
        world().conversations(("fact",), 5000)


def test_unknown_slice_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="Did you mean 'cloze_known'"):
        world().items("cloze_know")


def test_shares_leave_most_of_the_corpus_to_biographies() -> None:
    assert sum(pocket_corpus.SHARES.values()) + WORLD.plain_question_share <= 0.5
