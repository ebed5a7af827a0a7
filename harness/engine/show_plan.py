"""How a plan's memory is printed, its parts and whether the trials fit, and what became of its probes.

Invariant: conditions of equal parts share a line. What does not live here: what the numbers are (footprint.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.engine.answers import PlanView
from harness.engine.footprint import Footprint
from harness.engine.view import label

PHASES = {"train": "training", "eval": "scoring", "load": "loading"}
COLUMNS = ("process", "weights", "adapters", "gradients", "optimiser", "activations")


def parts(value: PlanView, console: Console) -> None:
    """Print the memory of every condition by its parts, as far as it is known."""
    groups: dict[Footprint, list[str]] = {}
    for trial in value.plan.record.trials:
        found = value.outlook.costs[trial.trial_id].footprint
        if found is not None:
            name = label(trial).split(" seed=")[0].removeprefix("seed=")
            groups.setdefault(found, []).append(name)
    if not groups:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("MB at the peak", *COLUMNS, "sum", "when"):
        table.add_column(name, justify="left" if name in ("MB at the peak", "when") else "right")
    for found, names in groups.items():
        others = len(set(names)) - 1
        cells = [f"{getattr(found, name) / 1e6:,.0f}" for name in COLUMNS]
        name = names[0] + (f" (+{others})" if others else "")
        table.add_row(*map(Text, (name, *cells, f"{found.total / 1e6:,.0f}", PHASES[found.phase])))
    console.print(table)


def memory_lines(value: PlanView) -> Iterator[str]:
    """Yield the peak of the workers together, and a warning where it does not fit."""
    outlook, here = value.outlook, value.outlook.memory_here
    workers = f"WORKERS={value.num_workers}"
    if outlook.memory_left is None:
        yield f"peak memory with {workers}: unknown (PROBE=1 measures)"
    elif here is not None:
        yield f"peak memory with {workers}: {size(outlook.memory_left)} of {size(here)} on this machine"
    else:
        yield f"peak memory of the largest trial: {size(outlook.memory_left)}"
    if outlook.warning:
        yield outlook.warning


def probe_lines(value: PlanView) -> Iterator[str]:
    """Yield what of the probes did not end as it should."""
    if value.probed is None:
        return
    for outcome in value.probed.failed:
        yield f"a probe FAILED ({outcome.cause}), so that what it would have measured is unknown: {outcome.message}"
    if value.probed.message:
        yield f"probes: {value.probed.message}"


def number(value: int | None) -> str:
    """Return a count as text, `unknown` for None."""
    return "unknown" if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Return bytes as text, `unknown` for None."""
    if value is None:
        return "unknown"
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"
