"""What is said of a world before it is trained: nothing of a sound one, one sentence with numbers for each flaw."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.pocket import MODEL, WORLD
from harness.pocket import expectations
from harness.pocket.corpus import num_words
from harness.pocket.world import build


def test_worlds_that_ship_have_no_flag() -> None:
    for seed in range(3):
        assert expectations.flags(WORLD.replace({"seed": seed}), MODEL) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exposures_low": 2}, ["world.exposures_low is 2", "floor of 0.083"]),
        ({"exposures_mid": 45}, ["world.exposures_mid is 45", "ceiling", "below 40"]),
        ({"exposures_low": 60}, ["world.exposures_low is 60", "ceiling"]),
        ({"people_per_tier": 60}, ["world.people_per_tier is 60", "fewer than the 125"]),
        ({"num_unknown_people": 120}, ["world.num_unknown_people is 120", "have 60 clusters each"]),
        ({"left_out_skills": ["sum"]}, ["world.left_out_skills names 'sum'", "raw_sum", "floor"]),
        ({"plain_question_share": 0.0}, ["world.plain_question_share is 0", "floor of 0"]),
        ({"augmented": False}, ["world.augmented is False", "floor of 0"]),
        ({"exposures_high": 1500}, ["million tokens", "times as many"]),
    ],
)
def test_each_flaw_is_one_sentence_with_its_number(changes: dict[str, Any], words: list[str]) -> None:
    (flag,) = expectations.flags(WORLD.replace(changes), MODEL)
    assert all(word in flag for word in words), flag
    assert "\n" not in flag


def test_facts_that_a_model_cannot_store_are_flagged_with_bits() -> None:
    narrow = MODEL.replace({"hidden_size": 16, "num_heads": 1, "num_layers": 1, "vocab_size": 300})
    crowded = WORLD.replace({"people_per_tier": 300, "exposures_high": 100})
    load, room = expectations.bits(crowded), expectations.num_parameters(narrow)
    assert load > room
    flag, _ = expectations.flags(crowded, narrow)
    assert f"{load:,.0f} bits" in flag
    assert f"{room:,} parameters" in flag


def test_vocabulary_in_which_values_share_their_first_tokens_is_flagged() -> None:
    (flag,) = expectations.flags(WORLD, MODEL.replace({"vocab_size": 512}))
    assert "base.model.vocab_size is 512" in flag
    assert expectations.flags(WORLD, MODEL.replace({"vocab_size": 768})) == []


def test_length_of_the_corpus_is_estimated_to_a_tenth() -> None:
    for exposures in (1000, 1500):
        world = WORLD.replace({"exposures_high": exposures, "people_per_tier": 30, "num_unknown_people": 60})
        words = sum(num_words(document.text) for document in build(world).corpus())
        assert expectations.num_tokens(world) == pytest.approx(words, rel=0.1)
