from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from datasketch import MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.conversations import Conversation, conversation, document, pretokenised
from harness.data.hygiene import (
    NEAR,
    NUM_PERMUTATIONS,
    domains,
    exact_duplicates,
    languages,
    near_duplicates,
    overlap,
    prompt,
    whole,
    words,
)
from harness.errors import DataError

WORDS = [f"word{number}" for number in range(400)]


def text(seed: int, num_words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def changed(original: str, num_words: int, seed: int = 0) -> str:
    """Return a text with some of its words replaced by others, next to one another."""
    found = original.split()
    start = random.Random(seed).randrange(len(found) - num_words)
    found[start : start + num_words] = [f"other{number}" for number in range(num_words)]
    return " ".join(found)


def test_exact_duplicates_are_the_same_text_whatever_case_and_white_space() -> None:
    texts = ["Is 3 < 4?", "is 3  <\n4? ", "Is 3 > 4?", "", " ", "\N{THUMBS UP SIGN}", "\N{THUMBS DOWN SIGN}"]
    assert exact_duplicates(texts) == {1: 0}
    assert near_duplicates(texts) == {1: 0}


def test_near_duplicates_find_a_changed_word_and_spare_other_texts() -> None:
    originals = [text(seed) for seed in range(40)]
    near = [changed(original, 1, seed) for seed, original in enumerate(originals)]
    # one word of 60 changes up to 5 of 56 grams: similarity at least 51 / 61
    assert near_duplicates([*originals, *near]) == {40 + number: number for number in range(40)}
    # fifteen words change 19 grams of 56: similarity 37 / 75
    assert near_duplicates([*originals, *(changed(original, 15) for original in originals)]) == {}


def grams(said: str) -> set[tuple[str, ...]]:
    found = said.split()
    return {tuple(found[start : start + 5]) for start in range(max(1, len(found) - 4))}


@pytest.mark.parametrize("seed", range(4))
def test_near_duplicates_are_those_that_comparing_every_pair_finds(seed: int) -> None:
    stream = random.Random(seed)
    texts = [text(number, stream.randrange(1, 50)) for number in range(100)]
    for _ in range(150):
        found = stream.choice(texts).split()
        for _ in range(stream.randrange(4)):
            found[stream.randrange(len(found))] = stream.choice(WORDS)
        texts.append(" ".join(found))
    stream.shuffle(texts)
    kept: list[int] = []
    expected: dict[int, int] = {}
    for place, said in enumerate(texts):
        own = grams(said)
        like = (other for other in kept if len(own & grams(texts[other])) >= NEAR * len(own | grams(texts[other])))
        if (first := next(like, None)) is None:
            kept.append(place)
        else:
            expected[place] = first
    assert len(expected) > 30
    assert near_duplicates(texts) == expected


def test_near_duplicates_hold_a_kilobyte_a_row() -> None:
    """Measured on 50 000 rows of 706 characters: 1001 bytes a row; an index of every row took 11 500."""
    texts = [text(number, num_words=30) for number in range(2000)]
    near_duplicates(texts[:100])
    tracemalloc.start()
    near_duplicates(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / len(texts) < 2000


def test_bands_of_the_index_miss_fewer_than_one_pair_in_a_thousand() -> None:
    index = MinHashLSH(threshold=NEAR / 2, num_perm=NUM_PERMUTATIONS)
    assert (1 - NEAR**index.r) ** index.b < 1e-3


def test_short_texts_are_near_duplicates_only_where_they_are_the_same() -> None:
    assert near_duplicates(["yes", "no", "Yes", "yes.", "", ""]) == {2: 0}


def test_rows_that_share_a_long_beginning_are_not_near_duplicates_and_cost_no_square() -> None:
    """Every pair is a candidate of the index; sketches tell them apart before whole texts are compared."""
    shared = text(7, num_words=60)
    assert near_duplicates([f"{shared} {text(seed, num_words=60)}" for seed in range(100, 400)]) == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab ", max_size=12), max_size=12))
def test_exact_duplicates_are_near_duplicates_as_well(texts: list[str]) -> None:
    assert set(exact_duplicates(texts)) <= set(near_duplicates(texts))


SENTENCES = {
    "en": ("What is the weather like today?", "It is fine, and we can walk in the park with the children."),
    "de": ("Wie ist heute das Wetter?", "Es ist sch\N{LATIN SMALL LETTER O WITH DIAERESIS}n, und wir gehen im Park."),
    "fr": ("Quel temps fait-il aujourd'hui ?", "Il fait beau, et nous pouvons marcher dans le parc avec les enfants."),
}


def said(question: str, answer: str, task: str = "") -> Conversation:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return conversation(turns, row_id="", task=task)


def test_languages_are_those_that_are_sure_and_all_others_unknown() -> None:
    rows = [said(*SENTENCES[language]) for language in ("en", "en", "de", "fr")]
    unsure = [said("Sure?", "Yes."), said("12+7=", "19"), said("zxqv blorp", "fnord wibble quux")]
    tokens = pretokenised([1, 2, 3], None, row_id="", task="")
    raw = document(" ".join(SENTENCES["de"]), row_id="", task="")
    assert languages([*rows, *unsure, tokens, raw]) == {"en": 2, "de": 2, "fr": 1, "unknown": 4}
    assert languages([]) == {}


def test_domains_are_the_tasks_that_rows_name() -> None:
    rows = [said("A?", "B", task) for task in ("code", "chat", "code", "")]
    assert domains(rows) == {"code": 2, "chat": 1, "unknown": 1}


def test_an_item_overlaps_from_half_of_its_words_in_one_row() -> None:
    item = text(1, num_words=40).split()
    filler = text(2, num_words=30)
    rows = [
        f"{filler} {' '.join(item[:21])} {filler}",  # 21 of 40 words
        f"{filler} {' '.join(item[:20])} {filler}",  # exactly half is not more than half
        f"{' '.join(item[:14])} {filler} {' '.join(item[33:])}",  # a run of 14 and one of 7, which is no 8-gram
        f"{' '.join(item[:14])} {filler} {' '.join(item[32:])}",  # 14 and 8
        filler,
    ]
    found = overlap("suite", {"a": " ".join(item), "b": text(3, num_words=40)}, rows)
    assert found.rows_of == {"a": (0, 3)}
    assert (found.share, found.contaminated, found.rows) == (0.5, True, {0, 3})


def test_words_of_two_rows_do_not_add_up_to_one_overlap() -> None:
    item = text(1, num_words=40).split()
    assert overlap("suite", {"a": " ".join(item)}, [" ".join(item[:18]), " ".join(item[18:36])]).rows_of == {}


def test_a_short_item_overlaps_where_it_stands_whole_and_a_shorter_one_is_not_looked_for() -> None:
    items = {"five": "Which animal does Ann keep?", "two": "Why not?"}
    rows = ["Tell me: which animal does Ann keep, and why not?", "Which animal does Bob keep?"]
    found = overlap("suite", items, rows)
    assert (found.rows_of, found.num_items, found.num_checked, found.share) == ({"five": (0,)}, 2, 1, 1.0)


def test_share_of_a_suite_without_items_to_check_is_unknown() -> None:
    found = overlap("suite", {"a": "no"}, ["no"])
    assert found.share != found.share
    assert not found.contaminated


def test_a_row_says_what_its_turns_say() -> None:
    messages = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
    row = conversation(messages, row_id="", task="")
    assert (whole(row), prompt(row)) == ("user A?\nassistant B.", "A?")
    raw = document("Once.", row_id="", task="")
    assert (whole(raw), prompt(raw), words("Once, TWICE")) == ("Once.", "Once.", ["once", "twice"])


def test_rows_differ_by_the_calls_they_make_and_the_tokens_they_are() -> None:
    def calling(town: str) -> Conversation:
        call = {"type": "function", "function": {"name": "weather", "arguments": {"town": town}}}
        turns = [
            {"role": "user", "content": "Weather here?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        return conversation(turns, row_id="", task="")

    tokens = [pretokenised(ids, None, row_id="", task="") for ids in ([5, 6], [5, 6], [5, 7])]
    texts = [whole(row) for row in (calling("Paris"), calling("Rome"), calling("Paris"), *tokens)]
    assert exact_duplicates(texts) == {2: 0, 4: 3}
    with pytest.raises(DataError, match=r"data\.decontaminate is True, but must be False for rows of tokens"):
        prompt(tokens[0])


def test_an_item_written_without_spaces_is_looked_for() -> None:
    asked = "\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd\u5417"
    assert len(words(asked)) == 9
    found = overlap("suite", {"a": asked}, [f"x {asked} y", asked[:4]])
    assert (found.num_checked, found.rows_of) == (1, {"a": (0,)})


def test_near_duplicates_among_many_that_are_almost_alike_are_those_that_every_pair_says() -> None:
    draw = np.random.default_rng(0)
    texts: list[str] = []
    for number in range(200):
        said = [f"word{place}" for place in range(100)]
        for place in draw.choice(100, 2, replace=False):
            said[place] = f"other{number}at{place}"
        texts.append(" ".join(said))
    grams = [{tuple(text.split()[at : at + 5]) for at in range(96)} for text in texts]
    kept, expected = list[int](), dict[int, int]()
    for place, own in enumerate(grams):
        like = (other for other in kept if len(own & grams[other]) / len(own | grams[other]) >= 0.7)
        if (first := next(like, None)) is None:
            kept.append(place)
        else:
            expected[place] = first
    assert 10 < len(expected) < 190
    assert near_duplicates(texts, 0.7) == expected
