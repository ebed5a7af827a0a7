from __future__ import annotations

import math
import random
import tracemalloc
from difflib import SequenceMatcher

import pytest
from rouge_score import rouge_scorer

from harness.evals.copying import SORTED_WORDS, TargetIndex, rouge_l, words


def _text(draw: random.Random, most: int, vocabulary: str) -> str:
    return " ".join(draw.choice(vocabulary) for _ in range(draw.randint(0, most)))


def test_words_are_case_folded_runs_and_single_han_characters() -> None:
    assert words("Ann's STRASSE, 4.5 Straße\n你好 x_y") == [
        "ann", "s", "strasse", "4", "5", "strasse", "你", "好", "x", "y"
    ]  # fmt: skip
    assert words(" \n?!") == []


def test_rouge_l_equals_the_published_scorer() -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    draw = random.Random(0)
    for _ in range(300):
        first, second = _text(draw, 12, "abcdefg"), _text(draw, 12, "abcdefg")
        if first or second:
            expected = scorer.score(first, second)["rougeL"].fmeasure
            assert rouge_l(words(first), words(second)) == pytest.approx(expected)
            assert rouge_l(words(second), words(first)) == pytest.approx(expected)


def test_rouge_l_of_nothing_is_unknown_and_of_an_empty_answer_zero() -> None:
    assert math.isnan(rouge_l([], []))
    assert rouge_l(["a"], []) == 0
    assert rouge_l(["a", "b"], ["a", "b"]) == 1


def test_longest_span_equals_difflib_over_all_targets() -> None:
    draw = random.Random(1)
    for _ in range(60):
        vocabulary = draw.choice(("ab", "abc", "abcdefghijklm"))
        targets = [_text(draw, 40, vocabulary) for _ in range(draw.randint(0, 12))]
        index = TargetIndex(targets)
        for _ in range(20):
            answer = words(_text(draw, 30, vocabulary))
            sizes = [
                SequenceMatcher(None, words(target), answer, autojunk=False).find_longest_match().size
                for target in targets
            ]
            assert index.longest_span(answer) == max(sizes, default=0)


def test_longest_span_longer_than_places_are_sorted_by_is_exact() -> None:
    shared = [f"w{number}" for number in range(3 * SORTED_WORDS)]
    targets = [" ".join(shared[: SORTED_WORDS + 2]), " ".join(shared), "x " + " ".join(shared[1:])]
    assert TargetIndex(targets).longest_span(["y", *shared, "z"]) == 3 * SORTED_WORDS
    assert TargetIndex(targets).longest_span(["x", *shared[1:5]]) == 5


def test_longest_span_never_reaches_over_the_end_of_a_target() -> None:
    assert TargetIndex(["one two", "three four"]).longest_span(["one", "two", "three", "four"]) == 2


def test_longest_span_of_no_targets_or_strange_words_is_none() -> None:
    assert TargetIndex([]).longest_span(["a"]) == 0
    assert TargetIndex(["", "?!"]).longest_span(["a"]) == 0
    assert TargetIndex(["a b"]).longest_span([]) == 0
    assert TargetIndex(["a b"]).longest_span(["c"]) == 0


def test_index_holds_no_more_words_than_it_may_and_counts_the_rest() -> None:
    index = TargetIndex(["a b c", "d e f", "g", "h"], max_words=8)
    assert (index.num_targets, index.num_left_out) == (2, 2)
    assert index.longest_span(["d", "e", "f"]) == 3
    assert index.longest_span(["h"]) == 0


def test_index_takes_few_bytes_a_word() -> None:
    draw = random.Random(2)
    targets = [_text(draw, 2 * 150, "abcdefghijklmnopq") for _ in range(2000)]
    num_words = sum(len(words(target)) for target in targets)
    tracemalloc.start()
    index = TargetIndex(iter(targets))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.num_targets == 2000
    # 8 bytes a word are held; at 10 million words, a peak below 45 bytes a word is below 450 MB
    assert held < 9 * num_words + 200_000
    assert peak < 45 * num_words
