"""Control tokens that somebody spells inside a message: they are the text that was typed, and no control token.

A spelled marker is preceded by a mark before the template sees it, so that after rendering it can be told from those
that the template wrote. Encoding takes the marks out again and spells each marked marker in ordinary tokens. Control
tokens are those that the tokenizer flags as special; other added tokens (`<think>`, `<tool_call>`) are things that an
assistant writes, and stay what they are. Invariant: text without a mark is encoded in one piece, as if this module were
not there. What does not live here: rendering (chat.py), which rows are dropped (masks.py).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from harness.data.offsets import ListedOffsets, Offsets
from harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ufdd0"
"""Stands before a spelled marker. Unicode keeps it free for use inside programs."""

_NO_MARKER = "\ufdd1"
"""Stands for a spelled marker in the rendering that shows which markers are the template's."""

_ESCAPED_MARK = "\\ufdd0"
"""The mark as JSON in ASCII has it."""

_READERS: WeakKeyDictionary[PreTrainedTokenizerBase, PreTrainedTokenizerBase] = WeakKeyDictionary()
"""Copies that read markers as text, for as long as the tokenizers are in use."""

NONE = re.compile(r"(?!)")
"""Finds nothing: of a tokenizer without control tokens."""

_OURS = re.compile(f"[{MARK}{_NO_MARKER}]")
"""What stands for something inside this program; taken out of what people say, since it would stand for that there."""

_CONTROL_CHARACTERS = tuple(map(chr, (*range(0x20), *range(0x7F, 0xA0))))

_LEAD = "\n"
"""Goes before a piece and is taken off again, since some tokenizers put a space before what begins a text."""


class Piece(NamedTuple):
    """Part of a rendered text, either spelled markers or everything around them."""

    text: str
    start: int
    """Its first character's place in the rendered text."""
    is_spelled: bool


class Encoded(NamedTuple):
    """Tokens of a text, and the characters each stands for; no offsets from a slow tokenizer."""

    ids: list[int]
    offsets: Offsets | None


class _Read(NamedTuple):
    ids: list[int]
    offsets: list[tuple[int, int]]
    """None are there from a slow tokenizer."""


def tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return every control token of a tokenizer."""
    flagged = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return flagged | set(map(str, tokenizer.all_special_tokens))


def finding(texts: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of some texts, longest first."""
    longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else NONE


def lost(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return the pattern of every control character that a tokenizer leaves out, as if it had not been said.

    A vocabulary of bytes need not hold all of them (SmolLM2's lacks U+0004 and five more). What becomes white space or
    an unknown token leaves a trace and is not lost.
    """
    texts = ["ab", *(f"a{character}b" for character in _CONTROL_CHARACTERS)]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    without, *read = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encoded)
    left_out = [one for one, text in zip(_CONTROL_CHARACTERS, read, strict=True) if text == without]
    return re.compile(f"[{''.join(map(re.escape, left_out))}]") if left_out else NONE


def guarded(value: Any, pattern: re.Pattern[str]) -> Any:
    """Return a value in whose strings every marker is marked and nothing else; guarded again it stays the same.

    Names count: those of arguments and of properties are as freely chosen as what they hold.
    """
    return _rewritten(value, lambda text: _marked(text, pattern))


def unspelled(value: Any, pattern: re.Pattern[str]) -> Any:
    """Return a value in whose strings a character that means nothing stands for every marker."""
    return _rewritten(value, lambda text: pattern.sub(_NO_MARKER, text))


def _rewritten(value: Any, rewrite: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return rewrite(value)
    if isinstance(value, Mapping):
        return {_rewritten(name, rewrite): _rewritten(held, rewrite) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_rewritten(held, rewrite) for held in value]
    return value


def cleaned(value: Any) -> Any:
    """Return a value in whose strings no character stands for something here."""
    return _rewritten(value, lambda text: _OURS.sub("", text))


def _marked(text: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda found: MARK + found[0], _OURS.sub("", text))


def found_in(value: Any, pattern: re.Pattern[str]) -> bool:
    """Return whether a string of a value, names included, spells a marker, once what is ours is taken out."""
    return any(pattern.search(_OURS.sub("", text)) for text in _strings(value, []))


def is_plain(value: Any, pattern: re.Pattern[str]) -> bool:
    """Return whether `guarded` surely leaves a value as it is."""
    together = "\n".join(_strings(value, []))  # finds what stands over two strings as well, and that is no harm
    return (together.isascii() or _OURS.search(together) is None) and pattern.search(together) is None


def _strings(value: Any, found: list[str]) -> list[str]:
    """Add every string of a value to a list, and return that."""
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, list | tuple):
        for held in value:
            _strings(held, found)
    elif isinstance(value, Mapping):
        for name, held in value.items():
            found.append(name)
            if isinstance(held, str):
                found.append(held)
            else:
                _strings(held, found)
    return found


def readable(text: str, pattern: re.Pattern[str]) -> str:
    """Return a rendered text as people typed it, without marks."""
    return "".join(piece.text for piece in pieces(text, pattern)) if MARK in text else text


def pieces(text: str, pattern: re.Pattern[str]) -> list[Piece]:
    """Return a rendered text cut around its marked markers, without the marks and without empty pieces."""
    found: list[Piece] = []
    cursor = 0
    for match in re.finditer(f"{MARK}({pattern.pattern})", text):
        found += [Piece(text[cursor : match.start()], cursor, False), Piece(match[1], match.start(1), True)]
        cursor = match.end()
    return [piece for piece in [*found, Piece(text[cursor:], cursor, False)] if piece.text]


def tells_apart(text: str, plain: str, pattern: re.Pattern[str]) -> bool:
    """Return whether marks still tell in a rendered text which markers are the template's own.

    A template that cuts into what people say can take a marker from behind its mark, which then makes text of the next
    marker of its own, or the mark from before a marker, which then is a control token.

    Args:
        text: as rendered, with marks.
        plain: the same conversation rendered without any spelled marker.
        pattern: of markers.
    """
    around = [piece.text for piece in pieces(text, pattern) if not piece.is_spelled]
    if any(MARK in part for part in around) or _num_escaped(text) != _num_escaped(plain):
        return False
    own = [piece.text for piece in pieces(plain, pattern) if not piece.is_spelled]
    return _found(around, pattern) == _found(own, pattern)


def _num_escaped(text: str) -> int:
    return text.lower().count(_ESCAPED_MARK)


def _found(parts: list[str], pattern: re.Pattern[str]) -> list[str]:
    return [marker for part in parts for marker in pattern.findall(part)]


def encode(tokenizer: PreTrainedTokenizerBase, parts: list[Piece]) -> Encoded:
    """Return the tokens of a text in pieces, with characters of the text that the pieces were cut from.

    Source: the pieces are those of transformers' `sanitize_control_tokens`, so a server that sets it reads the same
    tokens.

    Raises:
        DataError: the tokenizer has no ordinary tokens for a marker.
    """
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for number, piece in enumerate(parts):
        encoded = _spelled(tokenizer, piece.text) if piece.is_spelled else _piece(tokenizer, piece.text, number > 0)
        ids.extend(encoded.ids)
        offsets.extend((first + piece.start, past + piece.start) for first, past in encoded.offsets)
    return Encoded(ids, ListedOffsets(offsets) if tokenizer.is_fast else None)


def _spelled(tokenizer: PreTrainedTokenizerBase, marker: str) -> _Read:
    token = tokenizer.convert_tokens_to_ids(marker)
    spelled = _piece(tokenizer, marker, True, as_text=True)
    if token not in spelled.ids:
        return spelled
    # A vocabulary that holds the marker as a piece of text finds it again; its letters one by one are none of it.
    letters = [_piece(tokenizer, letter, True, as_text=True) for letter in marker]
    ids = [token for letter in letters for token in letter.ids]
    if token in ids:
        raise DataError(
            f"a message spells {marker!r}, which this tokenizer can only read as a control token; set "
            "data.control_text to 'drop', or take the row out"
        )
    return _Read(ids, [(n + a, n + b) for n, letter in enumerate(letters) for a, b in letter.offsets])


def _piece(tokenizer: PreTrainedTokenizerBase, text: str, is_inside: bool, *, as_text: bool = False) -> _Read:
    if is_inside:
        lead = _bare(tokenizer, _LEAD, as_text).ids
        led = _bare(tokenizer, _LEAD + text, as_text)
        if led.ids[: len(lead)] == lead:
            places = [(max(0, a - len(_LEAD)), b - len(_LEAD)) for a, b in led.offsets[len(lead) :]]
            return _Read(led.ids[len(lead) :], places)
    return _bare(tokenizer, text, as_text)


def _bare(tokenizer: PreTrainedTokenizerBase, text: str, as_text: bool) -> _Read:
    reader = _reader_of_text(tokenizer) if as_text else tokenizer
    options: dict[str, Any] = {"split_special_tokens": True} if as_text else {}
    found = reader(
        text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast), verbose=False, **options
    )
    return _Read(list(found["input_ids"]), found["offset_mapping"] if tokenizer.is_fast else [])


def _reader_of_text(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer that reads markers as text.

    A copy, because the setting is the Rust tokenizer's own: changed for a piece, it would change what another thread
    encodes meanwhile.
    """
    if tokenizer not in _READERS:
        _READERS[tokenizer] = copy.deepcopy(tokenizer)
    return _READERS[tokenizer]
