"""The table of what became of every row."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from harness.data import describe_file, write_ledger
from harness.data.conversations import by_reason
from harness.records.schema import ROW_COLUMNS
from harness.spec import WorldSpec
from tests.data.tiny import pairs, prepared, write_rows
from tests.pocket.tiny import TINY_WORLD

BAD: list[dict[str, Any]] = [{"id": "bad", "messages": [{"role": "user", "content": "Hi?"}]}, {"messages": None}]
"""One of them has no id of its own."""


def read(path: Path, rows: Any) -> pd.DataFrame:
    write_ledger(path, rows)
    return pd.read_parquet(path)


def test_ledger_has_every_row_of_a_file_once_with_its_fate(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [*pairs(20), *BAD])
    rows = prepared(source, num_validation=4, num_examples=16, seed=3)
    table = read(tmp_path / "ledger.parquet", rows)
    assert tuple(table.columns) == ROW_COLUMNS
    assert sorted(table.row_id) == sorted([f"r{i}" for i in range(20)] + ["bad", "row-21"])
    assert table.use.value_counts().to_dict() == {"train": 16, "validation": 4, "dropped": 2}
    trained = table[table.use == "train"]
    assert trained.row_id.tolist() == [row.row_id for row in rows.train]
    assert trained.num_tokens.tolist() == [len(row.input_ids) for row in rows.train]
    assert trained.num_loss_tokens.tolist() == [int((row.loss_weights > 0).sum()) for row in rows.train]
    assert set(table.revision) == {hashlib.sha256(source.read_bytes()).hexdigest()}
    assert set(table.source) == {"rows.jsonl"}
    assert table[table.use == "dropped"].set_index("row_id").reason.to_dict() == {
        "bad": "no_assistant_turn",
        "row-21": "malformed",
    }


def test_ledger_counts_the_dropped_as_the_record_does(tmp_path: Path) -> None:
    twice = [row | {"id": f"again-{row['id']}"} for row in pairs(3)]
    source = write_rows(tmp_path / "rows.jsonl", [*pairs(20), *twice, *BAD])
    rows = prepared(source, deduplicate="exact")
    table = read(tmp_path / "ledger.parquet", rows)
    assert table.reason.value_counts().to_dict() == rows.summary.num_rows_dropped == by_reason(rows.dropped)
    assert set(table[table.reason == "duplicate"].row_id) == {"again-r0", "again-r1", "again-r2"}


def test_marks_are_of_the_row_and_not_of_its_namesakes(tmp_path: Path) -> None:
    rows = [row | {"id": "same"} for row in pairs(8)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    replayed = describe_file(write_rows(tmp_path / "more.jsonl", rows[:4]))
    data = prepared(path, num_examples=8, noise_share=0.5, replay_share=0.25, replay_source=replayed)
    table = read(tmp_path / "ledger.parquet", data)
    assert table.mark.notna().sum() == data.summary.num_marked["noised"] == 3
    assert table[table.field == "replay_source"].mark.isna().all()


def test_rows_with_one_id_are_told_apart_in_the_ledger(tmp_path: Path) -> None:
    first, *others = pairs(5)
    named = [first | {"id": "same"}, others[0] | {"id": "same"}, others[1] | {"id": "row-3"}]
    rows = [*named, {"messages": others[2]["messages"]}, {"id": "same", "messages": []}]
    table = read(tmp_path / "ledger.parquet", prepared(write_rows(tmp_path / "rows.jsonl", rows)))
    told = {"same", "same (row-1)", "row-3", "row-3 (row-3)", "same (row-4)"}
    assert set(table.row_id) == told
    assert set(table[table.use == "dropped"].row_id) == {"same (row-4)"}


def test_ledger_says_in_which_row_an_example_is_packed(tmp_path: Path) -> None:
    rows = prepared(write_rows(tmp_path / "rows.jsonl", pairs(20)), packing="isolated", max_length=128)
    table = read(tmp_path / "ledger.parquet", rows)
    for number, row in enumerate(rows.train):
        assert sorted(row.row_id.split("+")) == sorted(table[table.packed_row == number].row_id)


def test_ledger_names_the_source_that_was_mixed_in(tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.jsonl", [{"id": f"o{i}", "text": f"Once there were {i}."} for i in range(9)])
    source = write_rows(tmp_path / "rows.jsonl", pairs(20))
    rows = prepared(source, num_examples=12, replay_share=0.25, replay_source=describe_file(other))
    table = read(tmp_path / "ledger.parquet", rows)
    assert table.groupby("field").source.unique().map(list).to_dict() == {
        "source": ["rows.jsonl"],
        "replay_source": ["other.jsonl"],
    }
    assert (table[table.field == "replay_source"].row_id.str.startswith("o")).all()
    assert (table.field == "replay_source").sum() == 3


def test_revision_of_a_world_is_another_for_another_world() -> None:
    from harness.data.ledger import named
    from harness.spec import PocketData

    def revision(world: WorldSpec) -> str:
        return named(PocketData(world=world, families=("fact",), num_rows=12))[1]

    assert revision(TINY_WORLD) == revision(TINY_WORLD)
    assert revision(TINY_WORLD) != revision(TINY_WORLD.replace({"seed": 1}))
