"""A launch of stub trials as a program, for tests to kill: `python -m tests.engine.stub_launch OUT`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from harness.engine import launch
from harness.errors import HarnessError
from harness.records.schema import PlannedTrial
from harness.records.store import Store
from harness.spec import Runtime
from tests.engine.stub import run_stub
from tests.engine.trials import planned

RUNTIME = Runtime(num_threads=1, micro_batch_size=8, eval_batch_size=8)


def main() -> int:
    """Launch and return the exit code that the command line would."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--budget", type=float)
    options = parser.parse_args()
    trials: list[PlannedTrial] = planned(options.trials)
    how = launch.Options(options.workers, options.retry_failed, options.budget, run=run_stub, prepare=False)
    try:
        summary = launch.launch(Store(options.out), trials, RUNTIME, how)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    states = {key: outcome.state for key, outcome in summary.outcomes.items()}
    print(json.dumps({"why": summary.why, "num_ran": summary.num_ran, "states": states}))
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
