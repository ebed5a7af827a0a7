"""One real trial in two processes of the engine, and what becomes of it when one of them does not go on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.engine import catalog, executor, launch, plan, together, worker
from harness.engine.executor import WorkerDiedError
from harness.engine.launch import Options
from harness.engine.plan import Plan, Request
from harness.errors import DataError, SpecError
from harness.records import result
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import Runtime
from tests.engine import members
from tests.engine.inline import inline
from tests.engine.stub_launch import RUNTIME
from tests.engine.test_launch import alive, until
from tests.engine.test_plan import with_qlora
from tests.engine.trials import planned as stubs
from tests.pocket.tiny import tiny_experiment

SMALL = {"seed": 0, "train.num_steps": 3, "train.batch_size": 4, "evals.num_items": 6, "method": "lora"}
TWO = RUNTIME.replace({"device": "cpu", "num_processes": 2})


def planned(root: Path, num_processes: int) -> Plan:
    """Return the plan of one trial."""
    runtime = {"runtime.num_processes": num_processes, "runtime.device": "cpu"}
    setting = SMALL | {"train.learning_rate": [0.001]} | runtime
    return plan.make_plan(Request(name="learning_rate", base="tiny", set=json.dumps(setting), out=root))


def test_together_trial_equals_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = with_qlora(tiny_experiment())
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)
    found: dict[int, TrialResult] = {}
    for count in (1, 2):
        made = planned(tmp_path, count)
        (key,) = made.trials
        runtime = made.setting.experiment.runtime
        summary = launch.launch(made.store, made.record.trials, runtime, Options(1, executor=inline))
        assert (summary.num_ran, summary.failed) == (1, [])
        record = result.read(made.store.trial(key))
        assert record is not None
        found[count] = record
        os.rename(made.store.trial(key), tmp_path / str(count))
    one, two = found[1], found[2]
    assert one.trial_id == two.trial_id  # in how many processes is no part of the recipe
    assert one.resolved == two.resolved
    same = ("num_steps", "num_tokens", "num_loss_tokens", "learning_rate_integral", "trainable_parameters")
    assert [getattr(one.train, name) for name in same] == [getattr(two.train, name) for name in same]
    assert one.train.train_loss_last is not None
    assert two.train.train_loss_last == pytest.approx(one.train.train_loss_last, rel=1e-5)
    assert one.after is not None
    assert two.after is not None
    for name, score in one.after.test.items():
        again = two.after.test[name].value
        if score.value is not None and math.isfinite(score.value):
            assert again == pytest.approx(score.value, abs=0.2)  # an answer of six may tip by a last digit


# -- members that do not go on ----------------------------------------------------------------------------------------


def silent(**progress: object) -> None:
    """Report nothing."""


@pytest.mark.parametrize(
    ("part", "error"), [(members.second_dies, WorkerDiedError), (members.second_refuses, DataError)]
)
def test_together_one_that_ends_ends_all(
    part: Callable[..., None], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_take_part", part)
    with pytest.raises(error):
        together.run_trial(stubs(1)[0].spec, Store(tmp_path), TWO, "", silent)
    for file in tmp_path.glob("0"):
        until(lambda file=file: not alive(int(file.read_text())), seconds=10.0)


def test_together_main_that_fails_ends_those_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_take_part", members.first_refuses)
    with pytest.raises(DataError, match="as asked"):
        together.run_trial(stubs(1)[0].spec, Store(tmp_path), TWO, "", silent)


def test_together_death_is_no_fault_of_the_trial() -> None:
    assert worker.cause_of(WorkerDiedError("one of them died")) == "killed"


def test_together_counts_the_cores_of_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert executor.default_workers(TWO) == 4
    assert executor.default_workers(TWO.replace({"num_threads": 4})) == 1


def test_together_is_refused_where_it_is_not_on_the_cpu() -> None:
    with pytest.raises(SpecError, match="device is 'auto', but must be 'cpu' where num_processes is 2"):
        RUNTIME.replace({"num_processes": 2})
    assert Runtime(num_threads=1, micro_batch_size=1, eval_batch_size=1).num_cores == 1
