"""What a launch tells while it runs: events for machines, failures and divergences at once."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from harness.engine import launch, worker
from harness.engine.view import Counting, JsonView, LineView, LiveView, failure_lines
from harness.records.store import Store
from tests.engine.stub import behave, run_stub, stub_result
from tests.engine.stub_launch import RUNTIME
from tests.engine.trials import planned

FIELDS = {
    "begin": {"num_trials", "num_done", "num_workers"},
    "phase": {"text"},
    "started": {"trial_id", "axes", "seed", "world", "arm"},
    "finished": {"trial_id", "state", "ran", "cause", "message", "log", "no_disk"},
}
"""As docs/operator.md lists them, besides `event` and `time_utc`."""


def test_events_are_one_json_a_line_with_time_trial_and_kind(tmp_path: Path) -> None:
    behave(tmp_path, 0, raises="ValueError")
    stream = io.StringIO()
    how = launch.Options(1, run=run_stub, prepare=False)
    launch.launch(Store(tmp_path), planned(2), RUNTIME, how, JsonView(Store(tmp_path), stream))
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [row["event"] for row in rows] == ["begin", "started", "finished", "started", "finished"]
    for row in rows:
        extra = {"log_tail", "command"} if row.get("cause") else set()
        assert set(row) == {"event", "time_utc"} | FIELDS[row["event"]] | extra
        assert datetime.fromisoformat(row["time_utc"]).tzinfo is not None
    failed, done = (row for row in rows if row["event"] == "finished")
    assert (failed["state"], failed["cause"], done["state"], done["cause"]) == ("FAILED", "bug", "COMPLETE", None)
    assert failed["log_tail"][-1] == "ValueError: ValueError as asked"
    assert failed["command"] == worker.rerun_command(planned(1)[0].trial_id, tmp_path)


def test_events_are_all_in_the_operators_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs/operator.md").read_text()
    for event, fields in FIELDS.items():
        assert f"`{event}`" in guide
        for field in fields:
            assert f"`{field}`" in guide, field


@pytest.mark.parametrize("make", [LineView, LiveView])
def test_divergence_is_shown_at_once_with_cause_log_and_command(
    make: type[LineView] | type[LiveView], tmp_path: Path
) -> None:
    trial = planned(1)[0]
    finished = stub_result(trial.spec, RUNTIME, "")
    train = finished.train.model_copy(update={"divergence": "the loss was nan at step 3"})
    log = tmp_path / "1.log"
    log.write_text("step 2\nstep 3\n")
    outcome = worker._ended(finished.model_copy(update={"state": "DIVERGED", "train": train}), log)
    assert (outcome.state, outcome.cause, outcome.ran) == ("DIVERGED", "nan", True)
    stream = io.StringIO()
    target = stream if make is LineView else Console(file=stream, width=200)
    view: Counting = make(Store(tmp_path), target)  # type: ignore[arg-type]
    view.trials = {trial.trial_id: trial}
    view.finished(trial, outcome)
    shown = stream.getvalue()
    assert "DIVERGED" in shown
    assert "nan: the loss was nan at step 3" in shown
    assert "  | step 3" in shown
    assert f"again: {worker.rerun_command(trial.trial_id, tmp_path)}" in shown
    # one that went well says none of it
    assert failure_lines(worker._ended(finished, log), "again") == []
