"""Variance components against expected mean squares in balanced grids; fits that tell nothing say so."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from analysis import mixed
from analysis.context import Context
from analysis.mixed import variance_components
from analysis.opened import open_sweep
from analysis.search import factorial_anova
from analysis.sections import search as section
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build

FIELDS = ("x", "y")


def grid(
    seed: int, worlds: int = 1, seeds: int = 5, num_x: int = 3, sds: tuple[float, float, float] = (0.1, 0.05, 0.02)
) -> pd.DataFrame:
    """Return a balanced grid of num_x x 2 conditions with these standard deviations of worlds, seeds and the rest."""
    noise = np.random.default_rng(seed)
    of_worlds = noise.normal(0, sds[0], worlds)
    of_seeds = noise.normal(0, sds[1], (worlds, seeds))
    rows = [
        {"arm": "a", "axis.x": x, "axis.y": y, "seed": s, "world": w if worlds > 1 else None, "state": "COMPLETE"}
        | {"trial_id": f"{x}-{y}-{w}-{s}"}
        | {"after/m": 0.5 + 0.1 * x + 0.05 * x * y + of_worlds[w] + of_seeds[w, s] + noise.normal(0, sds[2])}
        for x, y, w, s in itertools.product(range(num_x), range(2), range(worlds), range(seeds))
    ]
    return pd.DataFrame(rows).astype({"world": "Int64"})


def by_mean_squares(frame: pd.DataFrame) -> dict[str, float]:
    """Return the components by expected mean squares, from sums of squares by hand."""
    values = frame.assign(world=frame["world"].fillna(0))
    num_cells = len(values.groupby(["axis.x", "axis.y"]))
    cells = values.groupby(["axis.x", "axis.y"])["after/m"].transform("mean")
    blocks = values.groupby(["world", "seed"])["after/m"].transform("mean")
    worlds = values.groupby("world")["after/m"].transform("mean")
    grand = values["after/m"].mean()
    num_worlds, num_blocks = values["world"].nunique(), len(values.groupby(["world", "seed"]))
    residual = ((values["after/m"] - cells - blocks + grand) ** 2).sum() / ((num_cells - 1) * (num_blocks - 1))
    of_seeds = ((blocks - worlds) ** 2).sum() / (num_blocks - num_worlds)
    found = {"seed": (of_seeds - residual) / num_cells, "residual": residual}
    if num_worlds > 1:
        of_worlds = ((worlds - grand) ** 2).sum() / (num_worlds - 1)
        found["world"] = (of_worlds - of_seeds) / (num_cells * num_blocks / num_worlds)
    return found


@pytest.mark.parametrize(
    ("worlds", "seeds", "num_x"), [(1, 3, 2), (1, 5, 3), (2, 3, 3), (3, 5, 3), (3, 2, 6), (4, 4, 10)]
)
def test_components_of_balanced_grids_are_those_by_expected_mean_squares(worlds: int, seeds: int, num_x: int) -> None:
    frame = grid(worlds + seeds, worlds, seeds, num_x)
    expected = by_mean_squares(frame)
    assert min(expected.values()) > 0
    table = variance_components(frame, FIELDS, "after/m").set_index("component")
    assert set(table.index) == set(expected)
    for name, value in expected.items():
        assert table.loc[name, "variance"] == pytest.approx(value, rel=1e-4)
        assert table.loc[name, "sd"] == pytest.approx(math.sqrt(value), rel=1e-4)
        assert table.loc[name, "share"] == pytest.approx(value / sum(expected.values()), rel=1e-4)
    assert table["note"].eq("").all()


def test_residual_is_the_mean_square_that_the_analysis_of_variance_prints() -> None:
    frame = grid(0, worlds=3)
    anova = factorial_anova(frame, FIELDS, "after/m").set_index("term").loc["residual"]
    table = variance_components(frame, FIELDS, "after/m").set_index("component")
    assert table.loc["residual", "variance"] == pytest.approx(anova["sum_sq"] / anova["df"], rel=1e-4)
    assert table.loc["residual", "num_trials"] == anova["num_trials"]


def test_scores_in_another_unit_have_the_same_shares() -> None:
    frame = grid(1, worlds=2)
    one, other = (
        variance_components(part, FIELDS, "after/m")
        for part in (frame, frame.assign(**{"after/m": 1000 * frame["after/m"] - 7}))
    )
    assert other["share"].tolist() == pytest.approx(one["share"].tolist(), rel=1e-4)
    assert other["variance"].tolist() == pytest.approx((1e6 * one["variance"]).tolist(), rel=1e-4)


def test_component_at_its_bound_is_0_and_said_to_be() -> None:
    frame = next(one for n in range(30) if by_mean_squares(one := grid(n, sds=(0, 0, 0.05)))["seed"] < 0)
    table = variance_components(frame, FIELDS, "after/m").set_index("component")
    assert table.loc["seed", "variance"] == 0.0
    assert table["note"].str.contains("singular fit: the likelihood is highest without a variance of seed").all()
    # Without the seeds' variance the residual is that of the cells: sums of squares of seeds and residual together.
    cells = frame.groupby(["axis.x", "axis.y"])["after/m"]
    assert table.loc["residual", "variance"] == pytest.approx(cells.var(ddof=1).mean(), rel=1e-4)


def test_unbalanced_grid_is_near_what_it_was_made_with() -> None:
    frame = grid(3, worlds=4, seeds=10, num_x=4)
    frame.loc[frame.index[::7], "after/m"] = math.nan
    table = variance_components(frame, FIELDS, "after/m").set_index("component")
    assert table.loc["residual", "sd"] == pytest.approx(0.02, rel=0.15)
    assert table.loc["seed", "sd"] == pytest.approx(0.05, rel=0.3)
    assert table.loc["seed", "num_left_out"] == frame["after/m"].isna().sum()
    assert table["num_levels"].to_dict() == {"seed": 40, "world": 4, "residual": frame["after/m"].notna().sum()}


def test_fit_that_does_not_converge_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = MixedLM.fit
    monkeypatch.setattr(MixedLM, "fit", lambda self, **options: fit(self, **options, maxiter=1))
    table = variance_components(grid(2, worlds=3), FIELDS, "after/m")
    assert table["note"].eq("the fit did not converge").all()
    assert table[["variance", "sd", "share"]].isna().all(axis=None)

    def fails(self: MixedLM, **options: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(MixedLM, "fit", fails)
    assert variance_components(grid(2), FIELDS, "after/m")["note"].eq("the fit failed: Singular matrix").all()


def test_grids_that_tell_nothing_have_a_reason() -> None:
    one_seed = variance_components(grid(0, seeds=1), FIELDS, "after/m")
    assert one_seed["variance"].isna().all()
    worlds = variance_components(grid(0, worlds=3, seeds=1), FIELDS, "after/m").set_index("component")
    assert list(worlds.index) == ["world", "residual"]  # one seed a world: its variance is in the world's
    assert worlds["variance"].gt(0).all()
    assert worlds["note"].str.contains("one seed a world").all()
    confounded = grid(0).assign(**{"axis.y": lambda rows: rows["axis.x"]})
    found = variance_components(confounded, FIELDS, "after/m")
    assert found["variance"].isna().all()
    assert found["note"].str.contains("cannot be told apart").all()
    assert variance_components(pd.DataFrame(), FIELDS, "after/m")["note"].tolist() == ["after/m is not here"]
    exact = grid(0, sds=(0, 0, 0))
    assert variance_components(exact, FIELDS, "after/m")["note"].ne("").all()


def test_section_shows_components_of_every_measure_and_writes_them(tmp_path: Path) -> None:
    plan = Plan(values=(25, 100, 400), arms=(ARM,), seeds=(0, 1, 2), scale=0.2)
    shown = section.compute(Context(open_sweep(*build(tmp_path, plan))))
    assert not isinstance(shown, str)
    assert {row["of"] for row in shown.content["components"]} >= {"learned", "retained"}
    assert b"component" in section.files(shown)["mixed.csv"]
    assert mixed.COLUMNS[0] == "component"
