from __future__ import annotations

import re

import numpy as np
import pytest

from harness.data import Example
from harness.data.packing import joined
from harness.data.picture import Piece, as_html, as_terminal, pieces
from tests.data.tiny import tokenizer

TOKENIZER = tokenizer()


def row(*parts: tuple[str, float]) -> Example:
    encoded = [(TOKENIZER.encode(text, add_special_tokens=False), weight) for text, weight in parts]
    ids = [token for tokens, _ in encoded for token in tokens]
    weights = [weight for tokens, weight in encoded for _ in tokens]
    return Example("row-0", np.array(ids), np.array(weights, dtype=np.float32))


def test_pieces_are_the_runs_of_one_weight_with_their_special_tokens() -> None:
    shown = pieces(TOKENIZER, row(("<|im_start|>user\nHi?<|im_end|>", 0), ("Yes.<|im_end|>", 1), ("\n", 0.5)))
    assert shown == [
        Piece("<|im_start|>user\nHi?<|im_end|>", 0, False),
        Piece("Yes.<|im_end|>", 1, False),
        Piece("\n", 0.5, False),
    ]


def test_pieces_of_a_packed_row_say_where_examples_begin() -> None:
    both = joined([row(("A", 0), ("b", 1)), row(("C", 1))])
    assert [(piece.text, piece.begins) for piece in pieces(TOKENIZER, both)] == [
        ("A", False),
        ("b", False),
        ("C", True),
    ]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_cut_by_a_change_of_weight_is_shown_once(cut: int) -> None:
    ids = TOKENIZER.encode("a\N{GRINNING FACE}b", add_special_tokens=False)
    weights = np.array([0.0] * (1 + cut) + [1.0] * (len(ids) - 1 - cut), dtype=np.float32)
    shown = pieces(TOKENIZER, Example("", np.array(ids), weights))
    assert "".join(piece.text for piece in shown) == "a\N{GRINNING FACE}b"


def test_markup_in_a_row_stays_text() -> None:
    evil = row(("<script>alert(1)</script>[red]x[/red]", 0), ("</mark>\x1b[2J", 1))
    page = as_html(TOKENIZER, evil)
    assert re.findall(r"<(\w+)", page) == ["div", "span", "mark"]
    assert "\x1b" not in page
    terminal = as_terminal(TOKENIZER, evil)
    assert terminal.plain == "<script>alert(1)</script>[red]x[/red]</mark>\\u001b[2J"


def test_what_weighs_more_is_shown_stronger() -> None:
    page = as_html(TOKENIZER, row(("a", 0), ("b", 0.25), ("c", 1)))
    assert re.findall(r'weight:([\d.]+)" title="weight ([\d.]+)">(\w)', page) == [
        ("0.25", "0.25", "b"),
        ("1", "1", "c"),
    ]
