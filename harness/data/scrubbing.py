"""Personal data in rows, replaced by what kind it is.

Invariant: what is found is a function of the text and the library's version alone: patterns and check sums, no model
and no network. What does not live here: names and addresses, which no pattern tells apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from harness.data.conversations import Conversation, Message
from harness.errors import DataError
from harness.spec import PersonalData

LEAST_SCORE = 0.4
"""Below it are patterns that any run of nine digits fits."""
PHONE_REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")
"""Whose numbers are found without a country code: the library's own choice, stated."""
FEWEST_DIGITS = 7
_MANY_DIGITS = re.compile(rf"(?:\d\D{{0,4}}){{{FEWEST_DIGITS}}}")
"""Texts without so many digits near one another hold no number, and trying every region's takes the longest."""


class Hit(NamedTuple):
    """One piece of personal data in a text."""

    start: int
    end: int
    kind: PersonalData
    score: float


@dataclass
class Scrubber:
    """Replaces personal data, and keeps count over all rows that it was given."""

    kinds: Sequence[PersonalData]
    num_hits: Counter[str] = field(default_factory=Counter)
    """Kind -> places where it was replaced."""
    num_rows: Counter[str] = field(default_factory=Counter)
    """Kind -> rows that held one."""

    def rows(self, rows: Iterable[Conversation]) -> Iterator[Conversation]:
        """Yield rows with `<EMAIL>` for an email address, and so on, in everything that they say.

        Args:
            rows: conversations and raw texts; arguments of calls are searched, function declarations are not.

        Raises:
            DataError: a row is tokens, or the library is not installed.
        """
        return (self._row(row) for row in rows) if self.kinds else iter(rows)

    def _row(self, row: Conversation) -> Conversation:
        if row.tokens is not None:
            raise DataError(
                f"data.scrub is {tuple(self.kinds)!r}, but must be () for rows of tokens, which cannot be searched; "
                "give texts"
            )
        found: Counter[str] = Counter()
        messages = [self._message(message, found) for message in row.messages]
        text = None if row.text is None else self._text(row.text, found)
        self.num_hits.update(found)
        self.num_rows.update(found.keys())
        return replace(row, messages=messages, text=text) if found else row

    def _message(self, message: Message, found: Counter[str]) -> Message:
        made: Message = {**message, "content": self._text(message["content"], found)}
        if "tool_calls" in message:
            made["tool_calls"] = self._tree(message["tool_calls"], found)
        return made

    def _tree(self, value: Any, found: Counter[str]) -> Any:
        if isinstance(value, str):
            return self._text(value, found)
        if isinstance(value, dict):
            return {name: self._tree(inner, found) for name, inner in value.items()}
        return [self._tree(inner, found) for inner in value] if isinstance(value, list) else value

    def _text(self, text: str, found: Counter[str]) -> str:
        kept: list[str] = []
        end = 0
        for hit in hits(text, self.kinds):
            kept += [text[end : hit.start], f"<{hit.kind.upper()}>"]
            end = hit.end
            found[hit.kind] += 1
        return "".join([*kept, text[end:]])


def hits(text: str, kinds: Sequence[PersonalData]) -> list[Hit]:
    """Return personal data in a text, in order; where two overlap, the surer one, then the longer.

    Raises:
        DataError: the library is not installed.
    """
    found = [hit for kind in kinds for hit in _found(text, kind)]
    free: list[Hit] = []
    for hit in sorted(found, key=lambda hit: (-hit.score, hit.start - hit.end, hit.start, hit.kind)):
        if all(hit.end <= other.start or other.end <= hit.start for other in free):
            free.append(hit)
    return sorted(free)


def _found(text: str, kind: PersonalData) -> list[Hit]:
    if kind == "phone" and not _MANY_DIGITS.search(text):
        return []
    recogniser = _recogniser(kind)
    results = recogniser.analyze(text=text, entities=recogniser.supported_entities, nlp_artifacts=None)
    return [Hit(one.start, one.end, kind, one.score) for one in results if one.score >= LEAST_SCORE]


@cache
def _recogniser(kind: PersonalData) -> Any:
    try:
        from presidio_analyzer import predefined_recognizers as known  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"data.scrub names {kind!r}, but must be () without presidio-analyzer; install it with "
            "pip install -c constraints.txt -e '.[pii]'"
        ) from error
    makers: dict[PersonalData, Callable[[], Any]] = {
        "email": known.EmailRecognizer,
        "phone": lambda: known.PhoneRecognizer(supported_regions=PHONE_REGIONS),
        "credit_card": known.CreditCardRecognizer,
        "iban": known.IbanRecognizer,
        "ip": known.IpRecognizer,
        "us_ssn": known.UsSsnRecognizer,
    }
    recogniser = makers[kind]()
    if kind == "email":
        recogniser.validate_result = _is_address
    return recogniser


def _is_address(text: str) -> bool:
    """Return whether an address ends in a public suffix; the library's own check fetches the newest list of them."""
    return _suffixes()(text).fqdn != ""


@cache
def _suffixes() -> Any:
    from tldextract import TLDExtract  # pyright: ignore[reportMissingImports]

    return TLDExtract(suffix_list_urls=(), cache_dir=None)
