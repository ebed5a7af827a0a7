"""Functions that a model writes: which program decides, and a container that holds whatever it does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from harness.errors import DataError, SpecError
from harness.evals import container
from harness.evals.items import select
from harness.evals.kinds import program
from harness.evals.metrics import METRICS
from harness.evals.scoring import item_rows
from harness.evals.suites import suite_tasks
from tests.evals import small
from tests.evals.test_suites import ITEMS, _write
from tests.presence import program as program_path

BEGUN = 'from typing import List\n\n\ndef double(xs: List[int]) -> List[int]:\n    """Return twice each."""\n'
TEST = "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n"
ITEM = {"id": "d", "prompt": BEGUN, "entry_point": "double", "test": TEST}
DOCUMENT = program.KIND.facts(ITEM)
RECORD = "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n"
RIGHT = "    return [2 * x for x in xs]\n"


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow running code; skipped, with the reason, where the kernel lets nobody make a container."""
    program_path("bwrap")
    monkeypatch.setenv(container.SWITCH, "1")
    if (why := container.why_not()) is not None:
        pytest.skip(why)


def passed(answer: str) -> float:
    return METRICS["program"](DOCUMENT, [small.answer(answer)])["passed"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RIGHT, 1.0),
        ("    return xs\n", 0.0),
        ("", 0.0),
        (RIGHT + "\nprint(undefined)\n", 1.0),
        (f"Sure:\n```python\ndef double(xs: List[int]):\n{RIGHT}```\nThis doubles them.", 1.0),
        (f"```\n{RIGHT}```", 1.0),
        ("def double(xs: List[int]):\n    return [x + x for x in xs]", 1.0),
        ("def other(xs):\n    return xs", 0.0),
        ("    import os\n    os._exit(0)\n", 0.0),
        ("    raise SystemExit(0)\n", 0.0),
        ("    return [2 * x for x in\n", 0.0),
        ("    return '\x00\ud800'\n", 0.0),
        (f"{RIGHT}```\n\nThis is all.", 1.0),
        (f"Install:\n```bash\npip list\n```\nThen:\n``` python3 \ndef double(xs):\n{RIGHT}```\n", 1.0),
        (f"1. So:\n   ```python\n   def double(xs):\n   {RIGHT}   ```\n", 1.0),
        (f"```python\ndef double(xs):\n{RIGHT}```".replace("\n", "\r\n"), 1.0),
        (f"def double(xs):\n{RIGHT}\nif __name__ == '__main__':\n    print(double(input()))\n", 1.0),
        (f"from __future__ import annotations\n\ndef double(xs: Undefined):\n{RIGHT}", 1.0),
        (f"{RECORD}def double(xs):\n    return [P(2 * x).x for x in xs]", 1.0),
        ("    def double(xs):\n        return [2 * x for x in xs]\n    return double(xs)\n", 1.0),
    ],
)  # fmt: skip
def test_answer_passes_if_its_program_reaches_the_end(answer: str, expected: float, allowed: None) -> None:
    assert passed(answer) == expected


@pytest.mark.parametrize(
    "begun", ["from typing import List\ndef double(xs):\n  'Two spaces.'\n", "import math\ndef double(xs):\n"]
)
def test_answer_that_stands_alone_has_the_imports_of_its_prompt(begun: str, allowed: None) -> None:
    used = "List" if "List" in begun else "math"
    answer = f"def double(xs):\n    {used}\n{RIGHT}"
    document = program.KIND.facts(ITEM | {"prompt": begun})
    assert METRICS["program"](document, [small.answer(answer)])["passed"] == 1.0


def test_answer_of_logits_that_were_not_finite_is_unknown_and_runs_nothing() -> None:
    values = METRICS["program"](DOCUMENT, [small.answer("x", is_finite=False)])
    assert list(values) == list(program.NAMES)
    assert all(value != value for value in values.values())


@pytest.mark.parametrize(
    "hostile",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)",
        "open({secret!r}).read()",
        "open({target!r}, 'w').write('x')",
        "import os\nassert os.environ.get('HOME')",
        "assert {switch!r} in open('/proc/1/environ', 'rb').read()",
        "import os\nfor _ in range(3):\n    assert {switch!r} in open(f'/proc/{{os.getppid()}}/environ', 'rb').read()",
        "import os\nassert {pid} in [int(name) for name in os.listdir('/proc') if name.isdigit()]",
        "import os\nos.kill({pid}, 9)",
        "held = bytearray(3 << 30)",
        "open('/tmp/large', 'wb').write(bytes(32 << 20))",
        "open('/usr/lib/x', 'w')",
        "open('/dev/shm/x', 'w')",
    ],
)
def test_container_keeps_a_program_from_everything_outside(hostile: str, tmp_path: Path, allowed: None) -> None:
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("held")
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"port": server.getsockname()[1], "secret": str(secret), "target": str(target), "pid": os.getpid()}
        names["switch"] = container.SWITCH.encode()
        assert not container.passes(hostile.format(**names))
    assert not target.exists()


def test_container_gives_a_program_python_and_a_folder_of_its_own(allowed: None) -> None:
    assert container.passes("import json, math, re\nopen('mine', 'w').write('x')\nassert open('mine').read() == 'x'")


def test_program_that_never_ends_is_ended_and_so_is_what_it_started(allowed: None) -> None:
    assert not container.passes("while True:\n    pass")
    assert container.passes("import os, time\nif os.fork() == 0:\n    time.sleep(987654)")
    assert subprocess.run(["pgrep", "-f", "987654"], capture_output=True, check=False).returncode == 1


def test_program_that_sleeps_is_ended_by_the_clock(monkeypatch: pytest.MonkeyPatch, allowed: None) -> None:
    monkeypatch.setattr(container, "SECONDS", 2)
    assert not container.passes("import time\ntime.sleep(987653)")
    assert subprocess.run(["pgrep", "-f", "987653"], capture_output=True, check=False).returncode == 1


def test_word_of_the_last_line_cannot_be_guessed(allowed: None) -> None:
    tries = "for n in range(3, 64):\n    try:\n        os.write(n, b'0' * 32)\n    except OSError:\n        pass\n"
    assert not container.passes(f"import os\n{tries}os._exit(0)")


# -- off by default ---------------------------------------------------------------------------------------------------


def test_programs_are_off_unless_they_are_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _write(tmp_path / "humaneval.jsonl", ITEMS["program"])
    monkeypatch.delenv(container.SWITCH, raising=False)
    with pytest.raises(SpecError, match=f"'code_execution', but .* is off; set {container.SWITCH}=1"):
        suite_tasks(["code_execution"], tmp_path, num_items=5)
    with pytest.raises(DataError, match="is off"):
        passed(RIGHT)


def test_programs_are_refused_where_nothing_can_hold_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _write(tmp_path / "humaneval.jsonl", ITEMS["program"])
    monkeypatch.setenv(container.SWITCH, "1")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SpecError, match="install bubblewrap"):
        suite_tasks(["code_execution"], tmp_path, num_items=5)


def test_programs_are_refused_where_no_container_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "bwrap"
    tool.write_text("#!/bin/sh\necho 'bwrap: no permissions' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv(container.SWITCH, "1")
    monkeypatch.setattr(container, "TOOL", str(tool))
    container._why_not_contained.cache_clear()
    try:
        with pytest.raises(DataError, match=r"cannot make a container here .bwrap: no permissions"):
            container.passes("pass")
    finally:
        container._why_not_contained.cache_clear()


# -- items ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"entry_point": "a b"}, "entry_point is 'a b'"),
        ({"entry_point": "class"}, "entry_point is 'class'"),
        ({"test": "assert 1"}, "must be Python that defines check"),
        ({"test": TEST + "def double(xs):\n    pass\n"}, "test defines 'double'"),
        ({"entry_point": "check"}, "must be Python that defines check"),
        ({"test": "def check(:"}, "must be Python that defines check"),
        ({"prompt": " "}, "prompt is empty"),
        ({"test": None}, "test is None"),
    ],
)
def test_item_that_cannot_be_judged_is_refused_by_name(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    source = small.write_items(tmp_path / "items.jsonl", [ITEM | changes])
    asked = small.task("program", source, max_new_tokens=8)
    with pytest.raises(DataError, match=sentence):
        select(asked, small.evals(asked))


def test_slice_of_programs_is_scored_raw_and_in_chat(tmp_path: Path, allowed: None) -> None:
    _write(tmp_path / "humaneval.jsonl", [ITEM | {"id": str(n), "prompt": f"# {n}\n{BEGUN}"} for n in range(3)])
    raw, chat = suite_tasks(["code_execution"], tmp_path, num_items=2)
    evals = small.evals(*(task.replace({"max_new_tokens": 4}) for task in (raw, chat)))
    rows = item_rows(small.llama(), small.chat(), evals, batch_size=2)
    assert {(row.task, row.metric, row.value) for row in rows if row.metric == "passed"} == {
        ("humaneval", "passed", 0.0),
        ("humaneval_chat", "passed", 0.0),
    }
