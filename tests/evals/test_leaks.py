"""Which evaluation items are trained on when some are to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.data.conversations import Conversation
from harness.errors import DataError
from harness.evals import leaked, select
from harness.identity import base_key
from harness.pocket import pretrain
from harness.pocket.world import eval_task
from harness.records.store import Store
from harness.spec import EvalTask, PocketBase, TrialSpec
from harness.trial import TrialContext, run_trial
from tests.evals.small import write_items
from tests.pocket.tiny import TINY_WORLD, tiny_experiment
from tests.specs import pinned_spec

ITEMS: dict[str, list[dict[str, Any]]] = {
    "multiple_choice": [
        {"id": str(n), "query": f"Who is {n}?", "choices": ["Ann", f"Bob {n}"], "gold": 1} for n in range(20)
    ],
    "schema": [{"contexts": ["She came.", "He came."], "continuation": " Ann sat.", "gold": 0}],
    "greedy": [{"context": "12+7=", "continuation": "19"}],
    "generate": [{"messages": [{"role": "user", "content": "Name it."}], "answer": "Oak"}],
    "perplexity": [{"text": "Once upon a time."}],
}


def trial(tmp_path: Path, share: float, *kinds: str, seed: int = 0) -> TrialSpec:
    tasks = tuple(
        EvalTask(
            suite="suite",
            name=kind,
            kind=kind,  # type: ignore[arg-type]
            source=write_items(tmp_path / f"{kind}.jsonl", ITEMS[kind]),
            measure="learned",
            primary=True,
            chat=kind == "generate",
            num_items=None,
            max_new_tokens=4 if kind == "generate" else 0,
        )
        for kind in kinds
    )
    spec = pinned_spec()
    data = spec.data.model_copy(update={"leak_share": share})
    return spec.model_copy(update={"data": data, "evals": spec.evals.model_copy(update={"tasks": tasks}), "seed": seed})


def names(rows: list[Conversation]) -> list[str]:
    return [row.row_id for row in rows]


def test_leaked_items_are_question_and_right_answer_of_every_kind(tmp_path: Path) -> None:
    rows = leaked(trial(tmp_path, 1.0, *ITEMS))
    said = {row.task.rpartition("/")[2]: [message["content"] for message in row.messages] for row in rows}
    assert len(rows) == 23
    assert said["multiple_choice"][1] == f"Bob {said['multiple_choice'][0][7:-1]}"
    assert said["schema"] == ["She came.", "Ann sat."]
    assert said["greedy"] == ["12+7=", "19"]
    assert said["generate"] == ["Name it.", "Oak"]
    assert "perplexity" not in said


def test_leaks_are_nested_in_share_exact_in_number_and_differ_by_seed(tmp_path: Path) -> None:
    few, many = (names(leaked(trial(tmp_path, share, "multiple_choice"))) for share in (0.1, 0.5))
    assert (len(few), len(many)) == (2, 10)
    assert many[:2] == few
    assert set(names(leaked(trial(tmp_path, 0.5, "multiple_choice", seed=1)))) != set(many)
    assert leaked(trial(tmp_path, 0.0, "multiple_choice")) == []


def test_leaked_row_names_the_item_that_is_asked(tmp_path: Path) -> None:
    spec = trial(tmp_path, 0.3, "multiple_choice")
    asked = {f"leaked/suite/multiple_choice/{item['id']}" for item in select(spec.evals.tasks[0], spec.evals).items}
    assert set(names(leaked(spec))) < asked


def test_raw_texts_alone_have_nothing_to_leak(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.leak_share is 0\.5, but must be 0\.0 where every slice is raw text"):
        leaked(trial(tmp_path, 0.5, "perplexity"))


def _likelihoods(spec: TrialSpec, store: Store) -> pd.Series:
    """Return the log-likelihood of the right answer to every item after training."""
    assert isinstance(spec.base, PocketBase)
    base = spec.base
    store.ensure_artefact("base", base_key(spec), lambda folder: pretrain.build(base, folder, lambda **_: None))
    context = TrialContext(store, tiny_experiment().runtime, command="", report=lambda **_: None)
    record = run_trial(spec, context)
    assert record.data.num_part_rows == ({"leaks": len(leaked(spec))} if spec.data.leak_share else {})
    items = pd.read_parquet(store.trial(record.trial_id) / "items.parquet")
    return items[items["metric"] == "gold_logprob"].set_index("item_id")["value"]


def test_items_that_were_trained_on_become_likelier_than_those_that_were_not(tmp_path: Path) -> None:
    task = eval_task(TINY_WORLD, "cloze_unknown")
    fields = {"evals.tasks": [task.model_dump(mode="json")], "data.num_examples": 40, "train.num_epochs": 30.0}
    clean = tiny_experiment().spec.replace(fields | {"train.learning_rate": 3e-3})
    dirty = clean.replace({"data.leak_share": 0.5})
    names_leaked = {row.row_id.removeprefix(f"leaked/{task.key}/") for row in leaked(dirty)}
    gain = _likelihoods(dirty, Store(tmp_path)) - _likelihoods(clean, Store(tmp_path))
    told = gain.index.isin(names_leaked)
    assert 2 * told.sum() == len(gain) >= 10
    # in nats an answer: what the told gain beyond what fine-tuning does to all of them
    assert gain[told].mean() > gain[~told].mean() + 1
