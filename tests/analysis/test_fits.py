"""Fits against exact curves, numpy and scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from analysis.fits import Fit, Points, exponential, power_law, quadratic_log, spearman, straight_line

SIZES = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])


def points(curve: Any, x: Any = SIZES, seeds: int = 6, sd: float = 0.0, worlds: int = 1, seed: int = 0) -> Points:
    """Return a curve's points under seeds that shift it, with noise of half the shift's size on each point."""
    noise = np.random.default_rng(seed)
    rows = [
        (at, curve(at) + shift + noise.normal(0, sd / 2), number, world)
        for world in range(worlds)
        for number, shift in enumerate(noise.normal(0, sd, seeds))
        for at in np.asarray(x, dtype=float)
    ]
    columns = np.array(rows).T
    return Points(columns[0], columns[1], columns[2].astype(int), columns[3].astype(int))


def value(fit: Fit, name: str) -> float:
    return fit.parameters[name].value


@pytest.mark.parametrize(("a", "b", "c"), [(-2.0, -0.5, 0.9), (0.05, 0.3, 0.1), (3.0, -1.2, 0.0), (1e-4, 1.0, 2.0)])
def test_power_law_recovers_an_exact_curve(a: float, b: float, c: float) -> None:
    fit = power_law(points(lambda x: c + a * x**b, seeds=1))
    assert [value(fit, name) for name in ("a", "b", "c")] == pytest.approx([a, b, c], rel=1e-4, abs=1e-6)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.note == "no interval: 1 replicates, 5 are needed"


def test_power_law_interval_holds_the_truth_and_needs_spread() -> None:
    fit = power_law(points(lambda x: 0.9 - 2.0 * x**-0.5, sd=0.02))
    exponent = fit.parameters["b"]
    assert exponent.low < -0.5 < exponent.high
    assert (fit.num_points, fit.num_replicates) == (30, 6)
    assert math.isnan(power_law(points(lambda x: x**0.5)).parameters["b"].low)


def test_power_law_without_a_solution_is_unknown_with_a_reason() -> None:
    fit = power_law(points(lambda x: x, x=[1.0, 2.0]))
    assert math.isnan(value(fit, "b"))
    assert "no solution" in fit.note
    assert power_law(points(lambda x: 1.0)).note == "x or y does not vary"
    assert power_law(Points([], [], [])).note == "no points"


@pytest.mark.parametrize(("a", "b", "c"), [(-0.001, 6.0, 0.9), (-0.2, -3.0, 0.5), (-1e-13, 30.0, 0.8)])
def test_exponential_recovers_an_exact_curve_wherever_x_begins(a: float, b: float, c: float) -> None:
    x = np.array([0.55, 0.7, 0.8, 0.9, 0.95])
    fit = exponential(points(lambda at: c + a * math.exp(b * at), x=x, seeds=1))
    assert [value(fit, name) for name in "abc"] == pytest.approx([a, b, c], rel=1e-3)
    assert fit.r2 == pytest.approx(1.0)
    moved = exponential(points(lambda at: c + a * math.exp(b * (at - 5)), x=x + 5, seeds=1))
    assert (value(moved, "b"), value(moved, "c")) == pytest.approx((b, c), rel=1e-3)


def test_exponential_without_a_solution_is_unknown_with_a_reason() -> None:
    fit = exponential(points(lambda x: x, x=[1.0, 2.0]))
    assert math.isnan(value(fit, "b"))
    assert "no solution" in fit.note


def test_quadratic_log_is_numpys_polynomial() -> None:
    data = points(lambda x: 0.5 - 0.1 * (math.log(x) - 4) ** 2, sd=0.05)
    fit = quadratic_log(data)
    c2, c1, _ = np.polyfit(np.log(data.x), data.y, 2)
    assert value(fit, "curvature") == pytest.approx(c2)
    assert value(fit, "vertex") == pytest.approx(math.exp(-c1 / (2 * c2)))
    assert fit.parameters["curvature"].low < -0.1 < fit.parameters["curvature"].high


def test_quadratic_log_zero_weights_are_left_out_and_said() -> None:
    weights = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0]
    fit = quadratic_log(points(lambda x: 0.5 if x == 0 else 0.5 - 0.1 * (math.log(x) + 2) ** 2, x=weights))
    assert value(fit, "vertex") == pytest.approx(math.exp(-2))
    assert fit.note.startswith("6 points at x <= 0 left out")
    assert fit.num_points == 30


def test_straight_line_is_scipys_in_one_world() -> None:
    data = points(lambda x: 2.0 - 1.5 * x, x=[0.1, 0.4, 0.9, 1.3], sd=0.2)
    fit, reference = straight_line(data), scipy.stats.linregress(data.x, data.y)
    assert value(fit, "slope") == pytest.approx(reference.slope)
    assert value(fit, "intercept") == pytest.approx(reference.intercept)
    assert fit.r2 == pytest.approx(reference.rvalue**2)


def test_straight_line_has_an_intercept_for_each_world() -> None:
    base = points(lambda x: -1.5 * x, x=[0.1, 0.4, 0.9], seeds=3, worlds=2)
    y = np.asarray(base.y) + 10.0 * np.asarray(base.worlds)
    x = np.asarray(base.x) + 5.0 * np.asarray(base.worlds)
    fit = straight_line(Points(x, y + 7.5 * np.asarray(base.worlds), base.replicates, base.worlds))
    assert value(fit, "slope") == pytest.approx(-1.5)
    assert value(fit, "intercept") == pytest.approx((0 + 10 + 7.5 + 1.5 * 5) / 2)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.num_replicates == 6
    mixed = straight_line(Points(x, y + 7.5 * np.asarray(base.worlds), base.replicates))
    assert value(mixed, "slope") > 0  # between worlds the sign is the other


def test_spearman_is_scipys_with_ties() -> None:
    data = points(lambda x: round(math.log(x)), sd=0.6)
    y = np.round(np.asarray(data.y), 1)
    fit = spearman(Points(data.x, y, data.replicates))
    assert value(fit, "rho") == pytest.approx(scipy.stats.spearmanr(data.x, y).statistic)
    assert fit.parameters["rho"].low < value(fit, "rho") < fit.parameters["rho"].high
    assert math.isnan(fit.r2)


def test_unknown_points_are_left_out_and_counted() -> None:
    fit = straight_line(Points([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, math.nan, 7.0], [0, 0, 0, 0]))
    assert value(fit, "slope") == pytest.approx(2.0)
    assert fit.note.startswith("1 points unknown")
    assert fit.num_points == 3


def test_world_without_a_known_point_is_left_out_and_does_not_spoil_the_others() -> None:
    data = points(lambda x: 2.0 * x, x=[0.1, 0.4, 0.9], sd=0.1, worlds=3)
    gone = np.asarray(data.worlds) == 1
    y = np.where(gone, math.nan, np.asarray(data.y))
    rest = Points(*(np.asarray(one)[~gone] for one in (data.x, data.y, data.replicates, data.worlds)))
    found, wanted = straight_line(Points(data.x, y, data.replicates, data.worlds)), straight_line(rest)
    assert found.parameters == wanted.parameters
    assert (found.r2, found.r2_low, found.r2_high) == (wanted.r2, wanted.r2_low, wanted.r2_high)


def test_r2_interval_is_the_jackknife_of_numpys_correlations() -> None:
    data = points(lambda x: -2.0 * x, x=[0.1, 0.4, 0.9], sd=0.4)
    x, y, seeds = (np.asarray(one) for one in (data.x, data.y, data.replicates))
    whole = np.arctanh(np.corrcoef(x, y)[0, 1])
    left = np.array([np.arctanh(np.corrcoef(x[seeds != seed], y[seeds != seed])[0, 1]) for seed in range(6)])
    pseudo = 6 * whole - 5 * left
    ends = np.tanh(scipy.stats.t.interval(0.95, 5, pseudo.mean(), scipy.stats.sem(pseudo))) ** 2
    fit = straight_line(data)
    assert (fit.r2_low, fit.r2_high) == pytest.approx((ends.min(), ends.max()))


def test_r2_interval_of_worlds_adds_what_each_says() -> None:
    """Two copies of one world: the bias is twice that of leaving one of six out of twelve, and so is the variance."""
    one = points(lambda x: -2.0 * x, x=[0.1, 0.4, 0.9], sd=0.4)
    x, y, seeds = (np.tile(np.asarray(column), 2) for column in (one.x, one.y, one.replicates))
    worlds = np.repeat([0, 1], len(x) // 2)
    kept = [(worlds == 1) | (seeds != seed) for seed in range(6)]

    def z(rows: np.ndarray) -> float:
        a, b = (v[rows] - np.array([v[rows & (worlds == w)].mean() for w in (0, 1)])[worlds[rows]] for v in (x, y))
        return float(np.arctanh(a @ b / np.sqrt((a @ a) * (b @ b))))

    left = np.array([z(rows) for rows in kept])
    centre = z(np.ones(len(x), dtype=bool))
    middle, half = centre - 2 * 5 * (left.mean() - centre), scipy.stats.t.ppf(0.975, 10) * math.sqrt(2 * 5 * left.var())
    fit = straight_line(Points(x, y, seeds, worlds))
    assert (fit.r2_high, fit.r2_low) == pytest.approx((np.tanh(middle - half) ** 2, np.tanh(middle + half) ** 2))


def test_r2_interval_reaches_0_where_the_slope_could_have_either_sign() -> None:
    fit = straight_line(points(lambda x: 0.0, x=[0.1, 0.4, 0.9], sd=0.4))
    assert fit.r2_low == 0.0
    alone = points(lambda x: x, x=[0.1, 0.4, 0.9], sd=0.4)
    worlds = np.minimum(np.asarray(alone.replicates), 1)  # the first world has one replicate
    fit = straight_line(Points(alone.x, alone.y, alone.replicates, worlds))
    assert math.isnan(fit.r2_low)
    assert "no interval of R^2: one replicate in a world" in fit.note


def test_r2_interval_needs_replicates_and_holds_the_estimate() -> None:
    data = points(lambda x: 2.0 * x, x=[0.1, 0.4, 0.9], sd=0.4, worlds=2)
    fit = straight_line(data)
    assert 0 <= fit.r2_low < fit.r2 < fit.r2_high <= 1
    few = straight_line(points(lambda x: 2.0 * x, x=[0.1, 0.4, 0.9], sd=0.4, seeds=2, worlds=2))
    assert math.isfinite(few.r2)
    assert math.isnan(few.r2_low)
    assert few.note == "no interval: 4 replicates, 5 are needed"


def test_interval_follows_replicates_and_not_points() -> None:
    """Points of one replicate move together: resampling points would be too sure by far."""
    data = points(lambda x: 0.0, x=np.arange(1.0, 21.0), seeds=6, seed=3)
    slopes = np.random.default_rng(5).normal(1.0, 0.3, 6)
    y = slopes[np.asarray(data.replicates)] * np.asarray(data.x)
    whole = straight_line(Points(data.x, y, data.replicates)).parameters["slope"]
    alone = straight_line(Points(data.x, y, np.arange(len(y)))).parameters["slope"]
    half = scipy.stats.t.ppf(0.975, 5) * slopes.std(ddof=1) / math.sqrt(6)
    assert (whole.high - whole.low) / 2 == pytest.approx(half, rel=0.35)
    assert alone.high - alone.low < 0.6 * (whole.high - whole.low)
