"""Secrets in the environment, in what trials say and in what users type: none is in any file or line of output."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import urllib.parse
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pyarrow import parquet

from harness import cli
from harness.engine import worker
from harness.engine.executor import WorkerDiedError
from harness.engine.worker import TrialJob
from harness.records import result
from harness.records.schema import TrialResult
from harness.redact import REDACTED
from tests.engine.leaking import CANARIES, SECRETS, UNKNOWN
from tests.engine.stub_launch import RUNTIME
from tests.engine.trials import planned as stubs

ROOT = Path(__file__).parents[2]
SMALL = {"seed": [0, 1], "data.num_examples": [8], "train.num_epochs": 1, "evals.num_items": 4}


def forms(secret: str) -> Iterator[bytes]:
    """Yield what of a secret can be searched for: itself, and inside base64, hexadecimal and URLs."""
    content = secret.encode()
    yield from (content, content.hex().encode(), urllib.parse.quote(secret, safe="").encode())
    for before in range(3):
        yield base64.b64encode(b"x" * before + content)[4:-4]
        yield base64.urlsafe_b64encode(b"x" * before + content)[4:-4]


FORMS = {form for secret in (*SECRETS.values(), UNKNOWN) for form in forms(secret)}


def contents(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, and of what is packed inside it."""
    content = path.read_bytes()
    yield content
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    if path.suffix == ".pdf":
        for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
            yield zlib.decompressobj().decompress(stream) if stream[:1] == b"\x78" else stream
    if path.suffix == ".parquet":
        yield repr((parquet.read_table(path).to_pylist(), parquet.read_schema(path).metadata)).encode()
    if content[:15] == b"SQLite format 3":
        with closing(sqlite3.connect(path)) as connection:
            yield "\n".join(connection.iterdump()).encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())


def leaks(out: Path, printed: str) -> set[str]:
    """Return the files below a folder that hold a secret in some form, their names included, and `output`."""
    found = {"output"} if any(form in printed.encode() for form in FORMS) else set()
    for path in (path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if any(form in content for content in itertools.chain([name.encode()], contents(path)) for form in FORMS):
            found.add(path.name)
    return found


def leaking(out: Path, *words: str, **environment: str) -> tuple[int, str]:
    """Run the command line whose trials say every secret; return its exit code and all that it printed."""
    command = [sys.executable, "-m", "tests.engine.leaking", *words, "--out", str(out)]
    environment = {**os.environ, **CANARIES, "WANDB_MODE": "offline"} | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_secrets_are_in_no_file_and_no_output_of_a_sweep_with_failures(tmp_path: Path) -> None:
    words = ["sweep", "lima_size", "--base", "tiny", "--set", json.dumps(SMALL), "--workers", "1"]
    out = tmp_path / "my out's $HOME"  # a place that has to be quoted
    code, printed = leaking(out, *words)
    assert code == 1, printed
    assert "1 failed" in printed
    assert "again: python -m harness run-trial" in printed
    assert "[redacted]" in printed
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert {".log", ".json", ".jsonl", ".parquet", ".html", ".md", ".tex", ".pdf", ".wandb"} <= written, written
    assert leaks(tmp_path, printed) == set()
    lines = [line for line in printed.splitlines() if line.startswith("  again: ")]
    assert set(Counter(lines).values()) == {2}  # at once, and at the end
    line = lines[0]
    again = pasted(line.removeprefix("  again: "))
    assert again.returncode == 0, again.stdout + again.stderr
    (key,) = [word for word in line.split() if len(word) == 64]
    assert f"trial {key[:12]} COMPLETE" in again.stdout
    assert result.read(out / "trials" / key) is not None


def pasted(line: str) -> subprocess.CompletedProcess[str]:
    """Run one line as a shell does that somebody pasted it into, where `python` is this one."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_secrets_of_a_study_with_failures_are_in_no_file(tmp_path: Path) -> None:
    code, printed = leaking(tmp_path, "study", "tune", "--base", "tiny", "--set", '{"seed": [0, 1]}', LEAK="study")
    assert code == 1, printed
    assert "[redacted]" in printed
    assert {"study.db", "study.json"} <= {path.name for path in tmp_path.rglob("study.*")}
    assert leaks(tmp_path, printed) == set()


@pytest.mark.slow
def test_secrets_of_a_build_without_redaction_are_found(tmp_path: Path) -> None:
    words = ["sweep", "lima_size", "--base", "tiny", "--set", json.dumps(SMALL), "--json"]
    code, printed = leaking(tmp_path, *words, LEAK="broken", WANDB_MODE="disabled")
    assert code == 1, printed
    assert {"output", "1.log", "failure.json"} <= leaks(tmp_path, printed)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--base", f"./{UNKNOWN}"),
        ("--base", "./{PGPASSWORD}/model"),
        ("--data", "https://me:a-password@host/rows.jsonl"),
        ("--data", "/rows/{AWS_SECRET_ACCESS_KEY}.jsonl"),
        ("--evals", f"./{UNKNOWN}"),
        ("--set", '{"data.template": "{OPENAI_API_KEY}"}'),
        ("--set", '{"data.template": "' + "x" * 50 + 'https://me:a-password@host/"}'),
        ("--set", '{"{HF_TOKEN}": 1}'),
        ("--suites", "{WANDB_API_KEY}"),
        ("--panel", "{WANDB_API_KEY}"),
        ("--budget", "{WANDB_API_KEY}"),
        ("--storage", "postgresql://me:a-password@host/db"),
        ("--executor", "{WANDB_API_KEY}"),
        ("--workers", "{WANDB_API_KEY}"),
        ("--no-such-option", "{WANDB_API_KEY}"),
    ],
)
def test_secret_that_a_user_types_is_refused_and_not_repeated(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, secret in CANARIES.items():
        monkeypatch.setenv(name, secret)
        value = value.replace("{" + name + "}", secret)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["harness", "sweep", "lima_size", f"{option}={value}", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert ended.value.code == 2, printed
    assert len(printed.splitlines()) <= 15
    assert leaks(out, printed) == set()
    assert "a-password" not in printed
    assert not out.exists()


def test_secret_in_a_traceback_is_not_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"no such host {CANARIES['DATABASE_URL']}")

    monkeypatch.setattr(cli.commands, "plan", fail)
    monkeypatch.setattr(sys, "argv", ["harness", "plan", "lima_size", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    captured = capsys.readouterr()
    assert "[redacted]" in (tmp_path / "logs/last_error.log").read_text()
    assert leaks(tmp_path, captured.out + captured.err) == set()


def test_secret_in_what_a_lost_process_said_is_not_in_the_log(tmp_path: Path) -> None:
    def lost(*_: object) -> TrialResult:
        raise WorkerDiedError(f"memory ran out in one of the trial's processes ({UNKNOWN})")

    job = TrialJob(stubs(1)[0].spec, tmp_path, RUNTIME, lost)
    with pytest.raises(WorkerDiedError):
        worker.attempt(job)
    assert leaks(tmp_path, "") == set()
    (log,) = tmp_path.rglob("1.log")
    assert "(" + REDACTED in log.read_text()
