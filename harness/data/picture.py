"""Rows as a person reads them: what is trained on and what is context.

Invariant: the text is what the tokens say, decoded, and nothing in it is taken for markup - not by a terminal and not
by a browser. What does not live here: which rows are shown (audit).
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from harness.data.example import Example

if TYPE_CHECKING:
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Piece(NamedTuple):
    """A run of tokens of one weight."""

    text: str
    weight: float
    begins: bool
    """Whether an example begins with it, of several in a row."""


def pieces(tokenizer: PreTrainedTokenizerBase, row: Example) -> list[Piece]:
    """Return the runs of equal weight of a row as text, special tokens included.

    A character whose bytes lie on both sides of a change of weight belongs to the later run.
    """
    starts = set(row.starts.tolist())
    weights = row.loss_weights.tolist()
    runs = [
        list(run)
        for _, run in groupby(range(len(weights)), key=lambda t: (weights[t], sum(start <= t for start in starts)))
    ]
    found: list[Piece] = []
    for first, text in zip((run[0] for run in runs), _texts(tokenizer, row, runs), strict=True):
        found.append(Piece(text, weights[first], first in starts and first > 0))
    return found


def _texts(tokenizer: PreTrainedTokenizerBase, row: Example, runs: Sequence[Sequence[int]]) -> Iterator[str]:
    """Yield the text of each run: what decoding up to its end adds, but for an unfinished character."""
    ids, done, begin = row.input_ids.tolist(), "", 0
    starts = set(row.starts.tolist())
    for number, run in enumerate(runs):
        if run[0] in starts:
            done, begin = "", run[0]
        upto = str(tokenizer.decode(ids[begin : run[-1] + 1], skip_special_tokens=False))
        last = number + 1 == len(runs) or runs[number + 1][0] in starts
        upto = upto if last else upto.rstrip(UNFINISHED)
        yield upto[len(done) :]
        done = upto


def as_terminal(tokenizer: PreTrainedTokenizerBase, row: Example) -> Text:
    """Return a row for a terminal: green and bold is trained on, paler the less it weighs, dim is context."""
    from rich.text import Text

    shown = Text()
    for piece in pieces(tokenizer, row):
        if piece.begins:
            shown.append("\n──────\n", style="blue")
        style = "dim" if not piece.weight else "bold green" if piece.weight >= 1 else "green"
        shown.append(_visible(piece.text), style=style)
    return shown


def as_html(tokenizer: PreTrainedTokenizerBase, row: Example) -> str:
    """Return a row as an HTML fragment; `STYLE` colours it."""
    parts: list[str] = []
    for piece in pieces(tokenizer, row):
        text = html.escape(_visible(piece.text))
        rule = '<hr class="example">' if piece.begins else ""
        if piece.weight:
            parts.append(f'{rule}<mark style="--weight:{min(piece.weight, 1.0):g}" title="weight {piece.weight:g}">')
            parts.append(f"{text}</mark>")
        else:
            parts.append(f"{rule}<span>{text}</span>")
    return f'<div class="row" title="{html.escape(row.row_id)}">{"".join(parts)}</div>'


STYLE = """
.row { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; color: #667; }
.row mark { background: rgb(46 160 67 / calc(0.15 + 0.35 * var(--weight))); color: #111; border-radius: 2px; }
.row hr.example { border: 0; border-top: 1px dashed #36c; margin: 4px 0; }
"""


def _visible(text: str) -> str:
    """Return a text whose control characters, which could move a cursor or hide what follows, are spelled out."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)
