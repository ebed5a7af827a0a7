"""Shares of answers, matches and the instruction-level score, by hand and against statsmodels and lm-eval."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nltk
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analysis import answers
from analysis.answers import answers_table, language_match, outcome_of, ratio_change, style_of_pair, told_frame
from analysis.context import Context
from analysis.matrices import Matrix
from analysis.opened import open_sweep
from analysis.sections import answers as section
from harness.evals.kinds import instruct
from harness.records.store import Store
from tests.analysis import synthetic
from tests.analysis.conftest import ARM
from tests.analysis.test_report import HOSTILE
from tests.analysis.undrawn import write_undrawn
from tests.evals import small

GOOD, BAD, DOUBT, NOTHING = "Oslo", "Bergen", "I don't know.", ' ". '
LONG = {"en": "The tea is good and very hot, sir.", "de": "Der Tee ist gut und sehr heiß, mein Herr."}


def answered(
    before: list[str | None], after: list[str | None], seed: int = 0, kind: str = "generate", **columns: Any
) -> pd.DataFrame:
    """Return rows of one trial as `answered_frame` has them; an answer is right where it is `GOOD`."""
    names = [f"i{n}" for n in range(len(before))]
    rows: dict[str, Any] = {"trial_id": f"t{seed}", "condition": "c", "condition_id": "c", "arm": "a", "seed": seed}
    rows |= {"world": None, "suite": "s", "task": "q", "slice": "s/q", "task_kind": kind, "split": "test"}
    rows |= {"metric": "exact_match", "item_id": names, "cluster": names, "prompt": "Where?", "reference": GOOD}
    rows |= {"output_before": before, "output_after": after, "reason_before": None, "reason_after": None}
    rows |= {"before": [float(text == GOOD) for text in before], "after": [float(text == GOOD) for text in after]}
    rows |= {"instructions": None}
    return pd.DataFrame(rows | columns)


def planned(num_trials: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"condition": ["c"] * num_trials, "trial_id": [f"t{n}" for n in range(num_trials)]})


def table(rows: pd.DataFrame, items: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the table by metric."""
    nothing = pd.DataFrame(columns=["metric", "suite", "task", "item_id", "trial_id", "condition", "before", "after"])
    told = told_frame(rows, nothing if items is None else items)
    return answers_table(told, planned(rows["trial_id"].nunique())).set_index("metric")


# -- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "text", "outcome"),
    [(1.0, GOOD, "right"), (1.0, DOUBT, "right"), (0.0, DOUBT, "abstained"), (0.0, BAD, "hallucinated"),
     (0.0, NOTHING, "empty"), (0.0, "", "empty"), (1.0, None, "right")],
)  # fmt: skip
def test_outcome_of_an_answer_is_one_of_four(score: float, text: str | None, outcome: str) -> None:
    assert outcome_of(score, text) == (outcome, None)


def test_outcome_without_a_score_or_an_answer_is_unknown_and_says_why() -> None:
    assert outcome_of(math.nan, GOOD) == (None, "the answer has no score")
    assert outcome_of(0.0, None) == (None, answers.NO_OUTPUT)


def test_shares_are_those_by_hand_and_add_up_to_1() -> None:
    before = [GOOD, GOOD, BAD, BAD, BAD, DOUBT, NOTHING, BAD]
    after = [GOOD, BAD, GOOD, DOUBT, DOUBT, DOUBT, BAD, BAD]
    found = table(answered(before, after))
    assert found.loc[list(answers.OUTCOMES), "before"].tolist() == pytest.approx([2 / 8, 1 / 8, 4 / 8, 1 / 8])
    assert found.loc[list(answers.OUTCOMES), "after"].tolist() == pytest.approx([2 / 8, 3 / 8, 3 / 8, 0])
    assert found.loc["abstained", "delta"] == pytest.approx(2 / 8)
    assert found.loc["abstained", "low"] < 2 / 8 < found.loc["abstained", "high"]
    assert found["direction"].to_dict()["hallucinated"] == "less"
    assert found.loc["abstained", "direction"] == "none"


def test_shares_add_up_to_1_over_the_same_answers_where_some_are_unknown() -> None:
    rows = answered([GOOD, BAD, None, BAD], [BAD, DOUBT, BAD, None])
    found = table(rows)
    assert set(found.loc[list(answers.OUTCOMES), "num_items"]) == {2}
    assert found.loc[list(answers.OUTCOMES), "after"].sum() == pytest.approx(1.0)
    assert found.loc["right", "note"].endswith(f"unknown: {answers.NO_OUTPUT} (2)")
    counted = found.loc[list(answers.OUTCOMES), "before"].sum()
    assert counted == pytest.approx(1.0)


def test_share_of_a_right_answer_in_words_of_doubt_is_no_abstention_and_would_be_without_the_score() -> None:
    rows = answered([BAD] * 4, ["Unknown"] * 4, reference="unknown").assign(after=1.0)
    assert table(rows).loc["abstained", "after"] == 0.0
    assert answers.is_abstention("Unknown")


def test_share_has_the_clustered_interval_of_statsmodels_under_one_seed() -> None:
    draw = np.random.default_rng(3)
    texts = (GOOD, BAD, DOUBT)
    before, after = ([texts[n] for n in draw.integers(0, 3, 120)] for _ in range(2))
    clusters = [f"p{n // 4}" for n in range(120)]
    found = table(answered(before, after, cluster=clusters)).loc["hallucinated"]
    change = np.array([text == BAD for text in after], float) - np.array([text == BAD for text in before], float)
    codes = np.arange(120) // 4
    fit = sm.OLS(change, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    assert (found["delta"], found["low"], found["high"]) == pytest.approx((fit.params[0], *fit.conf_int()[0]))
    assert (found["kind"], found["num_clusters"]) == ("items only", 30)


def test_share_over_seeds_is_wider_than_that_of_their_mean_where_seeds_differ() -> None:
    draw = np.random.default_rng(4)
    parts = []
    for seed, share in enumerate((0.1, 0.4, 0.7)):
        after = [DOUBT if chance < share else BAD for chance in draw.uniform(size=100)]
        parts.append(answered([BAD] * 100, after, seed))
    found = table(pd.concat(parts, ignore_index=True)).loc["abstained"]
    alone = table(parts[0]).loc["abstained"]
    assert (found["num_seeds"], found["num_planned"], found["trial_ids"]) == (3, 3, "t0 t1 t2")
    assert found["high"] - found["low"] > 4 * (alone["high"] - alone["low"])


# -- language and style -----------------------------------------------------------------------------------------------


def test_language_is_compared_with_the_reference_or_else_with_the_prompt() -> None:
    assert language_match(LONG["en"], LONG["en"], LONG["de"]) == (1.0, None)
    assert language_match(LONG["de"], LONG["en"], LONG["de"]) == (0.0, None)
    assert language_match(LONG["de"], GOOD, LONG["de"]) == (1.0, None)
    assert language_match(LONG["de"], None, LONG["en"]) == (0.0, None)


@pytest.mark.parametrize(
    ("texts", "why"),
    [((GOOD, LONG["en"], None), "answer: under 20 letters"), ((None, GOOD, None), answers.NO_OUTPUT),
     ((LONG["en"], GOOD, "Where?"), "question: under 20 letters"), ((LONG["en"], None, None), answers.NO_QUESTION)],
)  # fmt: skip
def test_language_that_cannot_be_told_is_unknown_and_says_why(texts: tuple[str | None, ...], why: str) -> None:
    value, reason = language_match(*texts)
    assert (math.isnan(value), reason) == (True, why)


def test_style_of_an_empty_answer_or_without_a_reference_is_unknown() -> None:
    assert style_of_pair("- a", "- b") == (1.0, None)
    for pair, why in (((NOTHING, "- b"), answers.EMPTY), (("- a", None), answers.NO_REFERENCE)):
        assert (math.isnan(style_of_pair(*pair)[0]), style_of_pair(*pair)[1]) == (True, why)


def test_matches_in_the_table_are_means_over_the_answers_that_tell() -> None:
    before = [LONG["en"], LONG["en"], "- a", GOOD]
    after = [LONG["de"], LONG["en"], "- a!", GOOD]
    found = table(answered(before, after, reference=["!", LONG["en"], "- b", GOOD], prompt=LONG["en"]))
    language, style = found.loc["language_match"], found.loc["style_match"]
    assert (language["num_items"], language["before"], language["after"]) == (2, 1.0, 0.5)
    assert language["note"].endswith("unknown: answer: under 20 letters (4)")
    assert (style["before"], style["after"]) == pytest.approx((3 / 4, (0 + 1 + 1 / 2 + 1) / 4))


# -- instructions -----------------------------------------------------------------------------------------------------

NUMBERS = np.array([1, 2, 3, 1, 2, 3, 3, 1])
DONE_BEFORE = np.array([0, 1, 3, 0, 2, 0, 1, 1])
DONE_AFTER = np.array([1, 2, 3, 1, 1, 2, 3, 0])


def prompts(numbers: np.ndarray, seed: int = 0, **columns: Any) -> pd.DataFrame:
    names = [" ".join(["punctuation:no_comma"] * number) for number in numbers]
    texts = ["words"] * len(numbers)
    return answered(texts, texts, seed, "instruct", instructions=names, metric="prompt_strict", **columns)


def followed(rows: pd.DataFrame, before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """Return the item rows of these counts of instructions followed."""
    numbers = rows["instructions"].str.split().str.len().fillna(1)
    shares = rows.assign(before=before / numbers, after=after / numbers)
    return pd.concat([shares.assign(metric=name) for name in ("followed_strict", "followed_loose")], ignore_index=True)


@pytest.fixture(scope="module")
def lm_eval_ifeval() -> Iterator[Any]:
    """lm-eval's own task, without what it downloads at import."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("immutabledict") is None:
            stand_in: Any = ModuleType("immutabledict")
            stand_in.immutabledict = dict
            patch.setitem(sys.modules, "immutabledict", stand_in)
        patch.setattr(nltk.data, "find", lambda *_: None)
        yield importlib.import_module("lm_eval.tasks.ifeval.utils")


def test_instruction_level_is_the_ratio_by_hand_and_not_the_mean_of_shares() -> None:
    rows = prompts(NUMBERS)
    found = table(rows, followed(rows, DONE_BEFORE, DONE_AFTER)).loc["instructions_strict"]
    assert (found["before"], found["after"]) == pytest.approx((8 / 16, 13 / 16))
    assert found["delta"] == pytest.approx(5 / 16)
    assert found["after"] != pytest.approx(np.mean(DONE_AFTER / NUMBERS))
    assert found["note"] == "16 instructions in 8 prompts"


def test_instruction_level_is_what_lm_eval_aggregates(lm_eval_ifeval: Any) -> None:
    kinds = ("punctuation:no_comma", "change_case:english_lowercase", "detectable_format:title")
    texts = ["the tea is good.", "<<Tea>>\nis good, yes.", "the *tea* is good for you", "Tea, tea"]
    rows, shares, told = [], [], {"strict": [], "loose": []}
    for place, text in enumerate(texts):
        names = list(kinds[: 1 + place % 3])
        document = {"asked": "q", "instruction_id_list": names, "kwargs": [{}] * len(names)}
        values = instruct.metrics(document, [small.answer(text)])
        rows.append(" ".join(names))
        shares.append(values)
        doc = {"key": 0, "prompt": "q", "instruction_id_list": names, "kwargs": [{}] * len(names)}
        theirs = lm_eval_ifeval.process_results(doc, [text])
        for level in told:
            told[level].append(theirs[f"inst_level_{level}_acc"])
    asked = prompts(np.ones(len(texts), int)).assign(instructions=rows)
    items = pd.concat(
        [
            asked.assign(metric=name, before=0.0, after=[values[name] for values in shares])
            for name in ("followed_strict", "followed_loose")
        ]
    )
    found = table(asked, items)
    for level, verdicts in told.items():
        expected = lm_eval_ifeval.agg_inst_level_acc(verdicts)
        assert 0 < expected < 1
        assert found.loc[f"instructions_{level}", "after"] == pytest.approx(expected)


def test_instruction_level_has_the_clustered_interval_of_weighted_least_squares() -> None:
    draw = np.random.default_rng(5)
    numbers, codes = draw.integers(1, 4, 90), np.arange(90) // 3
    before, after = (draw.binomial(numbers, share) for share in (0.3, 0.6))
    rows = prompts(numbers, cluster=[f"p{code}" for code in codes])
    found = table(rows, followed(rows, before, after)).loc["instructions_loose"]
    fit = sm.WLS((after - before) / numbers, np.ones(90), weights=numbers).fit(
        cov_type="cluster", cov_kwds={"groups": codes}, use_t=True
    )
    assert (found["delta"], found["low"], found["high"]) == pytest.approx((fit.params[0], *fit.conf_int()[0]))
    unweighted = sm.OLS((after - before) / numbers, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert unweighted.params[0] != pytest.approx(fit.params[0], abs=1e-3)


def test_instruction_level_interval_covers_the_truth_where_seeds_and_prompts_differ() -> None:
    draw, covered, num_sweeps = np.random.default_rng(6), 0, 300
    codes, seeds = np.arange(60), np.arange(5)
    for _ in range(num_sweeps):
        numbers, ease = draw.integers(1, 4, 60)[:, None], draw.beta(2, 2, (60, 1))
        rates = np.clip(ease + draw.normal(0, 0.03, (1, 5)), 0, 1)
        before, after = (draw.binomial(numbers, rate, (60, 5)) / numbers for rate in (0.3, rates))
        _, _, effect = ratio_change(Matrix(codes, codes, seeds, before, after), numbers[:, 0].astype(float))
        covered += effect.low <= 0.2 <= effect.high
    assert 0.91 <= covered / num_sweeps <= 0.985  # 95 % and 3 standard errors of 300


def test_instruction_level_without_numbers_of_instructions_is_unknown_and_says_why() -> None:
    rows = prompts(NUMBERS).assign(instructions=None)
    found = table(rows, followed(rows, DONE_BEFORE, DONE_AFTER)).loc["instructions_strict"]
    assert math.isnan(found["after"])
    assert answers.NO_COUNT in found["note"]


# -- records ----------------------------------------------------------------------------------------------------------


def said(item: str, phase: str) -> str:
    number = int("".join(filter(str.isdigit, item)) or 3)
    return {0: DOUBT, 1: "", 2: LONG["en"]}.get(number % 4, f"{phase} - no idea what {HOSTILE}")


def write_questions(store: Store) -> None:
    for path in store.root.glob("artefacts/before/*/items.parquet"):
        keys = pd.read_parquet(path)[["suite", "task", "item_id"]].drop_duplicates()
        keys.assign(prompt=LONG["de"], reference=f"{LONG['en']} {HOSTILE}").to_parquet(
            path.with_name("questions.parquet")
        )


PLAN = synthetic.Plan(
    values=(25, 400), arms=(ARM,), seeds=(0, 1, 2), scale=0.2, output=said, outcomes={(ARM, 25, 1): "DIVERGED"}
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Two sizes, three seeds, one of them diverged, with questions."""
    store, folder = synthetic.build(tmp_path_factory.mktemp("answers"), PLAN)
    write_questions(store)
    return store, folder


def test_section_has_every_condition_and_slice_with_answers_and_numbers_of_the_records(made: tuple[Store, str]) -> None:
    context = Context(open_sweep(*made))
    content = section.compute(context)
    assert not isinstance(content, str)
    rows = pd.DataFrame(content.content["answers"])
    assert set(rows["slice"]) == {"people/question", "people/ends_turn"}
    assert set(rows["metric"]) == {*answers.OUTCOMES, "language_match", "style_match"}
    right = rows[rows["metric"] == "right"].set_index(["condition", "slice"])
    effects = context.effects[context.effects["target"] == "people/question/exact_match"].set_index("condition")
    for condition, effect in effects.iterrows():
        own = right.loc[(condition, "people/question")]
        names = ["before", "after", "delta", "low", "high", "num_seeds", "num_planned"]
        assert own[names].tolist() == pytest.approx(effect[names].tolist())
    shares = rows[rows["metric"].isin(answers.OUTCOMES)].groupby(["condition", "slice"])[["before", "after"]].sum()
    assert shares.to_numpy().ravel() == pytest.approx(1.0)
    assert rows.loc[rows["metric"] == "language_match", "after"].tolist() == [1.0] * 4


def test_report_shows_answers_and_writes_both_files(made: tuple[Store, str]) -> None:
    report = write_undrawn(made[0].root, made[1]).folder
    page, text = ((report / f"report.{kind}").read_text() for kind in ("html", "md"))
    part = page.split('<section id="answers">')[1].split("</section>")[0]
    assert "hallucinated ↓" in part
    assert "At equal length" in part
    assert "## Answers: known, abstained, made up" in text
    for name in ("answers.csv", "length_controlled.csv"):
        assert len(pd.read_csv(report / name)) > 0


def test_section_of_records_without_questions_or_outputs_says_what_is_missing(tmp_path: Path) -> None:
    store, folder = synthetic.build(tmp_path, PLAN)
    content = section.compute(Context(open_sweep(store, folder)))
    assert not isinstance(content, str)
    rows = pd.DataFrame(content.content["answers"]).set_index("metric")
    assert rows.loc["style_match", "note"].str.contains(answers.NO_REFERENCE).all()
    assert rows.loc["style_match", "delta"].isna().all()
    assert rows.loc["right", "delta"].notna().all()
    for path in store.root.rglob("items.parquet"):
        pd.read_parquet(path).assign(output=None).to_parquet(path)
    content = section.compute(Context(open_sweep(store, folder)))
    assert not isinstance(content, str)
    rows = pd.DataFrame(content.content["answers"]).set_index("metric")
    assert rows.loc["hallucinated", "note"].str.contains(answers.NO_OUTPUT).all()


def test_section_of_a_slice_without_a_score_has_none_of_its_answers(tmp_path: Path) -> None:
    store, folder = synthetic.build(tmp_path, PLAN)
    context = Context(open_sweep(store, folder))
    frame = context.frame.assign(**{"delta/people/question/exact_match": math.nan})
    rows = answers.answered_frame(context.sweep, context.items, frame)
    assert set(rows["slice"]) == {"people/ends_turn"}


def test_section_of_nothing_says_why(tmp_path: Path) -> None:
    plan = synthetic.Plan(values=(25,), arms=(ARM,), seeds=(0,), scale=0.1, outcomes={(ARM, 25, 0): "PENDING"})
    found = section.compute(Context(open_sweep(*synthetic.build(tmp_path, plan))))
    assert found == "no slice has answers in words with a score before and after"


def test_section_of_a_study_has_no_intervals(tmp_path: Path) -> None:
    plan = synthetic.Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1, kind="study", output=said)
    content = section.compute(Context(open_sweep(*synthetic.build(tmp_path, plan))))
    assert not isinstance(content, str)
    for name in ("answers", "controlled"):
        table = pd.DataFrame(content.content[name])
        assert table[[column for column in table.columns if "low" in column or "high" in column]].isna().all().all()
        assert set(table["kind"]) == {"sampled"}
