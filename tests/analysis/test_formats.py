from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.formats import POCKET, POCKET_RATES, Formats, Rate, format_table, layout_groups, rates_table
from analysis.frames import load_items, load_sweep
from harness.records.schema import METRICS_OF
from harness.spec import EvalTask, FileItems
from tests.analysis import synthetic

KEYS = {"taught": "s/chat/acc", "words": "s/words/acc", "cloze": "s/cloze/acc", "raw": "s/raw/acc"}
GROUP = Formats("skill", KEYS["taught"], (KEYS["words"],), (KEYS["cloze"], KEYS["raw"]))
Score = Callable[[str, int, int, str], float]
"""(task, item, seed, side) -> value"""


def frames(score: Score, num_items: int = 40, seeds: tuple[int, ...] = (0, 1, 2), **cells: Any) -> Any:
    """Return the frame and the items of one condition in which four items share a person."""
    plain = {"condition": "a", "condition_id": "a1", "arm": "equal_epochs", "world": pd.NA} | cells
    rows = [
        plain | {"trial_id": f"t{seed}", "seed": seed, "suite": "s", "task": task, "metric": "acc"}
        | {"item_id": f"{task}-{item}", "cluster": f"p{item // 4}", "split": "val" if item % 5 == 4 else "test"}
        | {side: score(task, item, seed, side) for side in ("before", "after")}
        for seed in seeds for task in ("chat", "words", "cloze", "raw") for item in range(num_items)
    ]  # fmt: skip
    items = pd.DataFrame(rows)
    test = items[items["split"] == "test"]
    wide = test.groupby(["seed", "task"])["after"].mean().unstack()
    columns = {f"after/s/{task}/acc": wide[task].to_numpy() for task in wide.columns}
    ids = [f"t{seed}" for seed in seeds]
    return pd.DataFrame([plain] * len(seeds)).assign(seed=list(seeds), trial_id=ids, **columns), items


def row_of(table: pd.DataFrame, quantity: str) -> Any:
    """Return the only row of a quantity."""
    (row,) = [row for row in table.itertuples() if row.quantity == quantity]
    return row


def _learned(task: str, item: int, seed: int, side: str) -> float:
    """Return a skill that is learned in the taught format, half in other words, and nowhere else."""
    rate = 0.25 if side == "before" else {"chat": 0.9, "words": 0.6}.get(task, 0.25)
    return float(np.random.default_rng([item, seed if side == "after" else 9, len(task)]).random() < rate)


def test_quantities_by_hand() -> None:
    exact = {"chat": 0.9, "words": 0.5, "cloze": 0.3, "raw": 0.1}
    frame, items = frames(lambda task, item, seed, side: exact[task] if side == "after" else 0.2)
    table = format_table(frame, items, [GROUP])
    assert {row.quantity: (row.before, row.after, row.num_formats) for row in table.itertuples()} == {
        "train format": (pytest.approx(0.2), pytest.approx(0.9), 1),
        "held-out mean": (pytest.approx(0.2), pytest.approx(0.3), 3),
        "gap": (pytest.approx(0.0), pytest.approx(0.6), 4),
        "paraphrase gap": (pytest.approx(0.0), pytest.approx(0.4), 2),
        "structure gap": (pytest.approx(0.0), pytest.approx(0.7), 3),
        "format spread": (pytest.approx(0.0), pytest.approx(0.8), 4),
    }
    assert all(row.delta == pytest.approx(row.after - row.before) for row in table.itertuples())


def test_gap_has_the_clustered_standard_error_of_its_sum() -> None:
    frame, items = frames(_learned, num_items=80)
    row = row_of(format_table(frame, items, [GROUP]), "gap")
    test = items[items["split"] == "test"].assign(moved=lambda x: x["after"] - x["before"])
    weights = {"chat": 1.0, "words": -1 / 3, "cloze": -1 / 3, "raw": -1 / 3}
    means = test.groupby(["task", "item_id", "cluster"], as_index=False)["moved"].mean()
    # The influence of each person on the sum, over all formats in which the person is asked about.
    influence = pd.Series(0.0, index=sorted(set(means["cluster"])))
    for task, part in means.groupby("task"):
        share = weights[str(task)] * (part["moved"] - part["moved"].mean()) / len(part)
        influence = influence.add(share.groupby(part["cluster"]).sum())
    persons, n = len(influence), len(means)
    correction = persons / (persons - 1) * (n - 1) / (n - len(weights))  # as statsmodels corrects for few clusters
    assert row.se_items == pytest.approx(math.sqrt(correction * (influence**2).sum()))
    per_seed = test.groupby(["seed", "task"])["moved"].mean().unstack()
    gaps = sum(weights[task] * per_seed[task] for task in weights)
    assert row.delta == pytest.approx(gaps.mean())
    assert row.seed_sd == pytest.approx(gaps.std())
    assert row.low > 0.2


def test_gap_of_a_skill_learned_in_every_format_alike_is_none() -> None:
    def alike(task: str, item: int, seed: int, side: str) -> float:
        rate = 0.25 if side == "before" else 0.8
        return float(np.random.default_rng([item, seed if side == "after" else 9, len(task)]).random() < rate)

    row = row_of(format_table(*frames(alike, num_items=80), [GROUP]), "gap")
    assert row.low < 0 < row.high


def test_train_format_equals_the_effect_of_its_slice(tmp_path: Path) -> None:
    from analysis.tables import effects_table

    synthetic.build(tmp_path, synthetic.Plan(values=(25, 800), arms=("equal_epochs",)))
    frame, items = load_sweep("lima_size", out=tmp_path), load_items("lima_size", out=tmp_path)
    key = "people/question/exact_match"
    group = Formats("people", key, (), ("people/cloze/acc",))
    ours = format_table(frame, items, [group])
    ours = ours[ours["quantity"] == "train format"].reset_index()
    theirs = effects_table(frame, items, {"learned": (key,)})
    theirs = theirs[theirs["target"] == key].reset_index()
    columns = ["condition", "before", "after", "delta", "low", "high", "p_value", "num_items", "kind"]
    pd.testing.assert_frame_equal(ours[columns], theirs[columns])


def test_spread_names_how_it_was_picked_and_few_formats() -> None:
    row = row_of(format_table(*frames(_learned), [GROUP]), "format spread")
    assert row.note.startswith("over 4 formats only; the extreme formats are picked by the scores")
    assert row.after >= row_of(format_table(*frames(_learned), [GROUP]), "structure gap").after - 0.3


def test_formats_not_asked_are_in_no_row_and_a_skill_without_its_own_is_left_out() -> None:
    frame, items = frames(_learned)
    other = Formats("other", "s/nothing/acc", (KEYS["words"],))
    absent = Formats("skill", KEYS["taught"], ("s/nothing/acc",), (KEYS["raw"],), typos=("s/none/acc",))
    table = format_table(frame, items, [other, absent])
    assert set(table["skill"]) == {"skill"}
    assert list(table["quantity"]) == ["train format", "held-out mean", "gap", "structure gap", "format spread"]
    assert row_of(table, "gap").num_formats == 2
    assert format_table(frame, items, [other]).empty


def test_scores_that_are_unknown_leave_the_quantity_unknown_and_say_why() -> None:
    frame, items = frames(_learned)
    frame.loc[:, "after/" + KEYS["raw"]] = float("nan")
    table = format_table(frame, items, [GROUP])
    assert math.isnan(row_of(table, "gap").after)
    assert row_of(table, "gap").note == "no known value"
    assert not math.isnan(row_of(table, "paraphrase gap").low)
    half, items = frames(_learned)
    items.loc[items["task"] == "raw", "before"] = float("nan")
    assert "no items known before and after" in row_of(format_table(half, items, [GROUP]), "gap").note


def test_worlds_are_pooled_and_one_without_a_value_is_named() -> None:
    first, second = (frames(_learned, condition_id="a1", world=world) for world in (0, 1))
    frame, items = (pd.concat(parts, ignore_index=True) for parts in zip(first, second, strict=True))
    one = row_of(format_table(*first, [GROUP]), "gap")
    both = row_of(format_table(frame, items, [GROUP]), "gap")
    assert both.delta == pytest.approx(one.delta)
    assert both.se == pytest.approx(one.se / math.sqrt(2))
    frame.loc[frame["world"] == 1, "after/" + KEYS["raw"]] = float("nan")
    assert "world 1 is left out" in row_of(format_table(frame, items, [GROUP]), "gap").note


def test_rates_are_one_minus_the_metric_and_move_against_it() -> None:
    frame, items = frames(_learned, num_items=80)
    table = rates_table(frame, items, [Rate("wrong form", KEYS["taught"]), Rate("not asked", "s/nothing/acc")])
    (row,) = table.itertuples()
    taught = row_of(format_table(frame, items, [GROUP]), "train format")
    assert (row.rate, row.before, row.after) == ("wrong form", 1 - taught.before, pytest.approx(1 - taught.after))
    assert (row.delta, row.low, row.high) == pytest.approx((-taught.delta, -taught.high, -taught.low))


def test_pocket_formats_name_metrics_of_slices_that_there_are() -> None:
    from experiments.pocket import EXPERIMENT

    tasks = {task.key: task for task in EXPERIMENT.spec.evals.tasks}
    for group in POCKET:
        for key in (group.taught, *group.held_out):
            name, _, metric = key.rpartition("/")
            assert metric == METRICS_OF[tasks[name].kind][0], key
        assert tasks[group.taught.rpartition("/")[0]].measure == "learned"
    assert len({rate.key for rate in POCKET_RATES}) == 2


# -- layouts ----------------------------------------------------------------------------------------------------------

LAYOUTS = {"chat": "as_is", "words": "q_a", "cloze": "upper", "raw": "spaced"}


def task_in(layout: str, **changes: Any) -> EvalTask:
    """Return a task in a layout."""
    plain = {
        "suite": "s", "name": {v: k for k, v in LAYOUTS.items()}.get(layout, layout), "kind": "multiple_choice",
        "source": FileItems(sha256="0" * 64, path="/items"), "measure": "retained", "primary": layout == "as_is",
        "chat": False, "num_items": 40, "layout": layout,
    }  # fmt: skip
    return EvalTask(**(plain | changes))


TASKS = [task_in(layout) for layout in LAYOUTS.values()]


def test_layout_groups_are_tasks_that_differ_in_layout_alone() -> None:
    other = FileItems(sha256="1" * 64, path="/items")
    apart = [
        task_in("bare", name="other_items", source=other),
        task_in("as_is", name="alone", measure="learned"),
        task_in("bare", name="in_chat", chat=True),
        task_in("one_line", name="typos", typo_rate=0.5),
    ]
    (group,) = layout_groups([*TASKS, *apart])
    assert (group.skill, group.taught) == ("s/chat", None)
    assert group.layouts == {f"s/{name}/acc": layout for name, layout in LAYOUTS.items()}
    pair = [task_in("bare", name="a", chat=True), task_in("q_a", name="b", chat=True)]
    assert [found.skill for found in layout_groups([*TASKS, *pair])] == ["s/chat", "s/a"]
    assert layout_groups(apart) == layout_groups([]) == ()


def test_layout_of_training_is_the_one_that_is_declared_and_of_several_none() -> None:
    (group,) = layout_groups(TASKS, ("s/words", "other/suite"))
    assert group.taught == "s/words/acc"
    assert set(group.layouts.values()) == {"as_is", "upper", "spaced"}
    assert layout_groups(TASKS, ("s/words", "s/raw"))[0].taught is None
    assert layout_groups(TASKS, ("s",))[0].taught is None  # the suite as a whole names no layout


def test_layouts_without_a_known_layout_of_training_by_hand() -> None:
    exact = {"chat": 0.9, "words": 0.5, "cloze": 0.3, "raw": 0.1}
    frame, items = frames(lambda task, item, seed, side: exact[task] if side == "after" else 0.2)
    table = format_table(frame, items, layout_groups(TASKS))
    assert {row.quantity: (row.before, row.after, row.num_formats) for row in table.itertuples()} == {
        "mean over layouts": (pytest.approx(0.2), pytest.approx(0.45), 4),
        "layout as_is": (pytest.approx(0.2), pytest.approx(0.9), 1),
        "layout q_a": (pytest.approx(0.2), pytest.approx(0.5), 1),
        "layout upper": (pytest.approx(0.2), pytest.approx(0.3), 1),
        "layout spaced": (pytest.approx(0.2), pytest.approx(0.1), 1),
        "format spread": (pytest.approx(0.0), pytest.approx(0.8), 4),
    }
    taught = format_table(frame, items, layout_groups(TASKS, ("s/chat",)))
    assert row_of(taught, "gap").after == pytest.approx(0.9 - (0.5 + 0.3 + 0.1) / 3)
    assert row_of(taught, "format spread").after == pytest.approx(0.8)


def test_spread_of_layouts_is_seen_where_it_is_planted_and_not_where_they_are_equal() -> None:
    def alike(task: str, item: int, seed: int, side: str) -> float:
        """Return the same answer in every layout: the same items, so that the spread has no noise at all."""
        return float(np.random.default_rng([item, seed if side == "after" else 9]).random() < 0.6)

    planted = row_of(format_table(*frames(_learned, num_items=80), layout_groups(TASKS)), "format spread")
    equal = row_of(format_table(*frames(alike, num_items=80), layout_groups(TASKS)), "format spread")
    assert planted.low > 0.2
    assert (equal.before, equal.after, equal.delta) == (0.0, 0.0, 0.0)


def test_layouts_of_which_one_was_asked_have_no_rows() -> None:
    frame, items = frames(_learned)
    pair = layout_groups([TASKS[0], task_in("bare", name="never_scored")])
    assert format_table(frame, items, pair).empty
