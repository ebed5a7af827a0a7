"""Which tokens an assistant wrote, by two independent engines.

    offsets   the characters of each turn, overlapped with the characters that each token stands for
    prefixes  the number of tokens of the text up to each boundary, encoded on its own, or of the text behind it

Invariant: the engines agree on every boundary of every row, or training is refused with a picture of the difference.
Policy for a token that straddles a boundary (the prompt ends in a space, and " Paris" is one token): it counts as the
assistant's, and the prefixes need not agree there beyond the piece of text that it cuts. A slow tokenizer has no
offsets: prefixes alone decide. What does not live here: weights and lengths (prepare.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from harness.data import bounds, speakers
from harness.data.chat import ChatFormat, Encoded
from harness.data.conversations import Conversation, UnusableRow
from harness.data.probing import TEMPLATE_FAULTS, mismatch_sentence
from harness.data.speakers import Span
from harness.errors import DataError

MAX_RENDERED = 2**28
"""Characters that are rendered at most for one row, which is rendered anew for each of its turns: some ten seconds."""
MESSAGE_COST = 200
"""Characters whose rendering takes as long as what a template does for a message besides."""
MAX_CHARACTERS = 2**21
"""Of a rendered or raw text at most, half a million tokens: encoding takes some seconds and half a gigabyte."""
LARGE = 2**20
"""Characters of a row from which on the tokenizer is tried on it alone."""


class Turn(NamedTuple):
    """Boundaries of one assistant turn, in characters of the rendered text or in tokens."""

    header: int
    """Where the role header begins."""
    start: int
    """Where the assistant's own text begins: the end of the generation prompt."""
    stop: int
    """Where the end-of-turn marker begins."""
    end: int
    """Where it ends."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    row_id: str
    text: str
    turns: tuple[Turn, ...]
    """In characters."""
    others: tuple[Span, ...] = ()
    """In characters; a message that the template writes in other words than its own is not among them."""
    spells_control: bool = False
    """Whether a message spells a control token."""
    rewrites: bool = False
    """Whether the template writes an assistant turn in other words than its own, or without some."""


@dataclass(frozen=True)
class Located:
    """A conversation as tokens."""

    row_id: str
    ids: list[int]
    turns: tuple[Turn, ...]
    """In tokens."""
    parts: bytes | None = None
    """For each token its place in `PARTS`; None from a slow tokenizer, which does not say what a token stands for."""


PARTS = ("template", "system", "user", "tool", "role_header", "assistant", "end_of_turn", "text")
"""What a token can be a part of; `text` is a raw document's, `template` what the template writes around messages."""
_BYTES = {name: bytes([place]) for place, name in enumerate(PARTS)}


def render(chat: ChatFormat, row: Conversation) -> Rendered:
    """Return a conversation as the template writes it, and where its assistant turns are.

    A turn begins where the generation prompt for the messages before it ends: what is trained on is what the model
    will be asked with.

    Raises:
        UnusableRow: the template raises on these messages or does not write what they say, they are too many or too
            large, the tokenizer cannot read them or leaves a part out, or they spell a control token and
            `data.control_text` is drop.
        DataError: the text of the messages before a turn is not the generation prompt they give, or rendering has no
            bound.
    """
    guarded = chat.guarded_row(row)
    messages = guarded.messages
    places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if len(places) * sum(MESSAGE_COST + len(message["content"]) for message in messages) > MAX_RENDERED:
        raise UnusableRow("too_many_turns")
    try:
        with bounds.watched(chat.name, f"row {row.row_id!r}"):
            text = chat.render(messages, tools=guarded.tools, is_guarded=True)
            if len(text) > MAX_CHARACTERS and len(chat.readable(text)) > MAX_CHARACTERS:
                raise UnusableRow("too_large")
            turns, mismatch = _turns(chat, guarded, text, places)
    except TEMPLATE_FAULTS:
        raise UnusableRow("template_refuses") from None
    spells_control = guarded is not row and chat.spells_control(guarded)
    if spells_control and chat.control_text == "drop":
        raise UnusableRow("control_token_in_text")
    if spells_control:
        with bounds.watched(chat.name, f"row {row.row_id!r}"):
            if not chat.tells_control_apart(row, text):
                raise UnusableRow("template_alters")
    if chat.loses_part_of(text):
        raise UnusableRow("tokenizer_loses_text")
    if len(text) > LARGE and not chat.can_encode(text):
        raise UnusableRow("tokenizer_refuses")
    if mismatch is not None:
        raise mismatch
    others = speakers.spans(chat, guarded, text, turns)
    said = [messages[place]["content"] for place in places]
    rewrites = any(not _is_said(answer, text, turn) for answer, turn in zip(said, turns, strict=True))
    return Rendered(row.row_id, text, tuple(turns), others, spells_control, rewrites)


def _is_said(answer: str, text: str, turn: Turn) -> bool:
    """Return whether a turn holds what its message says, but for white space around it and the form of its letters."""
    if text.find(answer.strip(), turn.start, turn.stop) >= 0:
        return True
    wanted, written = (unicodedata.normalize("NFC", said) for said in (answer, text[turn.start : turn.stop]))
    return wanted.strip() in written


def _turns(
    chat: ChatFormat, row: Conversation, text: str, places: Sequence[int]
) -> tuple[list[Turn], DataError | None]:
    """Return where turns are, and what is wrong with the first that cannot be told; every prefix is rendered.

    One prefix is held at a time: of a long row they are many times the row, which is as `guarded_row` returns it.
    """
    turns: list[Turn] = []
    mismatch: DataError | None = None
    for i in places:
        before = chat.render(row.messages[:i], add_generation_prompt=True, tools=row.tools, is_guarded=True)
        is_whole = i + 1 == len(row.messages)
        after = text if is_whole else chat.render(row.messages[: i + 1], tools=row.tools, is_guarded=True)
        try:
            turns.append(_turn(chat, row, text, before, after.removesuffix(chat.final)))
        except DataError as fault:
            mismatch = mismatch or fault
    return turns, mismatch


def _turn(chat: ChatFormat, row: Conversation, text: str, before: str, after: str) -> Turn:
    if not text.startswith(after) or not after.startswith(before):
        other = before if text.startswith(after) else after
        raise DataError(mismatch_sentence(chat.name, f"row {row.row_id!r}", text, other))
    if not after.endswith(chat.closing) or not before.endswith(chat.header):
        raise DataError(
            f"data.template is {chat.name!r}, but must open and close every assistant turn alike; in row "
            f"{row.row_id!r} a turn ends in {after[-20:]!r} and not in {chat.closing!r}"
        )
    stop = max(len(before), len(after) - len(chat.closing))
    return Turn(len(before) - len(chat.header), len(before), stop, min(len(after), stop + len(chat.end_of_turn)))


class Encodings(NamedTuple):
    """Rendered rows in the hands of the tokenizer: whole for one engine, in pieces for the other."""

    whole: list[Encoded]
    cuts: list[list[int]]
    """Of each row, every boundary, ascending."""
    around: list[tuple[int, list[str]]]
    """Of each row, which piece between boundaries is the longest, and all others."""
    ids_of: dict[str, list[int]]
    """Tokens of every such other piece."""


def encode(chat: ChatFormat, rows: Sequence[Rendered]) -> Encodings:
    """Return all that a tokenizer is asked about rendered rows, as a rule."""
    cuts = [sorted({place for turn in row.turns for place in turn}) for row in rows]
    around: list[tuple[int, list[str]]] = []
    for row, places in zip(rows, cuts, strict=True):
        pieces = [row.text[a:b] for a, b in pairwise([0, *places, len(row.text)])]
        longest = max(range(len(pieces)), key=lambda place: len(pieces[place]))
        around.append((longest, pieces[:longest] + pieces[longest + 1 :]))
    distinct = list({piece for _, pieces in around for piece in pieces if piece})
    whole = chat.encode_batch([row.text for row in rows], with_offsets=True)
    apart = chat.encode_batch(distinct)
    return Encodings(
        whole, cuts, around, {"": []} | {piece: one.ids for piece, one in zip(distinct, apart, strict=True)}
    )


def locate(chat: ChatFormat, rows: Sequence[Rendered], encodings: Encodings | None = None) -> list[Located]:
    """Return the tokens of rendered rows, and where their assistant turns are.

    Args:
        chat: what rendered them.
        rows: as rendered.
        encodings: what `encode` returned for them, where it has been called.

    Raises:
        DataError: the two engines disagree on a row.
    """
    encoded = encode(chat, rows) if encodings is None else encodings
    counts = _by_pieces(chat, encoded)
    _by_prefixes(chat, rows, encoded.cuts, counts)
    located: list[Located] = []
    for row, tokens, prefix_ids in zip(rows, encoded.whole, counts, strict=True):
        turns = _turns_in_tokens(row, tokens, prefix_ids)
        located.append(Located(row.row_id, tokens.ids, turns, _parts(row, tokens, turns)))
    return located


def _parts(row: Rendered, tokens: Encoded, turns: Sequence[Turn]) -> bytes | None:
    if tokens.offsets is None:
        return None
    parts = bytearray(len(tokens.ids))

    def fill(name: str, first: int, past: int) -> None:
        parts[first:past] = _BYTES[name] * max(0, past - first)

    for span in row.others:
        fill(span.role, tokens.offsets.around(span.start)[0], tokens.offsets.around(span.stop)[1])
    for turn in turns:
        fill("role_header", turn.header, turn.start)
        fill("end_of_turn", turn.stop, turn.end)
        fill("assistant", turn.start, turn.stop)
    return bytes(parts)


# -- the engine of prefixes -------------------------------------------------------------------------------------------

Prefixes = dict[int, int | list[int]]
"""Boundary -> the number of tokens before it, or, where pieces did not settle it, the tokens of the text before it."""


def _by_pieces(chat: ChatFormat, encoded: Encodings) -> list[Prefixes]:
    """Settle every row whose pieces between boundaries, encoded one by one, are the tokens around its longest piece.

    Then no token crosses a boundary: those before the longest piece are the tokens of the text before it, those behind
    it of the text behind, and the longest has what is left, without a second encoding of most of the text.
    """
    settled: list[Prefixes] = []
    unknown = chat.tokenizer.unk_token_id
    for (place, pieces), tokens, places in zip(encoded.around, encoded.whole, encoded.cuts, strict=True):
        parts = [encoded.ids_of[piece] for piece in pieces]
        left = len(tokens.ids) - sum(map(len, parts))
        before, behind = list(chain(*parts[:place])), list(chain(*parts[place:]))
        # one unknown token may stand for what two pieces say, so it does not show where either ends
        whole = before == tokens.ids[: len(before)] and behind == tokens.ids[len(tokens.ids) - len(behind) :]
        whole = whole and left >= 0 and behind[:1] != [unknown]
        counts = [*map(len, parts[:place]), left, *map(len, parts[place:])]
        settled.append(dict(zip(places, accumulate(counts), strict=False)) if whole else {})
    return settled


def _by_prefixes(chat: ChatFormat, rows: Sequence[Rendered], cuts: Sequence[list[int]], counts: list[Prefixes]) -> None:
    """Encode the text before every boundary that is not settled yet."""
    missing = [(number, place) for number, places in enumerate(cuts) for place in places if place not in counts[number]]
    encoded = chat.encode_batch([rows[number].text[:place] for number, place in missing if place])
    for (number, place), tokens in zip([pair for pair in missing if pair[1]], encoded, strict=True):
        counts[number][place] = tokens.ids
    for number, place in missing:
        counts[number].setdefault(place, 0)


# -- agreement --------------------------------------------------------------------------------------------------------


def _turns_in_tokens(row: Rendered, tokens: Encoded, prefixes: Prefixes) -> tuple[Turn, ...]:
    def opening(place: int) -> int:
        return boundary(row, tokens, place, prefixes[place])[0]

    def ending(place: int) -> int:
        return boundary(row, tokens, place, prefixes[place])[1]

    return tuple(Turn(opening(t.header), opening(t.start), ending(t.stop), ending(t.end)) for t in row.turns)


def boundary(row: Rendered, tokens: Encoded, place: int, before: int | list[int]) -> tuple[int, int]:
    """Return the first token of what begins at a character, and one past the last token of what ends there.

    Both are equal unless a token straddles it.

    Args:
        row: for the message.
        tokens: of the whole text.
        place: the character.
        before: what the engine of prefixes found there.

    Raises:
        DataError: the engines disagree.
    """
    shared, clean = _shared(tokens.ids, before)
    if tokens.offsets is None:
        return shared, shared if clean or shared == len(tokens.ids) else shared + 1
    first, past = tokens.offsets.around(place)
    if clean:
        # Offsets may be wider than what a token needs (a marker that swallows white space) or of no width at all.
        if min(first, past) <= shared <= max(first, past):
            return shared, shared
    elif shared <= first and shared < len(tokens.ids) and _is_one_piece(row.text[tokens.offsets.start(shared) : place]):
        return first, max(first, past)
    raise DataError(
        f"row {row.row_id!r} has a boundary at character {place}, {row.text[max(0, place - 20) : place]!r} | "
        f"{row.text[place : place + 20]!r}, that is token {first} by character offsets, but token {shared} by token "
        "prefixes; this tokenizer's offsets cannot be trusted on it, so use another base or take the row out"
    )


def _shared(ids: list[int], before: int | list[int]) -> tuple[int, bool]:
    """Return how many leading tokens the whole and the text before a boundary share, and whether that is all of it."""
    if isinstance(before, int):
        return before, True
    if ids[: len(before)] == before:
        return len(before), True
    return next(i for i, token in enumerate(before) if i >= len(ids) or ids[i] != token), False


def _is_one_piece(text: str) -> bool:
    return re.fullmatch(r"\s*\S*\s*", text) is not None
