"""What several parts of a report show is computed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.context import Context
from analysis.matrices import ItemMatrices
from analysis.opened import open_sweep
from harness.spec import Claim, Contrast, Term
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


def test_context_makes_the_matrices_of_its_items_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = (Term(metric="learned", at=(("data.num_examples", 400),), value="delta"),)
    part = Contrast(terms=terms, expect="greater", margin=0.0)
    claim = Claim(id="B4", statement="s", source="s", published="p", parts=(part,))
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1, claims=(claim,))
    made: list[int] = []
    plain = ItemMatrices.__init__

    def counted(self: ItemMatrices, *args: object) -> None:
        made.append(1)
        plain(self, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(ItemMatrices, "__init__", counted)
    context = Context(open_sweep(*build(tmp_path, plan)))
    assert not any(table.empty for table in (context.effects, context.contrasts))
    assert len(context.verdicts) == 1
    assert len(made) == 1
