"""Whether a method is compared at its optimum, where its rate is from, and the command that finds one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from analysis import render, view
from analysis.context import Context
from analysis.opened import OpenedSweep, open_sweep
from analysis.sections import optima
from analysis.sections.optima import finding_command, overall
from harness.records.schema import SweepRecord
from tests.analysis.synthetic import Plan, build

ARM = ("equal_epochs",)
COMMAND = "python -m harness sweep lima_size --base pocket --data 'my chats.jsonl' --out out"


def made(root: Path, plan: Plan, **changes: object) -> OpenedSweep:
    """Return a small sweep whose record says something else."""
    store, folder = build(root, plan)
    path = store.sweep(folder) / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return open_sweep(store, folder)


def set_of(command: str) -> dict[str, object]:
    """Return the fields that a command sets."""
    words = shlex.split(command)
    return json.loads(words[words.index("--set") + 1])


@pytest.mark.parametrize(
    ("answers", "chosen", "varies", "said"),
    [
        (("no", "yes", "no"), (), True, "yes"),  # one of its rates is the best: compare that one
        (("no", "unknown"), (), True, "unknown"),
        (("no", "yes", "no"), (0,), True, "no"),  # a selection chose another
        (("no", "yes", "no"), (1,), True, "yes"),
        (("yes", "unknown"), (), False, "unknown"),
        (("yes", "no", "unknown"), (), False, "no"),
        (("yes", "yes"), (), False, "yes"),
        ((), (), False, "unknown"),
    ],
)
def test_overall_answer_of_a_method(answers: tuple[str, ...], chosen: tuple[int, ...], varies: bool, said: str) -> None:
    rows = pd.DataFrame({"condition": [f"c{place}" for place in range(len(answers))], "compared_at_optimum": answers})
    assert overall(rows, {f"c{place}" for place in chosen}, varies=varies) == said


def test_sweep_of_one_method_without_a_rate_sweep_is_unknown_and_names_the_command(tmp_path: Path) -> None:
    sweep = made(tmp_path, Plan(values=(25, 50), arms=ARM, seeds=(0,), scale=0.25), command=COMMAND)
    section = optima.compute(Context(sweep))
    assert not isinstance(section, str)
    (row,) = section.content["methods"]
    assert (row["method"], row["answer"]) == ("lora", "unknown")
    assert row["origin"] == "a value of the experiment or SET that no sweep of this base found"
    words = shlex.split(row["command"])
    assert words[:5] == ["python", "-m", "harness", "sweep", "learning_rate"]
    assert words[words.index("--data") + 1] == "my chats.jsonl"
    assert set_of(row["command"]) == {"data.num_examples": 25, "method": ["lora"]}


def test_found_by_is_said_of_its_method(tmp_path: Path) -> None:
    plan = Plan(axis="method", values=("full", "lora"), arms=ARM, seeds=(0,), scale=0.25)
    found = {"lora": "learning_rate, on val items"}
    section = optima.compute(Context(made(tmp_path, plan, rates_found_by=found, command=COMMAND)))
    assert not isinstance(section, str)
    origins = {row["method"]: row["origin"] for row in section.content["methods"]}
    assert origins == {
        "full": "a value of the experiment or SET that no sweep of this base found",
        "lora": "found by learning_rate, on val items",
    }


def test_sweep_that_does_not_score_the_measure_is_unknown_and_not_silent(tmp_path: Path) -> None:
    plan = Plan(values=(25, 50), arms=ARM, seeds=(0,), scale=0.25)
    sweep = made(tmp_path, plan, measures={"retained": ["people/cloze"]}, command=COMMAND)
    section = optima.compute(Context(sweep))
    assert not isinstance(section, str)
    assert [row["answer"] for row in section.content["methods"]] == ["unknown"]


def test_command_of_a_rate_sweep_at_its_edge_widens_the_grid(tmp_path: Path) -> None:
    rates = (2.5e-4, 5e-4, 1e-3)
    plan = Plan(name="rate", axis="train.learning_rate", values=rates, arms=ARM, scale=0.25)
    command = "python -m harness sweep rate --base pocket --set '{\"seed\": [0, 1]}' --out out"
    section = optima.compute(Context(made(tmp_path, plan, command=command)))
    assert not isinstance(section, str)
    (row,) = section.content["methods"]
    assert (row["answer"], row["origin"]) == ("unknown", "varied in this sweep")
    assert set_of(row["command"]) == {"seed": [0, 1], "train.learning_rate": [1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3]}
    assert shlex.split(row["command"])[4] == "rate"


def test_rate_chosen_on_val_is_said_to_be(tmp_path: Path) -> None:
    chosen = {"axis": "train.learning_rate", "within": "method", "measure": "learned"}
    plan = Plan(axis="train.learning_rate", values=(5e-4, 1e-3), arms=ARM, scale=0.25, selection=chosen)
    section = optima.compute(Context(made(tmp_path, plan, command=COMMAND)))
    assert not isinstance(section, str)
    assert section.content["methods"][0]["origin"] == "chosen in this sweep on val items by learned"


def test_command_leaves_out_replicates_and_the_rate(tmp_path: Path) -> None:
    sweep = made(tmp_path, Plan(values=(25,), arms=ARM, seeds=(0,), scale=0.25), command=COMMAND)
    record: SweepRecord = sweep.record
    trial = record.trials[0].model_copy(
        update={"axes": {"world.seed": 3, "method": "lora", "train.learning_rate": 1e-3, "method.rank": 4}}
    )
    assert set_of(finding_command(record, trial, "lora")) == {"method.rank": 4, "method": ["lora"]}


def test_report_says_in_page_and_text_whether_each_method_was_at_its_optimum(tmp_path: Path) -> None:
    sweep = made(tmp_path, Plan(values=(25, 50), arms=ARM, seeds=(0,), scale=0.25), command=COMMAND)
    text = render.markdown(view.build_view(Context(sweep), {}), ())
    assert "lora was compared at its optimum: **unknown**" in text
    page = render.html(view.build_view(Context(sweep), {}), (), tmp_path)
    assert "lora was compared at its optimum: <strong>unknown</strong>" in page
    assert "<code>python -m harness sweep learning_rate" in page
