"""RUNNING has one definition, whoever asks."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from analysis.opened import OpenedTrial
from harness.engine import states
from harness.engine.progress import Reporter
from harness.records import result
from harness.records.attempts import STALE_AFTER_SECONDS, is_running, process_start
from harness.records.schema import Failure, Progress
from harness.records.store import Store, write_atomic
from tests.engine.trials import planned

HERE, DEAD = os.uname().nodename, 2**22 + 1
START = str(process_start(os.getpid())).split("/")


def progress(host: str = HERE, pid: int | None = None, seconds_old: float = 0.0, start: str | None = None) -> Progress:
    """Return where an attempt is, of this process unless told otherwise."""
    return Progress(
        phase="train",
        step=1,
        num_steps=2,
        loss=None,
        tokens_per_second=None,
        pid=os.getpid() if pid is None else pid,
        host=host,
        process_start=start,
        time_utc=(datetime.now(UTC) - timedelta(seconds=seconds_old)).isoformat(),
    )


def failure(seconds_old: float) -> Failure:
    """Return a failure of some time ago."""
    time = (datetime.now(UTC) - timedelta(seconds=seconds_old)).isoformat()
    return Failure(cause="oom", message="m", log_tail="", command="c", attempt=1, time_utc=time)


def test_process_start_tells_processes_apart_and_stays(tmp_path: Path) -> None:
    # The program's name stands before the field.
    program = shutil.copy(str(shutil.which("sleep")), tmp_path / "a) 1 2 (")
    sleeper = subprocess.Popen([program, "30"])
    try:
        assert process_start(sleeper.pid) == process_start(sleeper.pid) is not None
        assert process_start(sleeper.pid) != process_start(os.getpid())
        assert process_start(DEAD) is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_attempt_of_today_says_when_its_process_started(tmp_path: Path) -> None:
    Reporter(tmp_path / "progress.json")(phase="train")
    written = Store(tmp_path).read(tmp_path / "progress.json", Progress)
    assert written is not None
    assert written.process_start == process_start(os.getpid())


# What `progress` and `failure` are given, so that every file is as old as it says when the test begins.
CASES = [
    pytest.param({}, None, True, id="alive"),
    pytest.param({"seconds_old": 9999.0}, None, True, id="alive_and_silent"),
    pytest.param({"start": process_start(os.getpid())}, None, True, id="alive_since_its_start"),
    pytest.param({"start": f"{START[0]}/1"}, None, False, id="number_taken_by_another"),
    pytest.param({"start": f"earlier-boot/{START[1]}"}, None, False, id="number_and_ticks_of_an_earlier_boot"),
    pytest.param({"host": "elsewhere", "start": "b/1"}, None, True, id="elsewhere_with_its_start"),
    pytest.param({"pid": DEAD}, None, False, id="dead_a_moment_ago"),
    pytest.param({}, 60.0, True, id="tried_again"),
    pytest.param({"seconds_old": 60.0}, 1.0, False, id="failed_since"),
    pytest.param({"host": "elsewhere", "pid": DEAD}, None, True, id="elsewhere"),
    pytest.param({"host": "elsewhere", "seconds_old": 2.0 * STALE_AFTER_SECONDS}, None, False, id="elsewhere_long_ago"),
    pytest.param(None, 1.0, False, id="no_progress"),
]


@pytest.mark.parametrize(("written", "failed_before", "expected"), CASES)
def test_attempt_runs_in_the_eyes_of_engine_and_analysis_alike(
    tmp_path: Path, written: dict[str, Any] | None, failed_before: float | None, expected: bool
) -> None:
    store, trial = Store(tmp_path), planned(1)[0]
    folder = store.trial(trial.trial_id)
    at = None if written is None else progress(**written)
    failed = None if failed_before is None else failure(failed_before)
    for name, value in (("progress.json", at), (result.FAILURE, failed)):
        if value is not None:
            write_atomic(folder / name, value.model_dump_json().encode())
    assert is_running(at, failed) is expected
    state = states.of_trial(store, trial.trial_id).state
    assert (state == "RUNNING") is expected
    assert OpenedTrial(trial, "c", folder, None, failed, at, None).state == state
