"""What is asked comes from our own task files alone: a folder brings rows, never code, and rows are text."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
import yaml

from harness.errors import SpecError
from harness.evals import suites
from harness.evals.documents import documents
from harness.evals.folder import describe_folder
from harness.evals.items import load
from harness.evals.lm_tasks import TASK_FILES, build_task
from tests.evals import small

EVIL = "import pathlib\npathlib.Path({canary!r}).touch()\ndef f(*a):\n    return 'evil'\n"
TASK = "task: qa\ndataset_path: json\ndoc_to_text: !function evil.f\ndoc_to_target: '{{answer}}'\n"
MARKS = ("{{", "{%", "!function", "dataset_path", "include")
JINJA = "{{ 7 * 191 }} {% for i in range(3) %}x{% endfor %} {{ cycler.__init__.__globals__.os.system('touch CANARY') }}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation folder with a task file and its code beside rows, whose texts are templates."""
    made = tmp_path / "evals"
    (made / "qa").mkdir(parents=True)
    for where in (made, made / "qa"):
        (where / "evil.py").write_text(EVIL.format(canary=str(tmp_path / "CANARY")))
        (where / "qa.yaml").write_text(TASK)
        (where / "__init__.py").write_text(EVIL.format(canary=str(tmp_path / "CANARY")))
    said = JINJA.replace("CANARY", str(tmp_path / "CANARY"))
    assert "1337" in jinja2.Template("{{ 7 * 191 }} xxx").render()  # rendered, the text would be another
    rows = {
        "qa/qa.jsonl": {"context": said, "answer": said},
        "qa/mc.jsonl": {"query": said, "choices": [said, "!function evil.f"], "gold": 0},
        "qa/greedy.jsonl": {"context": said, "continuation": f" {said}"},
    }
    for name, row in rows.items():
        (made / name).write_text("".join(json.dumps(row | {"id": str(n)}) + "\n" for n in range(2)))
    return made


def test_allow_list_folder_brings_rows_alone_and_they_are_asked_as_text(folder: Path, tmp_path: Path) -> None:
    tasks = describe_folder(folder, num_items=None)
    assert {task.name for task in tasks} == {"qa", "mc", "greedy"}
    said = JINJA.replace("CANARY", str(tmp_path / "CANARY"))
    for task in tasks:
        made = build_task(task, documents(load(task), task, small.chat(), 0))
        made.build_all_requests(rank=0, world_size=1)
        assert all(said in str(request.args[0]) for request in made.instances)
    assert not (tmp_path / "CANARY").exists()


def test_allow_list_task_files_are_plain_data() -> None:
    files = sorted(TASK_FILES.glob("*.yaml"))
    assert files
    for path in files:
        text = path.read_text()
        yaml.safe_load(text)  # refuses !function and every other tag
        assert not [mark for mark in MARKS if mark in text]
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(TASK)


@pytest.mark.parametrize("name", ["gsm8k", "../qa", "/etc/passwd", "qa.yaml", "general\n", "génêral", "x" * 10_000])
def test_allow_list_suite_outside_of_it_is_refused_in_one_sentence(name: str, folder: Path) -> None:
    with pytest.raises(SpecError, match="but must be one of") as refusal:
        suites.suite_tasks([name], folder, num_items=None)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
