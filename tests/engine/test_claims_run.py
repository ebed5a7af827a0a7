"""Claim sweeps as the engine runs them: planned over worlds, one after the other, killed, detached, in one table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.engine import catalog, claims_run, commands, executor, plan
from harness.engine.resolve import Request
from harness.errors import BusyError, SpecError
from harness.identity import condition_id
from harness.records import result
from harness.records.store import read_lines
from harness.spec import Axis, Claim, Contrast, PocketBase, Sweep, Term
from tests.engine import stub_claims
from tests.engine.inline import inline
from tests.engine.stub import behave
from tests.engine.test_launch import alive, numbers, runs, until
from tests.engine.test_plan import with_qlora
from tests.pocket.tiny import tiny_experiment
from tests.specs import pinned_spec

ROOT = Path(__file__).parents[2]


def offer(patch: pytest.MonkeyPatch) -> None:
    """Make the catalogue hold the sweeps of `stub_claims` and the tiny base alone, run in this process."""
    offered, experiment = stub_claims.sweeps(), with_qlora(tiny_experiment())
    patch.setattr(catalog, "sweep_names", lambda: sorted(offered))
    patch.setattr(catalog, "load_sweep", lambda name: offered[name])
    patch.setattr(catalog, "load_experiment", lambda name: experiment)
    patch.setattr(executor, "local", inline)
    patch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `offer`."""
    offer(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder in which all claim sweeps ran, undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        offer(patch)
        done = list(commands.run_claims(out, fast=False, workers=1, base="tiny"))
    assert [one.exit_code for one in done] == [0, 0]
    return out


def planned(name: str, out: Path, **set: object) -> plan.Plan:
    """Return a plan on the tiny base."""
    return plan.make_plan(Request(name=name, base="tiny", set=json.dumps(set) if set else None, out=out))


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    """Run the sweeps of `stub_claims` in a process group of their own."""
    command = [sys.executable, "-m", "tests.engine.stub_claims", str(out), *words]
    environment = os.environ | {"WANDB_MODE": "disabled"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def scores(root: Path) -> dict[str, object]:
    """Return what each result says about the model, by trial."""
    found: dict[str, object] = {}
    for folder in root.glob("trials/*"):
        record = result.read(folder)
        if record is not None:
            assert record.after is not None
            found[folder.name] = (record.train, record.before.test, record.after.test, record.resolved)
    return found


# -- plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_plan_over_worlds_has_one_condition_for_all_of_them(tmp_path: Path) -> None:
    made = planned("aa", tmp_path)
    trials = made.record.trials
    assert len(made.trials) == 12
    assert {(t.world, t.seed) for t in trials} == {(world, seed) for world in (0, 1) for seed in (0, 1, 2)}
    assert {t.condition_id for t in trials} == {condition_id(t.spec) for t in trials if t.world == 0}
    for trial in trials:
        assert isinstance(trial.spec.base, PocketBase)
        assert trial.spec.base.world.seed == trial.world
    plain = planned("aa", tmp_path, **{"world.seed": []}).record.trials
    assert {t.world for t in plain} == {None}
    assert {t.trial_id for t in plain} == {t.trial_id for t in trials if t.world == 0}


@pytest.mark.usefixtures("tiny")
def test_plan_of_fewer_seeds_and_worlds_is_part_of_the_whole(tmp_path: Path) -> None:
    for whole, fast in zip(*(claims_run.requests(tmp_path, "tiny", fast=fast) for fast in (False, True)), strict=True):
        every, few = plan.make_plan(whole), plan.make_plan(fast)
        assert set(few.trials) < set(every.trials)
        assert {(t.world, t.seed) for t in few.record.trials} == {(0, 0), (0, 1)}
        assert {t.condition_id for t in few.record.trials} == {t.condition_id for t in every.record.trials}
        assert few.folder != every.folder


@pytest.mark.usefixtures("tiny")
def test_plan_worlds_of_set_replace_those_of_the_sweep_and_give_any_sweep_some(tmp_path: Path) -> None:
    assert {t.world for t in planned("aa", tmp_path, **{"world.seed": 3}).record.trials} == {3}
    assert {t.world for t in planned("aa", tmp_path, **{"world.seed": [4, 5]}).record.trials} == {4, 5}
    with pytest.raises(SpecError, match=r"SET world\.seed is \[0, 0\], but must not repeat"):
        planned("aa", tmp_path, **{"world.seed": [0, 0]})
    with pytest.raises(SpecError, match=r"SET world\.seed is \[-1\], but must be integers from 0 on"):
        planned("aa", tmp_path, **{"world.seed": [-1]})


@pytest.mark.usefixtures("tiny")
def test_plan_over_worlds_of_a_base_without_any_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tiny_experiment().model_copy(update={"name": "bare", "spec": pinned_spec()})
    monkeypatch.setattr(catalog, "load_experiment", lambda name: bare)
    with pytest.raises(SpecError, match=r"repeated over the pocket worlds 0, 1, but base 'bare' names none; .*\[\]"):
        planned("aa", tmp_path)
    assert {t.world for t in planned("aa", tmp_path, **{"world.seed": []}).record.trials} == {None}


@pytest.mark.usefixtures("tiny")
def test_plan_with_other_worlds_is_no_plan_of_another_base(tmp_path: Path) -> None:
    made = planned("aa", tmp_path)
    plan.write_record(made)
    other = tuple(trial for trial in made.record.trials if trial.world == 1)
    plan.write_record(
        plan.Plan(made.request, made.setting, made.record.model_copy(update={"trials": other}), made.store)
    )


@pytest.mark.usefixtures("tiny")
def test_plan_claims_carry_absolute_rates_and_their_slices_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {kind: (("method", kind), ("train.learning_rate", 3.0)) for kind in ("full", "lora")}
    terms = tuple(Term(metric="pocket/lists/acc", at=place) for place in at.values())
    part = Contrast(terms=terms, expect="greater", margin=0.1)
    sweep = Sweep(
        name="s",
        hypothesis="h",
        refuted_if="r",
        source="s",
        axes=(
            Axis(field="method", values=("full", "lora")),
            Axis(field="train.learning_rate", values=(1.0, 3.0), relative_to="reference_learning_rate"),
        ),
        seeds=(0,),
        measures=("fluency",),
        claims=(Claim(id="c", statement="s", source="s", published="", parts=(part,)),),
    )
    monkeypatch.setattr(catalog, "load_sweep", lambda name: sweep)
    record = planned("s", tmp_path).record
    (found,) = record.claims[0].parts
    assert isinstance(found, Contrast)
    assert [dict(term.at)["train.learning_rate"] for term in found.terms] == [0.003, 0.03]
    for term in found.terms:
        assert any(dict(term.at) == trial.axes for trial in record.trials)
    assert {task.key for task in record.trials[0].spec.evals.tasks} == {"pocket/prose", "pocket/lists"}


# -- run --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
@pytest.mark.slow
def test_claims_run_calls_equal_conditions_equal_and_finds_a_planted_effect(whole: Path) -> None:
    view = commands.claims(whole)
    assert {row.claim.id: row.label for row in view.rows} == {"AA": "supported", "PLANTED": "supported"}
    equal, planted = (row.verdict.parts[0] for row in view.rows if row.verdict)
    assert (equal.estimate, equal.replicates) == (0.0, "3 x 2")
    assert planted.low > 0.1
    assert all(world.low > 0 for world in planted.worlds)
    assert view.running is None
    text = view.markdown()
    assert "| AA | train.loss\\_limit matters | supported" in text
    assert f"`python -m harness sweep planted --base tiny --out {whole}`" in text
    assert [row["verdict"] for row in json.loads(json.dumps(view.as_json()))["claims"]] == ["supported", "supported"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.slow
def test_claims_run_scores_the_base_of_each_world_once(whole: Path) -> None:
    frame = pd.read_parquet(whole / "sweeps/planted@tiny/trials.parquet")
    assert frame.groupby("world")["before/fluency"].nunique().tolist() == [1, 1]
    assert frame["before/fluency"].nunique() == 2
    assert len(list(whole.glob("artefacts/base/*/manifest.json"))) == 2


@pytest.mark.usefixtures("tiny")
@pytest.mark.slow
def test_claims_run_of_a_subset_runs_nothing_again_and_stands_in_no_row_of_its_own(whole: Path) -> None:
    again = list(commands.run_claims(whole, fast=True, workers=1, base="tiny"))
    assert [one.summary.num_ran for one in again if isinstance(one, commands.Done)] == [0, 0]
    assert [row.sweep for row in commands.claims(whole).rows] == ["aa@tiny", "planted@tiny"]


@pytest.mark.usefixtures("tiny")
def test_claims_that_were_not_run_say_so(tmp_path: Path) -> None:
    assert [(row.claim.id, row.label) for row in commands.claims(tmp_path).rows] == [
        ("AA", "not run"),
        ("PLANTED", "not run"),
    ]


@pytest.mark.usefixtures("tiny")
def test_claims_of_a_sweep_that_goes_on_are_open(tmp_path: Path) -> None:
    plan.write_record(planned("aa", tmp_path))
    row = next(row for row in commands.claims(tmp_path).rows if row.claim.id == "AA")
    assert (row.label, row.estimates, row.note) == ("open, 0 of 12 trials", [], "")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("words", [[], ["--json"], ["--format", "markdown"]])
def test_claims_of_a_damaged_sweep_hide_no_others_and_write_nothing(tmp_path: Path, words: list[str]) -> None:
    for name in ("aa", "planted"):
        plan.write_record(planned(name, tmp_path))
    broken = tmp_path / "sweeps" / "planted@tiny" / "sweep.json"
    broken.write_text("{")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = CliRunner().invoke(app, ["claims", "--out", str(tmp_path), *words])
    assert done.exit_code == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"{broken} is damaged: ")
    assert "open, 0 of 12 trials" in done.stdout
    assert "damaged record" in done.stdout
    assert "not run" not in done.stdout
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    if words == ["--json"]:
        assert json.loads(done.stdout)["damaged"] == [sentence]


@pytest.mark.usefixtures("tiny")
def test_claims_of_sound_records_exit_with_0(tmp_path: Path) -> None:
    plan.write_record(planned("aa", tmp_path))
    done = CliRunner().invoke(app, ["claims", "--out", str(tmp_path)])
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.usefixtures("tiny")
def test_claims_run_goes_on_after_a_sweep_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: Request) -> plan.Plan:
        raise SpecError(f"{request.name} cannot be")

    monkeypatch.setattr(plan, "make_plan", refuse)
    done = list(commands.run_claims(tmp_path, fast=True, workers=1, base="tiny"))
    assert [(one.name, one.problem, one.exit_code) for one in done if isinstance(one, commands.Refused)] == [
        ("aa", "aa cannot be", 2),
        ("planted", "planted cannot be", 2),
    ]


@pytest.mark.slow
def test_claims_run_killed_at_any_moment_is_continued_by_the_same_command(tmp_path: Path, whole: Path) -> None:
    victim = start(tmp_path, "--fast")
    until(lambda: len(scores(tmp_path)) >= 2, seconds=120)
    standing = claims_run.running(tmp_path)
    assert standing is not None
    assert (standing.pid, standing.phase) == (victim.pid, "aa")
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate(timeout=30)
    finished = scores(tmp_path)
    assert 2 <= len(finished) < 8
    assert claims_run.running(tmp_path) is None
    continued = start(tmp_path, "--fast")
    output, _ = continued.communicate(timeout=240)
    assert continued.returncode == 0, output
    # What was killed and continued, in worker processes, is what ran undisturbed in one.
    undisturbed = scores(whole)
    assert scores(tmp_path) == {key: undisturbed[key] for key in scores(tmp_path)}
    assert len(scores(tmp_path)) == 8
    for key in finished:
        attempts = read_lines(tmp_path / "trials" / key / "attempts.jsonl")
        assert [row["event"] for row in attempts].count("start") == 1


@pytest.mark.slow
def test_claims_run_detached_outlives_its_starter_and_starts_only_once(tmp_path: Path) -> None:
    behave(tmp_path, "all", sleep=0.3)
    starter = start(tmp_path, "--stub", "--detach")
    output, _ = starter.communicate(timeout=60)
    pid, is_new = output.split()
    assert is_new == "True"
    assert os.getsid(int(pid)) == int(pid)  # its own session: no terminal can hang it up
    again, _ = start(tmp_path, "--stub", "--detach").communicate(timeout=60)
    assert again.split() == [pid, "False"]
    with pytest.raises(BusyError, match="claims-run is running already"), claims_run.only_run(tmp_path):
        pass
    until(lambda: not alive(int(pid)), seconds=60)
    assert len(numbers(tmp_path)) == 24
    assert set(runs(tmp_path).values()) == {1}
    assert claims_run.running(tmp_path) is None


def test_claims_run_that_ends_at_once_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"ended at once with exit code 3; see .*run\.log"):
        claims_run.start([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path)
    assert claims_run.log_file(tmp_path).read_text() == "why\n"


@pytest.mark.slow
def test_claims_run_two_starts_at_once_leave_one_run(tmp_path: Path) -> None:
    behave(tmp_path, "all", sleep=0.2)
    starters = [start(tmp_path, "--stub", "--detach") for _ in range(2)]
    told = [starter.communicate(timeout=90)[0].split() for starter in starters]
    assert len({pid for pid, _ in told}) == 1
    assert sorted(is_new for _, is_new in told) == ["False", "True"]
    until(lambda: not alive(int(told[0][0])), seconds=60)
    time.sleep(0.1)
    assert set(runs(tmp_path).values()) == {1}
