"""Task kinds whose items are answered with text, one module each. Free of torch.

Invariant: a kind is one `Kind`: what its items hold, which cannot be asked, what is asked, and what an answer is worth.
What does not live here: the kinds that need no module (items.py, documents.py, metrics.py).
"""

from __future__ import annotations

from harness.evals.kinds import instruct, number, open_ended, program, refusal
from harness.evals.kinds.kind import Kind

KINDS: dict[str, Kind] = {
    "instruct": instruct.KIND,
    "refusal": refusal.KIND,
    "number": number.KIND,
    "open": open_ended.KIND,
    "program": program.KIND,
}

__all__ = ["KINDS", "Kind"]
