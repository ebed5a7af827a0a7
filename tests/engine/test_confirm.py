"""Winners on fresh seeds: which conditions these are, and that nothing disturbs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from harness.engine import catalog, commands, confirm, show, study
from harness.errors import SpecError
from harness.records.schema import CONFIRM_ARM
from harness.records.store import read_lines
from harness.spec import Study
from tests.engine.stub import behave
from tests.engine.study_runs import ONE_OBJECTIVE, Runner, content_of, database, fresh

FRESH = {"confirm_seeds": [10, 11]}


def told(*rows: tuple[float, ...], excess: dict[int, float] | None = None, failed: tuple[int, ...] = ()) -> list[Any]:
    """Return conditions with these values, in order."""
    state = optuna.trial.TrialState
    return [
        optuna.trial.create_trial(
            state=state.FAIL if number in failed else state.COMPLETE,
            values=None if number in failed else list(values),
            constraints={"delta/fluency": (excess or {}).get(number, -0.1)},
            user_attrs={"condition_id": f"c{values}"},
        )
        for number, values in enumerate(rows)
    ]


def study_of(**changes: Any) -> Study:
    tree = json.loads(catalog.load_sweep("tune").model_dump_json()) | changes
    return Study.model_validate_json(json.dumps(tree))


def test_chosen_of_one_objective_is_the_best_feasible_condition() -> None:
    one = study_of(**ONE_OBJECTIVE)
    rows = told((0.5,), (0.9,), (0.7,), (0.7,), (0.8,), excess={1: 0.2}, failed=(4,))
    assert confirm.chosen(one, rows, optuna) == [2]
    assert confirm.chosen(one, told((0.5,), (0.9,), excess={0: 0.1, 1: 0.2}), optuna) == []
    assert confirm.chosen(one, told((0.5,), failed=(0,)), optuna) == []
    lower = study_of(objectives=[ONE_OBJECTIVE["objectives"][0] | {"direction": "minimize"}])
    assert confirm.chosen(lower, rows, optuna) == [0]


def test_chosen_of_two_objectives_is_the_front_by_the_first_one_each_condition_once() -> None:
    # 1 is beaten by 0, 4 is 0 again, 3 is infeasible.
    rows = told((0.9, -0.4), (0.8, -0.5), (0.5, -0.2), (1.0, 0.0), (0.9, -0.4), (0.1, 0.0), excess={3: 0.2})
    assert confirm.chosen(study_of(), rows, optuna) == [0, 2, 5]
    assert confirm.chosen(study_of(max_confirmed=2), rows, optuna) == [0, 5]
    assert confirm.chosen(study_of(max_confirmed=1), rows, optuna) == [0]


def test_chosen_of_a_long_front_are_its_ends_and_equal_steps_between() -> None:
    rows = told(*((0.1 * place, -0.1 * place) for place in range(9)))
    assert confirm.chosen(study_of(max_confirmed=3), rows, optuna) == [8, 4, 0]


def test_study_confirms_its_best_condition_on_fresh_seeds_in_an_arm_of_their_own(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path, ONE_OBJECTIVE | FRESH)
    best = database(made).best_trial.user_attrs["condition_id"]
    assert made.record.winners == (best,)
    assert fresh(made) == [(best, 10), (best, 11)]
    assert (run.summary.why, run.summary.num_planned, len(run.summary.outcomes)) == ("done", 17, 17)
    assert len(read_lines(tmp_path / "runs.jsonl")) == 17
    # What the search proposed and was told is that of the study that confirms nothing.
    plain = run(tmp_path / "plain", ONE_OBJECTIVE)
    assert content_of(database(plain)) == content_of(database(made))
    assert plain.record.trials == tuple(t for t in made.record.trials if t.arm != CONFIRM_ARM)


def test_study_of_two_objectives_confirms_its_front(tmp_path: Path, run: Runner) -> None:
    made = run(tmp_path, FRESH | {"max_confirmed": 2})
    front = {trial.user_attrs["condition_id"] for trial in database(made).best_trials}
    assert made.record.winners is not None
    assert set(made.record.winners) <= front
    assert len(fresh(made)) == 2 * min(2, len(front))


def test_confirmation_of_a_finished_study_is_added_later_and_moves_nothing(tmp_path: Path, run: Runner) -> None:
    plain = run(tmp_path, ONE_OBJECTIVE)
    later = run(tmp_path, ONE_OBJECTIVE | FRESH)
    assert later.record.trials[:15] == plain.record.trials
    assert len(fresh(later)) == 2
    assert not list(later.folder.glob("*set-aside*"))


def test_confirmation_that_was_interrupted_goes_on_and_runs_nothing_twice(tmp_path: Path, run: Runner) -> None:
    control = run(tmp_path / "control", ONE_OBJECTIVE | FRESH)
    behave(tmp_path / "cut", 10, sleep=0.4)
    part = run(tmp_path / "cut", ONE_OBJECTIVE | FRESH, budget_seconds=60.0)
    shutil.rmtree(tmp_path / "cut/trials" / part.record.trials[-1].trial_id)
    again = run(tmp_path / "cut", ONE_OBJECTIVE | FRESH)
    assert again.record == part.record
    assert [t.trial_id for t in again.record.trials] == [t.trial_id for t in control.record.trials]
    assert len(read_lines(tmp_path / "cut/runs.jsonl")) == 17 + 1


def test_study_stopped_before_its_end_has_chosen_nothing(tmp_path: Path, run: Runner) -> None:
    part = run(tmp_path, ONE_OBJECTIVE | FRESH, budget_seconds=1e-9)
    assert (run.summary.why, part.record.winners, fresh(part)) == ("budget", None, [])


def test_longer_study_opens_its_choice_again(tmp_path: Path, run: Runner) -> None:
    run(tmp_path, ONE_OBJECTIVE | FRESH)
    longer = ONE_OBJECTIVE | FRESH | {"num_conditions": 9}
    assert run(tmp_path, longer, budget_seconds=1e-9).record.winners is None
    ended = run(tmp_path, longer)
    best = database(ended).best_trial.user_attrs["condition_id"]
    assert ended.record.winners == (best,)
    assert {(best, 10), (best, 11)} <= set(fresh(ended))


def test_study_without_a_feasible_condition_has_no_winner(tmp_path: Path, run: Runner) -> None:
    never = {"constraints": [{"column": "num_steps", "at_most": 0}]}
    made = run(tmp_path, ONE_OBJECTIVE | FRESH | never)
    assert (made.record.winners, fresh(made), run.summary.exit_code) == ((), [], 0)


def test_confirmation_with_a_failure_of_its_machine_is_tried_again_and_then_said(tmp_path: Path, run: Runner) -> None:
    behave(tmp_path, 10, raises="MemoryError", times=study.MAX_RELAUNCHES + 1)
    first = run(tmp_path, ONE_OBJECTIVE | FRESH)
    assert (run.summary.why, run.summary.exit_code, len(run.summary.failed)) == ("done", 1, 1)
    again = run(tmp_path, ONE_OBJECTIVE | FRESH)
    assert run.summary.exit_code == 0
    assert again.record == first.record


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"confirm_seeds": [2, 7]}, {}, r"must be other seeds than the search's: it chose by \[2\]"),
        ({"confirm_seeds": [7, 7]}, {}, "must be different integers from 0 on"),
        (FRESH, {"set": '{"seed": [0, 10]}'}, r"it chose by \[10\].*SET seed is \[0, 10\]"),
    ],
)
def test_confirmation_on_seeds_of_the_search_is_refused(
    tmp_path: Path, run: Runner, changes: dict[str, Any], asked: dict[str, Any], said: str
) -> None:
    with pytest.raises((SpecError, ValueError), match=said):
        run(tmp_path, changes, asked)
    assert not (tmp_path / "sweeps").exists()


def test_plan_of_a_study_counts_what_it_will_confirm(
    tmp_path: Path, run: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"workers": 1, "probe": False, "budget": None, "as_json": False}
    made = run.plan(tmp_path, FRESH | {"max_confirmed": 3})
    planned = commands.plan(made.request, **asked)
    assert planned.outlook.ahead is not None
    assert (planned.outlook.ahead.num_trials, planned.outlook.ahead.num_confirming) == (15, 6)
    show.show(planned, Console(width=200))
    out = capsys.readouterr().out
    assert "then the front is confirmed on 2 fresh seeds: 6 trials at most" in out
    assert "21 trials at most are still to be planned, each counted below as the mean of both ends of the space" in out
    run(tmp_path, FRESH | {"max_confirmed": 3})
    done = commands.plan(made.request, **asked)
    assert done.outlook.ahead is not None
    assert done.outlook.ahead.costs() == []
    assert done.outlook.num_done == len(done.plan.trials)
