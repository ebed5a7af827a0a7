"""What a user asks before a sweep: PROBE, what the plan then shows, and what BUDGET leaves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis import load_sweep
from harness.engine import catalog, commands, footprint, launch, show
from harness.engine.answers import PlanView
from harness.engine.resolve import Request
from harness.errors import DataError
from harness.records.schema import MemoryUse, TrialResult
from harness.records.store import Store
from harness.spec import Runtime, TrialSpec
from tests.engine.inline import inline
from tests.engine.stub import behave, run_stub, stub_result
from tests.engine.test_plan import with_qlora
from tests.pocket.tiny import tiny_experiment

ROOT = Path(__file__).parents[2]
MEGABYTE = 10**6
Asker = Callable[..., PlanView]


def run_measured(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """The `TrialFunction` whose trials say what they took of memory: 100 MB at rest, 60 more in training."""
    from harness.identity import trial_id
    from harness.records import result

    plain = stub_result(spec, runtime, command)
    held = {"weights_bytes": 10, "adapter_bytes": 0, "gradient_bytes": 10, "optimiser_bytes": 20}
    peaks = {"start_bytes": 100, "load_peak_bytes": 120, "train_peak_bytes": 160, "eval_peak_bytes": 130}
    memory = MemoryUse(**{name: size * MEGABYTE for name, size in (held | peaks).items()})
    provenance = plain.provenance.model_copy(update={"memory": memory, "peak_memory_bytes": 160 * MEGABYTE})
    return result.commit(store.trial(trial_id(spec)), plain.model_copy(update={"provenance": provenance}))


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asker:
    """Return a function that asks for the plan of a sweep of the tiny base, with trials that train nothing."""
    experiment = with_qlora(tiny_experiment())
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)

    def options(num_workers: int, *_: Any, **__: Any) -> launch.Options:
        return launch.Options(num_workers, run=run_measured, prepare=False, executor=inline)

    monkeypatch.setattr(commands, "Options", options)

    def plan(name: str, workers: int = 1, *, probe: bool = False, **request: Any) -> PlanView:
        asked = Request(name=name, base="tiny", out=tmp_path, **request)
        return commands.plan(asked, workers=workers, probe=probe, budget=None, as_json=True)

    return plan


def printed(view: PlanView, capsys: pytest.CaptureFixture[str], width: int = 100) -> str:
    capsys.readouterr()
    show.show(view, Console(width=width))
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["lima_size", "method", "tune", "packing"])
def test_probe_measures_each_shape_of_a_sweep_or_study_once(name: str, ask: Asker, tmp_path: Path) -> None:
    first = ask(name, probe=True)
    assert first.outlook.seconds_left is not None
    rows = {path: path.read_text() for path in (tmp_path / "probes").iterdir()}
    assert rows
    assert all(path.suffix == ".jsonl" for path in rows)
    again = ask(name, probe=True)
    assert {path: path.read_text() for path in (tmp_path / "probes").iterdir()} == rows
    assert again.outlook.seconds_left == first.outlook.seconds_left
    assert not (tmp_path / "trials").exists()


def test_probe_again_where_the_threads_or_the_micro_batch_changed(ask: Asker, tmp_path: Path) -> None:
    ask("epochs", probe=True)
    (path,) = (tmp_path / "probes").glob("*.jsonl")
    for count, setting in enumerate(({"runtime.num_threads": 2}, {"runtime.micro_batch_size": 1}), start=2):
        unknown = ask("epochs", set=json.dumps(setting))
        assert unknown.outlook.seconds_left is None
        assert ask("epochs", probe=True, set=json.dumps(setting)).outlook.seconds_left is not None
        assert len(path.read_text().splitlines()) == count


def test_plan_shows_memory_by_its_parts_and_what_the_workers_take_together(
    ask: Asker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "machine_bytes", lambda: 400 * MEGABYTE)
    assert "peak memory with WORKERS=1: unknown (PROBE=1 measures)" in printed(ask("epochs"), capsys)
    ask("epochs", probe=True)
    said = printed(ask("epochs", workers=2), capsys)
    assert re.search(r"process +weights +adapters +gradients +optimiser +activations +sum +when", said)
    assert re.search(r"num_epochs=1 \(\+4\) +100 +10 +0 +10 +20 +20 +160 +training", said)
    assert "peak memory with WORKERS=2: 320.0 MB of 400.0 MB on this machine" in said
    assert "WARNING" not in said
    said = printed(ask("epochs", workers=3), capsys)
    assert "WARNING: WORKERS=3 takes 0.5 GB of memory, but there is 0.4 GB; WORKERS=2 fits" in said
    assert max(map(len, said.splitlines())) <= 100


def test_probe_that_fails_is_told_with_a_command_that_exists_and_a_code(
    ask: Asker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "Options", failing(commands.Options))
    view = ask("epochs", probe=True)
    (finished,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"finished"' in line]
    words = finished["command"].split()
    assert words[:5] == ["python", "-m", "harness", "plan", "epochs"]
    assert words[-1] == "--probe"
    assert view.exit_code == 1
    assert [one["cause"] for one in view.as_json()["failed_probes"]] == ["data"]
    assert "a probe FAILED (data), so that what it would have measured is unknown: no rows" in printed(
        view, capsys, 200
    )
    assert ask("epochs").exit_code == 0


def failing(make: Callable[..., launch.Options]) -> Callable[..., launch.Options]:
    def refuse(*_: object) -> TrialResult:
        raise DataError("no rows")

    return lambda *args, **more: replace(make(*args, **more), run=refuse)


def test_plan_as_json_has_the_parts_and_the_peak(ask: Asker) -> None:
    ask("epochs", probe=True)
    found = json.loads(json.dumps(ask("epochs", workers=2).as_json()))
    assert found["memory_bytes_left"] == 320 * MEGABYTE
    parts = found["trials"][0]["footprint"]
    assert (parts["optimiser"], parts["activations"], parts["phase"]) == (20 * MEGABYTE, 20 * MEGABYTE, "train")
    assert found["trials"][0]["memory_bytes"] == 160 * MEGABYTE


PROBING = """
import sys
from pathlib import Path
from harness.engine import launch, measuring
from harness.records.store import Store
from tests.engine.stub import run_stub
from tests.engine.stub_launch import RUNTIME
from tests.engine.trials import planned
options = launch.Options(1, run=run_stub, prepare=False)
print(measuring.probe(Store(Path(sys.argv[1])), planned(1), RUNTIME, options).num_ran)
"""


def test_probe_that_is_killed_leaves_nothing_wrong(tmp_path: Path) -> None:
    code = PROBING.replace("tests.engine.stub import run_stub", "tests.engine.test_probe import asleep as run_stub")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("probes/scratch-*/trials/*/attempts.jsonl")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("probes/scratch-*"))
    assert not list(tmp_path.glob("probes/*.jsonl"))
    done = subprocess.run([sys.executable, "-c", PROBING, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert len(list(tmp_path.glob("probes/*.jsonl"))) == 1
    assert not (tmp_path / "trials").exists()


def asleep(spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]) -> TrialResult:
    """The `TrialFunction` that never ends by itself."""
    time.sleep(600)
    raise AssertionError


@pytest.mark.slow
def test_budget_leaves_a_report_of_what_is_there(ask: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(tmp_path, "all", sleep=0.15)

    def options(num_workers: int, retry: bool = False, budget: float | None = None, **_: Any) -> launch.Options:
        return launch.Options(num_workers, retry, budget, run=run_stub, prepare=False, executor=inline)

    monkeypatch.setattr(commands, "Options", options)
    request = Request(name="epochs", base="tiny", out=tmp_path)
    done = commands.sweep(request, workers=1, retry_failed=False, budget="1s", as_json=True)
    assert (done.exit_code, done.summary.why) == (130, "budget")
    assert 0 < done.summary.num_ran < 15
    assert done.report is not None
    assert all(path.is_file() for path in done.report.files)
    frame = load_sweep("epochs", base="tiny", out=tmp_path)
    assert len(frame) == 15
    assert list(frame["state"]).count("COMPLETE") == done.summary.num_ran
