from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import DataError
from harness.evals.copying import TargetIndex
from harness.evals.during import COLUMNS, LOG, TABLE, watch, write_table
from harness.evals.items import select
from harness.evals.scoring import item_rows
from tests.evals import small
from tests.specs import pinned_spec


def no_targets() -> TargetIndex:
    raise AssertionError("no panel asks for targets here")


def watching(folder: Path, **probes: object) -> tuple[object, object]:
    tasks = [task.model_dump(mode="json") for task in small.every_kind(folder, 24)]
    spec = pinned_spec().replace({"evals.tasks": tasks, "evals.max_length": 512, "train.eval_every": 2})
    return spec, spec.replace({f"probes.{name}": value for name, value in probes.items()})


def test_watcher_scores_val_items_alone_and_as_any_other_scoring(tmp_path: Path) -> None:
    plain, spec = watching(tmp_path, during=["small/multiple_choice", "small/generate"])
    model, chat = small.llama(), small.chat()
    score = watch(chat, spec, no_targets, batch_size=4)
    assert score is not None
    rows = score(model)
    assert rows == score(model)
    whole = [row for row in item_rows(model, chat, plain.evals, batch_size=4) if row.split == "val"]
    expected = [row for row in whole if row.task in ("multiple_choice", "generate")]
    for name in ("suite", "task", "item_id", "metric"):
        assert [row[name] for row in rows] == [getattr(row, name) for row in expected]
    # Other items share the batch, so sums are taken in another order.
    assert [row["value"] for row in rows] == pytest.approx([row.value for row in expected], rel=1e-5)
    assert watch(chat, plain, no_targets, batch_size=4) is None


def test_watched_items_are_nested_in_their_number(tmp_path: Path) -> None:
    found = []
    for count in (1, 3, None):
        _, spec = watching(tmp_path, during=["small/greedy"], during_items=count)
        score = watch(small.chat(), spec, no_targets, batch_size=4)
        assert score is not None
        found.append({row["item_id"] for row in score(small.llama())})
    assert [len(ids) for ids in found[:2]] == [1, 3]
    assert found[0] < found[1] < found[2]


def test_a_task_without_val_items_is_refused(tmp_path: Path) -> None:
    _, spec = watching(tmp_path, during=["small/greedy"])
    few = spec.replace({"evals.val_share": 1e-9})
    task = next(task for task in few.evals.tasks if task.key == "small/greedy")
    assert set(select(task, few.evals).splits) == {"test"}
    with pytest.raises(DataError, match="must name tasks with val items"):
        watch(small.chat(), few, no_targets, batch_size=4)


def test_table_holds_every_row_of_the_log(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, None) | {"step": 3, "suite": "s", "value": 0.5}
    (tmp_path / LOG).write_text(json.dumps(row) + "\n" + json.dumps(row | {"step": 6, "value": None}) + "\n")
    write_table(tmp_path)
    write_table(tmp_path)  # a second attempt writes the same
    table = pd.read_parquet(tmp_path / TABLE)
    assert table["step"].to_list() == [3, 6]
    assert table["value"].isna().to_list() == [False, True]
