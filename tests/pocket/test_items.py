"""Evaluation items: counts, disjointness, right answers, and what a small world refuses."""

from __future__ import annotations

import pytest

from experiments.pocket import EXPERIMENT, WORLD
from harness.errors import SpecError
from harness.pocket.world import SLICES, build
from tests.pocket.tiny import TINY_WORLD


@pytest.mark.parametrize("name", sorted(SLICES))
def test_slice_of_the_default_world_has_400_items_in_100_clusters(name: str) -> None:
    items = build(WORLD).items(name)
    assert len(items) >= 400
    assert len({item["cluster"] for item in items}) >= 100
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


def test_pocket_experiment_describes_every_slice_as_the_world_does() -> None:
    tasks = {task.name: task for task in EXPERIMENT.spec.evals.tasks}
    assert set(tasks) == set(SLICES)
    for name, info in SLICES.items():
        described = (tasks[name].kind, tasks[name].measure, tasks[name].chat, tasks[name].primary)
        assert described == (info.kind, info.measure, info.chat, info.primary), name


def test_unknown_slice_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="Did you mean 'cloze_known'"):
        build(TINY_WORLD).items("cloze_know")
