"""Shares of whole rows: nested at every size, and never a row off."""

from __future__ import annotations

from itertools import islice, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.spec.apportion import counts, shares_of, slots


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 10_000) | st.just(1), min_size=1, max_size=12))
def test_every_beginning_holds_each_part_in_its_share_rounded_down_or_up(weights: list[int]) -> None:
    named = {str(number): weight for number, weight in enumerate(weights)}
    given_to = dict.fromkeys(named, 0)
    for size, name in enumerate(islice(slots(named), min(sum(weights), 500)), start=1):
        given_to[name] += 1
        for part, weight in named.items():
            assert abs(given_to[part] * sum(weights) - size * weight) < sum(weights)


def test_counts_of_all_rows_are_the_weights() -> None:
    weights = {"a": 7, "b": 1, "c": 0, "d": 12}
    assert counts(weights, 20) == weights
    assert counts(weights, 40) == {"a": 14, "b": 2, "c": 0, "d": 24}


def test_largest_remainders_would_take_a_row_away_where_slots_do_not() -> None:
    """The Alabama paradox: of 10 rows the smallest part gets 2 by largest remainders, of 11 only 1."""
    weights = {"a": 6, "b": 6, "c": 2}
    by_size = [counts(weights, size) for size in range(15)]
    assert all(one[name] <= more[name] for one, more in pairwise(by_size) for name in weights)

    def largest_remainders(size: int) -> int:
        exact = {name: size * weight / 14 for name, weight in weights.items()}
        left = size - sum(int(share) for share in exact.values())
        favoured = sorted(exact, key=lambda name: int(exact[name]) - exact[name])[:left]
        return int(exact["c"]) + ("c" in favoured)

    assert (largest_remainders(10), largest_remainders(11)) == (2, 1)


def test_shares_are_the_decimals_that_were_written() -> None:
    assert shares_of({"a": 0.1, "b": 0.2}, "rest") == {"rest": 7, "a": 1, "b": 2}
    assert counts(shares_of({"a": 0.1, "b": 0.2}, "rest"), 1000) == {"rest": 700, "a": 100, "b": 200}
