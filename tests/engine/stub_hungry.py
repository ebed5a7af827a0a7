"""A launch in a group of limited memory, as a program: `python -m tests.engine.stub_hungry OUT GROUP MIB_PER_ROW`.

Its one worker takes so much memory for each row of a forward pass, so that the kernel kills it where that is more than
its control group may hold.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from harness.engine import launch
from harness.records.schema import TrialResult
from harness.records.store import Store, append_line
from harness.spec import Runtime, TrialSpec
from tests.engine.stub import run_stub
from tests.engine.trials import planned

RUNTIME = Runtime(num_threads=1, micro_batch_size=8, eval_batch_size=8)


def run_hungry(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """The stub trial, with the memory of its forward passes."""
    rows = runtime.rows_per_pass(spec.train.batch_size, runtime.num_halvings)
    append_line(store.root / "rows.jsonl", {"seed": spec.seed, "rows": rows})
    held = bytearray(rows * int(os.environ["MIB_PER_ROW"]) * 2**20)
    held[:: os.sysconf("SC_PAGE_SIZE")] = b"\1" * len(held[:: os.sysconf("SC_PAGE_SIZE")])
    return run_stub(spec, store, runtime, command, report)


def main() -> int:
    """Join the group, launch two trials of one shape one after the other, and print how they ended."""
    root, group, mib_per_row = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    (group / "cgroup.procs").write_text(str(os.getpid()))
    os.environ["MIB_PER_ROW"] = mib_per_row
    how = launch.Options(1, run=run_hungry, prepare=False)
    summary = launch.launch(Store(root), planned(2), RUNTIME, how)
    ends = {key: (outcome.state, outcome.cause, outcome.message) for key, outcome in summary.outcomes.items()}
    print(json.dumps(ends))
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
