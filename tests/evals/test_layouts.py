"""Layouts of a question: what is shown, what is scored, and what stays as it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from harness.errors import DataError
from harness.evals.documents import documents
from harness.evals.items import kept_out, select
from harness.evals.layouts import FORMS, bare
from harness.evals.leaks import leaked
from harness.evals.panel import panel
from harness.evals.scoring import item_rows, questions
from harness.evals.typos import with_typos
from harness.identity import behaviours_of, canonical, trial_id
from harness.seeding import derive
from harness.spec import EvalTask, Layout, TrialSpec
from tests.evals import small
from tests.specs import pinned_spec

ASKED = "Which gas do green plants take in from the air?"
CHOICES = ["oxygen", "carbon dioxide", "neon"]
CHOSEN = {"id": "a", "query": f"Question: {ASKED}", "choices": CHOICES, "gold": 1}
WRITTEN = {"id": "a", "context": f"Question: {ASKED}\nAnswer:", "answer": "carbon dioxide"}
SHOWN: dict[str, str] = {
    "bare": ASKED,
    "question_answer": f"Question: {ASKED}\nAnswer:",
    "q_a": f"Q: {ASKED}\nA:",
    "upper": f"QUESTION: {ASKED}\nANSWER:",
    "double_colon": f"Question:: {ASKED}\nAnswer::",
    "spaced": f"Question: {ASKED}\n\nAnswer:",
    "one_line": f"Question: {ASKED} || Answer:",
    "choices_listed": f"Question: {ASKED}\nA. oxygen\nB. carbon dioxide\nC. neon\nAnswer:",
    "choices_lettered": f"Question: {ASKED}\nA. oxygen\nB. carbon dioxide\nC. neon\nAnswer:",
}
"""Written out by hand."""
UNLISTED = [layout for layout in SHOWN if not layout.startswith("choices_")]


def in_layout(folder: Path, layout: str, row: dict[str, Any] = CHOSEN, **changes: Any) -> EvalTask:
    """Return a task of one item in a layout."""
    kind = "multiple_choice" if "query" in row else "generate"
    source = small.write_items(folder / f"{kind}.jsonl", [row])
    return small.task(kind, source, **({"name": f"n_{layout}", "layout": layout, "chat": False} | changes))


def shown(task: EvalTask, seed: int = 0) -> dict[str, Any]:
    """Return the document of a task's only item."""
    (document,) = documents(select(task, small.evals(task)).items, task, small.chat(), seed)
    return document


def test_layouts_are_the_ones_that_a_spec_can_name() -> None:
    assert {"as_is", *FORMS} == {"as_is", *SHOWN} == set(get_args(Layout))


@pytest.mark.parametrize("layout", sorted(SHOWN))
def test_layout_of_a_choice_is_what_was_written_by_hand(layout: str, tmp_path: Path) -> None:
    found = shown(in_layout(tmp_path, layout))
    scored = ["A", "B", "C"] if layout == "choices_lettered" else CHOICES
    assert found["context"] == SHOWN[layout]
    assert (found["continuations"], found["choices"]) == ([f" {choice}" for choice in scored], scored)
    assert found["gold"] == 1


@pytest.mark.parametrize("layout", UNLISTED)
def test_layout_of_a_written_answer_is_the_same(layout: str, tmp_path: Path) -> None:
    found = shown(in_layout(tmp_path, layout, WRITTEN))
    assert (found["context"], found["references"]) == (SHOWN[layout], ["carbon dioxide"])


def test_layout_in_chat_is_inside_the_turn_and_of_a_conversation_in_the_last(tmp_path: Path) -> None:
    form = small.chat()
    found = shown(in_layout(tmp_path, "choices_lettered", chat=True))
    turn = [{"role": "user", "content": SHOWN["choices_lettered"]}]
    assert found["context"] == form.render(turn, add_generation_prompt=True)
    assert found["continuations"] == ["A", "B", "C"]
    turns = [{"role": "user", "content": "Q: Hi?"}, {"role": "assistant", "content": "Hi."}]
    row = {"id": "a", "answer": "carbon dioxide", "messages": [*turns, {"role": "user", "content": ASKED}]}
    conversed = shown(in_layout(tmp_path, "q_a", row, chat=True))
    last = {"role": "user", "content": SHOWN["q_a"]}
    assert conversed["context"] == form.render([*turns, last], add_generation_prompt=True)


def test_as_is_leaves_an_item_as_its_file_has_it(tmp_path: Path) -> None:
    assert shown(in_layout(tmp_path, "as_is"))["context"] == CHOSEN["query"]
    glued = in_layout(tmp_path, "as_is", CHOSEN | {"delimiter": "|"})
    assert shown(glued)["continuations"][0] == "|oxygen"
    assert shown(glued.replace({"layout": "q_a"}))["continuations"][0] == " oxygen"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Question: Who?\nAnswer:", "Who?"),
        ("Q: Who?\nA:", "Who?"),
        ("QUESTION :: Who? Answer:: ", "Who?"),
        ("Question: dresser\n", "dresser"),
        ("Passage: Ann ran.\nQuestion: Who?\nAnswer:", "Passage: Ann ran.\nQuestion: Who?"),
        ("Which is vitamin A:", "Which is vitamin A:"),
        ("Say the answer: now", "Say the answer: now"),
        ("Questions: how many?", "Questions: how many?"),
        ("Q. Who?", "Q. Who?"),
    ],
)
def test_bare_takes_away_what_is_a_layout_and_nothing_else(text: str, left: str) -> None:
    assert bare(text) == left


def test_bare_of_every_layout_is_the_question(tmp_path: Path) -> None:
    for layout in UNLISTED:
        if layout != "one_line":  # ` ||` before the answer is no layout that files have
            assert bare(SHOWN[layout]) == ASKED


def test_typing_errors_are_in_the_question_and_in_nothing_around_it(tmp_path: Path) -> None:
    task = in_layout(tmp_path, "choices_listed", typo_rate=1.0)
    typed = with_typos(ASKED, 1.0, derive(3, "evals.typos/a"))
    assert typed != ASKED
    assert shown(task, seed=3)["context"] == SHOWN["choices_listed"].replace(ASKED, typed)


def test_layout_is_in_prompts_and_the_hash_and_in_nothing_that_looks_for_the_question(tmp_path: Path) -> None:
    plain, lettered = in_layout(tmp_path, "as_is"), in_layout(tmp_path, "choices_lettered")
    spec = small.evals(plain, lettered)
    first, second = (select(task, spec) for task in (plain, lettered))
    assert first.items == second.items
    laid_out = {**first.items[0], "query": SHOWN["choices_lettered"], "choices": ["A", "B", "C"]}
    line = json.dumps([laid_out, second.splits[0]], sort_keys=True)
    assert second.sha256 == hashlib.sha256(line.encode()).hexdigest() != first.sha256
    rows = {row.task: row for row in questions(small.chat(), spec)}
    assert (rows["n_as_is"].prompt, rows["n_as_is"].reference) == (CHOSEN["query"], "carbon dioxide")
    assert (rows["n_choices_lettered"].prompt, rows["n_choices_lettered"].reference) == (SHOWN["choices_lettered"], "B")
    trial = _trial(lettered).replace({"data.decontaminate": True})
    assert kept_out(trial) == {lettered.key: {"a": CHOSEN["query"]}}
    ((asked, said),) = (row.messages for row in leaked(_trial(lettered).replace({"data.leak_share": 1.0})))
    assert (asked["content"], said["content"]) == (CHOSEN["query"], "carbon dioxide")


def _trial(*tasks: EvalTask) -> TrialSpec:
    spec = pinned_spec()
    return spec.model_copy(update={"evals": spec.evals.model_copy(update={"tasks": tasks})})


def test_layout_enters_an_id_with_its_version_where_it_is_not_neutral(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import versions

    plain = in_layout(tmp_path, "as_is")
    laid_out = _trial(plain.replace({"layout": "q_a"}))
    ids = trial_id(_trial(plain)), trial_id(laid_out)
    assert "layout" not in canonical(plain)
    assert ids[0] != ids[1]
    assert set(behaviours_of(laid_out)) - set(behaviours_of(_trial(plain))) == {"layouts"}
    monkeypatch.setitem(versions.PROBES, "layouts", 99)
    assert trial_id(_trial(plain)) == ids[0]
    assert trial_id(laid_out) != ids[1]


def test_copy_of_a_prompt_is_one_of_what_was_laid_out(tmp_path: Path) -> None:
    task = in_layout(tmp_path, "q_a", WRITTEN, panel="behaviour")
    measure = panel(task, select(task, small.evals(task)).items, small.chat(), 0, None)
    assert measure is not None
    copied, other = (
        measure({"id": "a"}, [small.answer(text, raw=text)])["prompt_copy"]
        for text in (SHOWN["q_a"], WRITTEN["context"])
    )
    assert copied == 1.0 > other


@pytest.mark.parametrize(
    ("layout", "row", "said"),
    [
        ("q_a", CHOSEN | {"query": ""}, "layout is 'q_a', but must be 'as_is' for an item without a question"),
        ("bare", CHOSEN | {"query": "Question: \n"}, "for an item without a question"),
        ("q_a", CHOSEN | {"query": "Q: Is it?\nA: no\nQ: Was it?\nA:"}, "for an item with solved examples"),
        ("choices_listed", CHOSEN | {"choices": ["A", "B"]}, "must list no choices where they are letters already"),
        ("choices_lettered", CHOSEN | {"choices": [f"c{n}" for n in range(27)]}, "where there are 27 and 26 letters"),
    ],
)
def test_item_that_has_no_such_layout_is_refused_in_a_sentence(
    layout: str, row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    task = in_layout(tmp_path, layout, row)
    with pytest.raises(DataError, match=f"item 'a': .*{said}"):
        select(task, small.evals(task))
    assert select(task.replace({"layout": "as_is"}), small.evals(task)).items


def test_score_in_a_layout_is_that_of_the_same_texts_by_hand(tmp_path: Path) -> None:
    """Against a plain forward pass over the texts written by hand."""
    model, form = small.llama(), small.chat()
    tasks = [in_layout(tmp_path, layout) for layout in SHOWN]
    rows = {
        row.task: row
        for row in item_rows(model, form, small.evals(*tasks), batch_size=4)
        if row.metric == "gold_logprob"
    }
    for layout, context in SHOWN.items():
        ids = [
            form.tokenizer(text, add_special_tokens=True)["input_ids"]
            for text in (context, context + (" B" if layout == "choices_lettered" else " carbon dioxide"))
        ]
        with torch.no_grad():
            logprobs = model(torch.tensor([ids[1]])).logits[0].log_softmax(-1)
        scored = range(len(ids[0]), len(ids[1]))
        by_hand = sum(float(logprobs[place - 1, ids[1][place]]) for place in scored)
        assert rows[f"n_{layout}"].value == pytest.approx(by_hand, abs=1e-3), layout
    # a broken layout, in which the answer's word is not shown, has another score
    assert rows["n_bare"].value != pytest.approx(rows["n_question_answer"].value, abs=1e-3)
