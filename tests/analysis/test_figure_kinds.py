"""Figure kinds beside the classic ones: each has the points of its sweep, and says why elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.context import Context
from analysis.figure_kinds import (
    KINDS,
    forest_slices,
    known_unknown,
    learning_rates,
    packing,
    replay,
    size_slices,
    template_matrix,
    write,
)
from analysis.figure_kinds.forest import margins_of
from analysis.opened import open_sweep
from analysis.points import FigureData, Missing
from harness.records.store import Store
from harness.spec import Claim, Contrast, Term
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build

SMALL = {"arms": (ARM,), "seeds": (0, 1), "scale": 0.1}


def _context(root: Path, **plan: object) -> Context:
    return Context(open_sweep(*build(root, Plan(**(SMALL | plan)))))  # pyright: ignore[reportArgumentType]


def _figures(found: object) -> list[FigureData]:
    assert not isinstance(found, str), found
    assert isinstance(found, list)
    return [one for one in found if isinstance(one, FigureData)]


def _is_drawn(figures: list[FigureData], folder: Path) -> None:
    """Draw at the greatest width; the contract of all kinds draws at the smallest."""
    for path in write(figures, folder / "neurips", "neurips"):
        assert path.stat().st_size > 0


def test_kinds_without_their_axis_say_so(small: tuple[Store, str]) -> None:
    context = Context(open_sweep(*small))
    said = {module.__name__.rsplit(".", 1)[-1]: module.points(context) for module in KINDS}
    assert said["replay"] == "data.replay_share is not varied"
    assert said["packing"] == "data.packing is not varied"
    assert said["known_unknown"] == "train.num_epochs is not varied"
    assert said["learning_rates"] == "train.learning_rate is not varied"
    assert said["size_slices"] == "data.num_examples has fewer than three sizes"
    assert said["template_matrix"] == "no model is asked in another template than it was trained in"


def test_template_matrix_has_one_cell_for_each_pair(tmp_path: Path) -> None:
    arms = {"in_chatml": {"evals.template": "chatml"}, "in_plain": {"evals.template": "plain"}}
    arms["space"] = {"evals.template_edit": "space"}
    context = _context(
        tmp_path, axis="data.template", values=("chatml", "alpaca"), arms=(ARM, *arms), arm_set=arms, seeds=(0,)
    )
    (figure,) = _figures(template_matrix.points(context))
    cells = figure.points[figure.points["measure"] == "learned"].set_index(["trained", "asked"])["after"]
    assert not cells.index.duplicated().any()
    assert set(cells.index) == {
        *(("chatml", name) for name in ("chatml", "plain", "as trained + space")),
        *(("alpaca", name) for name in ("alpaca", "chatml", "plain", "as trained + space")),
    }
    asked = context.effects.set_index(["condition", "target"])["after"]
    assert cells[("alpaca", "plain")] == asked[("template=alpaca (in_plain)", "learned")]
    _is_drawn([figure], tmp_path)


def test_size_slices_have_a_line_for_each_slice_of_shares(tmp_path: Path) -> None:
    context = _context(tmp_path, values=(25, 100, 400), arms=(ARM, "equal_steps"))
    (figure,) = _figures(size_slices.points(context))
    assert set(figure.points["panel"]) == {ARM, "equal_steps"}
    assert set(figure.points["series"]) == {"people/question", "people/cloze", "skills/addition", "people/ends_turn"}
    mean = figure.points[(figure.points["kind"] == "mean") & (figure.points["series"] == "people/cloze")].iloc[0]
    row = context.effects[
        (context.effects["condition"] == mean["condition"]) & (context.effects["target"] == "people/cloze/acc")
    ].iloc[0]
    assert mean["y"] == row["after"]
    assert mean["high"] - mean["low"] == pytest.approx(row["high"] - row["low"])
    assert len(mean["trial_ids"].split()) == 2
    _is_drawn([figure], tmp_path)


def test_forest_of_slices_is_made_of_measures_that_stand_on_several(tmp_path: Path) -> None:
    context = _context(tmp_path, values=(25, 400))
    (figure,) = _figures(list(forest_slices.points(context)))
    assert figure.name == "forest_retained"
    assert set(figure.points["measure"]) == {"people/cloze/acc", "skills/addition/acc"}
    assert figure.points["margin"].isna().all()
    _is_drawn([figure], tmp_path)


def test_forest_shows_the_margin_that_a_claim_declares(tmp_path: Path) -> None:
    parts = tuple(
        Contrast(terms=(Term(metric="people/cloze/acc", at=(("data.num_examples", 400),), value="delta"),), **about)
        for about in ({"expect": "equal", "margin": 0.05}, {"expect": "greater", "margin": 0.02})
    )
    claim = Claim(id="T1", statement="Little is lost.", source="nobody", published="nothing", parts=parts)
    context = _context(tmp_path, values=(25, 400), claims=(claim,))
    assert margins_of(context.record) == {"people/cloze/acc": 0.02}
    (figure,) = _figures(list(forest_slices.points(context)))
    assert set(figure.points.loc[figure.points["measure"] == "people/cloze/acc", "margin"]) == {0.02}
    assert figure.points.loc[figure.points["measure"] == "skills/addition/acc", "margin"].isna().all()
    assert "margin" in figure.caption


def test_packing_shows_the_same_losses_by_step_and_by_tokens(tmp_path: Path) -> None:
    context = _context(tmp_path, axis="data.packing", values=("off", "isolated"))
    (figure,) = _figures(packing.points(context))
    own = figure.points[figure.points["condition"] == "packing=off"]
    assert own["num_tokens"].to_numpy() == pytest.approx(own["step"].to_numpy() * 8 * 42)
    logged = context.metrics[context.metrics["condition"] == "packing=off"]
    assert own["loss"].max() <= logged["train/loss"].max()
    assert own["loss"].iloc[0] > own["loss"].iloc[-1]
    _is_drawn([figure], tmp_path)


def test_known_and_unknown_facts_are_lines_of_one_metric(tmp_path: Path) -> None:
    context = _context(tmp_path, axis="train.num_epochs", values=(1.0, 3.0))
    assert known_unknown.points(context) == "no slice asks facts that the base does not know"
    frame = context.frame
    for side in ("before", "after", "delta"):
        frame[f"{side}/people/question_unknown/exact_match"] = frame[f"{side}/people/question/exact_match"]
    (figure,) = _figures(known_unknown.points(context))
    assert set(figure.points["series"]) == {"known: question", "unknown: question_unknown"}
    _is_drawn([figure], tmp_path)


def test_replay_marks_the_knee_and_only_one_of_a_line(tmp_path: Path) -> None:
    shares = (0.0, 0.01, 0.05, 0.1, 0.2)
    source = {"kind": "file", "sha256": "ab" * 32, "format": "text", "path": "/data/prose.jsonl"}
    context = _context(tmp_path, axis="data.replay_share", values=shares, arm_set={ARM: {"data.replay_source": source}})
    (figure,) = _figures(replay.points(context))
    assert figure.points.groupby(["panel", "series"])["is_knee"].sum().max() == 1
    _is_drawn([figure], tmp_path)


def test_knee_lies_where_a_curve_bends_and_a_line_has_none() -> None:
    x = np.array([0.0, 0.01, 0.05, 0.1, 0.2])
    assert replay.knee(x, np.array([0.0, 0.1, 0.8, 0.85, 0.9])) == 2
    assert replay.knee(x, np.array([0.5] * 5)) is None
    assert replay.knee(x[:3], np.array([0.0, 0.9, 1.0])) is None


def test_learning_rates_show_val_alone_and_a_line_for_each_method(tmp_path: Path) -> None:
    context = _context(tmp_path, axis="train.learning_rate", values=(1e-4, 1e-3, 1e-2))
    (figure,) = _figures(learning_rates.points(context))
    assert set(figure.points["panel"]) == {"val_loss", *(f"{name} (val)" for name in context.record.measures)}
    mean = figure.points[(figure.points["kind"] == "mean") & (figure.points["panel"] == "learned (val)")].iloc[0]
    own = context.frame[context.frame["condition"] == mean["condition"]]
    assert mean["y"] == pytest.approx(own["val_after/learned"].mean())
    assert mean["y"] != pytest.approx(own["after/learned"].mean())
    _is_drawn([figure], tmp_path)


def test_every_caption_says_seeds_items_interval_and_correction(tmp_path: Path) -> None:
    context = _context(tmp_path, values=(25, 100, 400))
    for module in KINDS:
        found = module.points(context)
        for figure in [] if isinstance(found, str) else found:
            assert not isinstance(figure, Missing)
            caption = figure.caption.lower()
            assert "seeds" in caption, figure.name
            assert "interval" in caption, figure.name
            assert "adjusted" in caption or "correction" in caption, figure.name
            if figure.kind != "loss":
                assert "n = " in caption, figure.name
