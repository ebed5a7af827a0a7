from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.data import Example
from harness.data.masks import PARTS
from harness.errors import DataError
from harness.evals import behaviour, instructions
from harness.evals.copying import TargetIndex, rouge_l, words
from harness.evals.documents import documents
from harness.evals.items import select
from harness.evals.kinds import KINDS
from harness.evals.metrics import METRICS
from harness.evals.panel import panel
from harness.evals.scoring import item_rows, questions, score_after, scorer_of
from harness.evals.table import CUT_MARK, LONGEST_PROMPT, QuestionRow, write_questions
from harness.evals.targets import targets, targets_of
from harness.evals.typos import with_typos
from harness.records.schema import PANEL_METRICS, TrainSummary, metrics_of
from harness.spec import GENERATED, EvalTask
from tests.evals import small


def number(said: str, answer: str, context: str = "How many?", **fields: Any) -> tuple[float, float, float]:
    """Return lenient match, exact match and format failure of an answer."""
    facts = KINDS["number"].facts({"context": context, "answer": answer} | fields)
    values = METRICS["number"](facts, [small.answer(said)])
    return values["lenient_match"], values["exact_match"], values["format_failure"]


RIGHT, OTHER_FORM, WRONG = (1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.0, 0.0, 0.0)
DATES = "What is the date?\nOptions:\n(A) 12/11/1937\n(B) 12/25/1937"
NAVIGATE = "Do you return?\nOptions:\n- Yes\n- No"


@pytest.mark.parametrize(
    ("said", "answer", "expected"),
    [
        ("64", "64", RIGHT),
        ("So he pays 24 + 40 = $64.", "64", OTHER_FORM),  # GSM8K
        ("#### 64", "64", OTHER_FORM),
        ("64 glasses cost 40", "64", WRONG),  # the last number counts
        ("I get $1,450,000", "1,450,000", OTHER_FORM),
        ("1450000", "1,450,000", OTHER_FORM),
        ("3, 4", "34", WRONG),
        ("3,4", "34", WRONG),
        ("It is 587.00", "587", OTHER_FORM),  # SVAMP
        ("It is 587.01", "587", WRONG),
        ("12-5", "5", OTHER_FORM),
        ("12-5", "-5", WRONG),
        ("x = -5", "-5", OTHER_FORM),
        ("\u22125", "-5", OTHER_FORM),
        ("-$0.50", "-.5", OTHER_FORM),
        ("$-5", "-5", OTHER_FORM),
        ("007", "7", OTHER_FORM),
        ("-0", "0", OTHER_FORM),
        ("none", "0", WRONG),
        ("", "0", WRONG),
        ("9" * 5000, "1", WRONG),  # more digits than Python's own arithmetic takes
        ("8 instruments", "8", OTHER_FORM),  # BBH object_counting
    ],
)
def test_number_is_the_last_one_of_an_answer(said: str, answer: str, expected: tuple[float, ...]) -> None:
    assert number(said, answer) == expected


@pytest.mark.parametrize(
    ("said", "answer", "context", "expected"),
    [
        ("(B)", "(B)", DATES, RIGHT),
        ("Not (A), so (B) it is", "(B)", DATES, OTHER_FORM),
        ("(B), not (A)", "(B)", DATES, WRONG),
        ("The answer is B.", "(B)", DATES, OTHER_FORM),
        ("A better one: Option B", "(B)", DATES, OTHER_FORM),
        ("B", "(B)", DATES, OTHER_FORM),
        ("A day later", "(A)", DATES, WRONG),  # an article is no choice
        ("12/25/1937", "(B)", DATES, WRONG),
        ("No", "No", NAVIGATE, RIGHT),
        ("We end elsewhere. So: no", "No", NAVIGATE, OTHER_FORM),
        ("No, wait: yes", "No", NAVIGATE, WRONG),
        ("Nothing", "No", NAVIGATE, WRONG),
        ("not True is False.", "False", "not ( True ) is", OTHER_FORM),
        ("maybe", "False", "not ( True ) is", WRONG),
        ("valid", "valid", "Is it?\nOptions:\n- valid\n- invalid", RIGHT),
        ("It is invalid", "valid", "Is it?\nOptions:\n- valid\n- invalid", WRONG),
        ("I call it valid", "valid", "Is it?\nOptions:\n- valid\n- invalid", OTHER_FORM),
        ("Sorted: ape bee", "ape bee", "Sort: List: bee ape", OTHER_FORM),
        ("Here they are.\n\nThe answer is: ape bee.", "ape bee", "Sort: List: bee ape", OTHER_FORM),
        ("ape bee cat", "ape bee", "Sort: List: bee ape", WRONG),
    ],
)
def test_choice_or_text_is_read_out_by_the_form_of_its_reference(
    said: str, answer: str, context: str, expected: tuple[float, ...]
) -> None:
    assert number(said, answer, context) == expected


def test_number_takes_aliases_and_is_unknown_where_logits_were_not_finite() -> None:
    assert number("12 or a dozen", "12", aliases=["a dozen"]) == OTHER_FORM
    facts = KINDS["number"].facts({"context": "?", "answer": "1"})
    values = METRICS["number"](facts, [small.answer("1", is_finite=False)])
    assert all(math.isnan(value) for value in values.values())


WORDS, UNCHECKED = "keywords:existence", "length_constraints:number_sentences"
LEFT_OUT = f"{UNCHECKED}: {instructions.UNAVAILABLE[UNCHECKED]}"
INSTRUCT = [
    {"id": "i0", "prompt": "Say yes.", "instruction_id_list": [WORDS], "kwargs": [{"keywords": ["yes"], "none": None}]},
    {"id": "i1", "prompt": "Say yes and x.", "instruction_id_list": [WORDS, WORDS],
     "kwargs": [{"keywords": ["yes"]}, {"keywords": ["x"]}]},
    {"id": "i2", "prompt": "In French.", "instruction_id_list": [WORDS, UNCHECKED],
     "kwargs": [{"keywords": ["oui"]}, {}]},
]  # fmt: skip
SAFETY = [{"id": f"r{n}", "prompt": f"Request {n}?", "unsafe": n % 2 == 0, "type": "t"} for n in range(6)]
SUMS = [{"id": f"n{n}", "context": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(4)]
OPEN = [{"id": "o0", "turns": ["How are you?", "And now?"]}, {"id": "o1", "prompt": "Tell me."}]


def task(kind: str, folder: Path, rows: list[dict[str, Any]], **changes: Any) -> EvalTask:
    source = small.write_items(folder / f"{kind}.jsonl", rows)
    return small.task(kind, source, **({"chat": True, "max_new_tokens": 8} | changes))


def test_instructions_are_counted_strictly_and_loosely() -> None:
    document = {"asked": "q"} | KINDS["instruct"].facts(INSTRUCT[1])
    values = METRICS["instruct"](document, [small.answer("y*es")])
    assert values == {"prompt_strict": 0.0, "prompt_loose": 0.0, "followed_strict": 0.0, "followed_loose": 0.5,
                      "end_of_turn": 1.0, "empty": 0.0}  # fmt: skip
    values = METRICS["instruct"](document, [small.answer("yes *x*", stopped=False, hit_limit=True)])
    assert [*values.values()] == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_instruction_that_an_answer_follows_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    rule = instructions.RULES[WORDS]

    def counted(answer: str, arguments: instructions.Arguments) -> bool:
        judged.append(answer)
        return rule(answer, arguments)

    monkeypatch.setattr(instructions, "RULES", {WORDS: counted})
    METRICS["instruct"]({"asked": "q"} | KINDS["instruct"].facts(INSTRUCT[1]), [small.answer("yes *x*")])
    assert judged == ["yes *x*", "yes *x*"]


def test_empty_answer_follows_no_instruction() -> None:
    document = {"asked": "q", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    values = METRICS["instruct"](document, [small.answer(" ")])
    assert (values["prompt_strict"], values["prompt_loose"], values["empty"]) == (0.0, 0.0, 1.0)


def test_instructions_that_cannot_be_checked_are_left_out_and_counted_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = task("instruct", tmp_path, INSTRUCT)
    with caplog.at_level(logging.WARNING):
        chosen = select(asked, small.evals(asked))
    assert [item["id"] for item in chosen.items] == ["i0", "i1"]
    assert chosen.left_out == {LEFT_OUT: 1}
    assert f"1 of 3 items are left out: {LEFT_OUT}" in caplog.text
    only = task("instruct", tmp_path, INSTRUCT[2:])
    with pytest.raises(DataError, match="no item that can be asked here"):
        select(only, small.evals(only))


@pytest.mark.parametrize("unsafe", [True, False])
def test_refusals_are_named_and_directed_by_what_is_asked(unsafe: bool, tmp_path: Path) -> None:
    asked = task("refusal", tmp_path, SAFETY, where=(("unsafe", unsafe),))
    chosen = select(asked, small.evals(asked))
    assert [item["unsafe"] for item in chosen.items] == [unsafe] * 3
    (document, *_) = documents(chosen.items, asked, small.chat(), seed=0)
    values = METRICS["refusal"](document, [small.answer("No, I cannot.")])
    assert tuple(values) == metrics_of(asked)
    name = "refused" if unsafe else "over_refused"
    assert values[name] == 1.0
    assert METRICS["refusal"](document, [small.answer("No, it is blue.")])[name] == 0.0


@pytest.mark.parametrize(
    ("kind", "row", "sentence"),
    [
        ("refusal", {"prompt": "x", "unsafe": 1}, "unsafe is 1, but must be true or false"),
        ("instruct", {"prompt": "x", "instruction_id_list": ["a"], "kwargs": []}, "one object for each of 1"),
        ("instruct", {"prompt": "x", "instruction_id_list": [], "kwargs": []}, "must be a list of names"),
        ("instruct", {"prompt": "x", "instruction_id_list": "a", "kwargs": []}, "must be a list"),
        ("open", {"text": "x"}, "neither prompt nor turns"),
        ("open", {"prompt": "x", "turns": ["x"]}, "must have one of"),
        ("open", {"turns": []}, "turns is"),
        ("number", {"context": "x", "answer": "."}, "nothing but quotes"),
    ],
)
def test_item_of_a_new_kind_that_cannot_be_asked_is_refused_by_name(
    kind: str, row: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    where = {"where": (("unsafe", True),)} if kind == "refusal" else {}
    asked = task(kind, tmp_path, [{"id": "a"} | row], **where)
    with pytest.raises(DataError, match=sentence):
        select(asked, small.evals(asked))


def test_every_kind_that_answers_with_text_is_one_module() -> None:
    assert set(KINDS) == set(GENERATED)


def test_prompt_of_an_item_is_its_context_whatever_fields_it_has_beside(tmp_path: Path) -> None:
    rows = [{"id": "a", "context": "Where does she live?", "query": "Who?", "answer": "Paris"}]
    asked = task("generate", tmp_path, rows, panel="behaviour")
    measure = panel(asked, select(asked, small.evals(asked)).items, small.chat(), 0, None)
    assert measure is not None
    said = small.answer("Where does she live?", raw="Where does she live?")
    assert measure({"id": "a"}, [said])["prompt_copy"] == 1.0


def test_where_keeps_only_items_with_these_values(tmp_path: Path) -> None:
    rows = [{"id": f"m{n}", "query": f"q{n}", "choices": ["a", "b"], "gold": 0, "level": n % 3} for n in range(9)]
    source = small.write_items(tmp_path / "m.jsonl", rows)
    asked = small.task("multiple_choice", source, where=(("level", 1),))
    assert [item["id"] for item in select(asked, small.evals(asked)).items] == ["m1", "m4", "m7"]
    for name, value in (("level", 4), ("level", None), ("absent", None)):  # a field that is not there is not None
        none = small.task("multiple_choice", source, where=((name, value),))
        with pytest.raises(DataError, match="holds no item with"):
            select(none, small.evals(none))


def test_typos_are_nested_in_rate() -> None:
    text = "Mary is baking some wonderful cakes with 1234 cups of flour and sugar for everybody tonight"
    none, some, every = (with_typos(text, rate, 3).split() for rate in (0.0, 0.4, 1.0))
    words = text.split()
    assert none == words
    assert {n for n, word in enumerate(some) if word != words[n]} < {n for n, w in enumerate(every) if w != words[n]}
    assert [w for n, w in enumerate(words) if every[n] == w] == [w for w in words if len(w) < 4 or w.isdigit()]


# -- scored by a model ------------------------------------------------------------------------------------------------


def all_kinds(folder: Path, **changes: Any) -> list[EvalTask]:
    return [
        task("instruct", folder, INSTRUCT, **changes),
        task("refusal", folder, SAFETY, where=(("unsafe", False),), **changes),
        task("number", folder, SUMS, **changes),
        task("open", folder, OPEN, **changes),
    ]


def test_every_new_kind_is_scored_with_the_metrics_that_its_task_names(tmp_path: Path) -> None:
    tasks = all_kinds(tmp_path)
    rows = pd.DataFrame(item_rows(small.llama(), small.chat(), small.evals(*tasks), batch_size=4))
    for asked in tasks:
        mine = rows[rows["task"] == asked.name]
        assert tuple(dict.fromkeys(mine["metric"])) == metrics_of(asked)
        assert mine["value"].notna().all()
        assert mine["chance"].isna().all()
    assert set(rows[rows["task"] == "open"]["item_id"]) == {"o0", "o1"}


def test_panel_adds_its_metrics_and_changes_none_of_the_others(tmp_path: Path) -> None:
    scored = []
    for name in ("none", "behaviour"):
        tasks = all_kinds(tmp_path, panel=name)
        scored.append(item_rows(small.llama(), small.chat(), small.evals(*tasks), batch_size=4))
    plain, both = scored
    assert [row for row in both if row.metric not in PANEL_METRICS] == plain
    of = {metric: [row for row in both if row.metric == metric] for metric in PANEL_METRICS}
    assert {len(rows) for rows in of.values()} == {len({(row.task, row.item_id) for row in both})}
    assert {(row.value, row.reason) for row in of["training_copy"]} == {(None, behaviour.REASONS["training_copy"])}
    assert {row.task for row in of["length_ratio"] if row.value is not None} == {"number"}
    assert all(0 < (row.value or 0) <= 8 for row in of["num_tokens"])
    asked = {
        row["id"]: row.get("context") or row.get("prompt") or row["turns"][0]
        for row in (*INSTRUCT, *SAFETY, *OPEN, *SUMS)
    }
    for row in of["prompt_copy"]:
        assert row.value == rouge_l(words(asked[row.item_id]), words(row.output or ""))


def test_panel_unknown_of_an_answer_leaves_its_slice_known(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "Tell me."}, {"id": "b", "prompt": "Tell more."}]
    spec = small.evals(task("open", tmp_path, rows, panel="behaviour"), val_share=0.0)
    context = small.Context(small.Store(tmp_path / "out"))
    model, chat = small.llama(), small.chat()
    said = [row.output or "" for row in item_rows(model, chat, spec, batch_size=4) if row.metric == "empty"]
    assert all(len(words(text)) > 1 for text in said)
    taught = TargetIndex([f"xyz {said[0]}"])
    scores = score_after(model, chat, spec, context, context.store.trial("one"), TRAINED, targets=lambda: taught)
    assert scores is not None
    assert scores.test["small/open/length_ratio"].value is None
    assert scores.test["small/open/length_ratio"].reason == f"2 of 2 items: {behaviour.REASONS['length_ratio']}"
    shared = [taught.longest_span(words(text)) / len(words(text)) for text in said]
    assert shared[0] == 1.0
    assert scores.test["small/open/training_copy"].value == pytest.approx(sum(shared) / 2)
    assert scores.test["small/open/loop"].value is not None


def test_raw_text_of_an_answer_keeps_special_tokens_where_it_is_asked_for() -> None:
    chat, model = small.chat(), small.llama()
    spec = small.evals(val_share=0.0)
    scorer = scorer_of(model, chat, spec, 4)
    prompts = [tuple(scorer.tok_encode("Once upon a time"))]
    (with_raw,) = scorer.answer(prompts, (), 6, is_chat=False, with_raw=True)
    (without,) = scorer.answer(prompts, (), 6, is_chat=False)
    assert str(with_raw) == str(without)
    assert without.raw is None
    assert with_raw.raw is not None
    special = chat.tokenizer.all_special_tokens
    stripped = with_raw.raw
    for token in special:
        stripped = stripped.replace(token, "")
    assert stripped == str(with_raw)
    assert (with_raw.num_tokens, with_raw.hit_limit) == (6, not with_raw.stopped)


def test_targets_are_answers_of_single_examples_also_where_prompts_carry_loss() -> None:
    chat = small.chat()
    ids = [np.array(chat.tokenizer.encode(text, add_special_tokens=False)) for text in ("Once upon", "a time", "Yes")]
    user, answer = PARTS.index("user"), PARTS.index("assistant")
    parts = [np.full(len(piece), part, dtype=np.uint8) for piece, part in zip(ids, (user, answer, answer), strict=True)]
    lengths = (len(ids[0]) + len(ids[1]), len(ids[2]))
    whole, weights = np.concatenate(ids), np.ones(sum(lengths), dtype=np.float32)
    packed = Example("packed", whole, weights, np.concatenate(parts), lengths)
    assert [text.strip() for text in targets([packed], chat)] == ["a time", "Yes"]
    two_turns = np.concatenate([ids[1], ids[0], ids[2]])
    by_turn = np.concatenate([parts[1], parts[0], parts[2]])
    turns = Example("turns", two_turns, weights, by_turn)
    assert [[line.strip() for line in text.split("\n")] for text in targets([turns], chat)] == [["a time", "Yes"]]
    slow = Example("slow", whole, np.where(np.arange(len(whole)) < len(ids[0]), 0, weights))
    assert [text.strip() for text in targets([slow], chat)] == [chat.tokenizer.decode(whole[len(ids[0]) :]).strip()]


def test_targets_that_the_index_cannot_hold_are_said_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chat = small.chat()
    ids = [np.array(chat.tokenizer.encode(text, add_special_tokens=False)) for text in ("a time", "Yes", "No")]
    rows = [Example(str(number), one, np.ones(len(one), dtype=np.float32)) for number, one in enumerate(ids)]
    assert targets_of(rows, chat)().num_targets == 3
    assert not caplog.records
    monkeypatch.setattr("harness.evals.targets.TargetIndex", partial(TargetIndex, max_words=3))
    assert targets_of(rows, chat)().num_targets == 1
    assert "2 of 3 training targets are beyond" in caplog.text


def test_score_of_a_slice_that_leaves_items_out_says_so(tmp_path: Path) -> None:
    context = small.Context(small.Store(tmp_path / "out"))
    spec = small.evals(task("instruct", tmp_path, INSTRUCT), val_share=0.0)
    scores = score_after(small.llama(), small.chat(), spec, context, context.store.trial("one"), TRAINED)
    assert scores is not None
    score = scores.test["small/instruct/prompt_strict"]
    assert (score.num_items, score.reason) == (2, f"1 items are left out: {LEFT_OUT}")


def test_questions_hold_what_every_item_asks_once(tmp_path: Path) -> None:
    tasks = [*small.every_kind(tmp_path, 3), *all_kinds(tmp_path)]
    spec = small.evals(*tasks)
    rows = pd.DataFrame(questions(small.chat(), spec))
    asked = pd.DataFrame(item_rows(small.llama(), small.chat(), spec, batch_size=4))
    keys = ["suite", "task", "item_id"]
    pd.testing.assert_frame_equal(rows[keys], asked[keys].drop_duplicates().reset_index(drop=True))
    by_task = rows.groupby("task").first()
    assert by_task.loc["multiple_choice", "reference"] == "Paris by the sea"
    assert by_task.loc["number", "reference"] == "1"
    assert "What is 0 + 1?" in by_task.loc["number", "prompt"]
    assert rows[rows["task"] == "open"]["reference"].isna().all()
    assert rows.set_index("item_id")["instructions"].dropna().to_dict() == {"i0": WORDS, "i1": f"{WORDS} {WORDS}"}


def test_questions_are_cut_with_a_mark(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.parquet", [QuestionRow("s", "t", "a", "x" * 10**5, None)])
    (row,) = pd.read_parquet(tmp_path / "q.parquet").to_dict("records")
    assert len(row["prompt"]) == LONGEST_PROMPT
    assert row["prompt"].endswith(CUT_MARK)


def test_chance_of_each_item_is_one_over_its_choices(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "query": "q", "choices": ["x", "y"], "gold": 0},
        {"id": "b", "query": "r", "choices": ["x", "y", "z", "w"], "gold": 0},
    ]
    spec = small.evals(small.task("multiple_choice", small.write_items(tmp_path / "m.jsonl", rows)), val_share=0.0)
    found = pd.DataFrame(item_rows(small.llama(), small.chat(), spec, batch_size=4))
    chance = found.pivot_table(index="item_id", columns="metric", values="chance", dropna=False)
    assert chance["acc"].to_list() == chance["acc_norm"].to_list() == [0.5, 0.25]
    assert chance["gold_logprob"].isna().all()


TRAINED = TrainSummary(
    num_steps=1,
    num_epochs=1.0,
    num_examples_seen=1,
    num_tokens=1,
    num_loss_tokens=1,
    learning_rate_integral=1.0,
    trainable_parameters=1,
    total_parameters=1,
    train_loss_first=1.0,
    train_loss_last=1.0,
    val_loss=None,
    stopped_early=False,
    divergence=None,
)
