"""0 done, 1 some trials failed, 2 bad input, 75 try again, 130 interrupted: of every verb, through the real entry."""

from __future__ import annotations

import fcntl
import json
import socket
import sys
from pathlib import Path

import pytest
import typer

from harness import cli, cli_output
from harness.engine import serving
from harness.errors import BadInputError, BusyError, DiskError, HarnessError, StoreError, UnreachableError
from tests.analysis import synthetic
from tests.analysis.synthetic import build

VERBS = {
    "plan": ["lima_size"],
    "sweep": ["lima_size"],
    "study": ["tune"],
    "status": ["lima_size"],
    "report": ["lima_size"],
    "figures": ["lima_size"],
    "compare": ["lima_size", "epochs"],
    "recovery": ["lima_size"],
    "audit": [],
    "pocket": [],
    "pocket-check": [],
    "claims": [],
    "claims-run": ["--foreground"],
    "fetch": [],
    "dashboard": ["tune"],
    "notebook": ["lima_size"],
    "run-trial": ["abc"],
    "mirror": ["lima_size"],
}
"""Every verb, and arguments that it takes."""
ERRORS = [
    (HarnessError("as asked"), 1),
    (StoreError("as asked"), 1),
    (RuntimeError("as asked"), 1),
    (BadInputError("as asked"), 2),
    (BusyError("as asked"), 75),
    (DiskError("as asked"), 75),
    (UnreachableError("as asked"), 75),
    (KeyboardInterrupt(), 130),
]


def ended(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[object, str]:
    """Run the command line as `python -m harness` does; return its exit code and what it printed on stderr."""
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


def test_exit_code_table_holds_every_verb() -> None:
    assert set(typer.main.get_command(cli.app).commands) == set(VERBS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_exit_code_of_each_error_is_that_of_its_class(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, expected in ERRORS:

        def fail(out: Path, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(cli_output, "check_out", fail)
        code, said = ended(capsys, monkeypatch, verb, *VERBS[verb], "--out", str(tmp_path))
        assert code == expected, (error, said)
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 2
        assert ("traceback: " in said) == (expected == 1)


BAD: list[list[str]] = [
    *([verb, "no_such_sweep"] for verb in ("plan", "sweep", "study", "status", "report", "figures", "compare")),
    *([verb, "no_such_sweep"] for verb in ("recovery", "dashboard", "notebook", "mirror")),
    *([verb, "lima_size"] for verb in ("report", "figures", "recovery", "notebook", "mirror")),
    ["compare", "lima_size", "epochs"],
    ["dashboard", "tune"],
    ["dashboard", "tune", "--port", "80"],
    ["run-trial", "../../x"],
    ["run-trial", "abc", "--keep", "everything"],
    ["audit", "--base", "no_such_base"],
    ["fetch", "--base", "no_such_base"],
    ["fetch", "--evals", "hub:../../x"],
    ["pocket", "--workers", "0"],
    ["pocket-check", "--workers", "0"],
    ["claims", "--format", "pdf"],
    ["claims-run", "--workers", "0"],
    ["claims-run", "--workers", "x"],
    ["no-such-verb"],
]


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_exit_code_of_bad_input_is_2_and_nothing_is_made(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, said = ended(capsys, monkeypatch, *words, "--out", str(out))
    assert code == 2, said
    assert 1 <= len(said.strip().splitlines()) <= 15
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "plan"])
@pytest.mark.parametrize("kind", ["file", "loop", "dangling", "long"])
def test_exit_code_of_an_output_folder_that_is_none_is_2(
    kind: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind in ("loop", "dangling"):
        out.symlink_to("out" if kind == "loop" else "gone")
    given = "y" * 300 if kind == "long" else str(out)
    code, said = ended(capsys, monkeypatch, verb, *VERBS[verb], "--out", given)
    assert code == 2, said
    assert said.startswith("OUT is ")
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if kind in ("file", "loop", "dangling") else [])


@pytest.mark.parametrize("verb", ["sweep", "study", "audit", "pocket", "claims-run", "fetch"])
def test_exit_code_of_an_output_folder_that_cannot_be_made_is_75(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    more = ["--base", "gemma3_270m"] if verb == "fetch" else VERBS[verb]
    code, said = ended(capsys, monkeypatch, verb, *more, "--out", str(tmp_path / "file/out"))
    assert code == 75, said
    assert "but must be a folder that can be written" in said


def test_exit_code_of_what_another_process_holds_is_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "claims").mkdir()
    with (tmp_path / "claims/.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, said = ended(capsys, monkeypatch, "claims-run", "--foreground", "--out", str(tmp_path))
    assert (code, said.count("\n")) == (75, 1)


@pytest.mark.parametrize("verb", ["dashboard", "notebook"])
def test_exit_code_of_a_port_that_is_taken_is_75(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "study" if verb == "dashboard" else "sweep"
    name = "tune" if verb == "dashboard" else "lima_size"
    store, folder = build(tmp_path, synthetic.Plan(name=name, kind=kind, seeds=(0,), values=(25,), scale=0.1))
    (store.sweep(folder) / "study.db").touch()
    monkeypatch.setattr(serving, "_program", lambda name, extra: sys.executable)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, said = ended(capsys, monkeypatch, verb, name, "--out", str(tmp_path), "--port", port)
    assert code == 75, said
    assert "but must be free on 127.0.0.1" in said


def test_exit_code_of_damaged_records_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, name = build(tmp_path, synthetic.Plan(seeds=(0,), values=(25,), scale=0.1))
    (store.sweep(name) / "sweep.json").write_text("{")
    for words in (["status"], ["report", "lima_size"]):
        code, said = ended(capsys, monkeypatch, *words, "--out", str(tmp_path))
        assert code == 1, said


@pytest.mark.parametrize(
    "words", [["plan", "lima_size"], ["status"], ["status", "lima_size"], ["claims"], ["fetch"]], ids=" ".join
)
def test_exit_code_of_what_went_well_is_0_and_json_is_one_value(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", *words, "--json", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
