"""A study of stub trials as a process of its own, to be killed: `python -m tests.engine.study_process OUT [options]`.

Invariant: what it runs is what `study_runs.Runner` runs in a test. Prints one line: how it ended.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from harness.engine import executor
from tests.engine.inline import inline
from tests.engine.study_runs import Runner


def main(words: list[str]) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--changes", default="{}")
    parser.add_argument("--storage")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(words)
    how = {"executor": inline} if given.workers == 1 else {"executor": executor.local}
    with pytest.MonkeyPatch.context() as patch:
        run = Runner(patch)
        run(given.out, json.loads(given.changes), storage=given.storage, num_workers=given.workers, **how)
    print(run.summary.why)
    return run.summary.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
