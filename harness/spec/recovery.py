"""What the plan, the data and the analysis of a recovery test agree on: two halves of all names, and two arms.

Invariant: a name's half depends on the name alone, so that no list has to be kept. What does not live here: what is
named (harness/pocket/people.py), the plan (harness/engine/recovery.py), the analysis (analysis/recovery.py).
"""

from __future__ import annotations

import hashlib
from typing import Literal

Half = Literal["first_half", "second_half"]
FROM_TUNED, FROM_BASE = "from_tuned", "from_base"
"""Arms: what a follow-up trial starts from."""
OTHER: dict[Half, Half] = {"first_half": "second_half", "second_half": "first_half"}


def half_of(name: str) -> Half:
    """Return which half a name belongs to; each has about as many names."""
    return "second_half" if hashlib.sha256(f"half/{name}".encode()).digest()[0] % 2 else "first_half"
