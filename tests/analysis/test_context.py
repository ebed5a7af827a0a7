"""What several parts of a report show is computed once."""

from __future__ import annotations

from pathlib import Path

from analysis.context import Context
from analysis.opened import open_sweep
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build


def test_once_computes_a_function_once_for_each_context(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0,), scale=0.1))
    calls: list[Context] = []

    def compute(context: Context) -> str | None:
        calls.append(context)
        return None  # no result is a result, too

    first, second = Context(open_sweep(store, folder)), Context(open_sweep(store, folder))
    assert [first.once(compute), first.once(compute), second.once(compute)] == [None, None, None]
    assert [call is first for call in calls] == [True, False]
