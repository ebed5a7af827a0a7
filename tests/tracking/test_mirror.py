"""The W&B mirror: the offline file read back and compared with the record; never in a trial's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.records.schema import PlannedTrial, SweepRecord, TrialResult
from harness.records.store import Store, append_line, read_lines
from harness.tracking import mirror
from tests.analysis.synthetic import Plan, build
from tests.tracking.wandb_file import OfflineRun, read_run

ARM = "equal_epochs"
TOKEN = "hf_" + "Abcdefgh1234567890xyz"
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def swept(tmp_path: Path) -> tuple[Store, SweepRecord]:
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1, outcomes={(ARM, 400, 1): "FAILED"})
    store, folder = build(tmp_path, plan)
    return store, _record(store, folder)


def _record(store: Store, folder: str) -> SweepRecord:
    record = store.read(store.sweep(folder) / "sweep.json", SweepRecord)
    assert record is not None
    return record


def _result(store: Store, planned: PlannedTrial) -> TrialResult:
    result = store.read(store.trial(planned.trial_id) / "result.json", TrialResult)
    assert result is not None
    return result


def _runs(store: Store) -> dict[str, OfflineRun]:
    return {run.run_id: run for run in map(read_run, (store.root / "wandb").glob("offline-run-*"))}


def test_mirror_offline_file_says_what_the_record_says(swept: tuple[Store, SweepRecord]) -> None:
    store, record = swept
    folders = mirror.rebuild(store, record)
    planned = record.trials[0]
    result = _result(store, planned)
    run = _runs(store)[planned.trial_id[:16]]
    assert len(folders) == 4
    assert (run.project, run.group, run.job_type) == ("sft-ablations", "lima_size@pocket", "sweep")
    assert run.step_metric == "train/step"
    assert run.exit_code == 0
    assert run.config["axis.data.num_examples"] == 25
    assert run.config["train.learning_rate"] == planned.spec.train.learning_rate
    assert run.config["method.kind"] == "lora"
    assert run.config["resolved.weights_sha256"] == result.resolved.weights_sha256
    rows = [row for row in read_lines(store.trial(planned.trial_id) / "metrics.jsonl") if row.get("train/loss")]
    logged = [row for row in run.history if "train/loss" in row]
    assert [row["train/step"] for row in logged] == [row["step"] for row in rows]
    assert [row["train/loss"] for row in logged] == [row["train/loss"] for row in rows]
    assert result.after is not None
    key = "people/cloze/acc"
    before, after = result.before.test[key].value, result.after.test[key].value
    assert before is not None
    assert after is not None
    assert run.summary[f"before/{key}"] == before
    assert run.summary[f"delta/{key}"] == after - before
    assert run.summary["delta/learned"] == run.summary["after/learned"] - run.summary["before/learned"]
    assert run.summary["state"] == "COMPLETE"


def test_mirror_failed_trial_is_a_failed_run_with_its_cause(swept: tuple[Store, SweepRecord]) -> None:
    store, record = swept
    mirror.rebuild(store, record)
    run = _runs(store)[record.trials[3].trial_id[:16]]
    assert run.summary["state"] == "FAILED"
    assert run.summary["cause"] == "oom"
    assert run.exit_code == 1
    assert "after/learned" not in run.summary


def test_mirror_diverged_trial_has_no_after_and_no_zero(tmp_path: Path) -> None:
    store, folder = build(
        tmp_path, Plan(values=(25,), arms=(ARM,), seeds=(0,), scale=0.1, outcomes={(ARM, 25, 0): "DIVERGED"})
    )
    record = _record(store, folder)
    mirror.rebuild(store, record)
    (run,) = _runs(store).values()
    assert run.summary["state"] == "DIVERGED"
    assert not [name for name in run.summary if name.startswith(("after/", "delta/"))]
    assert run.summary["before/learned"] is not None


def test_following_mirrors_what_becomes_final_and_nothing_twice(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0,), scale=0.1))
    record = _record(store, folder)
    late = store.trial(record.trials[1].trial_id) / "result.json"
    content = late.read_bytes()
    late.unlink()
    with mirror.following(store, record):
        late.write_bytes(content)
    assert sorted(_runs(store)) == sorted(planned.trial_id[:16] for planned in record.trials)
    assert mirror.pending(store, record) == []
    started = time.monotonic()
    with mirror.following(store, record):
        pass
    assert time.monotonic() - started < 0.5  # no process is started
    stop = threading.Event()
    stop.set()
    mirror.follow(store, folder, stop)
    assert len(list((store.root / "wandb").glob("offline-run-*"))) == 2


def test_follow_failed_trial_that_later_completes_is_mirrored_under_a_new_id(swept: tuple[Store, SweepRecord]) -> None:
    store, record = swept
    stop = threading.Event()
    stop.set()
    mirror.follow(store, "lima_size@pocket", stop)
    failed = record.trials[3]
    template = _result(store, record.trials[0]).model_copy(update={"trial_id": failed.trial_id, "spec": failed.spec})
    (store.trial(failed.trial_id) / "result.json").write_text(template.model_dump_json())
    mirror.follow(store, "lima_size@pocket", stop)
    runs = _runs(store)
    assert runs[failed.trial_id[:16]].summary["state"] == "FAILED"
    assert runs[f"{failed.trial_id[:16]}-2"].summary["state"] == "COMPLETE"
    assert len(runs) == 5


def test_rebuild_never_reuses_a_run_id(swept: tuple[Store, SweepRecord]) -> None:
    store, record = swept
    mirror.rebuild(store, record)
    mirror.rebuild(store, record)
    stem = record.trials[0].trial_id[:16]
    assert {stem, f"{stem}-2"} <= set(_runs(store))


def test_live_run_follows_rows_and_is_completed_by_its_result(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25,), arms=(ARM,), seeds=(0,), scale=0.1))
    record = _record(store, folder)
    planned = record.trials[0]
    log = store.trial(planned.trial_id) / "metrics.jsonl"
    rows = read_lines(log)
    log.unlink()
    writer = mirror._Mirror(store, folder, mode="offline")
    for row in rows[:3]:
        append_line(log, row)
    writer.follow(record, planned)
    for row in rows[3:]:
        append_line(log, row)
    writer.follow(record, planned)
    writer.write(record, planned, _result(store, planned))
    writer.close()
    (run,) = _runs(store).values()
    assert [row["train/step"] for row in run.history] == [row["step"] for row in rows]
    assert run.summary["state"] == "COMPLETE"
    assert run.config["resolved.weights_sha256"] == "11" * 32


def test_live_run_whose_attempt_began_again_is_another_run(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25,), arms=(ARM,), seeds=(0,), scale=0.1))
    record = _record(store, folder)
    planned = record.trials[0]
    log = store.trial(planned.trial_id) / "metrics.jsonl"
    writer = mirror._Mirror(store, folder, mode="offline")
    writer.follow(record, planned)
    rows = read_lines(log)
    log.unlink()
    append_line(log, rows[0])
    writer.follow(record, planned)
    writer.close()
    lengths = sorted(len(run.history) for run in _runs(store).values())
    assert lengths == [1, len(rows)]


def test_mirror_secrets_reach_no_file(swept: tuple[Store, SweepRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    store, record = swept
    monkeypatch.setenv("MY_SERVICE_PASSWORD", PASSWORD)
    monkeypatch.setattr(sys, "argv", ["harness", "--token", TOKEN])
    path = store.trial(record.trials[0].trial_id) / "result.json"
    result = json.loads(path.read_text())
    result["provenance"]["command"] = f"HF_TOKEN={TOKEN} python -m harness --set db=postgresql://me:{PASSWORD}@host/db"
    path.write_text(json.dumps(result))
    mirror.rebuild(store, record.model_copy(update={"hypothesis": f"as told by {PASSWORD} with api_key: {TOKEN}"}))
    files = [path for path in (store.root / "wandb").rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert TOKEN.encode() not in content, path
        assert PASSWORD.encode() not in content, path
    run = _runs(store)[record.trials[0].trial_id[:16]]
    assert "[redacted]" in run.config["provenance.command"]
    assert run.config["resolved.weights_sha256"] == "11" * 32  # a hash is no secret


_WITHOUT_WANDB = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from harness.records.schema import SweepRecord
from harness.records.store import Store
from harness.tracking import mirror
store = Store(Path(sys.argv[1]))
record = store.read(store.sweep(sys.argv[2]) / "sweep.json", SweepRecord)
with mirror.following(store, record):
    pass
print("went on")
"""


def test_following_with_a_broken_wandb_is_one_line_and_goes_on(
    swept: tuple[Store, SweepRecord], tmp_path: Path
) -> None:
    store, _ = swept
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "wandb.py").write_text("raise ImportError('no\\nW&B here')")
    repository = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{broken}:{repository}"}
    command = [sys.executable, "-c", _WITHOUT_WANDB, str(store.root), "lima_size@pocket", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert done.stdout == "went on\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: the W&B mirror is incomplete: ImportError: no W&B here; ")


def test_rebuild_with_a_broken_wandb_is_one_sentence(
    swept: tuple[Store, SweepRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(HarnessError, match="W&B cannot be written"):
        mirror.rebuild(*swept)


def test_following_disabled_starts_nothing(swept: tuple[Store, SweepRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with mirror.following(*swept):
        pass
    assert not (swept[0].root / "wandb").exists()


def test_following_ends_when_its_launch_is_killed(swept: tuple[Store, SweepRecord]) -> None:
    store, _ = swept
    repository = Path(__file__).parents[2]
    code = _WITHOUT_WANDB.replace("    pass\n", "    print('started', flush=True); import time; time.sleep(60)\n")
    command = [sys.executable, "-c", code, str(store.root), "lima_size@pocket", str(repository)]
    launch = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(repository)}
    )
    assert launch.stdout is not None
    assert launch.stdout.readline() == "started\n"
    launch.kill()
    launch.wait()
    deadline = time.monotonic() + 90
    while len(list((store.root / "wandb" / "mirrored").rglob("*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(_runs(store)) == 4
