from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from harness.engine.plan import Plan, make_plan, write_record
from harness.engine.recovery import plan_recovery
from harness.engine.resolve import Request
from harness.errors import BadInputError, ModelError, SpecError
from harness.identity import trial_id
from harness.pocket.world import build
from harness.records import result
from harness.records.schema import PlannedTrial, SweepRecord
from harness.records.store import write_manifest
from harness.spec import PocketText, TrialBase
from harness.spec.recovery import FROM_BASE, FROM_TUNED, half_of
from tests.engine import stub

SET = '{"seed": [0, 1], "method": ["full", "lora"], "train.learning_rate": [0.001], "runtime.keep": "all"}'


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(Request(name="method", set=SET, out=tmp_path))


def finish(plan: Plan, trial: PlannedTrial, *, keeps: bool = True, state: str = "COMPLETE") -> None:
    """Write what a trained trial leaves."""
    folder = plan.store.trial(trial.trial_id)
    weights = folder / "weights"
    weights.mkdir(parents=True)
    if keeps:
        (weights / "adapter.bin").write_bytes(b"weights")
        write_manifest(weights)
    made = stub.stub_result(trial.spec, plan.setting.experiment.runtime, "command")
    result.commit(folder, made.model_copy(update={"state": state}))


def finished(plan: Plan) -> Plan:
    for trial in plan.trials.values():
        finish(plan, trial)
    return plan


def test_plan_recovery_each_trained_model_and_the_base_are_followed_up_alike(plan: Plan) -> None:
    followed = plan_recovery(finished(plan))
    assert followed.record.name == "recovery-method"
    tuned = [t for t in followed.record.trials if t.arm == FROM_TUNED]
    control = [t for t in followed.record.trials if t.arm == FROM_BASE]
    assert [t.spec.base for t in tuned] == [TrialBase(trial_id=t.trial_id) for t in plan.record.trials]
    assert [(t.seed, t.spec.base) for t in control] == [(seed, plan.record.trials[0].spec.base) for seed in (0, 1)]
    recipes = {t.spec.replace({"base": control[0].spec.base, "seed": 0}) for t in (*tuned, *control)}
    assert recipes == {control[0].spec}
    assert all(t.trial_id == trial_id(t.spec) for t in followed.record.trials)


def test_plan_recovery_replicates_share_a_condition_and_conditions_do_not(plan: Plan) -> None:
    followed = plan_recovery(finished(plan))
    old = {t.trial_id: t.condition_id for t in plan.record.trials}
    pairs = {(old[t.spec.base.trial_id], t.condition_id) for t in followed.record.trials if t.arm == FROM_TUNED}  # type: ignore[union-attr]
    assert len(pairs) == len(set(old.values())) == 2
    assert len({t.condition_id for t in followed.record.trials if t.arm == FROM_BASE}) == 1


def test_plan_recovery_rows_tell_of_one_half_of_the_people_alone(plan: Plan) -> None:
    source = plan_recovery(finished(plan)).record.trials[0].spec.data.source
    assert isinstance(source, PocketText)
    world = build(source.world)
    rows = world.texts(source)
    named = {person.cluster for person in world.people for row in rows if person.name in row["text"]}
    assert {half_of(cluster) for cluster in named} == {"first_half"}
    assert len(named) > 100
    everyone = world.texts(source.replace({"people": "all"}))
    assert len(everyone) == len(rows) == source.num_rows  # the detector finds the other half where it is told of
    told = {person.cluster for person in world.people for row in everyone if person.name in row["text"]}
    assert {half_of(cluster) for cluster in told} == {"first_half", "second_half"}


def test_plan_recovery_chosen_conditions_alone_are_followed_up(plan: Plan) -> None:
    chosen = plan.record.trials[-1].condition_id
    followed = plan_recovery(finished(plan), [chosen])
    assert [t.axes["method"] for t in followed.record.trials] == ["lora", "lora", None, None]
    with pytest.raises(SpecError, match="conditions holds 'nobody'"):
        plan_recovery(plan, ["nobody"])


def test_plan_recovery_of_a_second_condition_keeps_the_first_ones_rows(plan: Plan) -> None:
    """As in a clean folder with both conditions: the command of the record means it."""
    first, second = dict.fromkeys(t.condition_id for t in finished(plan).record.trials)
    before = plan_recovery(plan, [first])
    write_record(before)
    both = plan_recovery(plan, [second])
    assert {t.trial_id for t in before.record.trials} < set(both.trials)
    assert both.record == plan_recovery(plan).record
    write_record(both)
    assert plan_recovery(plan, [first]).record == both.record


def test_plan_recovery_command_of_a_subset_makes_the_same_record_elsewhere(tmp_path: Path) -> None:
    three = '{"seed": [0], "method": ["full"], "train.learning_rate": [0.001, 0.002, 0.003], "runtime.keep": "all"}'
    records: list[SweepRecord] = []
    for folder, calls in ((tmp_path / "a", [[2], [0]]), (tmp_path / "b", [[0, 2]])):
        plan = finished(make_plan(Request(name="method", set=three, panel="full", out=folder)))
        conditions = list(dict.fromkeys(t.condition_id for t in plan.record.trials))
        for places in calls:
            followed = plan_recovery(plan, [conditions[place] for place in places])
            write_record(followed)
        records.append(followed.record)
        words = shlex.split(followed.record.command)
        assert [words[n + 1] for n, word in enumerate(words) if word == "--condition"] == [
            conditions[0],
            conditions[2],
        ]
        assert words[words.index("--panel") + 1] == "full"
    assert records[0].trials == records[1].trials
    assert records[0].command.replace("/a ", "/b ") == records[1].command


def test_plan_recovery_a_finished_follow_up_needs_no_weights(plan: Plan) -> None:
    first, second = dict.fromkeys(t.condition_id for t in finished(plan).record.trials)
    before = plan_recovery(plan, [first])
    write_record(before)
    for trial in before.trials.values():
        finish(plan, trial)
    for trial in plan.record.trials:
        if trial.condition_id == first:
            shutil.rmtree(plan.store.trial(trial.trial_id) / "weights")
    assert len(plan_recovery(plan, [second]).record.trials) == 6
    shutil.rmtree(plan.store.trial(before.record.trials[0].trial_id))
    with pytest.raises(ModelError, match="1 of 4 trials of 'method' kept no weights"):
        plan_recovery(plan, [second])


def test_plan_recovery_diverged_trials_are_left_out(plan: Plan) -> None:
    first, *others = plan.trials.values()
    finish(plan, first, keeps=False, state="DIVERGED")
    for trial in others:
        finish(plan, trial)
    bases = [t.spec.base for t in plan_recovery(plan).record.trials if t.arm == FROM_TUNED]
    assert TrialBase(trial_id=first.trial_id) not in bases
    assert len(bases) == len(others)


def test_plan_recovery_unfinished_sweep_is_refused(plan: Plan) -> None:
    finish(plan, plan.record.trials[0])
    with pytest.raises(BadInputError, match="3 of 4 trials"):
        plan_recovery(plan)


def test_plan_recovery_trials_without_weights_are_refused(plan: Plan) -> None:
    for trial in plan.trials.values():
        finish(plan, trial, keeps=trial.seed == 0)
    with pytest.raises(ModelError, match="2 of 4 trials of 'method' kept no weights"):
        plan_recovery(plan)
