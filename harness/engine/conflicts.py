"""What SET may not name, because something that comes after it sets the same.

Invariant: a field of SET either moves a trial or is refused; none is dropped in silence. What does not live here:
whether a field exists and takes a value (axes.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.engine.worlds import PREFIX
from harness.errors import SpecError
from harness.spec import Study, Sweep

DURATIONS = frozenset({"train.num_epochs", "train.num_steps"})


def check(sweep: Sweep | Study, changes: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Refuse fields of SET that would be dropped.

    Args:
        sweep: what runs; its axes may be replaced by SET, its dimensions and arms may not.
        changes: SET.
        given: fields that another variable gives -> its name.

    Raises:
        SpecError: all such fields at once, one sentence each.
    """
    problems = [*_twice(changes), *_given(changes, given)]
    for name, value in changes.items():
        problems += [
            f"SET {name} is {_short(value)}, but must be left out: {what} sets {field}."
            for field, what in _setters(sweep)
            if _drops(name, value, field, what)
        ]
    if problems:
        raise SpecError(dict.fromkeys(problems))


def _setters(sweep: Sweep | Study) -> Iterator[tuple[str, str]]:
    """Yield every field that is set after SET, and by what."""
    if isinstance(sweep, Study):
        yield from ((d.field, f"a dimension of study {sweep.name!r}") for d in sweep.space)
        return
    yield from ((axis.field, f"an axis of sweep {sweep.name!r}") for axis in sweep.axes)
    for arm in sweep.arms:
        yield from ((field, f"arm {arm.name!r}") for field, _ in arm.set)
        if arm.hold == "steps":
            yield "train.num_steps", f"arm {arm.name!r} holds steps equal and"


def _drops(name: str, value: Any, field: str, what: str) -> bool:
    if name == field:
        return not what.startswith("an axis")  # SET replaces the values of an axis
    if {name, field} == DURATIONS:
        # What an arm holds equal follows from the epochs.
        return value is not None and "holds steps" not in what
    return field.startswith(f"{name}.") and _holds(value, field.removeprefix(f"{name}.").split("."))


def _holds(value: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _twice(changes: Mapping[str, Any]) -> Iterator[str]:
    """Yield what SET itself says twice."""
    if all(changes.get(name) is not None for name in DURATIONS):
        yield "SET names train.num_epochs and train.num_steps, but must name one of them."
    for whole in changes:
        parts = [name for name in changes if name.startswith(f"{whole}.")]
        if parts and whole != "method":  # the method is applied first, its fields after it
            yield f"SET names {whole} and {parts[0]}, but must name one of them."
    if any(name.startswith(PREFIX) for name in changes):
        worlds = ("base.world", "data.source.world", "data.replay_source.world")
        own = [name for name in changes if name.startswith(worlds)]
        if own:
            yield f"SET names {PREFIX}* and {own[0]}, but must name one of them."


def _given(changes: Mapping[str, Any], given: Mapping[str, str]) -> Iterator[str]:
    for field, variable in given.items():
        for name in (name for name in changes if name == field or field.startswith(f"{name}.")):
            yield f"SET {name} is {_short(changes[name])}, but must be left out: {variable} gives {field}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
