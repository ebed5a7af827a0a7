"""Evaluation items: counts, disjointness, right answers, and what a small world refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from experiments.pocket import EXPERIMENT, WORLD
from harness.errors import SpecError
from harness.evals.items import select
from harness.pocket.audit import conversation_leaks
from harness.pocket.corpus import questions
from harness.pocket.people import ATTRIBUTES
from harness.pocket.world import SLICES, World, attribute_problems, build, eval_task
from tests.pocket.tiny import TINY_WORLD


@pytest.mark.parametrize("name", sorted(SLICES))
def test_slice_of_the_default_world_has_distinct_items_with_the_fields_of_its_kind(name: str) -> None:
    items = build(WORLD).items(name)
    assert len(items) == 560
    assert len({item["id"] for item in items}) == len(items)
    fields = {
        "multiple_choice": {"id", "cluster", "query", "choices", "gold"},
        "greedy": {"id", "cluster", "context", "continuation"},
        "generate": {"id", "cluster", "context", "answer", "aliases"},
        "perplexity": {"id", "cluster", "text"},
    }[SLICES[name].kind]
    if "messages" in items[0]:
        fields = fields - {"context"} | {"messages"}
    assert all(set(item) - {"keep_case"} == fields for item in items)


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


# -- disjoint from conversations, by the audit of these ---------------------------------------------------------------

HELD_OUT = {
    **dict.fromkeys(("question_unasked", "question_short", "answer_form", "choice_unasked"), "unasked person"),
    **dict.fromkeys(("chat_yes_no", "chat_join", "follow_up", "refusal", "chat_look_alike"), "unasked person"),
    **dict.fromkeys(("over_refusal", "style", "json_format"), "unasked person"),
    **dict.fromkeys(("question_unknown", "cloze_unknown"), "unknown person"),
    **dict.fromkeys(("question_rephrased", "question_unknown_trained", "refusal_rephrased"), "held-out phrasing"),
    "question_held_out_attribute": "held-out attribute",
    "chat_continue": "held-out sentence",
    **{name: "held-out instance" for name in SLICES if name.endswith("_held_out")},
    **{name: "held-out phrasing" for name in SLICES if name.endswith("_rephrased")},
    **dict.fromkeys(("chat_difference", "chat_sort"), "held-out family"),
    **dict.fromkeys(("prose", "prose_story", "prose_notice"), "held-out sentence"),
}
"""Slice -> why no conversation may hold any of its items."""
ALLOWED = (
    *("question_asked", "choice_asked", "sum_chat", "reverse_chat", "first_chat"),
    *("chat_copy", "chat_last", "chat_count", "chat_replace"),
)
"""Slices of what conversations may hold as well."""


def _as_row(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as a conversation would show it, answered as is right."""
    messages = item.get("messages") or [{"role": "user", "content": item.get("context", item.get("query", ""))}]
    right = item["choices"][item["gold"]] if "choices" in item else item.get("answer", item.get("text", ""))
    said = messages[-1]["content"] + item.get("continuation", "")
    messages = [*messages[:-1], {"role": "user", "content": said}, {"role": "assistant", "content": right}]
    return {"id": item["id"], "task": "fact", "messages": messages}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(HELD_OUT))
def test_no_item_of_a_held_out_slice_may_be_in_a_conversation(name: str, seed: int) -> None:
    full_size = build(WORLD.replace({"seed": seed}))
    for item in full_size.items(name):
        leaks = conversation_leaks(full_size, [_as_row(item)])
        assert any(HELD_OUT[name] in leak for leak in leaks), (item, leaks)


@pytest.mark.parametrize("name", ALLOWED)
def test_items_of_a_slice_that_is_not_held_out_may_be(name: str) -> None:
    full_size = build(WORLD)
    assert conversation_leaks(full_size, [_as_row(item) for item in full_size.items(name)]) == []


# -- what is right ----------------------------------------------------------------------------------------------------


def test_reversal_has_one_person_with_the_value_among_twelve() -> None:
    full_size = build(WORLD)
    for item in full_size.items("reversal"):
        values = {value for attribute in ATTRIBUTES for value in attribute.values}
        (value,) = [word for word in item["query"].split() if word in values]
        having = [name for name in item["choices"] if value in full_size.people_by_name[name].facts]
        assert having == [item["choices"][item["gold"]]]
        assert len(set(item["choices"])) == 12
        assert not any(person.name in item["query"] for person in full_size.people)


def test_plain_questions_are_worded_and_answered_as_in_pretraining() -> None:
    full_size = build(WORLD)
    for name, shots in (("plain_asked", 0), ("plain_unasked", 0), ("few_shot", 3)):
        for item in full_size.items(name)[:100]:
            lines = item["query"].split("\n")
            assert len(lines) == 2 * shots + 2
            person = next(person for person in full_size.people if person.name in lines[-2])
            assert person.asked == (name == "plain_asked")
            attribute = next(a for a in ATTRIBUTES if list(a.values) == item["choices"])
            assert item["choices"][item["gold"]] == person.fact(attribute)
            assert lines[-2].removeprefix("Q: ") in questions(person, attribute)


def test_quiz_goes_on_with_a_question_and_the_other_choice_answers() -> None:
    golds: list[int] = []
    for item in build(WORLD).items("quiz_continuation"):
        assert item["query"].count("?") == 3
        right, wrong = item["choices"][item["gold"]], item["choices"][1 - item["gold"]]
        assert right.endswith("?")
        assert wrong.endswith(".")
        golds.append(item["gold"])
    assert 220 <= sum(golds) <= 340  # a half of 560, five standard deviations of 12 either way


def test_items_that_ask_for_a_form_accept_any_value_in_it_and_no_other_case() -> None:
    for name in ("answer_form", "style", "style_rephrased", "json_format"):
        for item in build(WORLD).items(name):
            assert item["keep_case"]
            assert len({item["answer"], *item["aliases"]}) >= 12
    capitals = [item for item in build(WORLD).items("style") if "in capitals" in item["messages"][0]["content"]]
    assert 150 <= len(capitals) <= 330
    assert all(item["answer"] == item["answer"].upper() for item in capitals)


def test_follow_up_shows_earlier_turns_and_never_names_the_person_again() -> None:
    full_size = build(WORLD)
    for item in full_size.items("follow_up"):
        roles = [message["role"] for message in item["messages"]]
        assert roles in (["user", "assistant", "user"], ["user", "assistant", "user", "assistant", "user"])
        (name,) = {person.name for person in full_size.people if person.name in item["messages"][0]["content"]}
        assert name not in item["messages"][-1]["content"]
        assert name in item["answer"]


@pytest.mark.parametrize("name", sorted(SLICES))
def test_more_items_begin_with_fewer(name: str) -> None:
    full_size = build(WORLD)
    usual, few, many = full_size.items(name), full_size.items(name, 50), full_size.items(name, 700)
    assert few == usual[:50]
    assert many[: len(usual)] == usual
    assert len(usual) == 560
    assert len(many) >= 560
    assert len(many) == len({json.dumps({k: v for k, v in item.items() if k != "id"}) for item in many})


def test_table_states_items_and_clusters_of_every_slice() -> None:
    full_size = build(WORLD)
    rows = {row["slice"]: row for row in full_size.slices()}
    assert set(rows) == set(SLICES)
    assert all(row["items"] == 560 and row["clusters"] >= 125 and row["shows"] for row in rows.values())
    assert rows["sum_chat_held_out"]["clusters"] <= 140
    assert {name for name, row in rows.items() if row["primary"]} == {
        "cloze_unasked", "question_asked", "question_unasked", "answer_form", "prose",
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_tables_report_has_400_items_in_100_clusters_of_every_slice(seed: int) -> None:
    world = WORLD.replace({"seed": seed})
    for name in SLICES:
        chosen = select(eval_task(world, name), EXPERIMENT.spec.evals)
        test = [item for item, split in zip(chosen.items, chosen.splits, strict=True) if split == "test"]
        assert len(test) >= 400, name
        assert len({item["cluster"] for item in test}) >= 100, name


# -- the experiment, and refusals -------------------------------------------------------------------------------------


def test_pocket_experiment_describes_every_slice_as_the_world_does() -> None:
    tasks = {task.name: task for task in EXPERIMENT.spec.evals.tasks}
    assert set(tasks) == set(SLICES)
    for name, info in SLICES.items():
        described = (tasks[name].kind, tasks[name].measure, tasks[name].chat, tasks[name].primary)
        assert described == (info.kind, info.measure, info.chat, info.primary), name


def test_unknown_slice_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="Did you mean 'cloze_known'"):
        build(TINY_WORLD).items("cloze_know")


def test_world_too_small_for_a_slice_is_refused_with_numbers() -> None:
    full_size = build(TINY_WORLD)
    alone = World(full_size.spec, tuple(person for person in full_size.people if person.tier != "unknown"))
    with pytest.raises(SpecError, match=r"slice is 'cloze_unknown', but the slice has 0 people of 18 .* at least 2"):
        alone.items("cloze_unknown")


def test_attribute_that_cannot_be_a_choice_is_refused_with_numbers() -> None:
    assert attribute_problems(ATTRIBUTES) == []
    job = ATTRIBUTES[1]
    (one,) = attribute_problems((replace(job, values=("baker",)),))
    assert "'job' has 1 values with 1 first letters, but must have at least 2 values" in one
    (two,) = attribute_problems((replace(job, values=("baker", "Brewer", "cook")),))
    assert "'job' has 3 values with 2 first letters" in two
