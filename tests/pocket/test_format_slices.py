"""Slices that no default panel asks: what format collapse and format forgetting are read from."""

from __future__ import annotations

import json

import pytest

from experiments.pocket import EXPERIMENT, TASKS, WORLD
from experiments.pocket_tight import EXPERIMENT as TIGHT
from harness.errors import SpecError
from harness.pocket.audit import conversation_leaks
from harness.pocket.families import ALL_FAMILIES
from harness.pocket.people import ATTRIBUTES
from harness.pocket.world import ALL_SLICES, FORMAT_SLICES, SLICES, build, eval_task
from tests.pocket.tiny import TINY_WORLD


@pytest.mark.parametrize("name", sorted(FORMAT_SLICES))
def test_format_slice_asks_prose_to_go_on_and_offers_it_among_answers(name: str) -> None:
    world = build(WORLD)
    items = world.items(name)
    assert len(items) == len({item["cluster"] for item in items}) == 560
    assert world.items(name, 50) == items[:50]
    values = {value for attribute in ATTRIBUTES for value in attribute.values}
    for item in items:
        answers = [choice for place, choice in enumerate(item["choices"]) if place != item["gold"]]
        assert len(answers) == 3
        for answer in answers:
            (person,) = [person for person in world.people if person.name in answer]
            assert not person.asked
            assert values & set(answer.removesuffix(".").split()) & set(person.facts)
        right = item["choices"][item["gold"]]
        assert not any(person.name in item["query"] + right for person in world.people)
        row = {"id": "a", "task": "continue", "messages": [
            {"role": "user", "content": item["query"]}, {"role": "assistant", "content": right}
        ]}  # fmt: skip
        assert any("held-out sentence" in leak for leak in conversation_leaks(world, [row]))


def test_format_slices_differ_by_the_request_alone() -> None:
    asks = [phrasing.partition("{")[0] for phrasing in ALL_FAMILIES["continue"].trained_phrasings]
    inside, raw = (build(WORLD).items(name) for name in ("format_in_chat", "prose_continues"))
    assert all(item["query"].startswith(tuple(asks)) for item in inside)
    assert not any(item["query"].startswith(tuple(asks)) for item in raw)
    assert [eval_task(WORLD, name).chat for name in ("format_in_chat", "prose_continues")] == [True, False]


def test_format_slices_are_of_no_default_panel() -> None:
    assert not set(FORMAT_SLICES) & set(SLICES)
    assert set(ALL_SLICES) == set(SLICES) | set(FORMAT_SLICES)
    for tasks in (TASKS, EXPERIMENT.spec.evals.tasks, TIGHT.spec.evals.tasks):
        assert [task.name for task in tasks] == list(SLICES)


def test_format_slices_of_the_smallest_world_have_answers_enough() -> None:
    items = build(TINY_WORLD).items("prose_continues", 20)
    assert len({json.dumps(item["choices"]) for item in items}) == 20


def test_format_slices_are_named_where_a_name_is_unknown() -> None:
    with pytest.raises(SpecError, match="Did you mean 'prose_continues'"):
        eval_task(TINY_WORLD, "prose_continue")
