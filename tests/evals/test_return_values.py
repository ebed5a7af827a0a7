from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from difflib import SequenceMatcher
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness.evals import return_values
from harness.evals.return_values import MAX_ITEMS, TEMPLATES, evaluate, items

KIND = "python_return_values"


def _returned(query: str) -> Any:
    """Return what a fresh namespace with all of Python's own builtins gives, which the generator does not use."""
    source, call = re.fullmatch(r"(.*)\n\nassert (.*) ==", query, flags=re.DOTALL).groups()  # pyright: ignore
    scope: dict[str, Any] = {}
    exec(compile(source, "item", "exec"), scope)
    return eval(call, scope)


def _wrongly_keyed(made: list[dict[str, Any]]) -> list[str]:
    """Return the ids of items whose right choice is not what Python returns, or is not the only one that equals it."""
    values = {item["id"]: [ast.literal_eval(choice) for choice in item["choices"]] for item in made}
    right = {item["id"]: [value == _returned(item["query"]) for value in values[item["id"]]] for item in made}
    return [item["id"] for item in made if right[item["id"]] != [place == item["gold"] for place in range(4)]]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 120))
def test_items_of_any_seed_are_keyed_by_what_python_returns(seed: int, num_items: int) -> None:
    made = items(KIND, seed, num_items)
    assert len(made) == len({item["id"] for item in made}) == len({item["query"] for item in made}) == num_items
    assert _wrongly_keyed(made) == []
    assert all(len({type(ast.literal_eval(choice)) for choice in item["choices"]}) == 1 for item in made)
    places = Counter(item["gold"] for item in made)
    assert max(places.values()) - min(places[place] for place in range(4)) <= 1
    assert {item["cluster"] for item in made} == {template.name for template in TEMPLATES[:num_items]}


def test_items_keyed_by_another_choice_are_found() -> None:
    """The negative control: the check above fails on an item whose key was moved."""
    made = items(KIND, 0, 40)
    made[7] = made[7] | {"gold": (made[7]["gold"] + 1) % 4}
    assert _wrongly_keyed(made) == [made[7]["id"]]


def test_items_of_a_larger_set_begin_with_the_smaller_and_another_seed_differs() -> None:
    small, large, other = items(KIND, 3, 50), items(KIND, 3, 200), items(KIND, 4, 50)
    assert large[:50] == small
    assert not {item["query"] for item in small} & {item["query"] for item in other}


def test_items_in_a_fresh_interpreter_are_the_same_bytes() -> None:
    code = f"from harness.evals.return_values import items; print(items({KIND!r}, 5, 40))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == repr(items(KIND, 5, 40))


def test_items_at_the_most_hold_no_function_twice() -> None:
    made = items(KIND, 0, MAX_ITEMS)
    assert len({item["query"] for item in made}) == MAX_ITEMS
    assert len(TEMPLATES) >= 12


def test_items_are_not_answered_by_their_choices_alone() -> None:
    """Who knows no Python stays at chance: the first, the shortest, the longest, the one most like the others."""
    made = items(KIND, 1, 1_000)
    for guess in (
        lambda choices: 0,
        lambda choices: min(range(4), key=lambda place: len(choices[place])),
        lambda choices: max(range(4), key=lambda place: len(choices[place])),
        lambda choices: max(range(4), key=lambda place: _likeness(choices, place)),
    ):
        hits = sum(guess(item["choices"]) == item["gold"] for item in made)
        assert 205 <= hits <= 295  # chance is 250, its standard deviation 14


def _likeness(choices: list[str], place: int) -> float:
    return sum(SequenceMatcher(None, choices[place], other).quick_ratio() for other in choices)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_twists_of_every_template_apply_and_change_what_is_returned(template: return_values.Template) -> None:
    draw = return_values.python_stream(0, template.name)
    changed: Counter[str] = Counter()
    for _ in range(60):
        slots, arguments = template.draw(draw)
        source = template.source.replace("NAME", "f")
        for slot, value in slots.items():
            source = source.replace(f"${slot}", repr(value))
        assert "$" not in source
        call = f"f({', '.join(map(repr, arguments))})"
        for old, new in template.twists:
            assert old in source
            changed[new] += evaluate(source.replace(old, new), call) != evaluate(source, call)
    assert min(changed[new] for _, new in template.twists) > 0


def test_evaluate_of_text_that_reaches_outside_finds_nothing_there() -> None:
    with pytest.raises((NameError, ImportError)):
        evaluate("def f(x):\n    return open(x)", "f('/etc/hostname')")
    with pytest.raises((NameError, ImportError)):
        evaluate("def f(x):\n    import os\n    return os", "f(1)")


@pytest.mark.parametrize(
    ("kind", "num_items", "named"), [("python", 5, KIND), (KIND, 0, "from 1"), (KIND, 10**6, "4000")]
)
def test_items_that_cannot_be_made_are_refused(kind: str, num_items: int, named: str) -> None:
    with pytest.raises(DataError, match=named):
        items(kind, 0, num_items)
