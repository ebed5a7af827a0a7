"""What every spec inherits: frozen, strict, no unknown field, every violation reported at once.

Invariant: two specs that are equal have the same canonical JSON (harness/identity.py), and nothing mutable hides
inside one. `Elsewhere` marks a field that says where something lies rather than what it is; such a field never enters
a fingerprint. What does not live here: any field of any spec.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

import pydantic
from pydantic import ConfigDict

from harness.errors import LONGEST_QUOTE, SpecError, nearest, shown


class NotIdentity:
    """Marker for `Annotated`: this field says how or where, and stays out of the fingerprint."""


Elsewhere = Annotated[str, NotIdentity()]
M = TypeVar("M", bound=pydantic.BaseModel)
Scalar = bool | int | float | str | None


class Model(pydantic.BaseModel):
    """Base of every spec: a value."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    if TYPE_CHECKING:
        # pydantic gives frozen models one at run time, which type checkers do not see.
        def __hash__(self) -> int: ...

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """Return a validated copy with dotted fields set, e.g. `{"train.learning_rate": 1e-3}`.

        Args:
            changes: dotted field -> JSON value (lists for tuples), a Model, or None.

        Raises:
            SpecError: a field does not exist, or the result is not valid; all problems at once.
        """
        tree = json.loads(self.model_dump_json())
        problems = [problem for field, value in changes.items() if (problem := _set(tree, field, value))]
        if problems:
            raise SpecError(problems)
        return parse_json(type(self), json.dumps(tree))


def _set(tree: dict[str, Any], field: str, value: Any) -> str | None:
    node: Any = tree
    *parents, leaf = field.split(".")
    for depth, name in enumerate(parents):
        if not isinstance(node, dict) or name not in node or not isinstance(node[name], dict):
            return _no_such_field(field, node, ".".join(parents[:depth]), name)
        node = cast("Any", node[name])
    if not isinstance(node, dict) or leaf not in node:
        return _no_such_field(field, node, ".".join(parents), leaf)
    node[leaf] = json.loads(value.model_dump_json()) if isinstance(value, pydantic.BaseModel) else value
    return None


def _no_such_field(field: str, node: Any, parent: str, name: str) -> str:
    names = sorted(cast("dict[str, Any]", node)) if isinstance(node, dict) else []
    where = f" in {parent!r}" if parent else ""
    return (
        f"{_cut(field)} is not a field{where}, but must be one of {', '.join(names) or 'none'}.{nearest(name, names)}"
    )


def parse_json(model: type[M], text: str) -> M:
    """Validate JSON text strictly.

    Raises:
        SpecError: every violation, one sentence each, naming the dotted field and its value.
    """
    try:
        return model.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise SpecError(explain(error)) from None


def explain(error: pydantic.ValidationError) -> list[str]:
    """Return one sentence per violation: `<dotted field> is <value!r>, but must be <rule>`."""
    sentences: list[str] = []
    for problem in error.errors(include_url=False):
        field = _cut(".".join(str(part) for part in problem["loc"]) or error.title)
        rule = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        if not problem["loc"] and problem["type"] == "value_error":
            sentences.append(rule)  # a rule between fields, which names them itself
            continue
        sentences.append(f"{field} is {shown(problem['input'])}, but must be: {rule}")
    return sentences


def _cut(field: str) -> str:
    return field if len(field) <= LONGEST_QUOTE else field[: LONGEST_QUOTE - 3] + "..."
