"""The Makefile against hostile values: whatever a variable holds, it is refused or arrives as the very same text.

A stand-in for the environment's Python prints its arguments, so that no test needs the real one; `make` is real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBERS = ("WORKERS", "PROBE", "BUDGET", "RETRY", "FAST", "REPLICATES", "RERUN", "PORT")
PLACE = ("EXECUTOR", "ADDRESS", "PARTITION")
OTHERS = ("OTHER", "OTHER_BASE", "OTHER_SET")
VARIABLES = (
    "NAME",
    "BASE",
    "DATA",
    "EVALS",
    "SUITES",
    "OUT",
    "SET",
    "PANEL",
    "VENUE",
    "STORAGE",
    *OTHERS,
    *NUMBERS,
    *PLACE,
)
EXECUTING = ("$(shell touch hit)", "`touch hit`", "$$(touch hit)", "${shell touch hit}", "$(eval $(shell touch hit))")
BREAKING = ("a;touch hit", "a && touch hit", "a|touch hit", 'a" ; touch hit ; "', "a' ; touch hit ; '", "a\ntouch hit")
ARGUMENTS = "#!/bin/sh\nfor word; do printf '[%s]' \"$word\"; done\necho\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, an environment that is up to date, and a Python that prints its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "sweeps/lima_size.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(ARGUMENTS)
    python.chmod(0o755)
    later = (tmp_path / "constraints.txt").stat().st_mtime + 10
    extras = ("dev", "dashboard", "notebook", "postgres", "schedulers")
    for stamp in (".ready", *(f".ready-{extra}" for extra in extras)):
        (tmp_path / ".venv" / stamp).touch()
        os.utime(tmp_path / ".venv" / stamp, (later, later))
    return tmp_path


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make with its own environment variables alone."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *words], cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("value", EXECUTING)
@pytest.mark.parametrize("variable", VARIABLES)
def test_make_value_that_would_execute_is_refused_in_one_line(checkout: Path, variable: str, value: str) -> None:
    for target in ("sweep", "help", "clean"):
        done = make(checkout, target, f"{variable}={value}")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert f"{variable} is not allowed as given, but must" in done.stderr
    assert not (checkout / "hit").exists()


@pytest.mark.parametrize("value", EXECUTING)
@pytest.mark.parametrize("variable", VARIABLES)
def test_make_value_from_the_environment_is_refused_too(checkout: Path, variable: str, value: str) -> None:
    done = make(checkout, "sweep", **{variable: value})
    assert done.returncode == 2
    assert f"{variable} is not allowed as given, but must" in done.stderr
    assert not (checkout / "hit").exists()


@pytest.mark.parametrize("value", BREAKING)
@pytest.mark.parametrize("variable", VARIABLES)
def test_make_value_that_would_end_a_word_never_executes(checkout: Path, variable: str, value: str) -> None:
    words = ["NAME=lima_size"] if variable != "NAME" else []
    done = make(checkout, "compare", *words, f"{variable}={value}")
    assert not (checkout / "hit").exists()
    if variable.endswith("SET") and "\n" not in value:
        option = variable.lower().replace("_", "-")
        assert f"[--{option}][{value}]" in done.stdout  # a JSON object holds such characters: they arrive as they are
    else:
        assert done.returncode == 2
        assert "is not allowed as given" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["SHELL", "VENV", "PYTHON", "PATH", "words", "guard", "remove", "v", "1", "UNKNOWN", "USER_VARIABLES", "FOO"],
)
def test_make_variable_of_another_name_never_executes(checkout: Path, name: str) -> None:
    make(checkout, "sweep", "NAME=lima_size", f"{name}=$(shell touch hit)")
    assert not (checkout / "hit").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "-x", "--help", "a b", "a.b", "ä"])
def test_make_name_outside_its_alphabet_is_refused(checkout: Path, name: str) -> None:
    done = make(checkout, "plan", f"NAME={name}")
    assert done.returncode == 2
    assert "NAME is not allowed as given" in done.stderr


def test_make_allowed_values_arrive_as_they_are(checkout: Path) -> None:
    setting = '{"data.num_examples": [8, 16], "note": "x; \'y\' & z"}'
    done = make(checkout, "sweep", "NAME=lima_size", "BASE=../m/x-1.5", f"SET={setting}", "RETRY=1", "WORKERS=2")
    assert done.stdout == (
        f"[-m][harness][sweep][lima_size][--base][../m/x-1.5][--set][{setting}][--workers][2][--retry-failed]\n"
    )


@pytest.mark.parametrize("target", ["plan", "sweep"])
def test_make_budget_reaches_whoever_can_use_it(checkout: Path, target: str) -> None:
    done = make(checkout, target, "NAME=lima_size", "BUDGET=2h")
    assert done.stdout == f"[-m][harness][{target}][lima_size][--budget][2h]\n"


@pytest.mark.parametrize("target", ["plan", "sweep", "study", "recovery", "claims-run"])
def test_make_place_reaches_whatever_runs_trials(checkout: Path, target: str) -> None:
    words = ["EXECUTOR=slurm", "ADDRESS=10.0.0.1:6379", "PARTITION=gpu,big-mem"]
    done = make(checkout, target, "NAME=lima_size", *words)
    assert "[--executor][slurm][--address][10.0.0.1:6379][--partition][gpu,big-mem]" in done.stdout


def test_make_without_a_name_lists_the_sweeps(checkout: Path) -> None:
    done = make(checkout, "sweep")
    assert done.returncode == 2
    assert "NAME is empty, but must be a sweep: lima_size" in done.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("bench-audit", "[-m][benchmarks.audit_table][rows][--tokenizers][tokenizers/a:chatml][--out][table.md]"),
        ("bench-labels", "[-m][benchmarks.trl_labels][rows][--tokenizers][tokenizers/a:chatml][--out][table.md]"),
    ],
)
def test_make_benchmark_of_files_gets_them_and_the_tokenizer(checkout: Path, target: str, words: str) -> None:
    done = make(checkout, target, "DATA=rows", "BASE=tokenizers/a:chatml", "OUT=table.md")
    assert done.stdout == words + "\n"
    for lacking in ("DATA", "BASE"):
        refused = make(checkout, target, *{"DATA=rows", "BASE=a"} - {f"{lacking}=rows", f"{lacking}=a"})
        assert refused.returncode == 2
        assert f"{lacking} is empty, but must be" in refused.stderr


def test_make_benchmark_of_memory_gets_the_tokenizer(checkout: Path) -> None:
    assert make(checkout, "bench-memory", "BASE=a").stdout == "[-m][benchmarks.memory][--tokenizer][a]\n"
    assert "BASE is empty" in make(checkout, "bench-memory").stderr


def test_make_clean_leaves_results(checkout: Path) -> None:
    record = checkout / "out/trials/a/result.json"
    record.parent.mkdir(parents=True)
    record.touch()
    (checkout / "build").mkdir()
    make(checkout, "clean")
    assert record.exists()
    assert not (checkout / "build").exists()


def test_make_detector_sees_a_makefile_without_guards(checkout: Path) -> None:
    (checkout / "Makefile").write_text("sweep:\n\t@echo ran\n")
    make(checkout, "sweep", "NAME=$(shell touch hit)")
    assert (checkout / "hit").exists()


def test_make_claims_run_passes_what_it_is_given(checkout: Path) -> None:
    done = make(checkout, "claims-run", "FAST=1", "OUT=o/x", "WORKERS=2")
    assert done.stdout == "[-m][harness][claims-run][--out][o/x][--workers][2][--fast]\n"
    assert make(checkout, "claims-run", "FAST=0").stdout == "[-m][harness][claims-run]\n"
    assert make(checkout, "claims").stdout == "[-m][harness][claims]\n"
    assert make(checkout, "claims", "FORMAT=latex").stdout == "[-m][harness][claims][--format][latex]\n"


@pytest.mark.parametrize("value", ["2", "yes", "-1"])
@pytest.mark.parametrize(("target", "variable"), [("claims-run", "FAST"), ("recovery", "RERUN")])
def test_make_switch_is_0_or_1(checkout: Path, target: str, variable: str, value: str) -> None:
    done = make(checkout, target, "NAME=lima_size", f"{variable}={value}")
    assert done.returncode == 2
    assert f"{variable} is not allowed as given, but must be 0 or 1" in done.stderr


@pytest.mark.parametrize("variable", ["OTHER", "OTHER_BASE"])
def test_make_other_sweep_is_no_option(checkout: Path, variable: str) -> None:
    done = make(checkout, "compare", "NAME=lima_size", f"{variable}=--help")
    assert done.returncode == 2
    assert f"{variable} is not allowed as given, but must not start with -" in done.stderr


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (
            "compare NAME=lima_size OTHER=epochs BASE=a OUT=o",
            "[harness][compare][lima_size][epochs][--base][a][--out][o]",
        ),
        (
            'compare NAME=lima_size OTHER_BASE=../m/x-1.5 OTHER_SET={"a":1}',
            '[harness][compare][lima_size][--other-base][../m/x-1.5][--other-set][{"a":1}]',
        ),
        ("recovery NAME=lima_size WORKERS=2 BUDGET=2h", "[harness][recovery][lima_size][--workers][2][--budget][2h]"),
        ("recovery NAME=lima_size RERUN=1 RETRY=1", "[harness][recovery][lima_size][--retry-failed][--rerun]"),
        ("notebook NAME=lima_size PORT=2719", "[harness][notebook][lima_size][--port][2719]"),
        ("dashboard", "[harness][dashboard][tune]"),
        ("dashboard NAME=a PORT=8081", "[harness][dashboard][a][--port][8081]"),
        ("stats-check", "[analysis.stats_check]"),
        ("stats-check REPLICATES=80 WORKERS=1", "[analysis.stats_check][--replicates][80][--workers][1]"),
        (
            "plan NAME=lima_size EVALS=e SUITES=general,code",
            "[harness][plan][lima_size][--evals][e][--suites][general,code]",
        ),
    ],
)
def test_make_target_passes_what_it_is_given(checkout: Path, words: str, printed: str) -> None:
    assert make(checkout, *words.split()).stdout == f"[-m]{printed}\n"


@pytest.mark.parametrize("target", ["compare", "recovery", "notebook"])
def test_make_target_of_one_sweep_needs_its_name(checkout: Path, target: str) -> None:
    done = make(checkout, target)
    assert done.returncode == 2
    assert "NAME is empty, but must be a sweep: lima_size" in done.stderr


@pytest.mark.parametrize("extra", ["dashboard", "notebook"])
def test_make_target_with_an_extra_installs_it_first_and_once(checkout: Path, extra: str) -> None:
    (checkout / f".venv/.ready-{extra}").unlink()
    (checkout / ".venv/.ready").touch()
    installed = f"[-m][pip][--disable-pip-version-check][--quiet][install][-c][constraints.txt][-e][.[{extra}]]\n"
    opened = f"[-m][harness][{extra}][lima_size]\n"
    assert make(checkout, extra, "NAME=lima_size").stdout == installed + opened
    assert make(checkout, extra, "NAME=lima_size").stdout == opened


def test_make_schedulers_installs_both_extras_once(checkout: Path) -> None:
    (checkout / ".venv/.ready-schedulers").unlink()
    (checkout / ".venv/.ready").touch()
    assert make(checkout, "schedulers").stdout.endswith("[-c][constraints.txt][-e][.[ray,slurm]]\n")
    assert "install" not in make(checkout, "schedulers").stdout


def test_make_help_lists_every_target_with_its_text(checkout: Path) -> None:
    listed = make(checkout, "help").stdout
    for line in (checkout / "Makefile").read_text().splitlines():
        if "## " in line and not line.startswith((" ", "\t", "#", "$")):
            assert f"make {line.partition(':')[0]} " in listed


def test_make_server_of_a_study_arrives_as_it_is(checkout: Path) -> None:
    url = "postgresql://me@db.example:5432/lab?sslmode=require&application_name=a%20b"
    for target, name in (("study", "tune"), ("dashboard", "tune")):
        done = make(checkout, target, f"NAME={name}", f"STORAGE={url}")
        assert done.stdout.endswith(f"[{name}][--storage][{url}]\n"), done.stderr
    assert "storage" not in make(checkout, "plan", "NAME=tune", f"STORAGE={url}").stdout


@pytest.mark.parametrize("url", ["postgresql://me:s3cret@db/lab", "postgresql://me@db/lab?password=s3cret"])
def test_make_password_of_a_server_is_refused_and_not_repeated(checkout: Path, url: str) -> None:
    for how in ({"STORAGE": url}, {}):
        done = make(checkout, "study", "NAME=tune", *([] if how else [f"STORAGE={url}"]), **how)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "STORAGE holds a password, but must be without" in done.stderr
        assert "s3cret" not in done.stdout + done.stderr
