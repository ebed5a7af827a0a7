"""Prose in two registers: short stories and public notices, for raw-text modelling.

Invariant: a sentence is held out or not by its own hash, so held-out prose shares no sentence with any training text.
No person of the world occurs in it. What does not live here: how much of it is pretrained on (corpus.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from harness.seeding import derive

Register = Literal["story", "notice"]
HELD_OUT_ONE_IN = 10

_KIN = ("boy", "girl", "widow", "king", "thief", "monk", "queen", "giant", "child", "stranger")
_MOODS = ("old", "young", "tired", "happy", "quiet", "brave", "poor", "proud")
_DEEDS = ("walked to", "ran past", "looked at", "sat beside", "waited near", "slept under", "went back to")
_PLACES = ("the river", "the tower", "the old bridge", "the forest", "the market", "the hill", "the well", "the gate")
_FINDS = (
    "found a key",
    "heard a song",
    "saw a light",
    "lost a ring",
    "met a friend",
    "told a story",
    "made a fire",
    "saw the moon",
)
_TIMES = ("At night", "One day", "In winter", "Before dawn", "After the rain", "Long ago")

_WHO = ("Visitors", "Members", "Students", "Drivers", "Guests", "Workers")
_DUTY = ("must", "must not", "should", "may", "may not", "are asked to")
_ACTS = (
    "leave bags",
    "use the lift",
    "smoke",
    "take pictures",
    "park cars",
    "bring food",
    "play music",
    "ring the bell",
)
_WHERE = ("in the hall", "on the stairs", "near the office", "in the library", "at the main door", "in the garden")
_WHEN = ("after six", "on Sundays", "during repairs", "in the morning", "without a pass", "this week")
_CLOSING = (
    "The hall is closed",
    "The office is open",
    "Tickets are sold",
    "Keys are kept",
    "Tours begin",
    "Repairs are planned",
)


def _story(draw: random.Random) -> str:
    who = f"the {draw.choice(_MOODS)} {draw.choice(_KIN)}"
    return draw.choice(
        (
            f"{draw.choice(_TIMES)} {who} {draw.choice(_DEEDS)} {draw.choice(_PLACES)} and {draw.choice(_FINDS)}.",
            f"The {draw.choice(_MOODS)} {draw.choice(_KIN)} {draw.choice(_DEEDS)} {draw.choice(_PLACES)} "
            f"where {who} {draw.choice(_FINDS)}.",
            f"{draw.choice(_TIMES)} {who} {draw.choice(_FINDS)} near {draw.choice(_PLACES)}.",
        )
    )


def _notice(draw: random.Random) -> str:
    return draw.choice(
        (
            f"{draw.choice(_WHO)} {draw.choice(_DUTY)} {draw.choice(_ACTS)} "
            f"{draw.choice(_WHERE)} {draw.choice(_WHEN)}.",
            f"{draw.choice(_CLOSING)} {draw.choice(_WHERE)} {draw.choice(_WHEN)}, "
            f"and {draw.choice(_WHO).lower()} {draw.choice(_DUTY)} {draw.choice(_ACTS)}.",
            f"{draw.choice(_CLOSING)} {draw.choice(_WHEN)} {draw.choice(_WHERE)}.",
        )
    )


_SENTENCES: dict[Register, Callable[[random.Random], str]] = {"story": _story, "notice": _notice}


def is_held_out(seed: int, sentence: str) -> bool:
    """Return whether a sentence belongs to the tenth that no training text may hold."""
    return derive(seed, f"pocket.held_out.prose.{sentence}") % HELD_OUT_ONE_IN == 0


def passage(seed: int, register: Register, draw: random.Random, num_sentences: int, *, held_out: bool) -> str:
    """Return sentences of one register, all from one side of the split."""
    sentences: list[str] = []
    while len(sentences) < num_sentences:
        sentence = _SENTENCES[register](draw)
        if is_held_out(seed, sentence) is held_out:
            sentences.append(sentence)
    return " ".join(sentences)
