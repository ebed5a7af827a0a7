"""`python -m analysis.stats_check`: every interval and test against simulated truth, one row a scenario.

Invariant: the same replicates give the same rows, whatever the number of workers; a row is printed as soon as it and
those before it are known. What does not live here: scenarios (analysis/checks/).
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
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


def check(num_replicates: int, num_workers: int, wanted: str = "") -> Iterator[Row]:
    """Yield the row of every scenario, in their order, as soon as it is known.

    Args:
        num_replicates: of each scenario; slow ones take their share.
        num_workers: processes.
        wanted: only scenarios with this text in their estimator or name.
    """
    places = [at for at, one in enumerate(scenarios()) if wanted in f"{one.estimator}: {one.name}"]
    sizes = {at: _sizes(scenarios()[at], num_replicates) for at in places}
    tasks = [(at, chunk, size) for at in places for chunk, size in enumerate(sizes[at])]
    with _found(tasks, num_workers) as found:
        for at in places:
            yield Row(scenarios()[at], sum(islice(found, NUM_CHUNKS)), sum(sizes[at]))


@contextmanager
def _found(tasks: Sequence[tuple[int, int, int]], num_workers: int) -> Generator[Iterator[int], None, None]:
    """Give the hits of each task in order, by so many processes."""
    if num_workers == 1:
        _start()
        try:
            yield map(_hits, tasks)
        finally:
            gc.unfreeze()
    else:
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_start) as pool:
            yield pool.map(_hits, tasks)


def _sizes(scenario: Scenario, num_replicates: int) -> list[int]:
    total = scenario.num_replicates(num_replicates)
    return [math.ceil((total - chunk) / NUM_CHUNKS) for chunk in range(NUM_CHUNKS)]


def _start() -> None:
    scenarios()
    gc.freeze()  # statsmodels collects garbage at every adjustment of a family: 60 ms over all that is imported


def _hits(task: tuple[int, int, int]) -> int:
    at, chunk, size = task
    return scenarios()[at].num_hits(size, chunk)


def _line(cells: Iterable[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


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
    print(_line(HEADER), _line(["---"] * len(HEADER)), sep="\n", flush=True)
    passed: list[bool] = []
    for row in check(options.replicates, options.workers, options.only):
        print(_line(_cells(row)), flush=True)
        passed.append(row.passed())
    failed = passed.count(False)
    print(f"\nPer cent. A claimed row fails where its rate is outside by over 2 SE: {failed} of {len(passed)} failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
