"""`make audit`: the rows that would be trained on, counted and shown, by the real verb on a real (tiny) base."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import data, models
from harness.engine import catalog
from harness.records.store import Store
from harness.seeding import derive
from tests.engine.test_cli import harness, run
from tests.pocket.tiny import tiny_experiment


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the tiny base is built by the first audit and found by the next."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny_experiment()
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)


def written(folder: Path, rows: list[Mapping[str, Any]]) -> str:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def parsed(printed: str) -> dict[str, Any]:
    """Return the JSON of a verb; progress bars of libraries stand before it where a test shares both streams."""
    return json.loads(printed[printed.index("{") :])


SMALL = json.dumps({"data.num_examples": None, "data.num_validation": 0, "evals.num_items": 8})


def test_audit_says_and_writes_what_would_be_trained_on(out: Path) -> None:
    found = parsed(run("audit", "--out", str(out), "--json"))
    spec = tiny_experiment().spec
    assert found["num_examples"] == spec.data.num_examples
    assert found["loss_tokens"]["user"] == 0
    assert 0 < found["end_of_turn_share"] < 1
    assert found["problems"] == []
    assert 0 < found["base_loss"] < 20
    # the world keeps what it evaluates out of its rows, apart from facts of people whom it asks about
    assert not found["overlaps"]["pocket/cloze_unasked"]["num_overlapping"]
    page = Path(found["paths"][1]).read_text()
    assert page.count('<div class="row"') == 4
    assert "<mark" in page
    assert json.loads(Path(found["paths"][0]).read_text())["tokens"] == found["tokens"]


def test_audit_counts_what_a_trial_would_train_on(out: Path) -> None:
    found = parsed(run("audit", "--out", str(out), "--json"))
    spec, store = tiny_experiment().spec, Store(out)
    chat = data.chat_format(models.load_tokenizer(models.locate(spec.base, store)), spec.data)
    rows = data.prepare(spec.data, chat, seed=spec.seed).train
    assert sum(found["tokens"].values()) == sum(len(example.input_ids) for example in rows)
    assert sum(found["loss_tokens"].values()) == sum(int((example.loss_weights > 0).sum()) for example in rows)


@pytest.mark.parametrize(
    "changes", [{"train.batch_size": 3}, {"seed": 5}, {"evals.num_items": 7}, {"data.num_validation": 1}]
)
def test_audits_that_could_count_otherwise_lie_in_folders_of_their_own(changes: dict[str, Any], out: Path) -> None:
    plain = parsed(run("audit", "--out", str(out), "--json"))
    other = parsed(run("audit", "--out", str(out), "--json", "--set", json.dumps(changes)))
    assert Path(plain["paths"][0]).parent != Path(other["paths"][0]).parent


def test_audit_of_a_file_finds_duplicates_contamination_and_what_is_not_used(out: Path, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.mkdir()
    asked = "In which of the towns by the sea was the old potter born?"
    item = {"id": "1", "query": asked, "choices": ["Arden", "Brill"], "gold": 0}
    (items / "towns.jsonl").write_text(
        json.dumps(item) + "\n" + json.dumps(item | {"id": "2", "query": "Who is it?"}) + "\n"
    )
    rows = [row(asked, "Arden."), row("Hi?", "Yes."), row("hi?", "yes."), row("Why?", ""), row("No?", "No.")]
    words = ["--data", written(tmp_path, rows), "--evals", str(items), "--set", SMALL, "--out", str(out)]
    found = parsed(run("audit", *words, "--json"))
    assert found["num_rows_dropped"] == {"empty_assistant_turn": 1}
    assert found["num_near_duplicates"] == 1
    (overlap,) = found["overlaps"].values()
    assert overlap == {"num_items": 2, "num_checked": 1, "num_overlapping": 1, "contaminated": True}
    assert [one["num_val"] + one["num_test"] for one in found["split_overlaps"].values()] == [2]
    printed = run("audit", *words)
    assert re.search(r"evaluation items in the rows:\s+\S*towns 100.0%", printed)
    assert "empty assistant turn: 1" in printed
    assert "Arden." in printed


def test_audit_names_slices_whose_test_items_stand_in_val_items(out: Path, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.mkdir()
    stem = "In which of the towns by the sea was the old potter called {} born?"
    asked = [{"id": f"{n}", "query": stem.format(n), "choices": ["Arden", "Brill"], "gold": 0} for n in range(8)]
    (items / "towns.jsonl").write_text("".join(json.dumps(item) + "\n" for item in asked))
    settings = json.dumps(json.loads(SMALL) | {"evals.val_share": 0.5})
    rows = written(tmp_path, [row(f"Hi {n}?", "Yes.") for n in range(3)])
    words = ["--data", rows, "--evals", str(items), "--set", settings, "--out", str(out)]
    (overlap,) = parsed(run("audit", *words, "--json"))["split_overlaps"].values()
    assert (overlap["share"], overlap["is_large"]) == (1.0, True)
    printed = " ".join(run("audit", *words).split())
    assert "WARNING: test items stand in val items, on which choices are made: items/towns 100.0% (above 2%)" in printed


def test_audit_of_rows_that_never_end_is_bad_input_and_says_why(out: Path, tmp_path: Path) -> None:
    long = " ".join(f"word{derive(0, str(number)) % 97}" for number in range(200))
    settings = json.dumps(json.loads(SMALL) | {"data.too_long": "truncate_right"})
    words = ["--data", written(tmp_path, [row("Hi?", long)]), "--set", settings, "--out", str(out)]
    printed = run("audit", *words, code=2)
    assert "PROBLEM: data.train_on_end_of_turn is True, but none of" in printed


def test_markup_in_the_data_stays_text_on_the_page(out: Path, tmp_path: Path) -> None:
    rows = [row("<script>alert(1)</script>", "[red]</mark>\x1b[31m")]
    found = parsed(run("audit", "--data", written(tmp_path, rows), "--set", SMALL, "--out", str(out), "--json"))
    page = Path(found["paths"][1]).read_text()
    assert "<script" not in page
    assert "\x1b" not in page


def test_audit_of_a_file_that_is_not_there_ends_with_2_and_creates_nothing(tmp_path: Path) -> None:
    done = harness("audit", "--data", "nowhere.jsonl", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "DATA is 'nowhere.jsonl', but must be a JSON-lines or Parquet file" in done.stderr
    assert not (tmp_path / "out").exists()
