"""One real trial in two processes of the engine, and what becomes of it when one of them does not go on."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine import catalog, devices, executor, launch, plan, standstill, together, worker
from harness.engine.executor import WorkerDiedError
from harness.engine.launch import Options
from harness.engine.plan import Plan, Request
from harness.engine.worker import Outcome
from harness.errors import DataError, SpecError
from harness.records import result
from harness.records.schema import TrialResult
from harness.records.store import MANIFEST, Store, read_lines
from harness.spec import Runtime
from tests.engine import members
from tests.engine.inline import inline
from tests.engine.stub_launch import RUNTIME
from tests.engine.test_launch import alive, until
from tests.engine.test_plan import with_qlora
from tests.engine.trials import planned as stubs
from tests.pocket.tiny import tiny_experiment

SMALL = {"seed": 0, "train.num_steps": 8, "train.batch_size": 4, "evals.num_items": 6, "method": "lora"}
ALONE = {"num_processes": 1, "device": "cpu", "checkpoint_every": 1, "keep": "adapter"}
SHARDED = ALONE | {"num_processes": 2, "sharding": "fsdp"}
TWO = RUNTIME.replace({"device": "cpu", "num_processes": 2})


def planned(root: Path, runtime: dict[str, Any], **changes: Any) -> Plan:
    """Return the plan of one trial."""
    how = {f"runtime.{name}": value for name, value in runtime.items()}
    setting = SMALL | {"train.learning_rate": [0.001]} | how | changes
    return plan.make_plan(Request(name="learning_rate", base="tiny", set=json.dumps(setting), out=root))


@pytest.fixture(scope="module")
def tiny_base() -> Iterator[None]:
    experiment = with_qlora(tiny_experiment())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "load_experiment", lambda name: experiment)
        yield


@pytest.fixture(scope="module")
def trained(tiny_base: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of one trial as one process and as two ran it, and as two of which one was killed.

    What processes do that hold the whole model is tested below the engine (tests/train/test_processes.py): each start
    of two costs a quarter of a minute.
    """
    root = tmp_path_factory.mktemp("together")
    folders = {"one": ran(root, "one", ALONE), "two": ran(root, "two", SHARDED)}
    killer = threading.Thread(target=kill_second_member, args=(planned(root, SHARDED),))
    killer.start()
    folders["killed"] = ran(root, "killed", SHARDED)
    killer.join()
    return folders


def ran(root: Path, name: str, runtime: dict[str, Any]) -> Path:
    """Run the trial and move its folder out of the store, so that the next runtime runs it again."""
    made = planned(root, runtime)
    (key,) = made.trials
    options = Options(1, executor=inline)
    summary = launch.launch(made.store, made.record.trials, made.setting.experiment.runtime, options)
    assert (summary.num_ran, summary.failed) == (1, [])
    target = root / name / "trials" / key
    target.parent.mkdir(parents=True)
    os.rename(made.store.trial(key), target)
    return target


def kill_second_member(made: Plan) -> None:
    """Kill the youngest process of a trial once it has left a second checkpoint."""
    (key,) = made.trials
    until(lambda: worker.newest_checkpoint(made.store.trial(key)) >= "step_00000002", seconds=120.0)
    os.kill(max(members_of(os.getpid())), signal.SIGKILL)


def members_of(parent: int) -> list[int]:
    """Return the spawned processes of a process that compute."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ours = int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if ours and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def read(folder: Path) -> TrialResult:
    record = result.read(folder)
    assert record is not None
    return record


def test_together_trial_equals_that_of_one_process(trained: dict[str, Path]) -> None:
    one, two = read(trained["one"]), read(trained["two"])
    assert one.trial_id == two.trial_id  # in how many processes is no part of the recipe
    assert one.resolved == two.resolved
    same = ("num_steps", "num_tokens", "num_loss_tokens", "learning_rate_integral", "trainable_parameters")
    same += ("total_parameters",)
    assert [getattr(one.train, name) for name in same] == [getattr(two.train, name) for name in same]
    assert one.train.train_loss_last is not None
    assert two.train.train_loss_last == pytest.approx(one.train.train_loss_last, rel=1e-5)
    assert two.train.val_loss == pytest.approx(one.train.val_loss, rel=1e-5)
    assert one.after is not None
    assert two.after is not None
    for name, score in one.after.test.items():
        again = two.after.test[name].value
        if score.value is not None and math.isfinite(score.value):
            assert again == pytest.approx(score.value, abs=0.2)  # an answer of six may tip by a last digit


def test_together_trial_whose_member_was_killed_gives_the_same_bytes(trained: dict[str, Path]) -> None:
    undisturbed, killed = trained["two"], trained["killed"]
    starts = [row for row in read_lines(killed / "attempts.jsonl") if row["event"] == "start"]
    assert len(starts) == 2  # within one launch
    assert (killed / "weights" / MANIFEST).read_bytes() == (undisturbed / "weights" / MANIFEST).read_bytes()
    logs = [
        [(row["step"], row.get("train/loss"), row.get("val/loss")) for row in read_lines(folder / "metrics.jsonl")]
        for folder in (undisturbed, killed)
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) >= SMALL["train.num_steps"]


# -- members that do not go on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "error"), [(members.second_dies, WorkerDiedError), (members.second_refuses, DataError)]
)
def test_together_one_that_ends_ends_all(
    part: Callable[..., None], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_take_part", part)
    with pytest.raises(error):
        together.run_trial(stubs(1)[0].spec, Store(tmp_path), TWO, "", members.silent)
    for file in tmp_path.glob("0"):
        until(lambda file=file: not alive(int(file.read_text())), seconds=10.0)


def test_together_main_that_fails_ends_those_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_take_part", members.first_refuses)
    with pytest.raises(DataError, match="as asked"):
        together.run_trial(stubs(1)[0].spec, Store(tmp_path), TWO, "", members.silent)


def launched(root: Path, monkeypatch: pytest.MonkeyPatch, how: members.Loss, times: int) -> Outcome:
    """Launch a stub trial in two processes of which the second is lost so often."""
    monkeypatch.setattr(together, "_take_part", partial(members.second_is_lost, how=how, times=times))
    options = Options(1, executor=inline, prepare=False)
    (outcome,) = launch.launch(Store(root), stubs(1), TWO, options).outcomes.values()
    return outcome


def lost(*args: object) -> None:
    raise WorkerDiedError(together.DIED)


def test_together_member_that_dies_is_replaced_within_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = launched(tmp_path, monkeypatch, "dies", times=1)
    assert outcome.state == "COMPLETE"
    assert worker.num_attempts(Store(tmp_path).trial(outcome.trial_id)) == 2


def test_together_member_that_always_dies_fails_the_trial_as_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "run_trial", lost)
    options = Options(1, executor=inline, prepare=False)
    (outcome,) = launch.launch(Store(tmp_path), stubs(1), TWO, options).outcomes.values()
    assert (outcome.state, outcome.cause) == ("FAILED", "killed")
    assert outcome.message == f"{together.DIED}, 3 times in a row"
    assert together.DIED in (tmp_path / "trials" / outcome.trial_id / "attempts" / "3.log").read_text()


def test_together_member_without_memory_halves_the_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = launched(tmp_path, monkeypatch, "needs_halving", times=1)
    record = read(Store(tmp_path).trial(outcome.trial_id))
    assert record.train.num_halvings == 1
    assert record.train.micro_batch_size == TWO.rows_per_pass(record.spec.train.batch_size, 1)


def test_together_member_that_the_kernel_killed_for_memory_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "memory_kills", lambda: 0)
    monkeypatch.setattr(executor, "memory_kills", lambda: 1)
    monkeypatch.setattr(together, "_take_part", members.second_dies)
    with pytest.raises(executor.KilledForMemoryError):
        together.run_trial(stubs(1)[0].spec, Store(tmp_path), TWO, "", members.silent)


def test_together_member_that_is_stopped_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(standstill, "STILL_SECONDS", 4.0)  # at two seconds a poll: after two still ones
    outcome = launched(tmp_path, monkeypatch, "stops", times=1)
    assert outcome.state == "COMPLETE"
    assert worker.num_attempts(Store(tmp_path).trial(outcome.trial_id)) == 2


CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


@pytest.mark.parametrize(
    ("raised", "is_dead", "expected"),
    [
        ((CLOSED, DataError("no rows")), False, DataError),
        ((CLOSED, None), True, BrokenProcessPool),
        ((CLOSED, None), False, WorkerDiedError),
        ((None, ValueError("a bug")), False, ValueError),
    ],
)
def test_together_raises_the_cause_and_not_its_echo(
    raised: tuple[Exception | None, ...],
    is_dead: bool,
    expected: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(together, "ECHO_SECONDS", 0.01)
    monkeypatch.setattr(together, "POLL_SECONDS", 0.01)
    futures: list[Any] = [Future() for _ in raised]
    for future, error in zip(futures, raised, strict=True):
        if error is not None:
            future.set_exception(error)
    processes = [SimpleNamespace(pid=os.getpid(), is_alive=lambda: not is_dead)]
    with pytest.raises(expected):
        together._await_main(futures, processes, tmp_path / "none")


def test_standstill_is_of_processes_that_train_and_compute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter([5.0, 6.0, 6.0, 6.001, 6.002, 7.0, 7.0, 7.0])
    monkeypatch.setattr(standstill, "cpu_seconds", lambda pid: next(spent))
    monkeypatch.setattr(standstill, "STILL_SECONDS", 3 * standstill.POLL_SECONDS)
    watch = standstill.Standstill()
    asked = [watch.lasts([1], training=training) for training in (True, True, False, True, True, True, True, True)]
    assert not any(asked)
    monkeypatch.setattr(standstill, "cpu_seconds", lambda pid: 7.0)
    assert watch.lasts([1], training=True)
    assert not watch.lasts([1], training=False)


def test_processor_time_of_a_process_grows_with_its_work() -> None:
    before, started = standstill.cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - started < 0.1:
        pass
    assert standstill.cpu_seconds(os.getpid()) - before == pytest.approx(0.1, abs=0.05)
    assert standstill.cpu_seconds(2**22 + 1) == 0.0


def test_together_counts_the_cores_of_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert executor.default_workers(TWO) == 4
    assert executor.default_workers(TWO.replace({"num_threads": 4})) == 1


def test_together_says_what_it_needs() -> None:
    refused = {
        "device is 'auto', but must be 'cpu' or 'cuda' where num_processes is 2": {"num_processes": 2},
        "gpu_memory_gb is 8, but must be None where num_processes is 2": {
            "num_processes": 2, "device": "cuda", "gpu_memory_gb": 8.0,
        },
        "sharding is 'fsdp', but must be 'none' where num_processes is 1": {"sharding": "fsdp"},
    }  # fmt: skip
    for sentence, changes in refused.items():
        with pytest.raises(SpecError, match=sentence):
            RUNTIME.replace(changes)
    assert Runtime(num_threads=1, micro_batch_size=1, eval_batch_size=1).num_cores == 1


def test_together_refuses_to_share_out_4_bit_weights(tiny_base: None, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"runtime.sharding is 'fsdp', but must be 'none' with method 'qlora'"):
        planned(tmp_path, SHARDED, method="qlora")
    assert planned(tmp_path, SHARDED | {"sharding": "none"}, method="qlora").trials


def test_together_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpus = TWO.replace({"device": "cuda"})
    monkeypatch.setattr(devices, "gpus", lambda: ("0", "1", "2", "3", "4"))
    assert executor.default_workers(on_gpus) == 2
    slots = executor.local(3, on_gpus)
    try:
        assert slots.num_slots == 2
        assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots._slots] == ["0,1", "2,3"]
    finally:
        slots.stop()
    monkeypatch.setattr(devices, "gpus", lambda: ("0",))
    for ask in (executor.default_workers, partial(executor.local, 1)):
        with pytest.raises(SpecError, match=r"runtime.num_processes is 2, but must be at most 1, since each takes a"):
            ask(on_gpus)
