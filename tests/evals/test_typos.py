from __future__ import annotations

import hashlib
import json
import re
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from harness.evals.generated import Generation
from harness.evals.items import kept_out, select
from harness.evals.leaks import leaked
from harness.evals.panel import panel
from harness.evals.scoring import questions
from harness.evals.typos import _NEIGHBOURS, with_typos  # pyright: ignore[reportPrivateUsage]
from harness.seeding import derive
from harness.spec import EvalTask
from tests.evals import small
from tests.specs import pinned_spec

TEXT = "Where does Anna Smith live, also what colour does Barbara like? " * 40


def _pairs(text: str, rate: float, seed: int = 0) -> list[tuple[str, str]]:
    return list(zip(text.split(), with_typos(text, rate, seed).split(), strict=True))


def test_typos_of_one_seed_are_the_same_and_of_another_not() -> None:
    assert with_typos(TEXT, 0.3, 0) == with_typos(TEXT, 0.3, 0)
    assert with_typos(TEXT, 0.3, 0) != with_typos(TEXT, 0.3, 1)
    assert with_typos(TEXT, 0.0, 0) == TEXT


def test_typos_come_at_the_rate_asked_for() -> None:
    pairs = _pairs(TEXT, 0.2)
    share = sum(a != b for a, b in pairs) / len(pairs)
    # 440 words: a standard error of .019
    assert abs(share - 0.2) < 0.06
    assert all(a != b for a, b in _pairs(TEXT, 1.0))


def test_typos_of_a_smaller_rate_are_among_those_of_a_larger_one() -> None:
    for (clean, few), (_, many) in zip(_pairs(TEXT, 0.2), _pairs(TEXT, 0.6), strict=True):
        assert few in (clean, many)


def test_typos_are_one_edit_of_the_four_kinds() -> None:
    kinds = set[str]()
    for clean, typed in _pairs(re.sub(r"[^\w\s]", "", TEXT), 1.0):
        kinds.add(_kind(clean, typed))
    assert kinds == {"neighbour", "swap", "drop", "double"}


def _kind(clean: str, typed: str) -> str:
    if len(typed) == len(clean):
        places = [n for n, (a, b) in enumerate(zip(clean, typed, strict=True)) if a != b]
        if len(places) == 1:
            assert typed[places[0]].lower() in _NEIGHBOURS[clean[places[0]].lower()]
            assert typed[places[0]].isupper() == clean[places[0]].isupper()
            return "neighbour"
        assert places[1] == places[0] + 1
        assert typed[places[0]] + typed[places[1]] == clean[places[1]] + clean[places[0]]
        return "swap"
    edits = [code for code in SequenceMatcher(None, clean, typed, autojunk=False).get_opcodes() if code[0] != "equal"]
    assert len(edits) == 1
    if edits[0][0] == "delete":
        return "drop"
    _, _, _, start, end = edits[0]
    assert typed[start:end] in (typed[start - 1 : start], typed[end : end + 1])
    return "double"


@pytest.mark.parametrize(
    "kept",
    ["12 + 7 = 19", "?!... -- ()", "<|user|>", "[INST] [/INST]", "`some code here`", "https://example.org/some-page",
     "ann.smith@example.org", "{placeholder}", "x86 snake_case abc123", "A I is the",
     "你好世界", "```\ncode block\n```"],
)  # fmt: skip
def test_typos_leave_digits_punctuation_and_markup_alone(kept: str) -> None:
    for seed in range(20):
        assert with_typos(kept, 1.0, seed) == kept
        mixed = with_typos(f"question {kept} answer", 1.0, seed)
        assert f" {kept} " in mixed
        assert not mixed.startswith("question ")


def test_typos_never_empty_a_word_and_keep_white_space() -> None:
    text = "this  that\n\tgoes over noon"
    for seed in range(200):
        typed = with_typos(text, 1.0, seed)
        assert re.findall(r"\s+", typed) == re.findall(r"\s+", text)
        assert len(typed.split()) == len(text.split())


def test_typos_of_neighbouring_keys_are_mutual_and_known() -> None:
    assert set(_NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(_NEIGHBOURS["q"]) == set("wa")
    assert set(_NEIGHBOURS["m"]) == set("njk")
    assert all(letter in _NEIGHBOURS[other] for letter, others in _NEIGHBOURS.items() for other in others)


def test_typos_of_cyrillic_change_words_without_a_keyboard() -> None:
    assert with_typos("красный дом", 1.0, 0) != "красный дом"


# -- of a task ---------------------------------------------------------------------------------------------------------


QUESTION = "Where does Barbara live, and whom does she visit there?"


def twins(folder: Path) -> tuple[EvalTask, EvalTask]:
    """Return a task and the one that asks the same with typing errors."""
    rows = [{"id": "a", "context": QUESTION, "answer": "Paris"}]
    plain = small.task("generate", small.write_items(folder / "g.jsonl", rows), chat=True)
    return plain, plain.replace({"name": "typos", "typo_rate": 1.0})


def test_typos_are_in_the_prompt_and_the_hash_alone(tmp_path: Path) -> None:
    plain, typos = twins(tmp_path)
    spec, typed = small.evals(plain, typos, items_seed=5), with_typos(QUESTION, 1.0, derive(5, "evals.typos/a"))
    (clean,), (same,) = (select(asked, spec).items for asked in (plain, typos))
    assert typed != QUESTION
    assert clean == same == {"id": "a", "cluster": "a", "context": QUESTION, "answer": "Paris"}
    line = json.dumps([clean | {"context": typed}, select(typos, spec).splits[0]], sort_keys=True)
    assert select(typos, spec).sha256 == hashlib.sha256(line.encode()).hexdigest()
    shown = {row.task: row for row in questions(small.chat(), spec)}
    assert shown["typos"].prompt == shown["generate"].prompt.replace(QUESTION, typed) != shown["generate"].prompt
    assert shown["typos"].reference == "Paris"


def test_typos_hide_no_question_from_what_is_decontaminated_or_leaked(tmp_path: Path) -> None:
    _, typos = twins(tmp_path)
    spec = pinned_spec()
    data = spec.data.model_copy(update={"decontaminate": True, "leak_share": 1.0})
    spec = spec.model_copy(update={"data": data, "evals": spec.evals.model_copy(update={"tasks": (typos,)})})
    assert kept_out(spec) == {typos.key: {"a": QUESTION}}
    ((asked, _),) = (row.messages for row in leaked(spec))
    assert asked["content"] == QUESTION


def test_copy_of_a_prompt_with_typos_is_one_of_what_was_asked(tmp_path: Path) -> None:
    _, typos = twins(tmp_path)
    asked = typos.replace({"panel": "behaviour"})
    measure = panel(asked, select(asked, small.evals(asked)).items, small.chat(), 0, None)
    assert measure is not None
    typed = with_typos(QUESTION, 1.0, derive(0, "evals.typos/a"))
    answers = [Generation(text, stopped=True, raw=text) for text in (typed, QUESTION)]
    copied, other = (measure({"id": "a"}, [answer])["prompt_copy"] for answer in answers)
    assert copied == 1.0 > other
