"""A world, whole: people, corpus, conversations and items of one `WorldSpec`.

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
from harness.pocket.conversations import FAMILIES
from harness.pocket.items import SLICES, SliceInfo
from harness.pocket.people import Person, population
from harness.pocket.skills import SKILLS
from harness.spec.world import WorldSpec

__all__ = ["FAMILIES", "SLICES", "SliceInfo", "World", "build"]


@dataclass(frozen=True)
class World:
    """Everything that a `WorldSpec` generates."""

    spec: WorldSpec
    people: tuple[Person, ...]

    def conversations(self, families: tuple[str, ...], num_rows: int) -> list[dict[str, Any]]:
        """Return instruction rows `{"id", "task", "messages": [{"role", "content"}, ...]}`.

        Raises:
            SpecError: an unknown family, or more rows than it has distinct requests.
        """
        return _conversations.conversations(self.spec, self.people, families, num_rows)

    def items(self, slice_name: str) -> list[dict[str, Any]]:
        """Return the evaluation items of a slice of `SLICES`.

        Raises:
            SpecError: there is no slice of that name.
        """
        return _items.items(self.spec, self.people, slice_name)

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
    if problems:
        raise SpecError(problems)
    return World(spec, population(spec))
