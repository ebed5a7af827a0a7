"""Running a row again beside its store: real trials on the tiny base, in this process."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from harness.engine import catalog, launch, measuring, plan, rerun
from harness.engine.launch import Options
from harness.engine.plan import Plan, Request
from harness.errors import ModelError
from harness.records import result
from harness.records.store import MANIFEST, Store, file_sha256
from tests.engine.inline import inline
from tests.engine.test_plan import with_qlora
from tests.pocket.tiny import tiny_experiment

OPTIONS = Options(1, executor=inline)
SMALL = {"seed": 0, "train.num_steps": 2, "train.batch_size": 4, "evals.num_items": 6, "method": "lora"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every base mean the tiny experiment, and rerun in this process."""
    experiment = with_qlora(tiny_experiment())
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)
    monkeypatch.setattr(rerun, "Options", partial(Options, executor=inline))


def planned(root: Path, base: str, rate: float = 0.001, keep: str = "none") -> Plan:
    """Return the plan of one trial."""
    setting = SMALL | {"train.learning_rate": [rate], "runtime.keep": keep}
    return plan.make_plan(Request(name="learning_rate", base=base, set=json.dumps(setting), out=root))


def finished(made: Plan) -> str:
    """Run a plan of one trial and return its id."""
    (trial_id,) = made.trials
    summary = launch.launch(made.store, made.record.trials, made.setting.experiment.runtime, OPTIONS)
    assert (summary.num_ran, summary.failed) == (1, [])
    return trial_id


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file of a folder, when it was written and what it holds."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one store for the whole module, so that the base is made once."""
    return tmp_path_factory.mktemp("rerun")


def test_rerun_of_trials_that_start_from_trials_leaves_their_ancestors_alone(root: Path) -> None:
    store = Store(root)
    parent = finished(planned(root, "tiny", keep="all"))
    before = snapshot(store.trial(parent))
    child = finished(planned(root, f"trial:{parent}"))
    assert rerun.rerun(child, store, None).as_json()["reproduced"]
    assert not (store.trial(child) / "weights" / MANIFEST).exists()
    assert rerun.rerun(child, store, "all").as_json()["reproduced"]
    grandchild = finished(planned(root, f"trial:{child}"))
    assert rerun.rerun(grandchild, store, "all").as_json()["reproduced"]
    assert not any((root / "reruns" / key).exists() for key in (child, grandchild))
    assert snapshot(store.trial(parent)) == before
    (trial,) = planned(root, f"trial:{child}").record.trials
    probed = [trial.model_copy(update={"spec": trial.spec.replace({"train.batch_size": 8})})]
    summary = measuring.probe(store, probed, tiny_experiment().runtime, OPTIONS)
    assert (summary.num_ran, summary.failed) == (1, [])
    assert not list((root / "probes").glob("scratch*"))
    assert snapshot(store.trial(parent)) == before


def test_rerun_of_a_child_whose_parent_kept_nothing_names_the_command_that_works(root: Path) -> None:
    store = Store(root)
    parent = finished(planned(root, "tiny", rate=0.002, keep="all"))
    child = finished(planned(root, f"trial:{parent}", rate=0.002))
    (store.trial(parent) / "weights").rename(root / "moved")
    with pytest.raises(ModelError) as refusal:
        rerun.rerun(child, store, None)
    words = str(refusal.value).partition("run: ")[2].split()
    assert words == ["python", "-m", "harness", "run-trial", parent, "--keep", "all", "--out", str(root)]
    assert rerun.rerun(parent, store, "all").as_json()["reproduced"]
    assert rerun.rerun(child, store, None).as_json()["reproduced"]


def test_rerun_of_a_trial_that_ran_out_of_memory_computes_as_many_rows_together(root: Path) -> None:
    made = planned(root, "tiny", rate=0.003)
    (trial_id,) = made.trials
    halved = made.setting.experiment.runtime.replace({"num_halvings": 1, "num_eval_halvings": 2})
    launch.launch(made.store, made.record.trials, halved, OPTIONS)
    path = made.store.trial(trial_id) / "runtime.json"  # memory ran out while it ran, not before
    path.write_text(made.setting.experiment.runtime.model_dump_json())
    again = rerun.rerun(trial_id, made.store, None)
    assert again.as_json()["reproduced"], again.differences


def changed(store: Store, trial_id: str, part: str) -> str:
    """Change one number of a record, none of them a mean over test items, and return what tells of it."""
    folder = store.trial(trial_id)
    record = json.loads((folder / result.RESULT).read_text())
    if part == "items":
        table = parquet.read_table(folder / "items.parquet")
        rows = table.to_pylist()
        rows[0]["value"] = 0.123
        parquet.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "items.parquet")
        return f"after/{rows[0]['suite']}/{rows[0]['task']}/{rows[0]['metric']} by item"
    if part == "choices":
        table = parquet.read_table(folder / "choices.parquet")
        rows = table.to_pylist()
        rows[1]["logprob"] -= 0.001
        parquet.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "choices.parquet")
        return f"after/{rows[1]['suite']}/{rows[1]['task']} by choice"
    if part == "no_items":
        (folder / "items.parquet").unlink()
        return "after items"
    key = next(iter(record["after"]["val"]))
    del record["sha256"]  # a record without its seal is read as it is
    record["after"]["val"][key]["value"] = 0.123
    (folder / result.RESULT).write_text(json.dumps(record))
    return f"after/val/{key}"


@pytest.mark.parametrize("part", ["val", "items", "choices", "no_items"])
def test_rerun_that_differs_beside_the_test_means_is_not_reproduced(root: Path, part: str) -> None:
    store = Store(root)
    trial_id = finished(
        planned(root, "tiny", rate={"val": 0.004, "items": 0.005, "no_items": 0.006, "choices": 0.007}[part])
    )
    name = changed(store, trial_id, part)
    done = rerun.rerun(trial_id, store, "all")
    assert list(done.differences) == [name]
    assert done.exit_code == 1
    assert not (store.trial(trial_id) / "weights" / MANIFEST).exists()


def test_rerun_of_a_record_from_before_choices_were_kept_is_reproduced(root: Path) -> None:
    store = Store(root)
    trial_id = finished(planned(root, "tiny", rate=0.008))
    recorded = result.read(store.trial(trial_id))
    assert recorded is not None
    assert recorded.files["choices.parquet"] == file_sha256(store.trial(trial_id) / "choices.parquet")
    (store.trial(trial_id) / "choices.parquet").unlink()
    assert rerun.rerun(trial_id, store, None).as_json()["reproduced"]


def test_probe_that_is_refused_leaves_nothing_and_harms_no_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = root / "probes" / "scratch"
    other.mkdir(parents=True, exist_ok=True)
    folders = set((root / "probes").iterdir())

    def refuse(*_: object) -> None:
        raise ModelError("no base")

    monkeypatch.setattr(launch, "launch", refuse)
    with pytest.raises(ModelError):
        measuring.probe(
            Store(root), planned(root, "tiny", rate=0.003).record.trials, tiny_experiment().runtime, OPTIONS
        )
    assert set((root / "probes").iterdir()) == folders
