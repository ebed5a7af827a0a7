"""The sections on behaviour and formats: synthetic sweeps whose answers have a panel."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from analysis import behaviour as numbers
from analysis import formats as skills
from analysis.context import Context
from analysis.formats import Formats, Rate
from analysis.opened import open_sweep
from analysis.sections import behaviour, formats
from harness.records.schema import PANEL_METRICS
from harness.records.store import Store
from harness.spec import EvalTask
from tests.analysis import synthetic
from tests.analysis.conftest import ARM
from tests.analysis.test_report import HOSTILE
from tests.analysis.undrawn import write_undrawn

SMALL = synthetic.Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1, 2), scale=0.25, outcomes={(ARM, 25, 1): "FAILED"})
GROUPS = (Formats("questions", "people/question/exact_match", (), ("people/cloze/acc", "skills/addition/acc")),)
RATES = (Rate("format collapse", "people/cloze/acc"),)


@pytest.fixture(scope="module", autouse=True)
def panels() -> Iterator[None]:
    """Give every generated answer of the synthetic sweeps a panel, of which a base copies no targets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(synthetic.METRICS, "generate", (*synthetic.METRICS["generate"], "empty", *PANEL_METRICS))
        plain = synthetic.items_of

        def items_of(plan: synthetic.Plan, level: float, noise: object, world: int | None = None) -> pd.DataFrame:
            items = plain(plan, level, noise, world)  # pyright: ignore[reportArgumentType]
            length = items["metric"] == "num_tokens"
            items.loc[length, "value"] = [5.0 + place % 7 + 3 * level for place in range(length.sum())]
            items.loc[(items["metric"] == "training_copy") & (noise is None), "value"] = np.nan
            return items

        patch.setattr(synthetic, "items_of", items_of)
        patch.setattr(skills, "POCKET", GROUPS)
        patch.setattr(skills, "POCKET_RATES", RATES)
        patch.setattr(skills.format_table, "__defaults__", (GROUPS,))
        patch.setattr(skills.rates_table, "__defaults__", (RATES,))
        yield


@pytest.fixture(scope="module")
def made(panels: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Two sizes, three seeds, one trial failed."""
    return synthetic.build(tmp_path_factory.mktemp("panels"), SMALL)


@pytest.fixture(scope="module")
def context(made: tuple[Store, str]) -> Context:
    """Return its context."""
    return Context(open_sweep(*made))


def test_behaviour_shows_every_metric_of_every_condition_as_the_effects_have_it(context: Context) -> None:
    table = numbers.panel_table(context.effects, context.frame, context.items)
    assert set(table["slice"]) == {"people/question", "people/ends_turn"}
    assert len(table) == 2 * 2 * (2 + len(PANEL_METRICS))
    assert list(dict.fromkeys(table["metric"])) == [*numbers.BESIDE, *PANEL_METRICS]
    effects = context.effects.set_index(["condition", "target"])
    for row in table[table["metric"] != "training_copy"].itertuples():
        effect = effects.loc[(row.condition, f"{row.slice}/{row.metric}")]
        assert (row.before, row.after, row.delta, row.low, row.high) == pytest.approx(
            tuple(effect[["before", "after", "delta", "low", "high"]]), nan_ok=True
        )
        assert row.interval_of == "delta"
    directions = dict(zip(table["metric"], table["direction"], strict=True))
    assert (directions["role_leak"], directions["end_of_turn"], directions["num_tokens"]) == ("less", "more", "none")


def test_behaviour_shows_copies_of_training_targets_after_alone_with_their_own_interval(context: Context) -> None:
    table = numbers.panel_table(context.effects, context.frame, context.items)
    (row,) = table[
        (table["metric"] == "training_copy")
        & (table["slice"] == "people/question")
        & (table["condition"] == "num_examples=400")
    ].itertuples()
    own = context.items
    own = own[(own["task"] == "question") & (own["metric"] == "training_copy") & (own["split"] == "test")]
    own = own[own["condition"] == "num_examples=400"]
    assert math.isnan(row.before)
    assert math.isnan(row.delta)
    assert row.after == pytest.approx(own["after"].mean())
    assert row.low < row.after < row.high
    assert (row.interval_of, row.num_seeds) == ("after", 3)
    assert "a base was trained on no targets" in row.note


def test_lengths_equal_scipy_and_numpy(context: Context) -> None:
    table = numbers.lengths_table(context.items, ["people/question"])
    (row,) = table[table["condition"] == "num_examples=400"].itertuples()
    own = context.items
    own = own[(own["task"] == "question") & (own["metric"] == "num_tokens") & (own["split"] == "test")]
    own = own[own["condition"] == "num_examples=400"]
    assert row.ks == pytest.approx(ks_2samp(own["before"], own["after"]).statistic)
    assert row.mean_after == pytest.approx(row.mean_before + 3)
    assert row.p95_after == pytest.approx(np.quantile(own["after"], 0.95))
    assert row.num_answers == len(own)


def test_sections_of_a_sweep_without_panels_or_formats_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.METRICS, "generate", ("exact_match", "end_of_turn"))
    monkeypatch.setattr(skills, "POCKET", ())
    monkeypatch.setattr(skills.format_table, "__defaults__", ((),))
    monkeypatch.setattr(skills.rates_table, "__defaults__", ((),))
    plain = Context(open_sweep(*synthetic.build(tmp_path, SMALL)))
    assert behaviour.compute(plain) == "no task measures behaviour (evals.tasks.panel)"
    assert formats.compute(plain) == "no skill is asked in its taught format and in another one, or in several layouts"


def test_formats_show_skills_and_rates_and_the_same_numbers_in_every_file(made: tuple[Store, str]) -> None:
    folder = write_undrawn(made[0].root, made[1]).folder
    table = pd.read_csv(folder / "formats.csv")
    assert set(table["name"]) == {"questions", "format collapse"}
    gap = table[(table["quantity"] == "gap") & (table["condition"] == "num_examples=400")].iloc[0]
    assert gap["delta"] == pytest.approx(gap["after"] - gap["before"])
    panel = pd.read_csv(folder / "behaviour.csv")
    leak = panel[(panel["metric"] == "role_leak") & (panel["condition"] == "num_examples=400")].iloc[0]
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert f"{gap['delta']:+.3f}" in text
        assert f"{leak['delta']:+.3f}" in text
    page = (folder / "report.html").read_text()
    assert 'id="behaviour"' in page
    assert 'id="formats"' in page
    assert len(pd.read_csv(io.BytesIO((folder / "lengths.csv").read_bytes()))) == 4


def test_sections_of_a_study_have_no_intervals(tmp_path: Path) -> None:
    from dataclasses import replace

    study = Context(open_sweep(*synthetic.build(tmp_path, replace(SMALL, kind="study"))))
    for module in (behaviour, formats):
        section = module.compute(study)
        assert not isinstance(section, str)
        rows = pd.read_csv(io.BytesIO(next(iter(module.files(section).values()))))
        assert rows["low"].isna().all()
        assert rows["after"].notna().any()


def test_sections_of_hostile_conditions_execute_nothing(tmp_path: Path) -> None:
    texts = list(HOSTILE.values())
    plan = synthetic.Plan(
        axis="data.template", values=("<script>alert(1)</script>", "=1+1|`x`_$&%"), arms=(ARM,), seeds=(0, 1),
        scale=0.1, output=lambda item, phase: texts[len(item + phase) % len(texts)],
    )  # fmt: skip
    folder = write_undrawn(*_named(synthetic.build(tmp_path, plan))).folder
    page = (folder / "report.html").read_text()
    own = page[page.index('id="behaviour"') : page.index("</section>", page.index('id="formats"'))]
    assert "&lt;script&gt;alert(1)" in own
    assert "<script" not in own
    for name in ("behaviour.csv", "formats.csv", "lengths.csv"):
        cells = pd.read_csv(folder / name, dtype=str)["condition"]
        assert not any(cell.startswith("=") for cell in cells)


def _named(made: tuple[Store, str]) -> tuple[Path, str]:
    return made[0].root, made[1]


def test_formats_show_the_layouts_that_a_sweep_asked_and_their_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("q_a", "upper", "spaced", "double_colon", "bare")
    more = tuple(("people", f"cloze_{layout}", "multiple_choice", "retained", 320) for layout in asked)
    monkeypatch.setattr(synthetic, "SLICES", (*synthetic.SLICES, *more))
    plain = synthetic._tasks  # pyright: ignore[reportPrivateUsage]

    def tasks(plan: synthetic.Plan) -> tuple[EvalTask, ...]:
        layouts = {f"cloze_{layout}": layout for layout in asked}
        return tuple(task.replace({"layout": layouts.get(task.name, "as_is")}) for task in plain(plan))

    monkeypatch.setattr(synthetic, "_tasks", tasks)
    folder = write_undrawn(*_named(synthetic.build(tmp_path, SMALL))).folder
    table = pd.read_csv(folder / "formats.csv")
    own = table[(table["name"] == "people/cloze") & (table["condition"] == "num_examples=400")].set_index("quantity")
    layouts = [f"layout {layout}" for layout in ("as_is", *asked)]
    assert list(own.index) == ["mean over layouts", *layouts, "format spread"]
    spread = own.loc["format spread"]
    assert spread["after"] == pytest.approx(own.loc[layouts, "after"].max() - own.loc[layouts, "after"].min())
    assert spread["delta"] == pytest.approx(spread["after"] - spread["before"])
    assert (spread["num_formats"], spread["note"][:3]) == (6, "the")  # of six nobody says that they are few
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert f"{spread['delta']:+.3f}" in text
        assert "layout double_colon" in text.replace("\\_", "_")
