"""Rows spoiled on purpose, by known shares: wrong answers, answers in another style, repeats.

Invariant: a larger share spoils every row that a smaller one does, the number of rows stays, and a row that is not
chosen keeps its bytes. What does not live here: leaked evaluation items (harness/evals/leaks.py), and the pocket
world's own noise, which knows why an answer is wrong (harness/pocket).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from harness.data.chat import ChatFormat
from harness.data.conversations import Conversation, Message
from harness.data.encoding import Encoder
from harness.data.example import Example
from harness.errors import DataError
from harness.seeding import numpy_stream
from harness.spec import DataSpec

PREAMBLE = "Thank you for your question. Here is what I can say about it: "
EMOJI = " \N{SMILING FACE WITH SMILING EYES}"


@dataclass
class Chosen:
    """The training rows of `data.source`, each by its place there, in training order."""

    examples: dict[int, Example]
    conversations: dict[int, Conversation]
    """The same rows as they are said: spoiled where the example is."""
    marks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Row id -> what was done to it on purpose."""
    num_marked: Counter[str] = field(default_factory=Counter)
    """noised, styled -> rows."""

    def mark(self, row_id: str, mark: str) -> None:
        """Add to what was done to a row."""
        self.marks[row_id] = (*self.marks.get(row_id, ()), mark)


def spoil(chosen: Chosen, pool: Sequence[int], spec: DataSpec, encoder: Encoder, seed: int) -> None:
    """Give chosen rows wrong answers and another style, by the shares of the spec.

    Whether a row is noised and whether it is styled are drawn apart, so a row may be both. A row that could not be
    trained on once spoiled makes room for the next.

    Args:
        chosen: changed in place.
        pool: every row that may be trained on; wrong answers are theirs.
        spec: the shares.
        encoder: which encoded the rows; what it counted is set right.
        seed: the trial's.

    Raises:
        DataError: there are too few rows that could be spoiled.
    """
    before = dict(chosen.conversations)
    if spec.noise_share:
        giver = givers(pool, encoder.conversations, seed)
        _spoil_some(
            chosen,
            ("noise", spec.noise_share, "noised", "an answer that another row does not give"),
            lambda place, row: noised(row, encoder.conversations[giver[place]]) if place in giver else None,
            lambda place: f"noised, answer of {encoder.conversations[giver[place]].row_id}",
            encoder,
            seed,
        )
    if spec.style_share:
        _spoil_some(
            chosen,
            ("style", spec.style_share, "styled", f"an answer that is not in {spec.style!r} already"),
            lambda _, row: styled(row, spec),
            lambda _: f"styled, {spec.style}",
            encoder,
            seed,
        )
    changed = [place for place in before if before[place] is not chosen.conversations[place]]
    was = _encoded([before[place] for place in changed], encoder.spec, encoder.chat)[0]
    now, examples = _encoded([chosen.conversations[place] for place in changed], encoder.spec, encoder.chat)
    encoder.num_truncated += now.num_truncated - was.num_truncated
    encoder.num_ends_lost += now.num_ends_lost - was.num_ends_lost
    chosen.examples.update(zip(changed, examples, strict=True))


def _spoil_some(
    chosen: Chosen,
    what: tuple[str, float, str, str],
    spoiled: Callable[[int, Conversation], Conversation | None],
    mark: Callable[[int], str],
    encoder: Encoder,
    seed: int,
) -> None:
    name, share, word, needed = what
    asked = math.floor(Fraction(repr(share)) * len(chosen.examples) + Fraction(1, 2))
    rank = numpy_stream(seed, f"data.{name}").permutation(len(encoder.conversations))
    order = sorted(chosen.examples, key=rank.__getitem__)
    made = [(place, row) for place in order if (row := spoiled(place, chosen.conversations[place])) is not None]
    trial = Encoder(encoder.spec, encoder.chat, [row for _, row in made], Counter())
    trial.take(range(len(made)), asked)
    if len(trial.kept) < asked:
        raise DataError(
            f"data.{name}_share is {share!r}, {asked} of the {len(chosen.examples)} rows of data.source, but must be "
            f"at most {len(trial.kept)} rows: no other has {needed} and fits data.max_length; lower it"
        )
    for place, row in (made[number] for number in trial.kept):
        chosen.conversations[place] = row
        chosen.mark(row.row_id, mark(place))
    chosen.num_marked[word] = asked


def _encoded(rows: Sequence[Conversation], spec: DataSpec, chat: ChatFormat) -> tuple[Encoder, list[Example]]:
    encoder = Encoder(spec, chat, rows, Counter())
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


def repeats(chosen: Chosen, num_rows: int) -> list[Example]:
    """Return so many repeats of chosen rows, spoiled as they are, the first chosen first and all equally often.

    A repeat has its row's id with `#2` for the second time it is there, and so on.
    """
    rows = list(chosen.examples.values())
    made: list[Example] = []
    for number in range(num_rows):
        original, times = rows[number % len(rows)], number // len(rows) + 2
        made.append(replace(original, row_id=f"{original.row_id}#{times}"))
        for mark in (*chosen.marks.get(original.row_id, ()), f"repeats {original.row_id}"):
            chosen.mark(made[-1].row_id, mark)
    return made
