"""The one training loop, in plain torch, and the gate before it."""

from __future__ import annotations

from harness.train.gate import audited, require_sound
from harness.train.loop import fit
from harness.train.processes import ALONE, Processes

__all__ = ["ALONE", "Processes", "audited", "fit", "require_sound"]
