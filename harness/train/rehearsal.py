"""What forward passes of each size need of memory, tried after the last step of a probe.

A probe takes few steps, and the rows of few steps are rarely the longest ones: the peak of a whole trial would be
underestimated. So the heaviest steps of an epoch are begun, once for each size of forward pass, and not applied.
Invariant: no weight, no moment of the optimizer and no generator moves. What does not live here: what is made of the
peaks (harness/engine/footprint.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from harness.data import Example
from harness.errors import is_out_of_memory
from harness.records.provenance import begin_peak_memory, peak_memory_bytes
from harness.seeding import preserved_rng
from harness.train.batches import Order
from harness.train.log import write_row
from harness.train.run import Run

MAX_STEPS = 4096
"""Steps of an epoch that are looked through for the heaviest."""
Backward = Callable[[Run, Sequence[Example]], object]


def rehearse(run: Run, backward: Backward) -> None:
    """Log the peak of the steps so far and then that of each size of forward pass, largest last.

    A size that does not fit ends it: a trial would halve its micro-batch there.
    """
    if run.state.divergence is not None or run.processes.count > 1 or run.device.type != "cpu":
        return
    _log(run, run.forward_size, 0.0)
    for size in sizes(run.forward_size):
        for rows in heaviest(run, size):
            started = time.perf_counter()
            run.optimizer.zero_grad(set_to_none=True)
            begin_peak_memory(of_gpu=False)
            if not _fits(_sized(run, size), rows, backward):
                return
            _log(run, size, time.perf_counter() - started)


def sizes(largest: int) -> list[int]:
    """Return the powers of two below a number, and that number."""
    return [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]


def heaviest(run: Run, size: int) -> Iterator[Sequence[Example]]:
    """Yield the rows of the step of an epoch whose first pass is the largest, and of that whose later passes are: when
    those run, a gradient is held already."""
    rows, spec = run.rows.train, run.spec
    order = Order(len(rows), spec.batch_size, len(rows), math.ceil(len(rows) / spec.batch_size), run.order.seed)
    steps = [order.indices(step) for step in range(min(order.num_steps, MAX_STEPS))]
    costs = [_passes([len(rows[index].input_ids) for index in step], size, run) for step in steps]
    first = max(range(len(steps)), key=lambda step: costs[step][0])
    later = max(range(len(steps)), key=lambda step: max(costs[step][1:], default=0))
    for step in dict.fromkeys([first, later]):
        yield [rows[index] for index in steps[step]]


def _passes(lengths: list[int], size: int, run: Run) -> list[int]:
    """Return the tokens of each forward pass of a step, padding included."""
    ordered = sorted(lengths, reverse=True)
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [sum(part) if run.rows.reads_itself_alone else len(part) * part[0] for part in parts]


def _sized(run: Run, size: int) -> Run:
    runtime = run.runtime.replace({"micro_batch_size": size, "num_halvings": 0})
    return replace(run, runtime=runtime, state=replace(run.state, num_halvings=0))


def _fits(run: Run, rows: Sequence[Example], backward: Backward) -> bool:
    try:
        with preserved_rng():
            backward(run, rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        run.optimizer.zero_grad(set_to_none=True)
    return True


def _log(run: Run, size: int, seconds: float) -> None:
    """Log the peak since it began anew; where dropout takes one row a pass it is also that of the size asked for."""
    asked = run.runtime.rows_per_pass(run.spec.batch_size, run.state.num_halvings)
    row = {"step": run.state.step, "rehearsal/peak_bytes": peak_memory_bytes()}
    for named, taken in ((size, seconds), *([(asked, 0.0)] if run.has_dropout and asked > size else [])):
        write_row(run.metrics, row | {"rehearsal/rows_per_pass": named, "rehearsal/seconds": taken})
