"""Nothing that a test needs is passed over in silence where CI runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.presence import extra, package, program

ROOT = Path(__file__).parents[1]
NOT_OF_DEV = {"presidio_analyzer", "immutabledict"}
"""What the environment of the tests may lack: the extra `pii`, and a package that a stand-in is made for."""


@pytest.mark.parametrize(
    "need",
    [lambda: program("no-such-program"), lambda: package("no_such_package"), lambda: extra("no_such_scheduler")],
)
@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("false", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_missing_need_is_a_skip_and_in_ci_a_failure(
    need: Callable[[], object], ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"no.such"):
        need()


def test_needs_that_are_here_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert program("no-such-program", "sh") == shutil.which("sh")
    assert package("os.path") is os.path


def test_no_test_passes_over_a_package_of_the_tests_by_itself() -> None:
    pattern = r"(?:importorskip|find_spec)\(\s*[\"'](\w+)"
    assert re.findall(pattern, 'importorskip ("x"); importorskip("trl.y"); find_spec(\n"marimo")') == ["trl", "marimo"]
    paths = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert {name for path in paths for name in re.findall(pattern, path.read_text())} == NOT_OF_DEV


def test_ci_says_to_its_tests_that_it_is_ci(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    debian = ("chromium", "pdftotext", "pdflatex", "bwrap", "pg_lsclusters", "munged", "slurmctld", "slurmd")
    for name in (*debian, "make"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('#!/bin/sh\necho "$1: $CI"\n')
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run([tmp_path / ".ci/run"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{step}: true" for step in ("check", "schedulers", "test", "test-slow")]
