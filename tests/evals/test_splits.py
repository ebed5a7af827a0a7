"""Val and test items of real tasks in common: what the split leaves, whatever a question looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.data.splits import SplitOverlap
from harness.evals.items import select
from harness.evals.splits import overlaps_of
from harness.evals.suites import suite_tasks
from harness.spec import EvalSpec, EvalTask
from tests.evals import small

STEM = "In which of the towns by the sea was the old potter called {} born?"


def asking(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> tuple[EvalTask, EvalSpec]:
    """Return a task over rows, and an evaluation of it in which half of the items are val."""
    task = small.task("multiple_choice", small.write_items(folder / "mc.jsonl", rows), **changes)
    return task, small.evals(task, val_share=0.5)


def people(num: int, **changes: Any) -> list[dict[str, Any]]:
    """Return items of one template: all but a name of each is the same."""
    return [
        {"id": str(n), "query": STEM.format(f"name{n}"), "choices": ["Arden", "Brill"], "gold": n % 2} | changes
        for n in range(num)
    ]


def test_items_of_one_template_overlap_and_those_of_one_cluster_are_never_apart(tmp_path: Path) -> None:
    task, evals = asking(tmp_path, people(20))
    found = overlaps_of(evals)[task.key]
    assert found.num_val + found.num_test == 20
    assert found.num_overlapping == found.num_checked == found.num_test > 0
    together, evals = asking(tmp_path, people(20, cluster="one template"))
    assert overlaps_of(evals)[together.key].num_overlapping == 0


def test_layout_and_typing_errors_hide_no_overlap_and_make_none(tmp_path: Path) -> None:
    task, evals = asking(tmp_path, people(20))
    plain = overlaps_of(evals)[task.key]
    for changes in ({"layout": "q_a"}, {"layout": "choices_lettered"}, {"typo_rate": 1.0}):
        other = task.replace(changes)
        assert overlaps_of(small.evals(other, val_share=0.5))[task.key] == plain
    apart = [
        {"id": str(n), "query": " ".join(f"w{n}x{k}" for k in range(12)), "choices": ["A b", "C d"], "gold": 0}
        for n in range(20)
    ]
    laid_out, evals = asking(tmp_path, apart, layout="choices_listed")
    assert overlaps_of(evals)[laid_out.key].num_overlapping == 0


def test_item_that_repeats_another_under_an_id_of_its_own_is_found(tmp_path: Path) -> None:
    rows = [row | {"query": f"{row['query']} Say it.", "choices": ["Corva", f"Delph{row['id']}"]} for row in people(1)]
    rows += [rows[0] | {"id": f"again{n}", "choices": ["Corva", f"Elmet{n}"]} for n in range(9)]
    task, evals = asking(tmp_path, rows)
    val = select(task, evals).splits.count("val")
    assert 0 < val < 10
    assert overlaps_of(evals)[task.key] == SplitOverlap(val, 10 - val, 10 - val, 10 - val, 10 - val, 0)


def test_evaluation_without_val_items_has_no_overlap(tmp_path: Path) -> None:
    task, evals = asking(tmp_path, people(6))
    whole = overlaps_of(evals.model_copy(update={"val_share": 0.0}))
    assert whole[task.key] == SplitOverlap(0, 6, 6, 0, 0, 0)


@pytest.mark.real
def test_public_files_overlap_where_they_are_pairs_and_next_to_nowhere_else() -> None:
    tasks = suite_tasks(["general"], small.REAL, num_items=None)
    found = overlaps_of(small.evals(*tasks, val_share=0.2))
    # Winogrande and the schema challenge come in pairs of sentences that differ in a word.
    assert found["general/winogrande"].is_large
    assert found["general/winograd_wsc"].is_large
    assert not found["general/arc_easy"].is_large
    assert not found["general/lambada"].is_large
