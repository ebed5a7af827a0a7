"""`python -m analysis.stats_check`: every interval and test against simulated truth, one row a scenario.

Invariant: the same replicates give the same rows, whatever the number of workers. What does not live here: scenarios
(analysis/checks/).
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import chain
from multiprocessing import get_context

from analysis.checks import crossed, singles, sweeps
from analysis.checks.scenario import Row, Scenario

HEADER = ("estimator", "scenario", "n", "k", "nominal", "claimed", "rate", "SE", "replicates", "")
NUM_CHUNKS = 4
"""Parts that a scenario is simulated in, so that a slow one does not hold up the end."""


@cache
def scenarios() -> tuple[Scenario, ...]:
    """Return every scenario."""
    return tuple(chain(crossed.scenarios(), singles.scenarios(), sweeps.scenarios()))


def check(num_replicates: int, num_workers: int, wanted: str = "") -> list[Row]:
    """Return the row of every scenario.

    Args:
        num_replicates: of each scenario; slow ones take their share.
        num_workers: processes.
        wanted: only scenarios with this text in their estimator or name.
    """
    places = [at for at, one in enumerate(scenarios()) if wanted in f"{one.estimator}: {one.name}"]
    tasks = [(at, chunk, size) for at in places for chunk, size in enumerate(_sizes(scenarios()[at], num_replicates))]
    if num_workers == 1:
        hits = [_hits(task) for task in tasks]
    else:
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_start) as pool:
            hits = list(pool.map(_hits, tasks))
    total = dict.fromkeys(places, 0)
    for (at, _, _), found in zip(tasks, hits, strict=True):
        total[at] += found
    return [Row(scenarios()[at], total[at], sum(_sizes(scenarios()[at], num_replicates))) for at in places]


def _sizes(scenario: Scenario, num_replicates: int) -> list[int]:
    total = scenario.num_replicates(num_replicates)
    return [math.ceil((total - chunk) / NUM_CHUNKS) for chunk in range(NUM_CHUNKS)]


def _start() -> None:
    scenarios()
    gc.freeze()  # statsmodels collects garbage at every adjustment of a family: 60 ms over all that is imported


def _hits(task: tuple[int, int, int]) -> int:
    at, chunk, size = task
    return scenarios()[at].num_hits(size, chunk)


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    one = row.scenario
    claimed = "no" if one.bounds is None else "-".join(f"{100 * end:g}" for end in one.bounds)
    claimed += f" ({one.why})" if one.why else ""
    numbers = (f"{100 * one.nominal:g}", claimed, f"{100 * row.rate:.1f}", f"{100 * row.se:.1f}")
    counts = str(one.num_items or ""), str(one.num_seeds or "")
    verdict = "" if one.bounds is None else "pass" if row.passed() else "FAIL"
    return (one.estimator, one.name, *counts, *numbers, str(row.num_replicates), verdict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a claimed row fails."""
    parser = argparse.ArgumentParser(prog="python -m analysis.stats_check", description=__doc__)
    parser.add_argument("--replicates", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="scenarios with this text in their name")
    options = parser.parse_args(arguments)
    if options.replicates < NUM_CHUNKS or options.workers < 1:
        parser.error(f"--replicates must be at least {NUM_CHUNKS} and --workers at least 1")
    rows = check(options.replicates, options.workers, options.only)
    failed = sum(not row.passed() for row in rows)
    print(table(rows))
    print(f"\nPer cent. A claimed row fails where its rate is outside by over 2 SE: {failed} of {len(rows)} failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
