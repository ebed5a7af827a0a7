"""From a request to trials: what is planned, and what is refused before anything runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import load_sweep
from harness.engine import asked, catalog, jobs, launch, plan, worlds
from harness.engine.forecast import total_seconds
from harness.engine.plan import Plan, Request
from harness.engine.worker import cause_of
from harness.errors import BadInputError, DataError, DeviceError, HarnessError, ModelError, SpecError
from harness.records.schema import Failure, PlannedTrial
from harness.records.store import Store, write_manifest
from harness.spec import (
    SAMPLED,
    Arm,
    Axis,
    Claim,
    Contrast,
    FolderBase,
    PocketBase,
    PocketData,
    PocketItems,
    Runtime,
    Study,
    Sweep,
    TrialBase,
    difference,
)
from harness.spec.metrics import metrics_of
from tests.engine.inline import inline
from tests.engine.stub import run_stub
from tests.engine.stub_launch import RUNTIME
from tests.models.tiny import write_folder
from tests.pocket.tiny import tiny_experiment, with_qlora
from tests.specs import pinned_spec

ROOT = Path(__file__).parents[2]
BASES = ("pocket", "smollm2_135m_instruct", "gemma3_270m")
Planner = Callable[..., Plan]


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Return a function that plans on the tiny experiment: name, then SET as keyword `set`."""
    experiment = with_qlora(tiny_experiment())
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)

    def make(name: str = "lima_size", set: dict[str, Any] | str | None = None, **more: Any) -> Plan:
        text = json.dumps(set) if isinstance(set, dict) else set
        return plan.make_plan(Request(name=name, base="tiny", set=text, out=tmp_path, **more))

    return make


@pytest.fixture
def offering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sweep | Study], None]:
    """Return a function that makes every sweep name mean a given sweep."""
    return lambda sweep: monkeypatch.setattr(catalog, "load_sweep", lambda name: sweep)


def sweep_of(*axes: Axis, **more: Any) -> Sweep:
    """Return a sweep over some axes."""
    defaults: dict[str, Any] = {"name": "s", "hypothesis": "h", "refuted_if": "r", "source": "t"}
    defaults |= {"axes": axes, "seeds": (0,), "measures": ("learned", "retained")}
    return Sweep(**defaults | more)


def sole(planned: Plan) -> PlannedTrial:
    """Return the only trial."""
    (trial,) = planned.record.trials
    return trial


# -- what ships -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", catalog.sweep_names())
def test_plan_every_shipped_sweep_on_every_base(name: str, base: str, tmp_path: Path) -> None:
    request = Request(name=name, base=base, panel="full", out=tmp_path)
    if name == "claim_e2_replay" and base != "pocket":
        # of what a real model was pretrained on nothing is at hand: SET data.replay_source names something
        with pytest.raises(SpecError, match=r"without data\.replay_source; name one"):
            plan.make_plan(request)
        return
    if name == "claim_c9_size" and base != "pocket":
        with pytest.raises(SpecError, match=r"base\.model\.hidden_size has no meaning on base"):
            plan.make_plan(request)
        return
    planned = plan.make_plan(request)
    sweep = planned.setting.sweep
    if isinstance(sweep, Sweep):
        assert len({trial.seed for trial in planned.record.trials}) >= 3
        assert planned.record.trials
    else:
        assert len(sweep.seeds) >= 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", catalog.sweep_names())
def test_plan_every_shipped_sweep_documents_itself(name: str) -> None:
    text = (ROOT / "sweeps" / f"{name}.py").read_text()
    for heading in ("Hypothesis:", "Refuted if:", "Source:", "Command: make ", "Cost:"):
        assert f"\n{heading}" in text
    assert f"NAME={name}" in text


def test_plan_process_is_quick_and_free_of_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['harness', 'plan', 'lima_size', '--out', sys.argv[1]]\n"
        "from harness.cli import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "33 trials, 0 done" in done.stdout
    after = os.times()  # processor time: a crowded machine makes no plan slow
    assert after.children_user + after.children_system - before.children_user - before.children_system < 4.0


# -- axes and arms ----------------------------------------------------------------------------------------------------


def test_plan_arms_share_the_trial_of_the_own_size_and_hold_what_they_say(planner: Planner) -> None:
    planned = planner("lima_size")
    own = planned.setting.experiment.spec
    assert own.data.num_examples == 16
    by_arm = {arm: [t for t in planned.record.trials if t.arm == arm] for arm in ("equal_epochs", "equal_steps")}
    assert {t.trial_id for t in by_arm["equal_epochs"]} & {t.trial_id for t in by_arm["equal_steps"]} == {
        t.trial_id for t in by_arm["equal_epochs"] if t.axes["data.num_examples"] == 16
    }
    assert {t.spec.train.steps(t.spec.data.num_examples or 0) for t in by_arm["equal_steps"]} == {4}
    assert {t.spec.train.num_epochs for t in by_arm["equal_epochs"]} == {2.0}
    assert len(planned.trials) == len(planned.record.trials) - 3


def test_plan_method_axis_brings_configuration_and_reference_rate(planner: Planner) -> None:
    planned = planner("method")
    rates = {(t.axes["method"], t.spec.train.learning_rate) for t in planned.record.trials}
    assert rates == {
        (kind, float(f"{digit}e{exponent}"))
        for kind, exponent in (("full", -3), ("lora", -2), ("qlora", -2))
        for digit in (0.3, 1, 3)
    }
    assert {t.spec.method.kind for t in planned.record.trials if t.axes["method"] == "qlora"} == {"qlora"}
    assert planned.record.selection == {"axis": "train.learning_rate", "within": "method", "measure": "learned"}


def test_plan_replicates_share_their_condition(planner: Planner) -> None:
    trials = planner("epochs").record.trials
    assert len({t.condition_id for t in trials}) == 5
    assert len({(t.condition_id, t.seed) for t in trials}) == len(trials) == 15


def test_plan_is_the_same_every_time(planner: Planner) -> None:
    assert planner("method").record == planner("method").record


def test_plan_size_larger_than_the_data_is_refused(planner: Planner) -> None:
    with pytest.raises(SpecError, match=r"data\.num_examples is 73, but must be at most 72 on base 'tiny'"):
        planner(set={"data.num_examples": [8, 73]})
    with pytest.raises(SpecError, match=r"must be at most 36 .*half of them by completion_ratio"):
        planner("loss_mask", set={"data.num_examples": 40})


def test_plan_exposures_over_the_token_budget_are_refused_before_a_base_is_built(planner: Planner) -> None:
    with pytest.raises(
        SpecError, match=r"num_steps is 2, but must be about \d+ or more: .* million tokens at \d+ a step"
    ):
        planner(set={"base.model.num_steps": 2})


def test_plan_lengths_beyond_the_context_of_a_base_that_is_built_are_refused(planner: Planner) -> None:
    for field in ("data.max_length", "evals.max_length"):
        with pytest.raises(SpecError, match=rf"^{field} is 256, but must be at most 128, base\.model\.context$"):
            planner(set={field: 256})


def test_plan_rank_without_an_adapter_is_refused_in_one_sentence(planner: Planner) -> None:
    with pytest.raises(SpecError, match=r"^method\.rank has no meaning for method 'full', but must go with"):
        planner("epochs", set={"method.rank": 4})


def test_plan_field_of_some_methods_applies_to_those_under_a_method_axis(planner: Planner) -> None:
    trials = planner("method", set={"method.rank": 2}).record.trials
    assert {(t.spec.method.kind, getattr(t.spec.method, "rank", None)) for t in trials} == {
        ("full", None),
        ("lora", 2),
        ("qlora", 2),
    }


def test_plan_method_that_a_base_does_not_state_is_refused(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "load_experiment", lambda name: tiny_experiment())
    with pytest.raises(SpecError, match="method on base 'tiny' is 'qlora', but must be one of full, lora"):
        planner("method")


def test_plan_axis_without_meaning_on_a_base_names_the_nearest_field(
    planner: Planner, offering: Callable[[Sweep], None]
) -> None:
    offering(sweep_of(Axis(field="data.source.num_row", values=(8,))))
    with pytest.raises(SpecError, match=r"num_row has no meaning on base 'tiny'.*Did you mean 'num_rows'"):
        planner()


def test_plan_a_grid_over_the_limit_is_refused_before_it_is_enumerated(
    planner: Planner, offering: Callable[[Sweep], None]
) -> None:
    wide = tuple(range(1, 1001))
    offering(sweep_of(*(Axis(field=f"a{i}", values=wide) for i in range(3))))
    started = time.monotonic()
    with pytest.raises(SpecError, match="has 1000000000 cells, but must have at most 2000"):
        planner()
    assert time.monotonic() - started < 1.0


def test_plan_arm_that_sets_a_field_gives_other_trials(planner: Planner, offering: Callable[[Sweep], None]) -> None:
    arms = (Arm(name="a", hold="epochs"), Arm(name="b", hold="epochs", set=(("train.weight_decay", 0.5),)))
    offering(sweep_of(Axis(field="train.num_epochs", values=(1.0,)), arms=arms))
    assert [t.spec.train.weight_decay for t in planner().record.trials] == [0.0, 0.5]


def test_plan_ten_thousand_cells_take_seconds(planner: Planner, offering: Callable[[Sweep], None]) -> None:
    offering(
        sweep_of(
            Axis(field="train.learning_rate", values=tuple(1e-4 * i for i in range(1, 101))),
            Axis(field="train.weight_decay", values=tuple(0.01 * i for i in range(100))),
            max_trials=10_000,
        )
    )
    started = time.process_time()
    assert len(planner().trials) == 10_000
    assert time.process_time() - started < 15.0  # 2 to 3 s of CPU; other work on the machine makes them dearer


def test_plan_values_that_mean_one_trial_are_refused(planner: Planner) -> None:
    sentence = r"^train\.num_epochs 1 and 1\.0 are one and the same trial, but must be different ones"
    with pytest.raises(SpecError, match=sentence) as caught:
        planner("epochs", set={"train.num_epochs": [1, 1.0, 2]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["lora", {"kind": "lora", "rank": 8, "alpha": 8.0, "target_modules": "all_linear"}])
def test_plan_two_configurations_of_one_method_are_refused(planner: Planner, other: Any) -> None:
    one = {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
    with pytest.raises(SpecError, match=r"^SET method holds 2 configurations of 'lora', .*method\.rank.*lora_rank"):
        planner("method", set={"method": [one, other, "full"]})
    assert {trial.axes["method"] for trial in planner("method", set={"method": [one, "full"]}).trials.values()} == {
        "lora",
        "full",
    }


# -- SET, PANEL, DATA, EVALS ------------------------------------------------------------------------------------------


def test_plan_set_replaces_axis_values_and_seeds_and_fixes_fields(planner: Planner) -> None:
    planned = planner(set={"data.num_examples": [8], "seed": [5, 6], "train.batch_size": 4})
    assert {(t.seed, t.spec.data.num_examples, t.spec.train.batch_size) for t in planned.record.trials} == {
        (5, 8, 4),
        (6, 8, 4),
    }
    assert planned.folder.name == f"lima_size@tiny-{planned.setting.set_hash}"
    assert planner().folder.name == "lima_size@tiny"


def test_plan_set_on_a_relative_axis_is_absolute(planner: Planner) -> None:
    trials = planner("learning_rate", set={"train.learning_rate": [0.25], "seed": 0}).record.trials
    assert {t.spec.train.learning_rate for t in trials} == {0.25}


def test_plan_set_of_one_duration_clears_the_other(planner: Planner) -> None:
    trials = planner("loss_mask", set={"train.num_steps": 2}).record.trials
    assert {(t.spec.train.num_steps, t.spec.train.num_epochs) for t in trials} == {(2, None)}


def test_plan_set_hash_depends_on_content_not_on_order_or_runtime(planner: Planner) -> None:
    one = planner(set='{"train.batch_size": 4, "train.weight_decay": 0.1}')
    two = planner(set='{"train.weight_decay": 0.1, "train.batch_size": 4}')
    three = planner(set='{"train.weight_decay": 0.1, "train.batch_size": 4, "runtime.keep": "all"}')
    assert one.folder == two.folder == three.folder
    assert three.setting.experiment.runtime.keep == "all"
    assert planner(set={"runtime.keep": "all"}).setting.set_hash is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]", "but must be a JSON object"),
        ("{", "but must be a JSON object"),
        ('{"train.batch_size": 1, "train.batch_size": 2}', "named twice"),
        ('{"train.learning_rate": NaN}', "NaN is not a number in JSON"),
        ('{"data.num_examples": []}', "must hold at least one value"),
        ('{"data.num_examples": [8, 8]}', "must not repeat a value"),
        ('{"seed": [-1]}', "must be integers from 0 on"),
        ('{"train.batch_size": 0}', r"train\.batch_size is 0"),
        ('{"train.batch_size": "8"}', r"train\.batch_size is '8'"),
        ('{"train.btch_size": 8}', "Did you mean 'batch_size'"),
        ('{"runtime.kep": "all"}', "Did you mean 'keep'"),
        ('{"evals.num_items": 0}', "must be an integer from 1 on"),
        ('{"evals.num_itemsx": 4}', "Did you mean 'items_seed'|evals.num_itemsx has no meaning"),
        ('{"evals.num_samples": 1}', r"^SET evals\.num_samples is 1, but must be 0 or from 2 to 64"),
        ('{"evals.num_samples": "4"}', r"^SET evals\.num_samples is '4', but must be"),
        ('{"evals.num_samples": [4, 8]}', r"^SET evals\.num_samples is \[4, 8\], but must be"),
        ('{"evals.temperature": 0.5}', r"^SET evals\.temperature is 0\.5, .* nothing is sampled; set num_samples"),
        ('{"evals.num_samples": 4, "evals.temperature": 0}', r"^SET evals\.temperature is 0"),
        ('{"method": "lorra"}', "Did you mean 'lora'"),
        ('{"method": {"kind": "lorra"}}', "Did you mean 'lora'"),
        (
            '{"method": ["full", 3]}',
            r"method on base 'tiny' is \"\['full', 3\]\", but must be one of full, lora, qlora",
        ),
        ('{"method": [{"kind": "full"}, {"kind": "lora"}]}', "but must be one of full, lora, qlora"),
        ('{"method": null}', "but must be one of full, lora, qlora"),
        ('{"runtime.keep": "al"}', r"^runtime\.keep is 'al', but must be: 'none', 'adapter' or 'all'"),
        ('{"data.template": "\\ud800"}', r"^SET 'data\.template' is '\\ud800', but must be text"),
        ('{"data.template": "chatm"}', r"^data\.template is 'chatm', .* Did you mean 'chatml'"),
        ('{"evals.dtype": "bfloat16"}', r"^evals\.dtype is 'bfloat16', but must be 'float32'"),
    ],
)
def test_plan_bad_set_is_refused_by_name(planner: Planner, text: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        planner(set=text)


@pytest.mark.parametrize("value", [["full", 3], ["full", ["lora"]], [None], [{"kind": "lora"}, 1]])
def test_plan_method_axis_with_a_value_that_is_no_method_is_refused(planner: Planner, value: list[Any]) -> None:
    with pytest.raises(SpecError, match=r"^method"):
        planner("method", set={"method": value})


@pytest.mark.parametrize(
    ("name", "set", "sentence"),
    [
        ("epochs", {"train.num_steps": 3}, "an axis of sweep 'epochs' sets train.num_epochs"),
        ("lima_size", {"train.num_steps": 3}, "arm 'equal_steps' holds steps equal and sets train.num_steps"),
        ("lima_size", {"data": {"num_examples": 8}}, "an axis of sweep 'lima_size' sets data.num_examples"),
        ("loss_mask", {"train.num_epochs": 2, "train.num_steps": 3}, "must name one of them"),
        ("loss_mask", {"train.warmup_ratio": 0.1, "train": {"warmup_ratio": 0.2}}, "must name one of them"),
        ("loss_mask", {"evals.tasks": [], "evals.num_items": 4}, r"evals.num_items gives evals.tasks"),
        ("loss_mask", {"evals.tasks": [], "evals.num_samples": 4}, r"evals.num_samples gives evals.tasks"),
        ("tune", {"train.num_epochs": 2}, "a dimension of study 'tune' sets train.num_epochs"),
        ("tune", {"train.num_steps": 2}, "a dimension of study 'tune' sets train.num_epochs"),
        ("tune", {"method": "lora"}, "a dimension of study 'tune' sets method"),
        ("method", {"method": ["full"], "method.rank": 4}, "method.rank has no meaning for any method varied here"),
    ],
)
def test_plan_set_that_would_be_dropped_is_refused(planner: Planner, name: str, set: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence) as caught:
        planner(name, set=set)
    assert "\n" not in str(caught.value)


def test_plan_set_of_what_an_arm_sets_is_refused(planner: Planner, offering: Callable[[Sweep], None]) -> None:
    arms = (Arm(name="a", hold="epochs"), Arm(name="b", hold="epochs", set=(("train.weight_decay", 0.5),)))
    offering(sweep_of(Axis(field="train.num_epochs", values=(1.0,)), arms=arms))
    with pytest.raises(SpecError, match=r"train\.weight_decay is 0\.1, but must be left out: arm 'b' sets"):
        planner(set={"train.weight_decay": 0.1})


def test_plan_set_of_what_a_sweep_fixes_replaces_it(planner: Planner) -> None:
    trials = planner("lora_rank", set={"method": "qlora"}).record.trials
    assert {trial.spec.method.kind for trial in trials} == {"qlora"}


# -- worlds -----------------------------------------------------------------------------------------------------------


def seeds_of_worlds(trial: PlannedTrial) -> dict[str, int]:
    """Return the seed of every pocket world that a trial names."""
    spec = trial.spec
    assert isinstance(spec.base, PocketBase)
    assert isinstance(spec.data.source, PocketData)
    items = {task.key: task.source.world.seed for task in spec.evals.tasks if isinstance(task.source, PocketItems)}
    return {"base": spec.base.world.seed, "rows": spec.data.source.world.seed} | items


def test_plan_world_is_changed_in_base_rows_and_items_together(planner: Planner) -> None:
    trials = planner("loss_mask", set={"world.seed": 7}).record.trials
    assert {seed for trial in trials for seed in seeds_of_worlds(trial).values()} == {7}
    assert len(seeds_of_worlds(trials[0])) > 3


def test_plan_world_can_be_an_axis(planner: Planner, offering: Callable[[Sweep], None]) -> None:
    offering(sweep_of(Axis(field="world.seed", values=(0, 1))))
    first, second = planner().record.trials
    assert set(seeds_of_worlds(first).values()) == {0}
    assert set(seeds_of_worlds(second).values()) == {1}


@pytest.mark.parametrize(
    ("set", "sentence"),
    [
        (
            {"data.source.world.seed": 1},
            r"^data\.source\.world\.seed is 1, but must be 0 .*; set world\.seed to change it",
        ),
        (
            {"base.world.people_per_tier": 8},
            r"world\.people_per_tier is 6, but must be 8 .*; set world\.people_per_tier",
        ),
        (
            {"base.world.seed": 1, "data.source.world.seed": 1},
            r"^data\.replay_source\.world\.seed is 0, but must be 1",
        ),
        ({"world.seed": 1, "base.world.seed": 1}, r"SET names world\.\* and base\.world\.seed"),
        ({"world.sed": 1}, r"Did you mean 'world\.seed'"),
        ({"world.seed": -1}, r"^world\.seed is -1, but must be"),
    ],
)
def test_plan_two_worlds_in_one_trial_are_refused(planner: Planner, set: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence) as caught:
        planner("loss_mask", set=set)
    assert "\n" not in str(caught.value)


def trial_with_weights(trial: PlannedTrial, store: Store) -> None:
    """Finish a trial by the stub and let it have kept weights."""
    launch.launch(store, [trial], RUNTIME, launch.Options(1, run=run_stub, prepare=False, executor=inline))
    weights = store.trial(trial.trial_id) / "weights"
    weights.mkdir()
    write_manifest(weights)


def test_plan_on_a_trial_takes_the_world_that_its_base_was_trained_on(planner: Planner, tmp_path: Path) -> None:
    changed = {"world.seed": 7, "base.model.num_steps": 30}
    parent = planner("loss_mask", set=changed).record.trials[0]
    trial_with_weights(parent, Store(tmp_path))
    child = plan.make_plan(Request(name="epochs", base=f"trial:{parent.trial_id}", out=tmp_path)).record.trials[0]
    assert child.spec.base == TrialBase(trial_id=parent.trial_id)
    root = parent.model_copy(update={"spec": child.spec.replace({"base": parent.spec.base})})
    assert set(seeds_of_worlds(root).values()) == {7}


@pytest.mark.parametrize(
    ("set", "sentence"),
    [
        ({"world.people_per_tier": 700}, "at most 2048 people"),
        ({"world.left_out_skills": ["revers"]}, "Did you mean 'reverse'?"),
        ({"data.source.families": ["fcat"]}, "Did you mean 'fact'?"),
        ({"data.source.families": ["difference"]}, "that family is held out"),
        ({"data.source.num_rules": 5}, "must be None without the family 'replace'"),
        ({"data.source.unknown_share": 0.9}, "too few distinct questions"),
        ({"data.replay_source.kinds": ["biografies"]}, "Did you mean 'biographies'?"),
    ],
)
def test_plan_world_or_rows_that_cannot_be_are_refused(planner: Planner, set: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=re.escape(sentence)):
        planner(set=set)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("pocket/question_unaskd/exact_match", "Did you mean 'question_unasked'?"),
        ("pocket/question_unasked/exact_mach", "Did you mean 'exact_match'?"),
        ("pocket/cloze_unasked/exact_match", "must be one of acc"),
    ],
)
def test_plan_claim_on_a_metric_that_nothing_has_is_refused(
    planner: Planner, offering: Callable[[Sweep], None], metric: str, sentence: str
) -> None:
    part = Contrast(
        terms=difference(metric, {"train.batch_size": 8}, {"train.batch_size": 4}), expect="greater", margin=0
    )
    claim = Claim(id="C", statement="s", source="s", published="none", parts=(part,))
    offering(sweep_of(Axis(field="train.batch_size", values=(4, 8)), claims=(claim,)))
    with pytest.raises(SpecError, match=re.escape(sentence)):
        planner()


def test_plan_world_without_one_to_change_is_refused(tmp_path: Path) -> None:
    spec = pinned_spec()
    with pytest.raises(SpecError, match=r"world\.seed has no meaning here"):
        worlds.applied(spec, {"world.seed": 1})
    with pytest.raises(SpecError, match=r"world\.seed has no meaning on a base that is a trial"):
        worlds.applied(spec.replace({"base": TrialBase(trial_id="ab" * 32)}), {"world.seed": 1})


def test_plan_panel_decides_the_slices(planner: Planner) -> None:
    primary = {task.key for task in planner().record.trials[0].spec.evals.tasks}
    full = {task.key for task in planner(panel="full").record.trials[0].spec.evals.tasks}
    assert primary < full
    assert planner(panel="full").record.measures == planner().record.measures
    with pytest.raises(SpecError, match="PANEL is 'ful', but must be one of full, primary"):
        planner(panel="ful")


def test_plan_samples_answers_to_every_slice_that_can_have_them_and_to_no_other(
    planner: Planner, tmp_path: Path
) -> None:
    planned = planner("epochs", set={"evals.num_samples": 16, "evals.temperature": 0.8, "evals.num_items": 4})
    tasks = planned.record.trials[0].spec.evals.tasks
    assert {(task.kind in SAMPLED, task.num_samples, task.temperature, task.num_items) for task in tasks} == {
        (True, 16, 0.8, 4),
        (False, 0, 1.0, 4),
    }
    plain = planner("epochs", set={"evals.num_items": 4})
    assert planned.record.set_hash != plain.record.set_hash
    said = [note for note in plan.outlook(planned, 1).notes if "are sampled" in note]
    keys = ", ".join(task.key for task in tasks if task.num_samples)
    assert said == [f"16 answers at temperature 0.8 are sampled to every item of {keys}, before and after"]
    assert not any("are sampled" in note for note in plan.outlook(plain, 1).notes)
    (tmp_path / "items").mkdir()
    (tmp_path / "items/gsm8k.jsonl").write_text('{"context": "1 + 1?", "answer": "2"}\n')
    suite = {"evals": str(tmp_path / "items"), "suites": "skills"}
    (task,) = planner("epochs", set={"evals.num_samples": 10}, **suite).record.trials[0].spec.evals.tasks
    assert (task.key, task.num_samples) == ("skills/gsm8k", 10)
    assert metrics_of(task)[-5:] == ("pass_1", "pass_2", "pass_4", "pass_8", "unique_share")


def test_plan_claim_about_sampled_answers_needs_samples_of_its_slice(
    planner: Planner, offering: Callable[[Sweep | Study], None]
) -> None:
    key = next(task.key for task in planner("epochs").record.trials[0].spec.evals.tasks if task.kind == "generate")
    terms = difference(f"{key}/pass_4", {"train.num_steps": 2}, {"train.num_steps": 1})
    claim = Claim(
        id="P1", statement="s", source="t", published="p",
        parts=(Contrast(terms=terms, expect="greater", margin=0.0),),
    )  # fmt: skip
    offering(sweep_of(Axis(field="train.num_steps", values=(1, 2)), claims=(claim,)))
    assert len(planner(set={"evals.num_samples": 4}).record.trials) == 2
    for changes in ({}, {"evals.num_samples": 2}):
        with pytest.raises(SpecError, match="pass_4"):
            planner(set=changes)


def test_plan_samples_where_no_slice_can_have_them_are_refused(planner: Planner, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"query": "q", "choices": ["a", "b"], "gold": 0}\n')
    with pytest.raises(
        SpecError, match=r"SET names evals\.num_samples, but must leave it out where no slice is of kind"
    ):
        planner("epochs", set={"evals.num_samples": 4}, evals=str(tmp_path))


def test_plan_items_of_null_are_all_items(planner: Planner, tmp_path: Path) -> None:
    tasks = planner("epochs", set={"evals.num_items": None}).record.trials[0].spec.evals.tasks
    assert {task.num_items for task in tasks} == {None}
    (tmp_path / "items").mkdir()
    (tmp_path / "items/mine.jsonl").write_text('{"query": "q", "choices": ["a", "b"], "gold": 0}\n')
    planned = planner("epochs", set={"evals.num_items": None}, evals=str(tmp_path / "items"))
    assert [task.num_items for task in planned.record.trials[0].spec.evals.tasks] == [None]
    with pytest.raises(SpecError, match=r"evals\.num_items gives evals\.tasks"):
        planner("epochs", set={"evals.num_items": None, "evals.tasks": []})


def test_plan_layouts_ask_primary_slices_once_more_and_name_those_that_cannot(
    planner: Planner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, layouts = tmp_path / "items", ["q_a", "choices_listed"]
    mine.mkdir()
    (mine / "asked.jsonl").write_text('{"query": "Who was it?", "choices": ["a b", "c d"], "gold": 0}\n')
    (mine / "pairs.jsonl").write_text('{"query": "", "choices": ["a b", "c d"], "gold": 0}\n')
    (mine / "written.jsonl").write_text('{"context": "Who was it?", "answer": "Ann"}\n')
    plain = planner("method", evals=str(mine))
    planned = planner("method", evals=str(mine), set={"evals.layouts": layouts})
    tasks = {task.key: task for task in planned.record.trials[0].spec.evals.tasks}
    laid_out = {key: task.layout for key, task in tasks.items() if task.layout != "as_is"}
    assert laid_out == {
        "items/asked_q_a": "q_a",
        "items/asked_choices_listed": "choices_listed",
        "items/written_q_a": "q_a",
    }
    assert not any(tasks[key].primary for key in laid_out)
    assert "items/pairs_q_a is not asked: evals.tasks items/pairs_q_a item" in caplog.text
    assert planned.record.measures == plain.record.measures
    assert planned.folder != plain.folder


@pytest.mark.parametrize(
    ("layouts", "sentence"),
    [
        (["q_b"], r"SET evals\.layouts is 'q_b', but must be one of .* Did you mean 'q_a'"),
        (["as_is"], r"SET evals\.layouts is 'as_is', but must be one of bare"),
        ("q_a", r"SET evals\.layouts is 'q_a', but must be a list of different layouts"),
        ([], "must be a list of different layouts"),
        (["q_a", "q_a"], "must be a list of different layouts"),
        ([{"q": 1}], r"SET evals\.layouts is .*, but must be one of"),
        (None, "must be a list of different layouts"),
    ],
)
def test_plan_layouts_that_cannot_be_are_refused(planner: Planner, layouts: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        planner("epochs", set={"evals.layouts": layouts})
    with pytest.raises(SpecError, match=r"evals\.layouts gives evals\.tasks"):
        planner("epochs", set={"evals.layouts": ["q_a"], "evals.tasks": []})


def test_plan_layouts_in_which_nothing_is_asked_are_refused(planner: Planner, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"context": "Who was it?", "answer": "Ann"}\n')
    with pytest.raises(SpecError, match=r"SET names evals\.layouts, but must leave it out where no primary slice"):
        planner("epochs", set={"evals.layouts": ["choices_listed"]}, evals=str(tmp_path))


def test_plan_slices_of_set_are_those_that_the_report_asks_for(planner: Planner) -> None:
    known = {task.name: task.model_dump(mode="json") for task in tiny_experiment().spec.evals.tasks}
    planned = planner("epochs", set={"evals.tasks": [known["prose"], known["question_unasked"]]})
    asked = {task.key: task.measure for task in planned.record.trials[0].spec.evals.tasks if task.primary}
    assert {key for keys in planned.record.measures.values() for key in keys} == set(asked)
    assert set(planned.record.measures) == set(asked.values())
    with pytest.raises(SpecError, match=r"SET evals\.tasks is .*, but must be left out: PANEL gives evals\.tasks"):
        planner("epochs", set={"evals.tasks": [known["prose"]]}, panel="full")
    with pytest.raises(SpecError, match=r"evals\.tasks has no primary slice of"):
        planner("epochs", set={"evals.tasks": [known["prose"] | {"primary": False}]})


def test_plan_without_any_slice_to_score_is_refused(planner: Planner, offering: Callable[[Sweep], None]) -> None:
    offering(sweep_of(Axis(field="train.num_epochs", values=(1.0,)), measures=()))
    with pytest.raises(SpecError, match=r"evals\.tasks has no primary slice of .*on base 'tiny'"):
        planner()


def test_plan_takes_data_and_items_from_files(planner: Planner, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    chats = tmp_path / "chats.jsonl"
    chats.write_text((json.dumps(row) + "\n") * 30)
    items = tmp_path / "items"
    items.mkdir()
    item = {"id": "1", "query": "q", "choices": ["a", "b"], "gold": 0}
    (items / "mine.jsonl").write_text(json.dumps(item) + "\n")
    planned = planner(set={"data.num_examples": 8, "seed": 0}, data=str(chats), evals=str(items))
    spec = planned.record.trials[0].spec
    assert spec.data.source.kind == "file"
    assert [task.key for task in spec.evals.tasks] == ["items/mine"]
    assert spec.evals.tasks[0].num_items == asked.NUM_ITEMS
    with pytest.raises(SpecError, match="must be at most 22"):
        planner(set={"data.num_examples": 23}, data=str(chats))
    with pytest.raises(DataError, match="DATA is 'nowhere'"):
        planner(data="nowhere")
    with pytest.raises(DataError, match="EVALS is 'nowhere'"):
        planner(evals="nowhere")
    with pytest.raises(SpecError, match=r"SET data\.source is .*, but must be left out: DATA gives data\.source"):
        planner(set={"data.source": {}}, data=str(chats))
    (items / "my.own.jsonl").write_text(json.dumps(item) + "\n")
    (items / "my own.jsonl").write_text(json.dumps(item) + "\n")
    (items / "my_own.jsonl").write_text(json.dumps(item) + "\n")
    with pytest.raises(
        DataError, match=r"^EVALS is .*my own\.jsonl and .*my_own\.jsonl are both the slice 'items/my_own'"
    ):
        planner(evals=str(items))


# -- names and bases --------------------------------------------------------------------------------------------------


def test_plan_unknown_names_give_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"NAME is 'lima_sise'.*Did you mean 'lima_size'"):
        plan.make_plan(Request(name="lima_sise", out=tmp_path))
    with pytest.raises(SpecError, match=r"BASE is 'pocktet'.*Did you mean 'pocket'"):
        plan.make_plan(Request(name="lima_size", base="pocktet", out=tmp_path))


@pytest.mark.parametrize("name", ["../lima_size", "lima_size/../x", "sweeps.lima_size", "__init__", "", "os"])
def test_plan_name_is_never_a_path_or_a_module(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="NAME is"):
        plan.make_plan(Request(name=name, out=tmp_path))


@pytest.mark.parametrize("base", ["./nowhere", "/nowhere/m", "trial:abc", "trial:../x", "trial:", "_real", "folder"])
def test_plan_base_that_is_none_is_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        plan.make_plan(Request(name="lima_size", base=base, out=tmp_path))


def test_plan_base_that_must_be_fetched_says_how(tmp_path: Path) -> None:
    planned = plan.make_plan(Request(name="lima_size", base="smollm2_135m_instruct", panel="full", out=tmp_path))
    with pytest.raises(ModelError, match="make fetch BASE=smollm2_135m_instruct"):
        plan.check_base(planned.setting.experiment.spec.base, planned.store, planned.record.base)
    assert "make fetch" in plan.outlook(planned, 1).notes[0]


def folder_plans(tmp_path: Path, *names: str) -> list[Plan]:
    """Return plans on model folders of random weights, each with its own."""
    folders = [write_folder(tmp_path / name, seed=index) for index, name in enumerate(names)]
    out = tmp_path / "out"
    return [plan.make_plan(Request(name="epochs", base=str(folder), out=out)) for folder in folders]


def test_plan_folders_of_one_name_never_share_a_sweep_folder(tmp_path: Path) -> None:
    one, two, pocket = folder_plans(tmp_path, "a/model", "b/model", "pocket")
    names = [planned.record.base for planned in (one, two, pocket)]
    assert [name.rsplit("-", 1)[0] for name in names] == ["model", "model", "pocket"]
    assert len({*names, *catalog.experiment_names()}) == 3 + len(catalog.experiment_names())
    for planned in (one, two, pocket):
        base = planned.setting.experiment.spec.base
        assert isinstance(base, FolderBase)
        assert planned.record.base.endswith(f"-{base.content_sha256[:8]}")
        plan.write_record(planned)
    assert len(list((tmp_path / "out/sweeps").iterdir())) == 3


def test_plan_no_experiment_that_ships_is_named_like_a_folder() -> None:
    assert [name for name in catalog.experiment_names() if "-" in name] == []


def test_plan_sweep_on_a_folder_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = folder_plans(tmp_path, "a/model", "b/model")
    for planned in (one, two):
        plan.write_record(planned)
    assert len(load_sweep("epochs", base=one.record.base, out=tmp_path / "out")) == 15
    monkeypatch.chdir(tmp_path / "b")
    found = load_sweep("epochs", base="./model", out=tmp_path / "out")
    assert set(found["trial_id"]) == set(two.trials)
    write_folder(tmp_path / "b/model", seed=5)
    plan.write_record(plan.make_plan(Request(name="epochs", base="./model", out=tmp_path / "out")))
    with pytest.raises(BadInputError, match=rf"several contents of that folder.*{two.record.base}"):
        load_sweep("epochs", base="./model", out=tmp_path / "out")
    with pytest.raises(BadInputError, match=r"sweep is 'epochs@\./other', but must be one of"):
        load_sweep("epochs", base="./other", out=tmp_path / "out")


def test_plan_of_another_base_of_the_same_name_is_not_overwritten(planner: Planner) -> None:
    planned = planner("epochs")
    plan.write_record(planned)
    before = (planned.folder / "sweep.json").read_bytes()
    trials = [
        trial.model_copy(update={"spec": trial.spec.replace({"base": TrialBase(trial_id="ab" * 32)})})
        for trial in planned.record.trials
    ]
    other = replace(planned, record=planned.record.model_copy(update={"trials": tuple(trials)}))
    with pytest.raises(SpecError, match=r"is the plan of another base of the name 'tiny', but must be of the one"):
        plan.write_record(other)
    assert (planned.folder / "sweep.json").read_bytes() == before
    (planned.folder / "sweep.json").write_bytes(before[:-9])  # a torn plan is no plan
    plan.write_record(other)


# -- studies ----------------------------------------------------------------------------------------------------------


def test_plan_study_dimension_without_meaning_is_refused(planner: Planner, offering: Callable[[Study], None]) -> None:
    study = catalog.load_sweep("tune")
    tree = json.loads(study.model_dump_json())
    tree["space"][2]["field"] = "train.num_epoch"
    offering(Study.model_validate_json(json.dumps(tree)))
    with pytest.raises(SpecError, match=r"train\.num_epoch has no meaning on base 'tiny'.*Did you mean 'num_epochs'"):
        planner("tune")


def test_plan_study_constraint_on_an_unknown_column_is_refused(
    planner: Planner, offering: Callable[[Study], None]
) -> None:
    tree = json.loads(catalog.load_sweep("tune").model_dump_json())
    tree["constraints"][0]["column"] = "peak_memory"
    offering(Study.model_validate_json(json.dumps(tree)))
    with pytest.raises(SpecError, match="Did you mean 'peak_memory_bytes'"):
        planner("tune")


# -- forecast ---------------------------------------------------------------------------------------------------------


def test_plan_cost_is_unknown_without_a_measurement(planner: Planner) -> None:
    planned = planner()
    outlook = plan.outlook(planned, 2)
    assert outlook.seconds_left is None
    assert {cost.seconds for cost in outlook.costs.values()} == {None}
    assert {cost.num_steps for cost in outlook.costs.values()} == {2, 4, 8}


def test_plan_total_time_is_that_of_the_longest_trial_at_least(planner: Planner) -> None:
    from harness.engine.forecast import Cost

    costs = [Cost(1, 1, seconds, 1, 1) for seconds in (10.0, 1.0, 1.0)]
    assert total_seconds(costs, 2) == 10.0
    assert total_seconds(costs, 1) == 12.0
    assert total_seconds([*costs, Cost(1, 1, None, 1, 1)], 1) is None


def test_plan_errors_are_all_of_one_tree() -> None:
    assert issubclass(SpecError, HarnessError)
    assert SpecError("x").exit_code == 2


# -- what is checked before compute -----------------------------------------------------------------------------------


def test_jobs_check_covers_every_data_spec_at_its_largest_size(planner: Planner) -> None:
    sizes = jobs.distinct_data(planner("lima_size").record.trials)
    assert [spec.data.num_examples for spec in sizes] == [32]
    masks = jobs.distinct_data(planner("loss_mask").record.trials)
    assert {spec.data.completion_ratio for spec in masks} == {"low", "high"}
    assert len(masks) == 2


def test_jobs_check_covers_every_method_and_dtype(planner: Planner) -> None:
    ranks = jobs.distinct_data(planner("lora_rank").record.trials)
    assert len({repr(spec.method) for spec in ranks}) == len(ranks) > 1
    wide = jobs.distinct_data(
        planner("epochs", set={"train.dtype": "bfloat16", "evals.dtype": "bfloat16"}).record.trials
    )
    assert {spec.train.dtype for spec in (*ranks, *wide)} == {"float32", "bfloat16"}


def check_on_folder(folder: Path, out: Path, *methods: dict[str, Any], device: str = "cpu") -> None:
    """Run the check for trials on a model folder, one a method."""
    runtime = Runtime(num_threads=1, micro_batch_size=8, eval_batch_size=8, device=device)  # type: ignore[arg-type]
    spec = plan.make_plan(Request(name="epochs", base=str(folder), out=out)).record.trials[0].spec
    specs = tuple(spec.replace({"method": {"kind": "lora", "alpha": 8.0} | method}) for method in methods)
    jobs.check(jobs.CheckJob(specs, out, runtime))


def test_jobs_check_refuses_a_method_that_does_not_fit_the_base(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    fits, too_large = ({"rank": rank, "target_modules": "all_linear"} for rank in (4, 64))
    for kind in ("lora", "qlora"):
        with pytest.raises(ModelError, match=r"^method\.rank is 64, but must be at most 16, the shorter side of"):
            check_on_folder(folder, tmp_path / "out", fits, too_large | {"kind": kind})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_jobs_check_refuses_a_device_that_is_not_here(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    with pytest.raises(DeviceError, match=r"^runtime\.device is 'cuda', but must be 'cpu' or 'auto'") as caught:
        check_on_folder(folder, tmp_path / "out", {"rank": 4, "target_modules": "all_linear"}, device="cuda")
    assert caught.value.exit_code == 2
    row = {"cause": cause_of(caught.value), "message": "m", "log_tail": "", "command": "c", "attempt": 1}
    assert Failure.model_validate(row | {"time_utc": "t"}).reruns_by_itself


def test_plan_takes_evals_and_dtype_of_set_together(planner: Planner) -> None:
    evals = tiny_experiment().spec.evals.model_dump(mode="json") | {"dtype": "bfloat16"}
    planned = planner("epochs", set={"evals": evals, "train.dtype": "bfloat16"})
    assert {trial.spec.evals.dtype for trial in planned.record.trials} == {"bfloat16"}
    with pytest.raises(SpecError, match=r"no primary slice of .*; give one in SET evals\.tasks"):
        planner("epochs", set={"evals.tasks": [task | {"primary": False} for task in evals["tasks"]]})


# -- suites -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def suite_files(tmp_path: Path) -> Path:
    """Return a folder with the files of two tasks of `general` and of `safety`."""
    folder = tmp_path / "files"
    for path, row in {
        "mc/piqa.jsonl": {"query": "q", "choices": ["a", "b"], "gold": 0},
        "schema/winogrande.jsonl": {"contexts": ["a", "b"], "continuation": "c", "gold": 0},
        "xstest.jsonl": {"prompt": "p", "unsafe": True},
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        rows = [row, row | {"unsafe": False, "prompt": "s"}] if "unsafe" in row else [row]
        (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _keys(planned: Plan) -> list[str]:
    return [task.key for task in planned.record.trials[0].spec.evals.tasks]


def test_plan_of_suites_asks_them_whole_and_names_what_is_missing(
    planner: Planner, suite_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = ["general/piqa", "general/winogrande", "safety/xstest_unsafe", "safety/xstest_safe"]
    asked_whole = planner("epochs", evals=str(suite_files), suites="safety, general")
    assert _keys(asked_whole) == own  # also safety, which is no measure of the sweep
    assert "general/arc_easy is not asked" in caplog.text
    assert "general/piqa is not asked" not in caplog.text
    full = planner("epochs", evals=str(suite_files), suites="safety,general", panel="full")
    assert sorted(_keys(full)) == sorted([*own, "general/piqa_chat"])
    assert [task.num_items for task in full.record.trials[0].spec.evals.tasks] == [asked.NUM_ITEMS] * 5


def test_plan_of_a_folder_without_suites_asks_its_files_under_their_own_names(
    planner: Planner, suite_files: Path
) -> None:
    assert _keys(planner("epochs", evals=str(suite_files))) == ["mc/piqa", "schema/winogrande"]


def test_plan_of_suites_has_ids_and_a_folder_of_its_own(planner: Planner, suite_files: Path) -> None:
    named = planner("epochs", evals=str(suite_files), suites="general")
    plain = planner("epochs", evals=str(suite_files))
    other = planner("epochs", evals=str(suite_files), suites="general,safety")
    assert len({planned.folder for planned in (named, plain, other)}) == 3
    assert not set(named.trials) & (set(plain.trials) | set(other.trials))


def test_plan_of_suites_says_what_is_at_chance_on_the_base(planner: Planner, suite_files: Path) -> None:
    planned = planner("epochs", evals=str(suite_files), suites="general")
    experiment = planned.setting.experiment.replace({"name": "smollm2_135m_instruct"})
    notes = plan._notes(replace(planned, setting=replace(planned.setting, experiment=experiment)))
    assert "general/winogrande on smollm2_135m_instruct: at chance: 51.3 of 100 on the base's model card" in notes
    assert not [note for note in notes if note.startswith("general/piqa")]


def test_plan_of_suites_that_cannot_be_asked_is_refused(planner: Planner, suite_files: Path) -> None:
    with pytest.raises(SpecError, match="SUITES is 'genral'"):
        planner("epochs", evals=str(suite_files), suites="genral")
    with pytest.raises(DataError, match="must name a suite of which EVALS holds a file"):
        planner("epochs", evals=str(suite_files), suites="skills")
    with pytest.raises(SpecError, match=r"no primary slice of .*on base 'tiny'"):
        planner("epochs", evals=str(suite_files), suites="safety")
    with pytest.raises(SpecError, match=r"left out: SUITES gives evals\.tasks"):
        planner("epochs", evals=str(suite_files), suites="general", set={"evals.tasks": []})


def test_command_of_a_request_with_suites_names_them(tmp_path: Path) -> None:
    request = Request(name="epochs", evals="files", suites="general,safety", out=tmp_path)
    assert " --evals files --suites general,safety " in plan.command_of(request, "sweep")
