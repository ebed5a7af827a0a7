"""Wins over paired runs against sums by hand and scipy, and the rule in words against the ends of its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from analysis.wins import better_of, wins, wins_text


def sign_test_by_hand(num_wins: int, num_losses: int) -> float:
    total = num_wins + num_losses
    chances = [math.comb(total, j) / 2**total for j in range(total + 1)]
    return sum(chance for chance in chances if chance <= chances[num_wins] * (1 + 1e-9))


def test_share_is_that_of_paired_runs_with_the_interval_of_scipy() -> None:
    reference = scipy.stats.binomtest(4, 5).proportion_ci(0.95, method="wilson")
    found = wins([0.1, 0.2, -0.1, 0.3, 0.01])
    assert (found.prob_better, found.prob_better_low, found.prob_better_high) == pytest.approx(
        (0.8, reference.low, reference.high)
    )
    assert (found.num_wins, found.num_ties, found.num_runs) == (4, 0, 5)


def test_share_is_paired_by_run_where_the_share_of_all_pairs_of_runs_sees_noise() -> None:
    second = np.array([0.10, 0.50, 0.90])  # runs differ far more than the conditions do
    first = second + 0.01
    assert wins((first - second).tolist()).prob_better == 1.0
    assert scipy.stats.mannwhitneyu(first, second).statistic / 9 == pytest.approx(2 / 3)


def test_ties_count_half_in_the_share_and_not_in_the_sign_test() -> None:
    found = wins([0.1, 0.2, 0.3, -0.1, 0.0, 0.0, math.nan])
    assert (found.num_wins, found.num_ties, found.num_runs) == (3, 2, 6)
    assert found.prob_better == pytest.approx(4 / 6)
    assert found.sign_p == pytest.approx(sign_test_by_hand(3, 1)) == pytest.approx(10 / 16)
    only_ties = wins([0.0, 0.0])
    assert only_ties.prob_better == 0.5
    assert math.isnan(only_ties.sign_p)


@pytest.mark.parametrize("gains", [[], [math.nan, math.nan]])
def test_without_a_known_run_nothing_is_known(gains: list[float]) -> None:
    found = wins(gains)
    numbers = (found.prob_better, found.prob_better_low, found.prob_better_high, found.sign_p)
    assert all(math.isnan(number) for number in numbers)
    assert (found.num_runs, found.better) == (0, "unknown")
    assert wins_text(vars(found)) == "—"


@pytest.mark.parametrize("num_runs", range(1, 12))
def test_sign_test_is_the_binomial_by_hand_and_needs_six_runs_one_way(num_runs: int) -> None:
    for won in range(num_runs + 1):
        found = wins([1.0] * won + [-1.0] * (num_runs - won)).sign_p
        assert found == pytest.approx(sign_test_by_hand(won, num_runs - won))
    assert wins([0.1] * num_runs).sign_p == pytest.approx(2 / 2**num_runs)
    assert (wins([0.1] * num_runs).sign_p < 0.05) == (num_runs >= 6)


def test_three_wins_in_three_are_not_significant_and_four_are() -> None:
    # By hand, z = 1.96: the lower end is k / (k + z^2), .438 of 3 and .510 of 4.
    low = [wins([0.1] * k).prob_better_low for k in (3, 4)]
    assert low == pytest.approx([k / (k + 1.959964**2) for k in (3, 4)], abs=1e-6)
    assert [wins([0.1] * k).better for k in (3, 4)] == ["not significant", "significant and meaningful"]


@pytest.mark.parametrize(
    ("num_wins", "num_losses", "word"),
    [
        (10, 0, "significant and meaningful"),  # .72 to 1
        (60, 40, "significant, not meaningful"),  # .502 to .691
        (5, 5, "not significant"),
        (0, 10, "not significant"),  # the other one is better
    ],
)
def test_better_is_in_words_what_the_ends_say(num_wins: int, num_losses: int, word: str) -> None:
    ends = scipy.stats.binomtest(num_wins, num_wins + num_losses).proportion_ci(0.95, method="wilson")
    expected = (
        "not significant"
        if ends.low <= 0.5
        else "significant" + (" and meaningful" if ends.high > 0.75 else ", not meaningful")
    )
    assert wins([1.0] * num_wins + [-1.0] * num_losses).better == expected == word


def test_better_is_strict_at_its_bounds() -> None:
    assert better_of(0.5, 0.9) == "not significant"
    assert better_of(0.501, 0.75) == "significant, not meaningful"
    assert better_of(math.nan, math.nan) == "unknown"


def test_counts_in_words_name_ties() -> None:
    assert wins_text(vars(wins([0.1, 0.1, -0.1]))) == "2/3"
    assert wins_text(vars(wins([0.1, 0.0, -0.1]))) == "1/3 (1 tied)"
