"""The short set of chaos, and every detector against a build that it must catch.

Each runs as a program of its own: what is killed, and what forks, is not the process of the tests.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import broken, catalog

ROOT = Path(__file__).parents[2]
CAUGHT = [
    ("commit_points", "commit_replaces", "overwrote the result of the other"),
    ("commit_points", "writes_in_place", "half a file"),
    ("commit_points", "leftovers_kept", "left over"),
    ("commit_points", "loses_a_trial", "lost:"),
    ("io_calls", "writes_in_place", "half a file"),
    ("many_launchers", "lock_does_not_lock", "was run"),
    ("worker_kills", "resumes_without_cutting_its_log", "is not as undisturbed"),
    ("launcher_kills", "workers_outlive", "outlived their launcher"),
    ("launcher_kills", "forgets_attempts", "was run 2 times and tells of 1"),
    ("bit_flips", "reader_skips_sha256", "not found"),
    ("bit_flips", "manifest_unread", "not found"),
    ("bit_flips", "launch_skips_files", "not found"),
    ("cut_files", "torn_tail_kept", "holds a line that is not JSON"),
    ("poisoned_caches", "cache_by_name_alone", "is not as undisturbed"),
    ("signals", "deaf", "the launcher ended with"),
    ("grandchildren", "fork_keeps_lock", "keeps the lock of a dead worker"),
    ("disk_full", "says_done_on_a_full_disk", "it ended with 0"),
]
"""Scenario, the build that it must catch, and a part of what it says of it."""


def chaos(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    command = [sys.executable, "-m", "tests.chaos", "--set", "short", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def skip_what_was_skipped(output: str) -> None:
    """Skip a test loudly where this machine cannot do what it is about."""
    skipped = [line.split("SKIPPED ")[1] for line in output.splitlines() if "SKIPPED " in line]
    if skipped:
        pytest.skip(skipped[0])


@pytest.mark.parametrize("name", catalog.SCENARIOS)
def test_chaos_leaves_what_an_undisturbed_run_leaves(name: str) -> None:
    done = chaos("--only", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 problems in all" in done.stdout
    skip_what_was_skipped(done.stdout)


@pytest.mark.parametrize(("name", "build", "said"), CAUGHT, ids=[f"{build}-{name}" for name, build, _ in CAUGHT])
def test_chaos_on_a_broken_build_catches_it(name: str, build: str, said: str) -> None:
    done = chaos("--only", name, "--broken", build, "--count", "6", "--until-caught")
    skip_what_was_skipped(done.stdout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert said in done.stdout


def test_chaos_every_broken_build_and_every_scenario_is_used() -> None:
    assert {build for _, build, _ in CAUGHT} == set(broken.BUILDS)
    assert {name for name, _, _ in CAUGHT} == set(catalog.SCENARIOS)
