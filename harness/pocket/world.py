"""A world, whole: people, corpus, conversations, items and tasks of one `WorldSpec`.

Invariant: torch-free, and a function of the spec alone. What does not live here: the parts themselves (people.py,
skills.py, prose.py, corpus.py, conversations.py, items.py) and the base model (pretrain.py).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from harness.errors import SpecError, unknown_name
from harness.pocket import conversations as _conversations
from harness.pocket import corpus as _corpus
from harness.pocket import items as _items
from harness.pocket.families import FAMILIES
from harness.pocket.items import SLICES
from harness.pocket.people import ATTRIBUTES, Attribute, Person, population
from harness.pocket.skills import SKILLS
from harness.seeding import derive
from harness.spec import EvalTask, PocketData, PocketItems, PocketText, WorldSpec
from harness.spec.recovery import Half, half_of

__all__ = ["FAMILIES", "SLICES", "World", "build", "eval_task"]


@dataclass(frozen=True)
class World:
    """Everything that a `WorldSpec` generates."""

    spec: WorldSpec
    people: tuple[Person, ...]

    def rows(self, source: PocketData) -> list[dict[str, Any]]:
        """Return instruction rows `{"id", "task", "group", "messages"}`; see conversations.py.

        Raises:
            SpecError: families or knobs that cannot be, or more rows than a family has distinct requests.
        """
        return _conversations.conversations(source, self.people)

    def conversations(self, families: tuple[str, ...], num_rows: int) -> list[dict[str, Any]]:
        """Return the rows of these families with every knob at its neutral value.

        Raises:
            SpecError: see `rows`.
        """
        return self.rows(PocketData(world=self.spec, families=families, num_rows=num_rows))

    def texts(self, source: PocketText) -> list[dict[str, Any]]:
        """Return raw documents `{"id", "task", "text"}` of the corpus, drawn evenly over the whole of it.

        Raises:
            SpecError: a kind that the corpus does not have, or more documents than there are.
        """
        self.check_kinds(source)
        rows = [
            row
            for row, half in self._texts
            if (not source.kinds or row["task"] in source.kinds) and source.people in ("all", half)
        ]
        if source.num_rows > len(rows):
            raise SpecError(
                f"a pocket text source's num_rows is {source.num_rows}, but must be at most {len(rows)}, the "
                f"documents of {', '.join(source.kinds or self.kinds)}"
                + (f" about people of the {source.people.replace('_', ' ')}" if source.people != "all" else "")
            )
        return rows[: source.num_rows]

    def check_kinds(self, source: PocketText) -> None:
        """Refuse kinds of documents that the corpus does not have.

        Raises:
            SpecError: there is one.
        """
        if wrong := [kind for kind in source.kinds if kind not in self.kinds]:
            raise SpecError(unknown_name("a pocket text source's kinds", kind, self.kinds) for kind in wrong)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of documents that the corpus has."""
        people = ("biographies", "records") if self.spec.augmented else ("biographies",)
        questions = ("plain_questions",) if self.spec.plain_question_share else ()
        return (*people, *questions, *_corpus.SHARES)

    @cached_property
    def _texts(self) -> list[tuple[dict[str, Any], Half | None]]:
        """Return every document of the corpus, and which half of the people it tells of where that is one person, in an
        order of its own, in which no part of the corpus comes first."""
        halves: dict[str, Half] = {person.name: half_of(person.cluster) for person in self.people}
        rows: list[tuple[dict[str, Any], Half | None]] = [
            ({"id": f"text-{index}", "task": document.kind, "text": document.text}, halves.get(document.about or ""))
            for index, document in enumerate(self.corpus())
        ]
        return sorted(rows, key=lambda row: derive(self.spec.seed, f"pocket.text.{row[0]['id']}"))

    def items(self, slice_name: str, max_items: int = _items.NUM_ITEMS) -> list[dict[str, Any]]:
        """Return the evaluation items of a slice of `SLICES`: at most `max_items`, a larger number of which begins
        with the items of a smaller one.

        Raises:
            SpecError: there is no slice of that name, or this world is too small for it.
        """
        return _items.items(self.spec, self.people, slice_name, max_items)

    def slices(self) -> list[dict[str, Any]]:
        """Return one row a slice: name, kind, measure, chat, primary, number of items and clusters, what it shows."""
        return _items.table(self.spec, self.people)

    def corpus(self) -> list[_corpus.Document]:
        """Return the pretraining documents in training order."""
        return _corpus.documents(self.spec, self.people)

    @cached_property
    def people_by_name(self) -> dict[str, Person]:
        """Return every person by full name."""
        return {person.name: person for person in self.people}


def build(spec: WorldSpec) -> World:
    """Return the world of a spec, made once in a process.

    Raises:
        SpecError: the world cannot exist as specified; all problems at once.
    """
    return _build(cast("Hashable", spec))  # frozen models are hashable, which type checkers do not see


@lru_cache(maxsize=8)
def _build(spec: WorldSpec) -> World:
    problems = [
        unknown_name("world.left_out_skills", name, SKILLS) for name in spec.left_out_skills if name not in SKILLS
    ]
    shares = sum(_corpus.SHARES.values()) + spec.plain_question_share
    if shares > 0.9:
        problems.append(
            f"world.plain_question_share is {spec.plain_question_share!r}, but must be at most "
            f"{0.9 - sum(_corpus.SHARES.values()):.2f}; the other kinds of text take the rest"
        )
    problems += attribute_problems(ATTRIBUTES)
    if problems:
        raise SpecError(problems)
    return World(spec, population(spec))


def eval_task(world: WorldSpec, slice_name: str, max_items: int = _items.NUM_ITEMS) -> EvalTask:
    """Return the task that asks a slice of a world: its kind, measure and format are the slice's own.

    Raises:
        SpecError: there is no slice of that name.
    """
    if slice_name not in SLICES:
        raise SpecError(unknown_name("slice", slice_name, SLICES))
    info = SLICES[slice_name]
    return EvalTask(
        suite="pocket",
        name=slice_name,
        kind=info.kind,
        source=PocketItems(world=world, slice=slice_name, max_items=max_items),
        measure=info.measure,
        primary=info.primary,
        chat=info.chat,
        num_items=None,
        max_new_tokens=info.max_new_tokens,
    )


def attribute_problems(attributes: tuple[Attribute, ...]) -> list[str]:
    """Return why attributes cannot be asked as a choice: fewer than two values, or values with one first letter."""
    problems: list[str] = []
    for attribute in attributes:
        num_values, num_letters = len(attribute.values), len({value[:1].lower() for value in attribute.values})
        if num_values < 2 or num_letters < num_values:
            problems.append(
                f"the attribute {attribute.name!r} has {num_values} values with {num_letters} first letters, but must "
                "have at least 2 values, each with a first letter of its own, so that no first token decides two"
            )
    return problems
