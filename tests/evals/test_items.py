from __future__ import annotations

import codecs
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DataError
from harness.evals import describe_folder, items_sha256, select
from harness.evals.documents import documents
from harness.evals.items import Item, asked_texts, parse_lines
from harness.spec import EvalTask, PocketItems
from tests.evals import small
from tests.pocket.tiny import TINY_WORLD


def _greedy(count: int, **fields: Any) -> list[Item]:
    return [{"id": f"i{n}", "context": f"{n} and", "continuation": "one", **fields} for n in range(count)]


def _ids(task: EvalTask, **changes: Any) -> list[str]:
    return [item["id"] for item in select(task, small.evals(task, **changes)).items]


def test_sample_grown_contains_the_smaller_one_and_keeps_splits(tmp_path: Path) -> None:
    source = small.write_items(tmp_path / "a.jsonl", _greedy(200))
    slices = [
        select(task, small.evals(task)) for n in (20, 80, None) for task in [small.task("greedy", source, num_items=n)]
    ]
    split_of = [{item["id"]: split for item, split in zip(s.items, s.splits, strict=True)} for s in slices]
    assert [len(splits) for splits in split_of] == [20, 80, 200]
    assert split_of[0].items() <= split_of[1].items() <= split_of[2].items()


@pytest.mark.parametrize("field", [{"task": "{}"}, {"cluster": "{}:17|9"}])
def test_sample_of_uneven_strata_takes_each_in_proportion(field: dict[str, str], tmp_path: Path) -> None:
    ((name, form),) = field.items()
    items = [item | {name: form.format("big" if n < 150 else "small")} for n, item in enumerate(_greedy(200))]
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", items), num_items=40)
    counts = Counter(item[name].partition(":")[0] for item in select(task, small.evals(task)).items)
    assert counts == {"big": 30, "small": 10}


def test_sample_without_strata_would_miss_the_proportion(tmp_path: Path) -> None:
    """The negative control of the test above: the same items without sub-tasks give another mix."""
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", _greedy(200)), num_items=40)
    assert sum(int(item_id[1:]) < 150 for item_id in _ids(task)) != 30


def test_sample_of_another_seed_differs_and_of_the_same_does_not(tmp_path: Path) -> None:
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", _greedy(100)), num_items=30)
    assert _ids(task) == _ids(task)
    assert _ids(task) != _ids(task, items_seed=1)


def test_items_are_chosen_once_whatever_else_is_asked_and_however(tmp_path: Path) -> None:
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", _greedy(8)))
    other = small.task("greedy", small.write_items(tmp_path / "b.jsonl", _greedy(3)), name="other")
    chosen = select(task, small.evals(task))
    assert select(task, small.evals(task, other, dtype="bfloat16", max_length=64)) is chosen
    for changes in ({"items_seed": 1}, {"val_share": 0.5}):
        assert select(task, small.evals(task, **changes)) is not chosen


def test_split_keeps_a_cluster_on_one_side(tmp_path: Path) -> None:
    items = [item | {"cluster": f"person {n % 50}"} for n, item in enumerate(_greedy(400))]
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", items))
    chosen = select(task, small.evals(task, val_share=0.3))
    sides = {(item["cluster"], split) for item, split in zip(chosen.items, chosen.splits, strict=True)}
    assert len(sides) == 50
    assert {split for _, split in sides} == {"val", "test"}


def test_split_takes_about_the_share_asked_for(tmp_path: Path) -> None:
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", _greedy(2000)))
    share = select(task, small.evals(task, val_share=0.3)).splits.count("val") / 2000
    assert share == pytest.approx(0.3, abs=0.04)  # four standard errors
    assert "val" not in select(task, small.evals(task, val_share=0.0)).splits


def test_items_with_the_same_text_are_asked_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [*_greedy(5), {"id": "again", "context": "0 and", "continuation": "one"}]
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", items))
    chosen = select(task, small.evals(task))
    assert (len(chosen.items), chosen.num_repeated) == (5, 1)
    assert "1 items repeat" in caplog.text


def test_documents_without_id_are_known_by_their_text(tmp_path: Path) -> None:
    one = small.task("perplexity", small.write_items(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}]))
    other = small.task("perplexity", small.write_items(tmp_path / "b.jsonl", [{"text": "two"}, {"text": "one"}]))
    assert _ids(one) == _ids(other)[::-1]


def test_items_hash_follows_items_and_splits(tmp_path: Path) -> None:
    source = small.write_items(tmp_path / "a.jsonl", _greedy(20))
    plain = items_sha256(small.evals(small.task("greedy", source)))
    assert plain == items_sha256(small.evals(small.task("greedy", source)))
    assert plain != items_sha256(small.evals(small.task("greedy", source), val_share=0.9))
    assert plain != items_sha256(small.evals(small.task("greedy", source, num_items=5)))


def test_items_of_the_pocket_world_keep_raw_lines_as_they_stand() -> None:
    task = EvalTask(
        suite="pocket", name="arithmetic", kind="greedy", source=PocketItems(world=TINY_WORLD, slice="arithmetic"),
        measure="retained", primary=False, chat=False, num_items=10,
    )  # fmt: skip
    chosen = select(task, small.evals(task))
    assert len(chosen.items) == 10
    assert all(item["delimiter"] == "" for item in chosen.items)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("multiple_choice", {"id": "a", "query": "q", "choices": ["x"], "gold": 0}, "two or more"),
    ("multiple_choice", {"id": "a", "query": "q", "choices": ["x", ""], "gold": 0}, "non-empty"),
    ("multiple_choice", {"id": "a", "query": "q", "choices": ["x", "y"], "gold": 2}, "gold is 2"),
    ("multiple_choice", {"id": "a", "query": "q", "choices": ["x", "y"], "gold": True}, "gold is True"),
    ("schema", {"id": "a", "contexts": ["x", "y"], "continuation": " ", "gold": 0}, "continuation is empty"),
    ("greedy", {"id": "a", "context": "x"}, "continuation is None"),
    ("generate", {"id": "a", "context": "x", "answer": ""}, "answer is empty"),
    ("generate", {"id": "a", "context": "x", "answer": " ?! "}, "nothing but quotes and punctuation"),
    ("generate", {"id": "a", "context": "x", "answer": "b", "aliases": ["."]}, "nothing but quotes and punctuation"),
    ("generate", {"id": "a", "context": "x", "answer": "b", "aliases": "c"}, "must be a list of answers"),
    ("greedy", {"id": "a", "context": "x", "continuation": "y", "delimiter": 3}, "delimiter is 3, but must be text"),
    ("perplexity", {"text": ""}, "text is empty"),
]


@pytest.mark.parametrize(("kind", "item", "sentence"), BAD)
def test_item_that_cannot_be_asked_is_refused_by_name(kind: str, item: Item, sentence: str, tmp_path: Path) -> None:
    task = small.task(kind, small.write_items(tmp_path / "a.jsonl", [item]))
    with pytest.raises(DataError, match=sentence):
        select(task, small.evals(task))


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is Ann?"},
    {"role": "assistant", "content": "In Rome."},
    {"role": "user", "content": "And Bob?"},
]


def test_item_may_show_a_conversation_in_place_of_one_question(tmp_path: Path) -> None:
    item = {"id": "a", "messages": CONVERSATION, "answer": "Paris"}
    task = small.task("generate", small.write_items(tmp_path / "a.jsonl", [item]))
    chat = small.chat()
    (document,) = documents(select(task, small.evals(task)).items, task, chat, seed=0)
    assert document["context"] == chat.render(CONVERSATION, add_generation_prompt=True)
    assert document["references"] == ["Paris"]
    assert "keep_case" not in document


@pytest.mark.parametrize(
    ("fields", "changes", "sentence"),
    [
        ({"messages": []}, {}, "must be a list of"),
        ({"messages": [{"role": "bot", "content": "x"}]}, {}, "must be a list of"),
        ({"messages": CONVERSATION[:3]}, {}, "must end with the user's"),
        ({"messages": CONVERSATION, "context": "x"}, {}, "in place of context"),
        ({"messages": CONVERSATION}, {"chat": False}, "in a task with chat True"),
        ({"context": "x", "keep_case": "yes"}, {}, "must be true or false"),
    ],
)
def test_conversation_that_cannot_be_asked_is_refused(
    fields: dict[str, Any], changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    task = small.task("generate", small.write_items(tmp_path / "a.jsonl", [{"answer": "x", **fields}]), **changes)
    with pytest.raises(DataError, match=sentence):
        select(task, small.evals(task))


def test_items_with_one_id_twice_are_refused(tmp_path: Path) -> None:
    items = [{"id": "a", "text": "one"}, {"id": "a", "text": "two"}]
    task = small.task("perplexity", small.write_items(tmp_path / "a.jsonl", items))
    with pytest.raises(DataError, match="2 items but 1 ids"):
        select(task, small.evals(task))


def test_file_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    task = small.task("greedy", small.write_items(tmp_path / "a.jsonl", _greedy(5)))
    small.write_items(tmp_path / "a.jsonl", _greedy(6))
    with pytest.raises(DataError, match="changed since the plan"):
        select(task, small.evals(task))


@pytest.mark.parametrize("line", [b'{"text": ', b'{"text": "\\ud83d"}', b"[1]"])
def test_line_that_is_no_item_is_named(line: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:2 is "):
        parse_lines(b'{"text": "one"}\n' + line + b"\n", "a.jsonl")


def test_file_in_another_encoding_is_refused() -> None:
    with pytest.raises(DataError, match="not UTF-8"):
        parse_lines('{"text": "é"}'.encode("latin-1"), "a.jsonl")


def test_folder_gives_a_task_for_every_kind_and_names_what_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("mc", "schema", "lm", "qa", "text", "prompts"):
        (tmp_path / name).mkdir()
    small.every_kind(tmp_path)
    moves = {"mc": "mc", "schema": "schema", "greedy": "lm", "generate": "qa", "text": "text"}
    for file, folder in moves.items():
        (tmp_path / f"{file}.jsonl").rename(tmp_path / folder / f"my {file}.jsonl")
    small.write_items(tmp_path / "prompts" / "ifeval.jsonl", [{"id": "x", "prompt": "Say hello."}])

    tasks = describe_folder(tmp_path, num_items=7, max_new_tokens=5)

    assert {task.key: (task.kind, task.measure, task.chat, task.num_items) for task in tasks} == {
        "lm/my_greedy": ("greedy", "retained", False, 7),
        "mc/my_mc": ("multiple_choice", "retained", False, 7),
        "qa/my_generate": ("generate", "learned", True, 7),
        "schema/my_schema": ("schema", "retained", False, 7),
        "text/my_text": ("perplexity", "fluency", False, 7),
    }
    assert "ifeval.jsonl is left out" in caplog.text
    assert all(len(select(task, small.evals(*tasks)).items) == 7 for task in tasks)


def test_folder_takes_a_kind_from_the_first_row_and_leaves_folders_named_like_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + b'\n \n{"text": "one"}\n')
    (task,) = describe_folder(tmp_path, num_items=None)
    assert (task.name, task.kind) == ("a", "perplexity")


def test_folder_knows_questions_that_show_a_conversation(tmp_path: Path) -> None:
    small.write_items(tmp_path / "a.jsonl", [{"messages": CONVERSATION, "answer": "Paris"}])
    (task,) = describe_folder(tmp_path, num_items=None)
    assert (task.kind, task.chat) == ("generate", True)
    assert len(select(task, small.evals(task)).items) == 1


@pytest.mark.parametrize("make", [False, True])
def test_folder_without_items_is_refused(make: bool, tmp_path: Path) -> None:
    folder = tmp_path / "evals"
    if make:
        folder.mkdir()
    with pytest.raises(DataError, match="EVALS is"):
        describe_folder(folder, num_items=None)


def test_choosing_items_imports_no_torch() -> None:
    code = "import sys, harness.evals; assert not {'torch', 'lm_eval', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_folder_with_a_link_to_nothing_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"b\.jsonl', which cannot be read"):
        describe_folder(tmp_path, num_items=None)


def test_asked_texts_are_what_each_kind_of_item_asks(tmp_path: Path) -> None:
    written = {
        "greedy": {"context": "1 and", "continuation": "one"},
        "multiple_choice": {"query": "", "choices": ["wrong", "right"], "gold": 1},
        "schema": {"contexts": ["He is", "She is"], "continuation": "here", "gold": 1},
        "perplexity": {"text": "Once."},
        "generate": {"context": "Who?", "answer": "Ann"},
    }
    tasks = [
        small.task(kind, small.write_items(tmp_path / f"{kind}.jsonl", [{"id": "i"} | item]))
        for kind, item in written.items()
    ]
    assert {key.rpartition("/")[2]: texts for key, texts in asked_texts(small.evals(*tasks)).items()} == {
        "greedy": {"i": "1 and"},
        "multiple_choice": {"i": "right"},
        "schema": {"i": "She is"},
        "perplexity": {"i": "Once."},
        "generate": {"i": "Who?"},
    }
