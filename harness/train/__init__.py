"""The one training loop, in plain torch, and the gate before it."""

from __future__ import annotations

from harness.train.gate import audited, require_sound
from harness.train.loop import fit

__all__ = ["audited", "fit", "require_sound"]
