"""The program: which scenarios, how often, and what is printed of them."""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from datetime import UTC, datetime

from harness.records.provenance import cpu_name
from tests.chaos import broken, catalog
from tests.chaos.catalog import Done
from tests.chaos.setting import MAX_SHOWN

KINDS = ("lost", "duplicate", "difference")


def main() -> int:
    """Run what was asked for; exit with 1 where anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--set", choices=("short", "long"), default="short", dest="which")
    parser.add_argument("--only", action="append", choices=tuple(catalog.of_set("long")), help="this scenario; repeat")
    parser.add_argument("--seed", type=int, default=0, help="of the random points")
    parser.add_argument("--count", type=int, help="kills of each scenario that counts them; default is the set's")
    parser.add_argument("--broken", default="", choices=("", *broken.BUILDS), help="a build that must be caught")
    parser.add_argument("--until-caught", action="store_true", help="stop at the first problem")
    options = parser.parse_args()
    if options.count is not None and options.count < 1:
        parser.error(f"--count is {options.count}, but must be at least 1")
    logging.disable(logging.WARNING)  # every damage is told of; the children's logs have it
    names = options.only or list(catalog.of_set(options.which))
    done = []
    for name in names:
        one = catalog.run(
            name,
            options.which,
            seed=options.seed,
            build=options.broken,
            count=options.count,
            until_caught=options.until_caught,
        )
        print_one(one)
        done.append(one)
    print_total(done, options.which, options.seed)
    return 1 if any(one.tally.problems for one in done) else 0


def print_one(done: Done) -> None:
    """Print what a scenario counted and found."""
    counts = ", ".join(f"{count} {what}" for what, count in sorted(done.tally.counts.items()))
    print(f"{done.name:<16} {done.seconds:6.1f} s  {counts}; {len(done.tally.problems)} problems", flush=True)
    for problem in done.tally.problems[:MAX_SHOWN]:
        print(f"  {problem}")
    if len(done.tally.problems) > MAX_SHOWN:
        print(f"  and {len(done.tally.problems) - MAX_SHOWN} more")
    for skip in done.tally.skips:
        print(f"  SKIPPED {skip}", flush=True)


def print_total(done: list[Done], which: str, seed: int) -> None:
    """Print the sums."""
    total: Counter[str] = Counter()
    for one in done:
        total += one.tally.counts
    problems = [problem for one in done for problem in one.tally.problems]
    kinds = ", ".join(f"{sum(f'{kind}:' in problem for problem in problems)} {kind}" for kind in KINDS)
    seconds = sum(one.seconds for one in done)
    print(f"\ntotal: {', '.join(f'{count} {what}' for what, count in sorted(total.items()))}")
    print(f"expected 0: {kinds}, {len(problems)} problems in all")
    when = datetime.now(UTC).date().isoformat()
    print(f"{when}, --set {which} --seed {seed}, {seconds:.0f} s, {cpu_name()}, {os.uname().sysname}")
