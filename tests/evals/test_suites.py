from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.pocket import EXPERIMENT
from harness import models, versions
from harness.data import chat_format
from harness.errors import DataError, SpecError
from harness.evals import container, item_rows, select
from harness.evals.items import load
from harness.evals.passages import NUM_CHARACTERS, passages
from harness.evals.suites import DEPTH, SUITES, TWIN, expectations, missing_files, suite_tasks
from harness.spec import EvalSpec, EvalTask, FileItems
from harness.spec.metrics import metrics_of, primary_metric

DATA = Path(__file__).parents[3] / "shared/data"
ITEMS: dict[str, list[dict[str, Any]]] = {
    "multiple_choice": [{"query": "q", "choices": ["a", "b"], "gold": 0}],
    "schema": [{"contexts": ["a", "b"], "continuation": "c", "gold": 0}],
    "greedy": [{"context": "a", "continuation": "b"}],
    "generate": [{"context": "a", "answer": "b"}],
    "number": [{"context": "a", "answer": "1"}],
    "perplexity": [{"text": "a"}],
    "instruct": [{"prompt": "a", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}],
    "refusal": [{"prompt": "a", "unsafe": True}, {"prompt": "b", "unsafe": False}],
    "program": [{"prompt": "def f():\n", "entry_point": "f", "test": "def check(candidate):\n    candidate()\n"}],
}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def _programs_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every suite be named; no test here runs what a model wrote (test_programs.py)."""
    monkeypatch.setattr(container, "why_not", lambda: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one small file for every task of the catalogue, at every depth that is looked at."""
    places = ("", "mc/", "eval/qa/")
    entries = [task for suite in SUITES.values() for task in suite.tasks if task.source is None]
    for number, task in enumerate(entries):
        stem = (task.stems or (task.name,))[-1]
        _write(tmp_path / f"{places[number % 3]}{stem}.jsonl", ITEMS[task.kind])
    return tmp_path


def _evals(tasks: tuple[EvalTask, ...]) -> EvalSpec:
    return EvalSpec(tasks=tasks, items_seed=0, val_share=0.2, dtype="float32", max_length=512)


def test_suite_tasks_of_all_suites_find_every_file_and_can_be_asked(folder: Path) -> None:
    evals = _evals(suite_tasks(list(SUITES), folder, num_items=5))
    assert missing_files(list(SUITES), folder) == []
    entries = {f"{suite}/{task.name}" for suite, found in SUITES.items() for task in found.tasks}
    assert {task.key.removesuffix(TWIN) for task in evals.tasks} == entries
    assert all(1 <= len(select(task, evals).items) <= 5 for task in evals.tasks)
    assert all(task.version == versions.SUITES[task.suite] for task in evals.tasks)


def without_twins(tasks: Iterable[EvalTask]) -> list[EvalTask]:
    """Return the tasks but for the twins."""
    return [task for task in tasks if not task.name.endswith(TWIN)]


def test_suite_tasks_in_chat_are_twins_that_count_in_no_measure(folder: Path) -> None:
    both = suite_tasks(list(SUITES), folder, num_items=5)
    raw, twins = without_twins(both), [task for task in both if task.name.endswith(TWIN)]
    choices = {task.key for task in raw if task.kind == "multiple_choice" and task.name != "blimp"}
    assert choices <= {task.key.removesuffix(TWIN) for task in twins}  # a sentence alone asks nothing in chat
    plain = {task.key: task for task in raw}
    for twin in twins:
        assert (twin.chat, twin.primary) == (True, False)
        same = plain[twin.key.removesuffix(TWIN)]
        assert twin.model_copy(update={"name": same.name, "chat": False, "primary": same.primary}) == same


def test_suite_tasks_and_missing_files_together_are_the_catalogue(folder: Path) -> None:
    """Whatever is deleted is named: no task disappears."""
    for path in sorted(folder.rglob("*.jsonl"))[::2]:
        path.unlink()
    names = list(SUITES)
    asked = {task.key for task in without_twins(suite_tasks(names, folder, num_items=5))}
    lost = [said.partition(" ")[0] for said in missing_files(names, folder)]
    assert lost
    assert len(asked) + len(lost) == len(asked | set(lost)) == sum(len(suite.tasks) for suite in SUITES.values())


def test_suite_tasks_of_a_file_too_deep_or_in_a_folder_of_that_name_are_missing(tmp_path: Path) -> None:
    _write(tmp_path / ("a/" * (DEPTH + 1)) / "piqa.jsonl", ITEMS["multiple_choice"])
    (tmp_path / "copa.jsonl").mkdir()
    _write(tmp_path / "arc_easy.jsonl", ITEMS["multiple_choice"])
    lost = {said.partition(" ")[0] for said in missing_files(["general"], tmp_path)}
    assert {"general/piqa", "general/copa"} <= lost
    assert "general/arc_easy" not in lost


def test_suite_tasks_of_two_files_of_one_name_take_the_shallower(tmp_path: Path) -> None:
    _write(tmp_path / "a/b/piqa.jsonl", ITEMS["multiple_choice"])
    _write(tmp_path / "z/piqa.jsonl", ITEMS["multiple_choice"] * 2)
    (task, _) = suite_tasks(["general"], tmp_path, num_items=None)
    assert isinstance(task.source, FileItems)
    assert task.source.path == str((tmp_path / "z/piqa.jsonl").resolve())


def test_suite_tasks_of_requests_to_refuse_part_the_file_in_two(tmp_path: Path) -> None:
    _write(tmp_path / "xstest.jsonl", [{"id": str(n), "prompt": f"p{n}", "unsafe": n % 3 == 0} for n in range(30)])
    unsafe, safe = suite_tasks(["safety"], tmp_path, num_items=None)
    ids = [{item["id"] for item in load(task)} for task in (unsafe, safe)]
    assert ids == [{str(n) for n in range(30) if n % 3 == 0}, {str(n) for n in range(30) if n % 3}]
    assert [primary_metric(task) for task in (unsafe, safe)] == ["refused", "over_refused"]


def test_suite_tasks_without_a_folder_are_those_that_are_generated() -> None:
    tasks = suite_tasks(["general", "code"], None, num_items=34)
    assert {task.suite for task in tasks} == {"code"}
    evals = _evals(tasks)
    templates = Counter(item["cluster"] for item in select(tasks[0], evals).items)
    assert (len(templates), set(templates.values())) == (17, {2})
    assert len(missing_files(["general", "code"], None)) == len(SUITES["general"].tasks)


@pytest.mark.parametrize(
    ("names", "error", "named"),
    [
        (["genral"], SpecError, "Did you mean 'general'"),
        (["general", "general"], SpecError, "name 'general' once"),
        ([], SpecError, "must be one of code, code_execution, formats, general"),
        (["general"], DataError, "arc_easy is not asked"),
    ],
)
def test_suite_tasks_that_cannot_be_are_refused(
    names: list[str], error: type[Exception], named: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=named):
        suite_tasks(names, tmp_path, num_items=5)


def test_suite_tasks_of_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a folder"):
        suite_tasks(["general"], tmp_path / "none", num_items=5)


def test_version_of_a_suite_is_said_in_one_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = suite_tasks(["instruction"], folder, num_items=5)
    assert expectations([before], "pocket")
    monkeypatch.setitem(versions.SUITES, "instruction", 7)
    (after,) = suite_tasks(["instruction"], folder, num_items=5)
    assert after == before.replace({"version": 7})
    assert expectations([before], "pocket") == []


def test_expectations_name_what_is_at_floor_on_that_base_alone(folder: Path) -> None:
    tasks = suite_tasks(["general", "skills"], folder, num_items=5)
    said = expectations(tasks, "smollm2_135m_instruct")
    assert {text.partition(" ")[0].removesuffix(TWIN) for text in said} == {
        *("general/winogrande", "general/triviaqa", "skills/gsm8k"),
    }
    assert expectations(tasks, "qwen2_5_7b") == []
    assert len(expectations(tasks, "pocket")) == len(tasks)
    renamed = [task.model_copy(update={"version": 0}) for task in tasks]
    assert expectations(renamed, "pocket") == []


# -- prose ------------------------------------------------------------------------------------------------------------


@given(st.text(st.sampled_from("ab \n\r\tä"), max_size=300), st.integers(1, 60))
def test_passages_one_after_another_are_the_text(text: str, times: int) -> None:
    text = text * times
    parts = [item["text"] for item in passages(text.encode(), "t.txt")]
    assert "".join(parts).strip() == text.strip()
    assert all(len(part) >= NUM_CHARACTERS for part in parts[:-1])


def test_passages_of_a_book_end_where_paragraphs_do(tmp_path: Path) -> None:
    paragraphs = [f"{n} " + "word " * 150 for n in range(12)]
    (tmp_path / "tinyshakespeare.txt").write_text("\n\n".join(paragraphs))
    (task,) = suite_tasks(["prose"], tmp_path, num_items=None)
    items = load(task)
    assert [item["text"].count("\n\n") for item in items] == [3, 3, 3, 2]
    with pytest.raises(DataError, match="not UTF-8"):
        passages(b"\xff\xfe", "t.txt")


# -- real -------------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_suites_on_the_public_files_hold_what_the_catalogue_says() -> None:
    tasks = {task.key: task for task in without_twins(suite_tasks(list(SUITES), DATA, num_items=None))}
    assert [said.partition(" ")[0] for said in missing_files(list(SUITES), DATA)] == [
        "code_execution/humaneval",
        "prose/prose",
    ]
    for key, task in tasks.items():
        (entry,) = [entry for entry in SUITES[task.suite].tasks if entry.name == task.name]
        items = load(task)
        if task.kind in ("multiple_choice", "schema"):
            options = [len(item.get("choices") or item["contexts"]) for item in items]
            assert entry.chance == pytest.approx(sum(1 / num for num in options) / len(options), abs=0.005), key
        assert (len({item.get("task") for item in items}) > 1) == bool(entry.strata), key


@pytest.mark.real
def test_suites_asked_of_a_real_model_give_every_metric_a_number() -> None:
    base = models.inspect_folder(DATA / "models/minimind2-small")
    model = models.load_model(base, "float32", "cpu", None)
    setting = EXPERIMENT.spec.data.replace({"template": "tokenizer"})
    chat = chat_format(models.load_tokenizer(base), setting)
    tasks = suite_tasks(["general", "safety", "code"], DATA, num_items=2)
    evals = _evals(tasks).model_copy(update={"max_length": 1024, "raw_prefix": "bos"})
    rows = item_rows(model, chat, evals, batch_size=8)
    assert all(row.value is not None for row in rows), [row for row in rows if row.value is None]
    measured = Counter((f"{row.suite}/{row.task}", row.metric) for row in rows)
    assert measured == {(task.key, metric): 2 for task in tasks for metric in metrics_of(task)}
