"""Val and test items in common: planted overlaps are found, and what is apart is not called one."""

from __future__ import annotations

import random
from itertools import product

import pytest

from harness.data import hygiene
from harness.data.splits import MOST_NAMED, SplitOverlap, split_overlaps, warning

WORDS = [f"word{number}" for number in range(300)]


def text(seed: int, num_words: int = 24) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def apart(num: int, first: int = 0) -> dict[str, str]:
    """Return items that have nothing in common."""
    return {f"i{first + seed}": text(first + seed) for seed in range(num)}


def half(item: str, num_words: int) -> str:
    """Return another text that holds the first words of an item."""
    return " ".join([*item.split()[:num_words], "and", "something", "else"])


def by_hand(asked: dict[str, str], val: set[str]) -> set[str]:
    """Return the test items of which one val item covers more than half: word by word, in runs of eight, no index."""
    found: set[str] = set()
    for item, said in ((item, said.split()) for item, said in asked.items() if item not in val):
        for other in (asked[one].split() for one in val):
            covered: set[int] = set()
            for i, j in product(range(len(said) - 7), range(len(other) - 7)):
                if said[i : i + 8] == other[j : j + 8]:
                    covered |= set(range(i, i + 8))
            if len(covered) > len(said) / 2:
                found.add(item)
    return found


def test_planted_overlap_is_found_and_items_apart_have_none() -> None:
    asked = apart(60)
    val = {f"i{number}" for number in range(20)}
    assert split_overlaps({"s/a": asked}, {"s/a": val}) == {"s/a": SplitOverlap(20, 40, 40, 0, 0, 0)}
    planted = asked | {"i3": half(asked["i30"], 13), "i4": half(asked["i31"], 12), "i5": asked["i32"].upper() + "  "}
    found = split_overlaps({"s/a": planted}, {"s/a": val})["s/a"]
    # 13 of 24 words are more than half and 12 are not; a repeat stands whole in the other one
    assert by_hand(planted | {"i5": planted["i5"].lower()}, val) == {"i30", "i32"}
    assert found == SplitOverlap(20, 40, 40, num_overlapping=2, num_repeated=1, num_across=0)
    assert (found.share, found.is_large) == (2 / 40, True)


def test_overlap_equals_a_count_by_hand_of_many_halves() -> None:
    asked = apart(40)
    val = {f"i{number}" for number in range(20)}
    for number in range(20):
        asked[f"i{number}"] = half(asked[f"i{number + 20}"], number + 4)
    found = split_overlaps({"s/a": asked}, {"s/a": val})["s/a"]
    assert found.num_overlapping == len(by_hand(asked, val)) == 11


def test_one_val_item_must_cover_an_item_and_two_do_not_add_up() -> None:
    said = text(1, 40).split()
    asked = {"t": " ".join(said), "a": " ".join(said[:18]), "b": " ".join(said[20:38])}
    assert split_overlaps({"s/a": asked}, {"s/a": {"a", "b"}})["s/a"].num_overlapping == 0


def test_overlap_among_test_items_or_among_val_items_is_none() -> None:
    same = text(1)
    asked = {"v1": text(2), "v2": text(2), "t1": same, "t2": same}
    assert split_overlaps({"s/a": asked}, {"s/a": {"v1", "v2"}})["s/a"] == SplitOverlap(2, 2, 2, 0, 0, 0)


def test_overlap_with_another_slice_of_the_suite_counts_across_and_of_another_suite_not() -> None:
    said = text(1)
    asked = {"s/a": {"x": said, "v": text(2)}, "s/b": {"y": said, "t": text(3)}, "o/c": {"z": said, "t": text(4)}}
    val = {"s/a": {"v"}, "s/b": {"y"}, "o/c": {"z"}}
    found = split_overlaps(asked, val)
    assert found["s/a"] == SplitOverlap(1, 1, 1, 0, 0, num_across=1)
    assert (found["s/a"].across_share, found["s/a"].is_large) == (1.0, True)
    assert (found["s/b"].num_across, found["o/c"].num_across) == (0, 0)


def test_the_same_items_asked_another_way_overlap_with_nothing_across() -> None:
    asked = apart(30)
    val = {f"i{number}" for number in range(10)}
    found = split_overlaps({"s/raw": asked, "s/raw_chat": asked}, {"s/raw": val, "s/raw_chat": val})
    assert set(found.values()) == {SplitOverlap(10, 20, 20, 0, 0, 0)}


def test_short_items_are_not_checked_but_their_repeats_are_counted() -> None:
    asked = {"v": "Is it?", "t": "is  IT?", "u": "Was it?", "w": "", "x": " "}
    found = split_overlaps({"s/a": asked}, {"s/a": {"v", "x"}})["s/a"]
    assert found == SplitOverlap(2, 3, 0, 0, num_repeated=1, num_across=0)
    assert found.share is None
    assert found.is_large


def test_slices_without_val_or_test_items_and_unnamed_ones_claim_nothing() -> None:
    asked = {"s/a": apart(3), "s/b": apart(3, 9), "s/c": apart(3, 20)}
    found = split_overlaps(asked, {"s/a": set[str](), "s/b": set(asked["s/b"])})
    assert found == {"s/a": SplitOverlap(0, 3, 3, 0, 0, 0), "s/b": SplitOverlap(3, 0, 0, 0, 0, 0)}
    assert (found["s/b"].share, found["s/b"].is_large) == (None, False)
    assert split_overlaps({}, {}) == {}


def test_warning_names_the_worst_slices_first_and_those_below_two_percent_never() -> None:
    few = {"s/fine": SplitOverlap(50, 100, 100, 2, 0, 0), "s/a": SplitOverlap(50, 100, 100, 3, 0, 0)}
    said = warning(few | {"s/b": SplitOverlap(50, 100, 100, 0, 40, 0)})
    assert said is not None
    assert "made: s/b 40.0%, s/a 3.0% (above 2%)" in said
    assert warning({"s/fine": few["s/fine"]}) is None
    many = warning({f"s/{n}": few["s/a"] for n in range(MOST_NAMED + 2)})
    assert many is not None
    assert "and 2 more" in many


def test_a_rule_that_looks_for_less_misses_what_was_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = apart(30)
    asked["i1"] = half(asked["i20"], 14)
    val = {f"i{number}" for number in range(10)}
    assert split_overlaps({"s/a": asked}, {"s/a": val})["s/a"].num_overlapping == 1
    monkeypatch.setattr(hygiene, "OVERLAP_NGRAM", 15)
    assert split_overlaps({"s/a": asked}, {"s/a": val})["s/a"].num_overlapping == 0
