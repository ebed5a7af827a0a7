"""Instruction data of a world: conversations by family, and the knobs that change some of them.

Invariant: the rows of a family depend on nothing but the world and the knobs; a knob changes exactly the rows of its
share, which are nested in the share and spread evenly, and every other row stays as it is, its id included. Facts are
asked only about the asked half of the people, never about the held-out attribute; skills only on instances that are
not held out. What does not live here: what families ask (families.py), and how rows are rendered, masked or selected
(harness/data).
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from harness.errors import SpecError, unknown_name
from harness.pocket.families import (
    FAMILIES,
    HELD_OUT_FAMILIES,
    Family,
    Form,
    Request,
    Scope,
    fact,
    in_style,
)
from harness.pocket.people import TAUGHT_ATTRIBUTES, Person
from harness.pocket.phrasings import SHORT_SUFFIX
from harness.pocket.prose import Register, passage
from harness.pocket.skills import trained_rules
from harness.seeding import derive, python_stream
from harness.spec import PocketData

SHORT_SHARE = 0.5
"""Share of the rows that ask for the answer alone, under `response` "mixed"."""
PLACES = 1000
NUM_STRATA = 20
FIRST_PLACE = {"unknown": 0, "wrong": 200, "off_style": 400, "truncated": 600, "duplicate": 800}
"""Where the rows that a knob changes begin: up to a fifth each, no two knobs change the same row."""
STRANGERS = "pocket.conversations.unknown"
"""Stream of the order in which unknown people are asked about."""


def conversations(source: PocketData, people: tuple[Person, ...]) -> list[dict[str, Any]]:
    """Return distinct conversations, families interleaved by share: `{"id", "task", "group", "messages"}`.

    `group` is family and stratum of the row's place: whoever draws a subset evenly over groups has the shares of all
    knobs in it. `altered` names the knobs that changed a row, `ends_open` says that it breaks off without an end.

    Raises:
        SpecError: families or knobs that cannot be, or more rows than a family has distinct requests.
    """
    if problems := _problems(source, people):
        raise SpecError(problems)
    streams = {name: _rows(source, people, FAMILIES[name]) for name in source.families}
    turns = _interleaved(source.families, _quotas(source))
    return [next(streams[name]) for name in itertools.islice(turns, source.num_rows)]


def _problems(source: PocketData, people: tuple[Person, ...]) -> list[str]:
    names = source.families
    problems = [
        f"data.source.families names {name!r}, but that family is held out and only evaluation asks it; take it out"
        if name in HELD_OUT_FAMILIES
        else unknown_name("data.source.families", name, FAMILIES)
        for name in names
        if name not in FAMILIES
    ]
    if len(set(names)) != len(names) or not names:
        problems.append(f"data.source.families is {names!r}, but must name at least one family and none twice")
    shares = source.family_shares
    if shares and (len(shares) != len(names) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
        problems.append(
            f"data.source.family_shares is {shares!r}, but must be {len(names)} shares above 0 that add up to 1, one "
            "for each of data.source.families"
        )
    if source.unknown_share and "fact" not in names:
        problems.append(
            f"data.source.unknown_share is {source.unknown_share!r}, but must be 0.0 without the family 'fact'; add it "
            "to data.source.families"
        )
    if source.num_rules is not None and "replace" not in names:
        problems.append(
            f"data.source.num_rules is {source.num_rules}, but must be None without the family 'replace'; add it to "
            "data.source.families"
        )
    most = len(trained_rules(source.world.seed))
    if source.num_rules is not None and source.num_rules > most:
        problems.append(
            f"data.source.num_rules is {source.num_rules}, but must be at most {most}, the rules trained on"
        )
    if len([person for person in people if person.asked]) < 2:
        problems.append("world.people_per_tier leaves fewer than 2 people to ask about, but must leave 2; raise it")
    return problems


# -- families in turn -------------------------------------------------------------------------------------------------


def _quotas(source: PocketData) -> tuple[int, ...]:
    """Return whole numbers in the proportion of the families' shares."""
    if not source.family_shares:
        return tuple(FAMILIES[name].weight for name in source.families)
    exact = [Fraction(repr(share)) for share in source.family_shares]
    common = math.lcm(*(share.denominator for share in exact))
    return tuple(int(share * common) for share in exact)


def _interleaved(names: tuple[str, ...], quotas: tuple[int, ...]) -> Iterator[str]:
    """Yield families in turn; after any number of rows each has its share to within one."""
    total, counts = sum(quotas), [0] * len(names)
    for num_rows in itertools.count(1):
        behind = [quota * num_rows - total * count for quota, count in zip(quotas, counts, strict=True)]
        index = behind.index(max(behind))
        counts[index] += 1
        yield names[index]


# -- places -----------------------------------------------------------------------------------------------------------


def place(seed: int, family: str, index: int) -> int:
    """Return the place of a family's row in [0, PLACES).

    Of every ten rows one lies in each tenth of the places, of every hundred one in each hundredth, of every thousand
    one in each thousandth, in an order that is random at each level: so a range of places holds its share of the rows
    of any stretch, and no row's place follows from its number.
    """
    digits = ""
    for level in range(3):
        block, turn = divmod(index // 10**level, 10)
        draw = random.Random(derive(seed, f"pocket.place.{family}.{level}.{block}.{digits}"))
        digits += str(draw.sample(range(10), 10)[turn])
    return int(digits)


def is_changed(at: int, knob: str, share: float) -> bool:
    """Return whether the row at a place is among the share that a knob changes; nested in the share."""
    return (at - FIRST_PLACE[knob]) % PLACES < Fraction(repr(share)) * PLACES


# -- rows -------------------------------------------------------------------------------------------------------------


def _rows(source: PocketData, people: tuple[Person, ...], family: Family) -> Iterator[dict[str, Any]]:
    rows = _single_rows(source, people, family)
    if not source.duplicate_share:
        yield from (row for _, row in rows)
        return
    while True:
        # Of each ten rows the one that lies farthest from the knob's range is the original of the others.
        ten = list(itertools.islice(rows, 10))
        (original,) = [row for at, row in ten if (at - FIRST_PLACE["duplicate"]) % PLACES >= PLACES * 9 // 10]
        for at, row in ten:
            if is_changed(at, "duplicate", source.duplicate_share):
                marks = {"altered": ["duplicate", *original.get("altered", [])]}
                yield original | {"id": row["id"], "group": row["group"]} | marks
            else:
                yield row


def _single_rows(
    source: PocketData, people: tuple[Person, ...], family: Family
) -> Iterator[tuple[int, dict[str, Any]]]:
    strangers = Strangers(source, [person for person in people if person.trainable_unknown])
    for index, (request, is_short) in enumerate(_distinct(source, people, family)):
        at = place(source.world.seed, family.name, index)
        altered: list[str] = []
        asked = request
        if family.name == "fact" and source.unknown_share:
            stranger = strangers.next(request)  # for rows that stay as well: a larger share changes no row anew
            if is_changed(at, "unknown", source.unknown_share):
                altered.append("unknown")
                if stranger is None:
                    raise strangers.refusal()
                asked = stranger
        yield at, _row(source, family, index, at, asked, _form(source, is_short), altered)


def _distinct(source: PocketData, people: tuple[Person, ...], family: Family) -> Iterator[tuple[Request, bool]]:
    draw = python_stream(source.world.seed, f"pocket.conversations.{family.name}")
    scope = Scope(source.world, [person for person in people if person.asked], num_rules=source.num_rules)
    seen: set[str] = set()
    for repeats, request in enumerate(family.requests(scope, family.trained_phrasings, draw)):
        is_short = draw.random() < SHORT_SHARE
        if request.key not in seen:
            seen.add(request.key)
            yield request, is_short
        elif repeats > 50 * (len(seen) + 20):
            raise SpecError(
                f"data.source.num_rows is {source.num_rows}, but must be less: family {family.name!r} has about "
                f"{len(seen)} distinct requests in this world; ask for fewer rows or more people"
            )


def _form(source: PocketData, is_short: bool) -> Form:
    if source.response == "mixed":
        return "short" if is_short else "sentence"
    return source.response


class Strangers:
    """The unknown people who may be taught, handed out so that all are asked about equally often, fact by fact."""

    def __init__(self, source: PocketData, people: list[Person]) -> None:
        """Put the people in an order for each attribute; the source names the world."""
        self._seed, self._share = source.world.seed, source.unknown_share
        self._orders = {
            one.name: python_stream(self._seed, f"{STRANGERS}.{one.name}").sample(people, len(people))
            for one in TAUGHT_ATTRIBUTES
        }
        self._turns: Counter[str] = Counter()
        self._asked: set[str] = set()

    def next(self, request: Request) -> Request | None:
        """Return the same question about the person whose turn it is, or the next one whom no row asks it about yet.

        None where every person was asked this question.
        """
        assert request.attribute is not None
        attribute = request.attribute
        turn, order = self._turns[attribute.name], self._orders[attribute.name]
        draw = python_stream(self._seed, f"{STRANGERS}.{attribute.name}.{turn}")
        self._turns[attribute.name] += 1
        for shift in range(len(order)):
            found = fact(order[(turn + shift) % len(order)], attribute, request.phrasing, draw)
            if found.key not in self._asked:
                self._asked.add(found.key)
                return found
        return None

    def refusal(self) -> SpecError:
        """Return what to raise where there is none left."""
        num_people = len(next(iter(self._orders.values())))
        return SpecError(
            f"data.source.unknown_share is {self._share!r}, but must be less: the {num_people} unknown people who may "
            "be taught give too few distinct questions; lower it or data.source.num_rows, or raise "
            "world.num_unknown_people"
        )


def _row(
    source: PocketData, family: Family, index: int, at: int, request: Request, form: Form, altered: list[str]
) -> dict[str, Any]:
    row_id = f"{family.name}-{index}"
    answers = [turn.right for turn in request.turns]
    if is_changed(at, "wrong", source.wrong_answer_share):
        answers = [turn.wrong for turn in request.turns]
        altered.append("wrong")
    texts = [str(getattr(answer, form)) for answer in answers]
    if is_changed(at, "off_style", source.off_style_share):
        texts = [in_style(text, "capitals") for text in texts]
        altered.append("off_style")
    if is_changed(at, "truncated", source.truncated_share):
        texts[-1] = cut(texts[-1])
        altered.append("truncated")
    suffix = SHORT_SUFFIX if form == "short" and family.has_forms else ""
    users = [turn.user + suffix for turn in request.turns]
    users[0] = _prose(source, row_id) + users[0]
    row = {
        "id": row_id,
        "task": family.name,
        "group": f"{family.name}/{at * NUM_STRATA // PLACES:02d}",
        "messages": _messages(request.system, users, texts),
    }
    ends_open = "truncated" in altered and source.truncated_rows == "keep"
    return row | ({"altered": altered} if altered else {}) | ({"ends_open": True} if ends_open else {})


def _messages(system: str, users: list[str], texts: list[str]) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for user, text in zip(users, texts, strict=True):
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": text}]
    return messages


def cut(text: str) -> str:
    """Return the first half of a text: of its words, or of the letters of a single word, of which one stays."""
    words = text.split()
    return " ".join(words[: len(words) // 2]) if len(words) > 1 else text[: max(1, len(text) // 2)]


def _prose(source: PocketData, row_id: str) -> str:
    """Return the sentences before a request; more of them begin with fewer."""
    draw = python_stream(source.world.seed, f"pocket.conversations.prose.{row_id}")
    registers: tuple[Register, ...] = ("story", "notice")
    register = draw.choice(registers)
    told = [passage(source.world.seed, register, draw, 1, held_out=False) for _ in range(source.prompt_sentences)]
    return "".join(f"{sentence} " for sentence in told)
