from __future__ import annotations

import math
from typing import Any

import pytest
from lm_eval.api.task import ConfigurableTask

from harness.evals import container
from harness.evals.documents import documents
from harness.evals.generated import Generation
from harness.evals.lm_tasks import Documents
from harness.evals.metrics import METRICS, output
from harness.evals.normalise import normalise
from harness.evals.table import CUT, NOT_FINITE, TOO_LONG, ItemRow, aggregate
from harness.records.schema import METRICS_OF
from harness.spec import GENERATED, FileItems
from tests.evals import small
from tests.specs import HASH

NOWHERE = FileItems(sha256=HASH, path="/nowhere")
CHOICES = {"id": "a", "context": "q", "choices": ["dog", "a very long tale"], "gold": 1,
           "continuations": [" dog", " a very long tale"]}  # fmt: skip


def test_multiple_choice_by_hand_prefers_the_short_by_sum_and_the_long_per_byte() -> None:
    results = [(-6.0, False), (-16.0, False)]
    values = METRICS["multiple_choice"](CHOICES, results)
    assert values == {"acc": 0.0, "acc_norm": 1.0, "gold_logprob": -16.0}
    assert output("multiple_choice", CHOICES, results) == "dog"


def test_multiple_choice_equals_the_measures_of_lm_eval() -> None:
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_bytes")]
    config = {
        "task": "t",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "test_split": "test",
        "num_fewshot": 0,
        "custom_dataset": lambda **_: {"test": Documents([CHOICES])},
        "metric_list": metrics,
    }
    theirs = ConfigurableTask(config=config)
    for sums in ((-6.0, -16.0), (-3.0, -2.0), (-1.0, -5.5), (-4.0, -4.0)):
        results = [(value, False) for value in sums]
        ours = METRICS["multiple_choice"](CHOICES, results)
        expected = theirs.process_results(CHOICES, results)
        assert (ours["acc"], ours["acc_norm"]) == (expected["acc"], expected["acc_bytes"])


def test_bits_per_byte_by_hand_count_utf8_bytes() -> None:
    document = {"id": "a", "text": "é" * 4}
    assert METRICS["perplexity"](document, [-16 * math.log(2)]) == {"bits_per_byte": 2.0}


@pytest.mark.parametrize(
    ("said", "matches", "empty"),
    [
        ("Paris", 1, 0),
        ("  paris.\n", 1, 0),
        ("“Paris”.", 1, 0),
        ("In  Paris!", 1, 0),
        ("the Paris", 0, 0),
        ("Paris, I think", 0, 0),
        ("", 0, 1),
        (" . ", 0, 1),
    ],
)
def test_exact_match_is_strict_up_to_case_space_quotes_and_final_punctuation(
    said: str, matches: float, empty: float
) -> None:
    document = {"id": "a", "answer": "Paris", "references": ["Paris", "In Paris"]}
    values = METRICS["generate"](document, [Generation(said, stopped=True)])
    assert values == {"exact_match": matches, "end_of_turn": 1.0, "empty": empty}


@pytest.mark.parametrize(("said", "matches"), [("BAKER", 1), (" BAKER. ", 1), ("Baker", 0), ("baker", 0)])
def test_case_counts_where_the_item_says_so(said: str, matches: float) -> None:
    document = {"id": "a", "answer": "BAKER", "references": ["BAKER"]}
    answers = [Generation(said, stopped=True)]
    assert METRICS["generate"](document | {"keep_case": True}, answers)["exact_match"] == matches
    assert METRICS["generate"](document, answers)["exact_match"] == 1.0


def test_empty_answer_matches_no_reference() -> None:
    document = {"id": "a", "answer": ".", "references": [".", '"', "Paris"]}
    values = METRICS["generate"](document, [Generation("", stopped=True)])
    assert (values["exact_match"], values["empty"]) == (0.0, 1.0)


def test_normalised_numbers_and_inner_punctuation_stay() -> None:
    assert [normalise(text) for text in ("-734", "1,000.5", "a.b.", "$5")] == ["-734", "1,000.5", "a.b", "$5"]


@pytest.mark.parametrize(
    ("kind", "document", "results"),
    [
        ("multiple_choice", CHOICES, [(-1.0, False), (math.nan, False)]),
        ("schema", CHOICES, [(-1.0, False), (math.nan, False)]),
        ("greedy", {"id": "a"}, [(math.nan, False)]),
        ("generate", {"id": "a", "references": ["x"]}, [Generation("x", stopped=True, is_finite=False)]),
        ("perplexity", {"id": "a", "text": "x"}, [math.nan]),
    ],
)
def test_unknown_is_never_zero(kind: str, document: dict[str, Any], results: list[Any]) -> None:
    assert math.isnan(METRICS[kind](document, results)[METRICS_OF[kind][0]])


def test_every_kind_has_the_metrics_that_its_record_names_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"perplexity": [-1.0], "greedy": [(-1.0, True)]}
    results |= {kind: [Generation("x", stopped=True)] for kind in GENERATED}
    document = CHOICES | {"references": ["x"], "text": "x", "options": [], "unsafe": True, "asked": "q"}
    document |= {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    document |= {"begun": "def f():\n", "entry_point": "f", "test": "def check(candidate):\n    candidate()\n"}
    monkeypatch.setattr(container, "passes", lambda _: True)
    for kind, metric in METRICS.items():
        assert tuple(metric(document, results.get(kind, [(-1.0, True), (-2.0, True)]))) == METRICS_OF[kind]
    assert METRICS.keys() == METRICS_OF.keys()


# -- aggregates -------------------------------------------------------------------------------------------------------


def _row(value: float | None, split: str = "test", cluster: str = "c", reason: str | None = None) -> ItemRow:
    return ItemRow("s", "t", "i", cluster, split, "acc", value, None, reason)


def test_score_is_the_mean_over_its_split_with_items_and_clusters_counted() -> None:
    rows = [_row(1.0, cluster="a"), _row(0.0, cluster="a"), _row(0.0, cluster="b"), _row(1.0, split="val")]
    score = aggregate(rows, "test")["s/t/acc"]
    assert (score.value, score.num_items, score.num_clusters, score.reason) == (pytest.approx(1 / 3), 3, 2, None)
    assert aggregate(rows, "val")["s/t/acc"].value == 1.0


def test_score_without_items_is_unknown_with_a_reason() -> None:
    score = aggregate([_row(1.0)], "val")["s/t/acc"]
    assert (score.value, score.num_items, score.reason) == (None, 0, "no val items")


def test_score_leaves_out_what_does_not_fit_but_nothing_that_broke() -> None:
    fits = aggregate([_row(1.0), _row(1.0, reason=CUT), _row(None, reason=TOO_LONG)], "test")["s/t/acc"]
    assert (fits.value, fits.num_items) == (1.0, 2)
    assert fits.reason == f"1 of 3 items: {CUT}; 1 of 3 items: {TOO_LONG}"
    broke = aggregate([_row(1.0), _row(None, reason=NOT_FINITE)], "test")["s/t/acc"]
    assert (broke.value, broke.reason) == (None, f"1 of 2 items: {NOT_FINITE}")


def test_score_has_the_chance_of_its_measured_items_or_none() -> None:
    rows = [_row(1.0)._replace(chance=0.5), _row(0.0)._replace(chance=0.25), _row(None, reason=TOO_LONG)]
    assert aggregate(rows, "test")["s/t/acc"].chance == pytest.approx(0.375)
    assert aggregate([*rows, _row(1.0)], "test")["s/t/acc"].chance is None
    assert aggregate([_row(1.0)], "test")["s/t/acc"].chance is None


# -- what the model is shown ------------------------------------------------------------------------------------------


def _document(kind: str, item: dict[str, Any], *, chat: bool = False, template: str = "chatml_lite") -> dict[str, Any]:
    task = small.task(kind, NOWHERE, chat=chat)
    return documents([{"id": "a"} | item], task, small.chat(template=template), seed=0)[0]


@pytest.mark.parametrize(
    ("query", "choice", "continuation"),
    [("It is", "red", " red"), ("It is", " red", " red"), ("", "Red.", "Red."), ("It is\n", "red", " red")],
)
def test_raw_choice_follows_one_space_unless_it_is_the_sentence(query: str, choice: str, continuation: str) -> None:
    document = _document("multiple_choice", {"query": query, "choices": [choice, "x"], "gold": 0})
    assert (document["context"], document["continuations"][0]) == (query, continuation)


@pytest.mark.parametrize(
    ("context", "continuation", "delimiter", "expected"),
    [
        ("12+7=", "19", "", "19"),
        ("12 + 7 =", " 19", None, " 19"),
        ("12 + 7 =", "19", None, " 19"),
        ("A:\n", "19", None, "19"),
    ],
)
def test_raw_continuation_has_one_space_where_neither_side_brings_any(
    context: str, continuation: str, delimiter: str | None, expected: str
) -> None:
    item = {"context": context, "continuation": continuation}
    assert (
        _document("greedy", item if delimiter is None else item | {"delimiter": delimiter})["continuation"] == expected
    )


@pytest.mark.parametrize("template", ["chatml_lite", "chatml", "llama2", "gemma", "mistral", "alpaca", "plain"])
def test_chat_choice_follows_the_prompt_as_training_writes_it(template: str) -> None:
    document = _document(
        "multiple_choice", {"query": "Who?", "choices": ["Ann", "Bo"], "gold": 0}, chat=True, template=template
    )
    chat = small.chat(template=template)
    for choice, continuation in zip(["Ann", "Bo"], document["continuations"], strict=True):
        whole = chat.render([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": choice}])
        assert whole.startswith(document["context"] + continuation)
        assert continuation.endswith(choice)
