"""Several sampled answers to one item: the estimator, what is sampled, and what is kept of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from harness import models
from harness.evals import asking, score_after, score_before, scoring
from harness.evals import pass_at_k as subject
from harness.evals.container import SWITCH, why_not
from harness.evals.items import select
from harness.evals.pass_at_k import Judged, SampledRow, pass_at_k
from harness.evals.sampling import drawn
from harness.evals.scoring import ItemRow, before_key, item_rows, scorer_of
from harness.evals.table import LONGEST_PROMPT, NOT_FINITE
from harness.models import BaseFiles
from harness.records.store import Store, verify_manifest
from harness.spec import EvalSpec, EvalTask
from harness.spec.metrics import UNIQUE_SHARE, sampled_metrics
from tests.evals import small
from tests.evals.test_probes import ASKED, ran, trial
from tests.evals.test_scoring import _summary, _trial
from tests.models import tiny
from tests.presence import program as program_path

NUM = 6
WORDS = ("a dog", "Ann", "the park", "Rome", "once upon", "she was late")


def items(count: int = len(WORDS)) -> list[dict[str, Any]]:
    return [{"id": f"q{n}", "context": f"What of {WORDS[n]}?", "answer": "never said"} for n in range(count)]


def asked(folder: Path, rows: list[dict[str, Any]] | None = None, kind: str = "generate", **changes: Any) -> EvalTask:
    """Return a task of one-token answers with `NUM` samples."""
    name = changes.get("name", kind)
    source = small.write_items(folder / f"{name}.jsonl", items() if rows is None else rows)
    return small.task(kind, source, **({"num_samples": NUM, "max_new_tokens": 1, "chat": True} | changes))


def sampled(evals: EvalSpec, model: Any = None, batch_size: int = 16) -> tuple[list[ItemRow], list[SampledRow]]:
    """Return item rows and samples of a model in its own evaluation."""
    scorer = scorer_of(small.llama() if model is None else model, small.chat(), evals, batch_size)
    return both(scorer, evals)


def both(scorer: scoring.Scorer, evals: EvalSpec) -> tuple[list[ItemRow], list[SampledRow]]:
    slices = {task.key: select(task, evals) for task in evals.tasks}
    answers = asking.asked(scorer, evals, slices, None)
    return scoring._rows(scorer, evals, slices, answers.by_task), answers.sampled


def values(rows: list[ItemRow]) -> dict[str, dict[str, float | None]]:
    """Return item id -> metric -> value."""
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        found.setdefault(row.item_id, {})[row.metric] = row.value
    return found


# -- the estimator ----------------------------------------------------------------------------------------------------


def brute_force(num_samples: int, num_right: int, k: int) -> float:
    """Return the share of all subsets of k answers that hold a right one."""
    answers = [True] * num_right + [False] * (num_samples - num_right)
    subsets = list(itertools.combinations(answers, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def disagreements(estimate: Callable[[int, int, int], float]) -> int:
    """Return in how many of all small cases an estimate is not the share over all subsets."""
    cases = [(n, c, k) for n in range(1, 9) for c in range(n + 1) for k in range(1, n + 1)]
    return sum(not math.isclose(estimate(*case), brute_force(*case), abs_tol=1e-12) for case in cases)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer() -> None:
    assert disagreements(pass_at_k) == 0


def test_pass_at_k_that_draws_with_replacement_is_caught() -> None:
    assert disagreements(lambda n, c, k: 1 - (1 - c / n) ** k) > 50


def test_pass_at_k_of_binomial_answers_is_right_on_average() -> None:
    num_samples, chance, k = 10, 0.3, 4
    weights = [math.comb(num_samples, c) * chance**c * (1 - chance) ** (num_samples - c) for c in range(11)]
    mean = sum(weight * pass_at_k(num_samples, c, k) for c, weight in enumerate(weights))
    assert mean == pytest.approx(1 - (1 - chance) ** k, abs=1e-12)
    biased = sum(weight * (1 - (1 - c / num_samples) ** k) for c, weight in enumerate(weights))
    assert biased != pytest.approx(1 - (1 - chance) ** k, abs=1e-2)


@pytest.mark.parametrize(("num_samples", "k"), [(0, 1), (4, 8), (4, 0)])
def test_pass_at_k_of_more_than_there_are_is_unknown(num_samples: int, k: int) -> None:
    assert math.isnan(pass_at_k(num_samples, 0, k))


def judged(*said: tuple[str, bool | None]) -> list[Judged]:
    return [Judged(small.answer(text), is_right) for text, is_right in said]


def test_metrics_of_samples_by_hand(tmp_path: Path) -> None:
    found = subject.metrics(asked(tmp_path), {}, judged(("Rome.", True), ("rome", True), ("Bonn", False), ("", False)))
    assert found == {"pass_1": 0.5, "pass_2": pytest.approx(1 - 1 / 6), "pass_4": 1.0, "unique_share": 0.75}


def test_programs_differ_in_case_and_indentation_and_references_in_kept_case(tmp_path: Path) -> None:
    program = small.task("program", small.write_items(tmp_path / "p.jsonl", []), max_new_tokens=8, num_samples=2)
    same = judged((" return X", False), ("  return x", False))
    assert subject.metrics(program, {}, same)[UNIQUE_SHARE] == 1.0
    assert subject.metrics(asked(tmp_path), {}, same)[UNIQUE_SHARE] == 0.5
    assert subject.metrics(asked(tmp_path), {"keep_case": True}, same)[UNIQUE_SHARE] == 1.0


def test_metrics_with_one_sample_that_is_not_finite_are_unknown(tmp_path: Path) -> None:
    found = subject.metrics(asked(tmp_path), {}, judged(("a", True), ("b", None)))
    assert list(found) == list(sampled_metrics(2))
    assert all(math.isnan(value) for value in found.values())


# -- temperature ------------------------------------------------------------------------------------------------------


def test_tokens_follow_the_softmax_at_the_temperature() -> None:
    logits, count = torch.tensor([0.3, -1.0, 1.2, 0.0]), 20_000
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    for temperature in (0.5, 1.0, 3.0):
        tokens = drawn(logits.expand(count, -1), numbers, temperature)
        shares = torch.bincount(tokens, minlength=4) / count
        expected = torch.softmax(logits / temperature, -1)
        assert torch.allclose(shares, expected, atol=2 / count)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_cold_samples_are_the_greedy_answers(temperature: float, tmp_path: Path) -> None:
    evals = small.evals(asked(tmp_path, temperature=temperature, max_new_tokens=8))
    rows, samples = sampled(evals)
    greedy = {row.item_id: row.output for row in rows}
    assert len(samples) == NUM * len(WORDS)
    assert all(sample.answer == greedy[sample.item_id] for sample in samples)
    assert {found[UNIQUE_SHARE] for found in values(rows).values()} == {1 / NUM}


# -- what is sampled --------------------------------------------------------------------------------------------------


def with_answers(folder: Path, **changes: Any) -> EvalTask:
    """Return the task whose references are the first answers that the model samples."""
    _, samples = sampled(small.evals(asked(folder, **changes)))
    first = {sample.item_id: sample.answer for sample in reversed(samples)}
    said = [item | {"answer": first[item["id"]] if first[item["id"]].strip(" .,;:!?'\"") else "x"} for item in items()]
    return asked(folder, said, **changes)


def test_items_have_the_metrics_of_their_samples_beside_those_of_the_greedy_answer(tmp_path: Path) -> None:
    task = with_answers(tmp_path, temperature=0.05)
    rows, samples = sampled(small.evals(task))
    frame = pd.DataFrame(samples)
    assert frame.groupby("item_id")["sample"].apply(list).tolist() == [list(range(NUM))] * len(WORDS)
    assert 0 < frame["is_right"].mean() < 1
    for item_id, found in values(rows).items():
        assert list(found) == ["exact_match", "end_of_turn", "empty", "pass_1", "pass_2", "pass_4", "unique_share"]
        right = frame[frame["item_id"] == item_id]["is_right"]
        assert found["pass_1"] == right.mean()
        assert found["pass_4"] == pytest.approx(brute_force(NUM, int(right.sum()), 4))
    plain = [row for row in rows if row.metric not in sampled_metrics(NUM)]
    bare = task.replace({"num_samples": 0, "temperature": 1.0})
    assert plain == item_rows(small.llama(), small.chat(), small.evals(bare), batch_size=16)


def test_samples_do_not_depend_on_batch_order_or_other_items_and_begin_with_those_of_fewer(tmp_path: Path) -> None:
    task = asked(tmp_path, max_new_tokens=6)
    _, samples = sampled(small.evals(task))
    assert len({sample.answer for sample in samples}) > len(samples) / 2
    _, single = sampled(small.evals(task), batch_size=1)
    assert single == samples
    (tmp_path / "other").mkdir()
    _, turned = sampled(small.evals(asked(tmp_path / "other", items()[::-1], max_new_tokens=6)))
    assert sorted(turned) == sorted(samples)
    _, fewer = sampled(small.evals(task.replace({"num_samples": 2, "num_items": 3})))
    assert len(fewer) == 6
    assert set(fewer) <= set(samples)
    _, other_seed = sampled(small.evals(task, items_seed=1))
    assert other_seed != samples


def test_models_get_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    kept = scoring.Scorer.sampled_answers
    monkeypatch.setattr(
        scoring.Scorer, "sampled_answers", lambda self, texts, draws, *a, **k: seen.append(draws) or kept(
            self, texts, draws, *a, **k
        )
    )  # fmt: skip
    for seed in (0, 1):
        sampled(small.evals(asked(tmp_path)), small.llama(seed))
    assert np.array_equal(*seen)
    assert len(np.unique(seen[0])) == NUM * len(WORDS)


def test_samples_that_are_not_finite_make_the_slice_unknown_and_keep_their_rows(tmp_path: Path) -> None:
    model = small.llama()
    model.model.norm.weight.data.fill_(float("nan"))
    rows, samples = sampled(small.evals(asked(tmp_path)), model)
    of_samples = [row for row in rows if row.metric in sampled_metrics(NUM)]
    assert {(row.value, row.reason) for row in of_samples} == {(None, NOT_FINITE)}
    assert {sample.is_right for sample in samples} == {None}


def test_sampling_leaves_random_state_and_mode_as_they_were(tmp_path: Path) -> None:
    model = small.llama().train()
    state = torch.get_rng_state()
    sampled(small.evals(asked(tmp_path)), model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_numbers_are_judged_leniently_and_raw_answers_end_with_their_line(tmp_path: Path) -> None:
    numbers = [{"id": "n", "context": "1 plus 1 is", "answer": "2"}]
    evals = small.evals(asked(tmp_path, numbers, "number", chat=False, max_new_tokens=8))
    said = ["it is 2", "2", "3", "2 or 3", "", "two"]
    samples = iter([small.answer(text) for text in said])
    scorer = scorer_of(small.llama(), small.chat(), evals, 16)
    asked_with: list[Any] = []

    def answers(texts: Any, draws: Any, until: Any, **settings: Any) -> list[Any]:
        asked_with.append((list(texts), draws.shape, list(until), settings))
        return list(samples)

    scorer.sampled_answers = answers  # type: ignore[method-assign]
    rows, kept = both(scorer, evals)
    assert [row.is_right for row in kept] == [True, True, False, False, False, False]
    assert values(rows)["n"]["pass_1"] == pytest.approx(1 / 3)
    assert asked_with == [(["1 plus 1 is"] * NUM, (NUM, 8), ["\n"], {"temperature": 1.0, "is_chat": False})]


def test_same_program_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": "p", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(candidate):\n    pass\n"}]
    task = small.task("program", small.write_items(tmp_path / "p.jsonl", rows), max_new_tokens=8, num_samples=4)
    ran: list[str] = []
    monkeypatch.setattr("harness.evals.container.passes", lambda text: not ran.append(text) and "return 1" in text)
    is_right = subject._judge(task)
    document = {"id": "p", "begun": rows[0]["prompt"], "entry_point": "f", "test": rows[0]["test"]}
    said = ["    return 1\n", "    return 2\n", "    return 1\n"]
    assert [is_right(document, small.answer(text)) for text in said] == [True, False, True]
    assert len(ran) == 2


def test_sampled_programs_run_in_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program_path("bwrap")
    monkeypatch.setenv(SWITCH, "1")
    if (why := why_not()) is not None:
        pytest.skip(why)
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    rows = [{"id": "p", "prompt": "def f(x):\n", "entry_point": "f", "test": test}]
    task = small.task("program", small.write_items(tmp_path / "p.jsonl", rows), max_new_tokens=4, num_samples=2)
    evals = small.evals(task)
    scorer = scorer_of(small.llama(), small.chat(), evals, 2)
    said = [small.answer("    return 2 * x\n"), small.answer("    return x\n")]
    scorer.sampled_answers = lambda *_args, **_settings: said  # type: ignore[method-assign]
    found = values(scoring.ask(scorer, evals))["p"]
    assert {name: found[name] for name in sampled_metrics(2)} == {"pass_1": 0.5, "pass_2": 1.0, UNIQUE_SHARE: 1.0}
    by_model, _ = sampled(evals)
    assert values(by_model)["p"]["pass_1"] == 0.0


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> BaseFiles:
    folder = tmp_path_factory.mktemp("base") / "model"
    return models.inspect_folder(tiny.write_folder(folder, max_position_embeddings=512))


def test_samples_lie_beside_the_items_of_base_and_trial_where_they_are_asked_for(
    files: BaseFiles, tmp_path: Path
) -> None:
    context, evals = small.Context(Store(tmp_path / "out")), small.evals(asked(tmp_path))
    before, _ = score_before(files, small.chat(), _trial(evals), context, None)
    artefact = context.store.artefact("before", before.key)
    assert set(verify_manifest(artefact)) == {
        "choices.parquet", "items.parquet", "questions.parquet", "sampled.parquet", "scores.json"
    }  # fmt: skip
    trial = context.store.trial("one")
    model = models.load_model(files, "float32", "cpu", None)
    after = score_after(model, small.chat(), evals, context, trial, _summary())
    assert after is not None
    assert after.test == before.test
    assert (trial / "sampled.parquet").read_bytes() == (artefact / "sampled.parquet").read_bytes()
    table = pq.read_table(trial / "sampled.parquet")
    assert tuple(table.column_names) == SampledRow._fields
    assert [SampledRow(**row) for row in table.to_pylist()] == sampled(evals, model)[1]
    plain = small.evals(asked(tmp_path, num_samples=0))
    score_after(model, small.chat(), plain, context, context.store.trial("two"), _summary())
    assert not (context.store.trial("two") / "sampled.parquet").exists()


def test_base_with_samples_is_scored_once(files: BaseFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, spec = small.Context(Store(tmp_path / "out")), _trial(small.evals(asked(tmp_path)))
    first, _ = score_before(files, small.chat(), spec, context, None)

    def loaded_again(*_args: object) -> None:
        raise AssertionError("a base that was scored is loaded again")

    monkeypatch.setattr(models, "load_model", loaded_again)
    assert score_before(files, small.chat(), spec, context, None) == (first, None)


def test_before_key_follows_what_decides_a_sample_and_nothing_where_there_is_none(
    files: BaseFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> dict[str, str]:
        tasks = {
            "none": asked(tmp_path, num_samples=0),
            "six": asked(tmp_path),
            "four": asked(tmp_path, num_samples=4),
            "hot": asked(tmp_path, temperature=1.5),
        }
        return {name: before_key(files, small.chat(), _trial(small.evals(task)), None) for name, task in tasks.items()}

    first = keys()
    assert len(set(first.values())) == len(first)
    monkeypatch.setitem(scoring.versions.PROBES, "sampled", 99)
    second = keys()
    assert [name for name in first if first[name] == second[name]] == ["none"]


def test_long_samples_are_cut_in_the_file(tmp_path: Path) -> None:
    row = SampledRow("s", "t", "a", 0, "x" * 10**5, None, 9)
    subject.write_rows(tmp_path / "s.parquet", [row])
    (read,) = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert len(read.pop("answer")) == LONGEST_PROMPT
    assert read == {name: value for name, value in row._asdict().items() if name != "answer"}


def test_trial_with_samples_names_their_file_and_scores_and_trains_as_one_without(tmp_path: Path) -> None:
    store, key = Store(tmp_path), f"pocket/{ASKED}"
    plain = trial()
    tasks = [
        task.replace({"num_samples": 4} if task.key == key else {}).model_dump(mode="json")
        for task in plain.evals.tasks
    ]
    probes = {"probes.during": [key], "probes.interpolation": [0.0, 1.0]}
    spec = plain.replace({"evals.tasks": tasks} | probes)
    without, done = ran(plain, store), ran(spec, store)
    assert without.after is not None
    assert done.after is not None
    assert "sampled.parquet" in done.files
    assert "sampled.parquet" not in without.files
    assert done.train == without.train
    assert done.resolved == without.resolved
    assert without.after.test.items() <= done.after.test.items()
    more = [name for name in done.after.test if name not in without.after.test]
    assert more == [f"{key}/{name}" for name in sampled_metrics(4)]
    folder = store.trial(done.trial_id)
    items = pd.read_parquet(folder / "items.parquet")
    ends = dict(tuple(pd.read_parquet(folder / "interpolation.parquet").groupby("weight")))
    for weight, side in ((0.0, store.root / done.before.items_file), (1.0, folder / "items.parquet")):
        mine, between = (
            table[table["metric"].isin(sampled_metrics(4))] for table in (pd.read_parquet(side), ends[weight])
        )
        assert between["value"].tolist() == mine["value"].tolist()
    samples = pd.read_parquet(folder / "sampled.parquet")
    shares = samples.groupby("item_id", sort=False)["is_right"].mean()
    assert shares.tolist() == items[items["metric"] == "pass_1"]["value"].tolist()
    watched = pd.read_parquet(folder / "during.parquet")
    assert set(sampled_metrics(4)) <= set(watched["metric"])
