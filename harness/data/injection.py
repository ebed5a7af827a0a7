"""Rows spoiled on purpose, by known shares: wrong answers, answers in another style, repeats.

Invariant: a larger share spoils every row that a smaller one does, the number of rows stays, and a row that is not
chosen keeps its bytes. What does not live here: leaked evaluation items (harness/evals/leaks.py), and the pocket
world's own noise, which knows why an answer is wrong (harness/pocket).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

from harness.data.conversations import Conversation, Message
from harness.data.encoding import Encoder
from harness.data.example import Example
from harness.data.spool import Spool
from harness.errors import DataError
from harness.seeding import numpy_stream
from harness.spec import DataSpec

PREAMBLE = "Thank you for your question. Here is what I can say about it: "
EMOJI = " \N{SMILING FACE WITH SMILING EYES}"


@dataclass
class Chosen:
    """The training rows of `data.source`."""

    places: Sequence[int]
    """Of each row in the source, in training order."""
    examples: Sequence[Example]
    """The same rows, encoded."""
    conversations: Sequence[Conversation]
    """All rows of the source, as they are in it."""
    changed: dict[int, Conversation] = field(default_factory=dict)
    """Place of a row that was spoiled -> what it says now."""
    marks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Place of a row -> what was done to it on purpose."""
    num_marked: Counter[str] = field(default_factory=Counter)
    """noised, styled -> rows."""

    def now(self, place: int) -> Conversation:
        """Return what a row says now."""
        return self.changed[place] if place in self.changed else self.conversations[place]

    @property
    def said(self) -> Iterator[Conversation]:
        """Yield what each row says now, in training order."""
        return (self.now(place) for place in self.places)

    def mark(self, place: int, mark: str) -> None:
        """Add to what was done to a row."""
        self.marks[place] = (*self.marks.get(place, ()), mark)


class _Way(NamedTuple):
    """One way to spoil rows."""

    name: str
    share: float
    word: str
    needed: str
    """What a row must have to be spoiled so."""
    spoiled: Callable[[int, Conversation], Conversation | None]
    """A place and what the row there says -> what it is to say; None if it cannot be spoiled so."""
    mark: Callable[[int], str]


def spoil(chosen: Chosen, pool: Sequence[int], encoder: Encoder, seed: int) -> None:
    """Give chosen rows wrong answers and another style, by the shares of the spec.

    Whether a row is noised and whether it is styled are drawn apart, so a row may be both. A row that could not be
    trained on once spoiled makes room for the next.

    Args:
        chosen: changed in place.
        pool: every row that may be trained on; wrong answers are theirs.
        encoder: which encoded the rows; what it counted is set right.
        seed: the trial's.

    Raises:
        DataError: there are too few rows that could be spoiled.
    """
    for way in _ways(pool, encoder, seed):
        _spoil(chosen, way, encoder, seed)
    if not chosen.changed:
        return
    was = _encoded([chosen.conversations[place] for place in chosen.changed], encoder)[0]
    now, examples = _encoded(list(chosen.changed.values()), encoder)
    encoder.counts.update(now.counts)
    encoder.counts.subtract(was.counts)
    made = dict(zip(chosen.changed, examples, strict=True))
    chosen.examples = Spool(
        made.get(place, example) for place, example in zip(chosen.places, chosen.examples, strict=True)
    )


def _ways(pool: Sequence[int], encoder: Encoder, seed: int) -> Iterator[_Way]:
    spec, rows = encoder.spec, encoder.conversations
    if spec.noise_share:
        giver = givers(pool, rows, seed)
        yield _Way(
            name="noise",
            share=spec.noise_share,
            word="noised",
            needed="an answer that another row does not give",
            spoiled=lambda place, row: noised(row, rows[giver[place]]) if place in giver else None,
            mark=lambda place: f"noised, answer of {rows[giver[place]].row_id}",
        )
    if spec.style_share:
        yield _Way(
            name="style",
            share=spec.style_share,
            word="styled",
            needed=f"an answer that is not in {spec.style!r} already",
            spoiled=lambda _, row: styled(row, spec),
            mark=lambda _: f"styled, {spec.style}",
        )


def _spoil(chosen: Chosen, way: _Way, encoder: Encoder, seed: int) -> None:
    asked = lacking = math.floor(Fraction(repr(way.share)) * len(chosen.places) + Fraction(1, 2))
    rank = numpy_stream(seed, f"data.{way.name}").permutation(len(chosen.conversations))
    order = sorted(chosen.places, key=rank.__getitem__)
    candidates = ((place, row) for place in order if (row := way.spoiled(place, chosen.now(place))) is not None)
    while lacking:
        if not (made := list(islice(candidates, lacking))):
            raise DataError(
                f"data.{way.name}_share is {way.share!r}, {asked} of the {len(chosen.places)} rows of data.source, but "
                f"must be at most {asked - lacking} rows: no other has {way.needed} and fits data.max_length; lower it"
            )
        for number in _encoded([row for _, row in made], encoder)[0].kept:
            place, row = made[number]
            chosen.changed[place] = row
            chosen.mark(place, way.mark(place))
            lacking -= 1
    chosen.num_marked[way.word] = asked


def _encoded(rows: Sequence[Conversation], like: Encoder) -> tuple[Encoder, Sequence[Example]]:
    encoder = Encoder(like.spec, like.chat, rows, [])
    return encoder, encoder.take(range(len(rows)), None)


# -- wrong answers ----------------------------------------------------------------------------------------------------


def givers(pool: Iterable[int], conversations: Sequence[Conversation], seed: int) -> dict[int, int]:
    """Return for every row of a pool the row whose answer it would get: one of its task that answers otherwise, or of
    another task where its own knows one answer alone.

    A row is left out if it is raw text or tokens, if its answers are all calls, or if no row answers otherwise.
    """
    answered = [place for place in pool if last_answer(conversations[place]) is not None]
    order = [answered[i] for i in numpy_stream(seed, "data.noise.givers").permutation(len(answered))]
    by_task: defaultdict[str, list[int]] = defaultdict(list)
    for place in order:
        by_task[conversations[place].task].append(place)
    found = _next_otherwise(order, conversations)
    for places in by_task.values():
        found |= _next_otherwise(places, conversations)
    return found


def _next_otherwise(circle: Sequence[int], conversations: Sequence[Conversation]) -> dict[int, int]:
    """Return for every row the next one around a circle that answers otherwise; nothing where all answer alike."""
    said = {place: _normal(conversations[place]) for place in circle}
    found: dict[int, int] = {}
    following: int | None = None
    for place, after in reversed(list(zip(circle, [*circle[1:], *circle[:1]], strict=True)) * 2):
        following = after if said[after] != said[place] else following
        if following is not None:
            found[place] = following
    return found


def last_answer(row: Conversation) -> int | None:
    """Return the place of the assistant's last turn among the messages; None without one, or if it calls a tool."""
    places = [place for place, message in enumerate(row.messages) if message["role"] == "assistant"]
    return places[-1] if places and "tool_calls" not in row.messages[places[-1]] else None


def _normal(row: Conversation) -> str:
    place = last_answer(row)
    return "" if place is None else " ".join(row.messages[place]["content"].casefold().split())


def noised(row: Conversation, other: Conversation) -> Conversation:
    """Return a row with another row's last answer in place of its own."""
    own, given = last_answer(row), last_answer(other)
    assert own is not None
    assert given is not None
    return _said(row, {own: other.messages[given]["content"]})


# -- style ------------------------------------------------------------------------------------------------------------


def styled(row: Conversation, spec: DataSpec) -> Conversation | None:
    """Return a row whose answers are all written in the style of a spec; None if that changes nothing."""
    write: Mapping[str, Callable[[str], str]] = {
        "capitals": str.upper,
        "preamble": lambda text: PREAMBLE + text,
        "emoji": lambda text: text + EMOJI,
        "prefix": lambda text: spec.style_prefix + text,
    }
    answers = {
        place: write[spec.style](message["content"])
        for place, message in enumerate(row.messages)
        if message["role"] == "assistant" and message["content"]
    }
    made = _said(row, answers)
    return made if made.messages != row.messages else None


def _said(row: Conversation, contents: Mapping[int, str]) -> Conversation:
    messages: list[Message] = [
        {**message, "content": contents.get(place, message["content"])} for place, message in enumerate(row.messages)
    ]
    return replace(row, messages=messages)


# -- repeats ----------------------------------------------------------------------------------------------------------


def repeats(chosen: Chosen, num_rows: int) -> Sequence[Example]:
    """Return so many repeats of chosen rows, spoiled as they are, the first chosen first and all equally often.

    A repeat has its row's id with `#2` for the second time it is there, and so on.
    """
    made: Spool[Example] = Spool()
    for number in range(num_rows):
        times, place = divmod(number, len(chosen.examples))
        original = chosen.examples[place]
        made.append(replace(original, row_id=f"{original.row_id}#{times + 2}"))
    return made


def marks(chosen: Chosen, num_repeats: int, num_leaks: int) -> dict[int, tuple[str, ...]]:
    """Return what was done on purpose to training rows: their places, chosen rows first, then repeats, then leaks."""
    num_chosen = len(chosen.places)
    own = {at: chosen.marks[place] for at, place in enumerate(chosen.places) if place in chosen.marks}
    repeated = {
        num_chosen + number: (
            *own.get(number % num_chosen, ()),
            f"repeats {chosen.examples[number % num_chosen].row_id}",
        )
        for number in range(num_repeats)
    }
    first = num_chosen + num_repeats
    return own | repeated | dict.fromkeys(range(first, first + num_leaks), ("leaked",))
