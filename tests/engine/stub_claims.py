"""Claim sweeps on the tiny base as a program, for tests to kill: `python -m tests.engine.stub_claims OUT [--stub]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.engine import catalog, claims_run, commands, launch
from harness.errors import HarnessError
from harness.spec import Axis, Claim, Contrast, Sweep, Term
from tests.engine.stub import run_stub
from tests.pocket.tiny import tiny_experiment

EQUAL = "train.loss_limit"
RATE = "train.learning_rate"


def sweep_of(name: str, field: str, values: tuple[float, float], part: dict[str, Any], **more: Any) -> Sweep:
    """Return a sweep of two conditions with one claim about the second minus the first."""
    metric = part.pop("metric")
    terms = tuple(
        Term(metric=metric, at=((field, value),), weight=weight)
        for value, weight in zip(values, (-1.0, 1.0), strict=True)
    )
    claim = Claim(
        id=name.upper(),
        statement=f"{field} matters",
        source="control",
        published="none",
        parts=(Contrast(terms=terms, **part),),
    )
    texts = {"hypothesis": "h", "refuted_if": "r", "source": "s"}
    defaults: dict[str, Any] = {"measures": ("retained", "fluency"), "seeds": (0, 1, 2), "worlds": (0, 1)}
    return Sweep(name=name, axes=(Axis(field=field, values=values),), claims=(claim,), **texts, **defaults | more)


def sweeps() -> dict[str, Sweep]:
    """Return an A/A sweep and one with a planted effect; the metric of the first is of values 0 and 1."""
    equal = {"metric": "pocket/arithmetic/acc", "expect": "equal", "margin": 0.6}
    planted = {"metric": "fluency", "expect": "greater", "margin": 0.02}
    return {
        "aa": sweep_of("aa", EQUAL, (50.0, 100.0), equal),
        "planted": sweep_of("planted", RATE, (1e-9, 1e-2), planted),
    }


def offer() -> None:
    """Make the catalogue hold these sweeps and the tiny base alone."""
    offered, experiment = sweeps(), tiny_experiment()
    catalog.sweep_names = lambda: sorted(offered)
    catalog.load_sweep = lambda name: offered[name]
    catalog.load_experiment = lambda name: experiment


def main() -> int:
    """Run all claim sweeps here, or detached, and return the exit code that the command line would."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--stub", action="store_true")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--detach", action="store_true")
    options = parser.parse_args()
    offer()
    if options.stub:
        plain = launch.launch

        def stubbed(store: Any, trials: Any, runtime: Any, how: Any, view: Any = None) -> launch.Summary:
            how = launch.Options(how.num_workers, executor=how.executor, run=run_stub, prepare=False)
            return plain(store, trials, runtime, how, view)

        launch.launch = stubbed
    try:
        if options.detach:
            words = [sys.executable, "-m", "tests.engine.stub_claims", str(options.out)]
            started = claims_run.start(words + (["--stub"] if options.stub else []), options.out)
            print(started.pid, started.is_new)
            return 0
        code = 0
        for done in commands.run_claims(options.out, fast=options.fast, workers=1, base="tiny"):
            code = max(code, done.exit_code)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
