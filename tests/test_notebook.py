"""The notebook that an analyst starts from, run as a plain script on a sweep whose numbers are known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.context import Context
from analysis.opened import open_sweep
from analysis.tables import contrasts_table
from tests.analysis.synthetic import Plan, build
from tests.presence import installed

ROOT = Path(__file__).parents[1]
ARM = "equal_epochs"


@pytest.fixture(autouse=True)
def _marimo() -> None:
    installed("marimo", "make notebook installs it")


def script(*words: str, path: Path = ROOT / "notebooks/start.py") -> subprocess.CompletedProcess[str]:
    """Run a notebook as a program, from another folder than its own."""
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(path), *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def printed(done: subprocess.CompletedProcess[str]) -> list[float]:
    """Return estimate and interval."""
    assert done.returncode == 0, done.stderr
    found = re.search(r"= (\S+) \[(\S+), (\S+)\], (\d+) items, (\d+) seeds", done.stdout)
    assert found is not None, done.stdout
    return [float(found[number]) for number in range(1, 6)]


def contrast(root: Path, plan: Plan, metric: str) -> list[float]:
    """Return the report's own difference of the last and the first condition, with its interval."""
    store, folder = build(root, plan)
    context = Context(open_sweep(store, folder))
    row = contrasts_table(context.frame, context.items, {metric: (metric,)}).iloc[-1]
    return [row["difference"], row["low"], row["high"]]


@pytest.mark.parametrize("worlds", [(), (0, 1)])
def test_notebook_as_a_script_prints_the_difference_of_the_report(worlds: tuple[int, ...], tmp_path: Path) -> None:
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.2, worlds=worlds)
    expected = contrast(tmp_path, plan, "people/question/exact_match")
    got = printed(script("--name", "lima_size", "--out", str(tmp_path)))
    assert got[:3] == pytest.approx(expected, abs=6e-5)
    assert got[4] == 2 * max(1, len(worlds))


def test_notebook_of_a_sweep_without_a_result_still_runs(tmp_path: Path) -> None:
    nothing = {(ARM, value, 0): "PENDING" for value in (25, 400)}
    build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0,), outcomes=nothing, scale=0.1, set_hash="00345678"))
    done = script("--name", "lima_size", "--out", str(tmp_path), "--set_hash", "set-00345678")
    assert done.returncode == 0, done.stderr
    assert "= +nan" in done.stdout


def test_notebook_of_a_sweep_that_is_not_there_fails_with_the_reason(tmp_path: Path) -> None:
    done = script("--name", "lima_size", "--out", str(tmp_path))
    assert done.returncode != 0
    assert "sweep is 'lima_size@pocket', but must be one of" in done.stderr
