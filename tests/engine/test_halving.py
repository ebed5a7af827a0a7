"""Pruning over seeds: who goes on is what Optuna's own pruner says, and what depends on the records alone."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import optuna
import pydantic
import pytest
from rich.console import Console

from analysis.context import Context
from analysis.opened import open_sweep
from analysis.view import build_view
from harness.engine import catalog, commands, halving, objectives, show
from harness.engine.answers import StatusView
from harness.engine.halving import Standing
from harness.errors import SpecError
from harness.records.store import read_lines
from harness.spec import Study, Sweep
from tests.engine.stub import behave
from tests.engine.study_runs import ONE_OBJECTIVE, Runner, content_of, database

PRUNED: dict[str, Any] = ONE_OBJECTIVE | {"pruning": {"rungs": [1], "reduction_factor": 2}, "num_conditions": 7}


def study_of(factor: int, direction: str = "maximize") -> Study:
    tree = json.loads(catalog.load_sweep("tune").model_dump_json())
    objective = ONE_OBJECTIVE["objectives"][0] | {"direction": direction}
    pruning = {"rungs": [1], "reduction_factor": factor}
    return Study.model_validate_json(json.dumps(tree | {"objectives": [objective], "pruning": pruning}))


def says_optuna(values: list[float], factor: int, direction: str) -> bool:
    """Return whether Optuna's pruner lets the last of these conditions go on from its first rung."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)
    history = optuna.create_study(direction=direction, pruner=pruner)
    for value in values:
        trial = history.ask()
        trial.report(value, step=1)
        is_pruned = trial.should_prune()  # notes the value at the rung
    return not is_pruned


@pytest.mark.parametrize(("factor", "direction"), itertools.product((2, 3, 4), ("maximize", "minimize")))
def test_promotion_of_the_last_condition_is_that_of_optunas_pruner(factor: int, direction: str) -> None:
    draw = random.Random(factor)
    outcomes: set[bool] = set()
    for num_conditions in (1, 2, 3, 5, 8, 12):
        for _ in range(4):
            values = [draw.choice([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) for _ in range(num_conditions)]
            before = [Standing(value) for value in values[:-1]]
            goes_on = halving.promoted({0: Standing(values[-1])}, before, study_of(factor, direction))[0]
            assert goes_on == says_optuna(values, factor, direction)
            outcomes.add(goes_on)
    assert outcomes == {True, False}


def test_promotion_within_a_batch_looks_at_all_of_it_whatever_its_order() -> None:
    values = {3: 0.1, 4: 0.9, 5: 0.5, 6: 0.7}
    for order in itertools.permutations(values):
        here = {number: Standing(values[number]) for number in order}
        goes_on = halving.promoted(here, [], study_of(2))
        assert {number for number, goes in goes_on.items() if goes} == {4, 6}


def test_promotion_ranks_what_is_infeasible_behind_and_what_is_unknown_nowhere() -> None:
    here = {0: Standing(0.9, excess=0.1), 1: Standing(0.2), 2: Standing(None), 3: Standing(0.1)}
    assert halving.promoted(here, [], study_of(3)) == {0: False, 1: True, 2: False, 3: False}
    assert halving.promoted({0: Standing(None)}, [], study_of(3)) == {0: False}
    assert halving.promoted({0: Standing(0.9, excess=0.1)}, [], study_of(3)) == {0: True}


def test_study_prunes_conditions_that_are_behind_after_their_first_seed(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path, PRUNED)
    told = database(made).get_trials()
    pruned = [trial for trial in told if trial.state.name == "PRUNED"]
    assert {trial.state.name for trial in told} == {"PRUNED", "COMPLETE"}
    first = [trial.intermediate_values[1] for trial in told]
    # Of the three at the start the best goes on; then each of two must be in the better half of all so far.
    assert [number for number in range(3) if told[number].state.name == "COMPLETE"] == [first.index(max(first[:3]))]
    for trial in pruned:
        assert trial.values == [trial.intermediate_values[1]]
    assert len(made.record.trials) == 21  # all are planned
    assert len(made.record.pruned) == 2 * len(pruned)
    assert len(read_lines(tmp_path / "runs.jsonl")) == 21 - 2 * len(pruned)
    assert (run.summary.why, run.summary.exit_code) == ("done", 0)


def test_pruned_trials_have_a_state_of_their_own_everywhere(
    tmp_path: Path, run: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(tmp_path, PRUNED)
    num_pruned = len(made.record.pruned)
    planned = commands.plan(made.request, workers=1, probe=False, budget=None, as_json=False)
    assert sum(state.state == "PRUNED" for state in planned.outlook.states.values()) == num_pruned
    assert planned.outlook.num_done == 21
    show.show(planned, Console(width=250))
    assert "pruning: after 1 of its seeds one condition in 2 goes on, at least one" in capsys.readouterr().out
    assert StatusView((made.record,), made.store).as_json()[0]["counts"]["PRUNED"] == num_pruned
    context = Context(open_sweep(made.store, made.folder.name))
    lost = context.frame[context.frame["state"] == "PRUNED"]
    assert len(lost) == num_pruned
    assert (
        lost["cause"].str.fullmatch(r"pruned at 1 of 3 seeds: its val score \S+ is not among the best \d of \d").all()
    )
    assert lost["after/learned"].isna().all()
    assert json.loads(lost["missing"].iloc[0])["*"].startswith("PRUNED: pruned at 1 of 3 seeds")
    view = build_view(context, {})
    assert view.states["PRUNED"] == num_pruned
    assert any(
        f"{num_pruned} of 21 planned trials were not run: their conditions were PRUNED" in n for n in view.missing
    )


def test_pruning_study_that_lost_everything_but_its_records_prunes_the_same(tmp_path: Path, run: Runner) -> None:
    first = run(tmp_path, PRUNED)
    for path in first.folder.glob("*"):
        path.unlink()
    again = run(tmp_path, PRUNED)
    assert again.record == first.record
    assert content_of(database(again)) == content_of(database(first))
    assert len(read_lines(tmp_path / "runs.jsonl")) == 21 - len(first.record.pruned)


def test_pruning_study_stopped_between_rungs_ends_like_an_undisturbed_one(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control", PRUNED)
    behave(tmp_path / "cut", "all", sleep=0.05)
    for budget in (0.1, 0.25, 0.4):
        run(tmp_path / "cut", PRUNED, budget_seconds=budget)
    behave(tmp_path / "cut", "all")
    ended = run(tmp_path / "cut", PRUNED)
    assert ended.record.trials == control.record.trials
    assert ended.record.pruned == control.record.pruned
    assert content_of(database(ended)) == content_of(database(control))
    assert len(read_lines(tmp_path / "cut/runs.jsonl")) == len(read_lines(tmp_path / "control/runs.jsonl"))


def test_pruning_condition_with_a_failed_first_seed_is_told_as_failed_until_it_has_a_number(
    tmp_path: Path, run: Runner
) -> None:
    control = run(tmp_path / "control", PRUNED)
    behave(tmp_path / "bug", 0, raises="ValueError", times=1)
    first = run(tmp_path / "bug", PRUNED | {"num_conditions": 3})
    assert {trial.state.name for trial in database(first).get_trials()} == {"FAIL"}
    assert set(first.record.pruned.values()) == {"pruned at 1 of 3 seeds: one of them has no val score"}
    behave(tmp_path / "bug", 0)
    again = run(tmp_path / "bug", PRUNED, retry_failed=True)
    assert content_of(database(again)) == content_of(database(control))
    assert again.record.pruned == control.record.pruned


def test_pruning_study_confirms_a_condition_that_ran_on_every_seed(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path, PRUNED | {"confirm_seeds": [10]})
    complete = {
        t.user_attrs["condition_id"]: t.values for t in database(made).get_trials() if t.state.name == "COMPLETE"
    }
    assert made.record.winners == (max(complete, key=lambda name: complete[name]),)


def test_pruning_is_decided_by_val_scores_alone(tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(tmp_path, PRUNED)
    # The detector: with the order of values reversed other conditions are given up.
    told = objectives.objective
    monkeypatch.setattr(objectives, "objective", lambda *given: -value if (value := told(*given)) is not None else None)
    shutil.rmtree(made.folder)
    assert run(tmp_path, PRUNED).record.pruned != made.record.pruned


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"pruning": {"rungs": [1]}}, {}, "pruning is given, but must be None with 2 objectives"),
        (
            ONE_OBJECTIVE | {"pruning": {"rungs": [3]}},
            {},
            r"pruning.rungs is \(3,\), but must be below the number of seeds",
        ),
        (ONE_OBJECTIVE | {"pruning": {"rungs": [2, 1]}}, {}, "must be ascending numbers of seeds"),
        (PRUNED, {"set": '{"seed": [4]}'}, r"SET seed is \[4\], but must be more seeds than the last of pruning.rungs"),
    ],
)
def test_pruning_that_cannot_be_is_refused(
    tmp_path: Path, run: Runner, changes: dict[str, Any], asked: dict[str, Any], said: str
) -> None:
    with pytest.raises((SpecError, pydantic.ValidationError), match=said):
        run(tmp_path, changes, asked)


def test_pruning_in_a_sweep_is_refused() -> None:
    tree = json.loads(catalog.load_sweep("lima_size").model_dump_json())
    with pytest.raises(pydantic.ValidationError, match="pruning is given, but must be a study's alone"):
        Sweep.model_validate_json(json.dumps(tree | {"pruning": {"rungs": [1]}}))
