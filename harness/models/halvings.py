"""Rows computed together where nothing is trained: fewer once memory ran out, for the rest of a trial.

Invariant: what ran out is computed again as a whole from the same inputs, so that only the order of additions differs.
What does not live here: a step of training (harness/train/out_of_memory.py), a worker that the system kills for memory
(harness/engine/launch.py). Importing it imports no torch.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from harness.errors import TooLittleMemoryError, is_out_of_memory
from harness.spec import MAX_HALVINGS

T = TypeVar("T")
LOG = logging.getLogger(__name__)


class Halvings:
    """How often the rows that an evaluation computes together are halved; everything in a trial shares one."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def rows(self, batch_size: int, num_rows: int) -> int:
        """Return how many of so many rows are computed together."""
        return max(1, -(-min(batch_size, num_rows) // 2**self.count))

    def in_what_fits(self, compute: Callable[[int], T], batch_size: int, num_rows: int) -> T:
        """Return what a computation gives, begun again with half the rows together as often as memory asks for.

        Args:
            compute: takes how many rows to compute together, and moves nothing that it finds.
            batch_size: `runtime.eval_batch_size`, or less.
            num_rows: rows that there are.

        Raises:
            TooLittleMemoryError: one row does not fit alone, or not after three halvings.
        """
        while True:
            size = self.rows(batch_size, num_rows)
            try:
                return compute(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).partition("\n")[0]
            # Outside of the handler: the error holds the tensors of the frames that it came through.
            _let_go()
            self._halve(size, batch_size, problem)

    def _halve(self, size: int, batch_size: int, problem: str) -> None:
        if size == 1:
            raise TooLittleMemoryError(
                f"one row of an evaluation does not fit in memory alone; lower evals.max_length ({problem})"
            )
        if self.count == MAX_HALVINGS:
            raise TooLittleMemoryError(
                f"runtime.eval_batch_size is {batch_size!r}, but must be below {size} on this machine: memory ran out "
                f"after {MAX_HALVINGS} halvings ({problem})"
            )
        self.count += 1
        LOG.warning(
            "memory ran out in an evaluation of %d rows together: half of them from here on (%s)", size, problem
        )


def _let_go() -> None:
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
