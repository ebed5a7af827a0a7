"""Rows beyond those that stay in memory."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import Example, describe_file, spool
from harness.data.spool import Spool
from harness.errors import DiskError
from tests.data import tiny


@given(
    values=st.lists(st.text(max_size=8), max_size=30),
    more=st.lists(st.text(max_size=8), max_size=5),
    in_memory=st.integers(0, 12),
    length=st.integers(0, 30),
)
def test_spool_of_any_part_in_memory_is_the_list(
    values: list[str], more: list[str], in_memory: int, length: int
) -> None:
    rows = Spool(values, in_memory=in_memory)
    assert list(rows) == values
    rows.truncate(length)
    rows.extend(more)
    expected = values[:length] + more
    assert (len(rows), list(rows), rows[1:4]) == (len(expected), expected, expected[1:4])
    assert [rows[place] for place in range(-len(expected), 0)] == expected
    with pytest.raises(IndexError):
        rows[len(expected)]


@pytest.mark.parametrize("changes", [{}, {"packing": "isolated"}, {"replay_share": 0.25}, {"deduplicate": "near"}])
def test_prepare_with_rows_in_a_file_gives_the_same_rows(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write_rows(tmp_path / "rows.jsonl", [*tiny.pairs(30), *tiny.pairs(10)])
    if "replay_share" in changes:
        changes = changes | {"replay_source": describe_file(path)}
    held = tiny.prepared(path, **changes)
    monkeypatch.setattr(spool, "IN_MEMORY", 3)
    filed = tiny.prepared(path, **changes)
    assert filed.summary == held.summary
    for one, other in zip(filed.train, held.train, strict=True):
        assert one.row_id == other.row_id
        np.testing.assert_array_equal(one.input_ids, other.input_ids)
        np.testing.assert_array_equal(one.loss_weights, other.loss_weights)


def test_spool_on_a_full_disk_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DiskError, match="no space left"):
        Spool(["a"], in_memory=0)


def test_rows_that_take_much_memory_go_to_the_file_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BYTES_IN_MEMORY", 100)
    rows = [Example(str(n), np.full(4, n), np.zeros(4, dtype=np.float32)) for n in range(10)]
    held = spool.Spool(rows)
    assert len(held._first) == 3  # of 48 bytes each
    assert [row.input_ids.tolist() for row in held] == [row.input_ids.tolist() for row in rows]
    held.truncate(2)
    held.append(rows[7])
    assert [row.row_id for row in held] == ["0", "1", "7"]
