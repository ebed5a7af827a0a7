"""A step that does not fit in memory: smaller forward passes, and more of them.

Invariant: a step that runs out of memory is begun again from the weights that it began with, over the same rows, tokens
and loss weights, so that only the order of additions differs. What does not live here: the step itself (loop.py), a
worker that the system kills for memory (harness/engine/launch.py).
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from harness.data import Example
from harness.errors import TooLittleMemoryError, is_out_of_memory
from harness.spec import MAX_HALVINGS
from harness.train.run import Run

T = TypeVar("T")
_log = logging.getLogger(__name__)


def in_what_fits(run: Run, rows: Sequence[Example], backward: Callable[[Run, Sequence[Example]], T]) -> T:
    """Return what a step's backward passes measure, with the micro-batch halved as often as memory asks for.

    The halved size holds for the rest of the run.

    Raises:
        TooLittleMemoryError: one row does not fit alone, or not after three halvings.
    """
    while True:
        try:
            return backward(run, rows)
        except (RuntimeError, MemoryError) as error:
            # Of several processes the others already wait for what this one would have added.
            if not is_out_of_memory(error) or run.processes.count > 1:
                raise
            problem = str(error).partition("\n")[0]
        # Outside of the handler: the error holds the tensors of the frames that it came through.
        _let_go(run)
        _halve(run, rows, problem)


def _let_go(run: Run) -> None:
    run.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()


def _halve(run: Run, rows: Sequence[Example], problem: str) -> None:
    size = run.forward_size
    if size == 1:
        raise TooLittleMemoryError(f"{_longest(rows)} does not fit in memory alone; lower data.max_length ({problem})")
    if run.state.num_halvings == MAX_HALVINGS:
        raise TooLittleMemoryError(
            f"runtime.micro_batch_size is {run.runtime.micro_batch_size!r}, but must be below {size} on this machine: "
            f"memory ran out after {MAX_HALVINGS} halvings ({problem})"
        )
    run.state.num_halvings += 1
    _log.warning(
        "memory ran out at step %d: forward passes of %d rows in place of %d from here on (%s)",
        run.state.step + 1, run.forward_size, size, problem,
    )  # fmt: skip


def _longest(rows: Sequence[Example]) -> str:
    row = max(rows, key=lambda row: len(row.input_ids))
    packed = f"one packed row of {row.num_examples} examples and" if row.num_examples > 1 else "one row of"
    return f"{packed} {len(row.input_ids)} tokens"
