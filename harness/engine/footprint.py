"""The memory of a trial by parts, from what trials and probes of its shape measured.

    train:  process + weights + adapters + gradients + optimiser + activations
    eval:   process + weights + adapters + what scoring needs
    load:   process + weights + adapters + what loading needs

What a model holds is known exactly, and of adapters in proportion to their rank. Activations - and casts, logits and
what the allocator loses - are what a measured peak leaves over those parts; for a size of forward pass that nobody
tried they follow the straight line through the nearest two that a probe tried. The peak is that of the worst phase.
Invariant: without a measurement, or beyond what a line can say, there is no footprint, never a guess. What does not
live here: measuring (harness/records/provenance.py, harness/train/rehearsal.py), seconds and disk (forecast.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.engine.kills import own_groups
from harness.engine.measurement import Measurement, rank
from harness.records.schema import MemoryUse
from harness.spec import TrialSpec

Phase = Literal["train", "eval", "load"]
LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Of a control group, by version 2 and by version 1. Source: as kills.py."""


@dataclass(frozen=True)
class Footprint:
    """What a trial's process takes at its peak, in bytes by parts."""

    process: int
    """The libraries, and what is not given back between trials."""
    weights: int
    adapters: int
    gradients: int
    optimiser: int
    activations: int
    """What passes need; in another phase than training, what scoring or loading does."""
    phase: Phase
    """When the peak is."""

    @property
    def total(self) -> int:
        """The peak."""
        return self.process + self.above_process

    @property
    def above_process(self) -> int:
        """What comes on top of a process that has imported what it needs."""
        return self.weights + self.adapters + self.gradients + self.optimiser + self.activations


def of(measured: Iterable[Measurement], spec: TrialSpec, rows_per_pass: int) -> Footprint | None:
    """Return the footprint of a trial: the largest that any measurement of its shape gives; None without any.

    Args:
        measured: rows of a shape and setting; those without `memory` say nothing of parts.
        spec: gives the rank, and whether the best weights are kept beside the current ones.
        rows_per_pass: of the trial's forward passes.
    """
    known = [(row, row.memory) for row in measured if row.memory is not None and _is_known(row.memory)]
    activations = _on_line(_tried(known), rows_per_pass)
    if activations is None:
        return None
    found = [_of_row(row, memory, spec, activations) for row, memory in known]
    return max(found, key=lambda footprint: footprint.total, default=None)


def _of_row(row: Measurement, memory: MemoryUse, spec: TrialSpec, activations: int) -> Footprint:
    start = memory.start_bytes or 0
    adapters, gradients, optimiser = _trained(row, memory, spec)
    best = gradients if spec.train.early_stopping_patience is not None else 0
    phases = [Footprint(start, memory.weights_bytes, adapters, gradients, optimiser, activations + best, "train")]
    held = start + memory.weights_bytes + memory.adapter_bytes
    peaks: dict[Phase, int | None] = {"eval": memory.eval_peak_bytes, "load": memory.load_peak_bytes}
    for phase, peak in peaks.items():
        rest = max(0, (peak or 0) - held)
        phases.append(Footprint(start, memory.weights_bytes, adapters, 0, 0, rest, phase))
    return max(phases, key=lambda footprint: footprint.total)


def _trained(row: Measurement, memory: MemoryUse, spec: TrialSpec) -> tuple[int, int, int]:
    """Return adapters, gradients and optimiser of a spec from those measured, perhaps at another rank."""
    sizes = (memory.adapter_bytes, memory.gradient_bytes, memory.optimiser_bytes)
    own = rank(spec)
    if own is None or row.rank is None:
        return sizes
    adapters, gradients, optimiser = (round(size * own / row.rank) for size in sizes)
    return adapters, gradients, optimiser


def _is_known(memory: MemoryUse) -> bool:
    return None not in memory.model_dump().values()


def _tried(known: Iterable[tuple[Measurement, MemoryUse]]) -> dict[int, int]:
    """Return what passes of each size that was tried took over what the model held: the most of all measurements."""
    points: dict[int, int] = {}
    for row, memory in known:
        trained = memory.gradient_bytes + memory.optimiser_bytes + row.best_bytes
        held = (memory.start_bytes or 0) + memory.weights_bytes + memory.adapter_bytes + trained
        own = [(row.rows_per_pass or 1, memory.train_peak_bytes or 0), *row.rehearsed]
        for size, peak in own:
            points[size] = max(points.get(size, 0), peak - held)
    return points


def _on_line(points: Mapping[int, int], at: int) -> int | None:
    """Return the value at a size, on the line through the nearest two around it, or else through the largest two; None
    with a single other size, and below the smallest."""
    if at in points:
        return points[at]
    below, above = [size for size in points if size < at], [size for size in points if size > at]
    ends = sorted(below)[-1:] + sorted(above)[:1] if above else sorted(below)[-2:]
    if len(ends) < 2 or not below:
        return None
    low, high = ends
    slope = max(0.0, (points[high] - points[low]) / (high - low))
    return round(points[low] + slope * (at - low))


def peak_together(peaks: Iterable[int | None], num_workers: int) -> int | None:
    """Return what the largest so many trials take at once, or None if any is unknown."""
    known = list(peaks)
    if None in known:
        return None
    return sum(sorted((peak for peak in known if peak is not None), reverse=True)[:num_workers])


def warning(peaks: Iterable[int | None], num_workers: int, machine: int | None) -> str | None:
    """Return one line where the largest trials do not fit into a machine together, else None."""
    known = [peak for peak in peaks if peak is not None]
    needed = peak_together(known, num_workers) or 0
    if machine is None or needed <= machine:
        return None
    fitting = max((num for num in range(num_workers) if (peak_together(known, num) or 0) <= machine), default=0)
    remedy = f"WORKERS={fitting} fits" if fitting else "not even one trial fits; lower runtime.micro_batch_size"
    sizes = f"takes {gigabytes(needed)} of memory, but there is {gigabytes(machine)}"
    return f"WARNING: WORKERS={num_workers} {sizes}; {remedy}"


def too_little(peaks: Iterable[int | None], asked_gb: float | None) -> str | None:
    """Return one line where a trial takes more than `runtime.memory_gb` asks for elsewhere, else None."""
    largest = max((peak for peak in peaks if peak is not None), default=0)
    if asked_gb is None or largest <= asked_gb * 2**30:
        return None
    return (
        f"WARNING: runtime.memory_gb is {asked_gb:g}, but must be at least {largest / 2**30:.1f}: a trial takes as much"
    )


def gigabytes(size: int) -> str:
    """Return bytes as text, in 10^9."""
    return f"{size / 1e9:.1f} GB"


def machine_bytes() -> int | None:
    """Return the memory that processes here may take: the machine's, or less where a control group says so."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return min([machine, *_limits()])


def _limits() -> list[int]:
    found = []
    for path in (group / name for group in own_groups() for name in LIMITS):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        found += [int(text)] if text.isdecimal() else []
    return found
