"""The one training loop, in plain torch."""

from __future__ import annotations

from harness.train.loop import fit

__all__ = ["fit"]
