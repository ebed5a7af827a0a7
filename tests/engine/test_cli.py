"""The command line as a user meets it: one real sweep in worker processes, and everything that is refused."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from harness import cli_output
from harness.cli import app
from harness.engine import catalog, executor, measurement, plan, recovery
from harness.engine import serving as engine_serving
from harness.engine.resolve import Request
from harness.errors import HarnessError
from harness.records import result
from tests.analysis import synthetic
from tests.analysis.synthetic import build
from tests.engine.test_plan import with_qlora
from tests.pocket.tiny import tiny_experiment
from tests.presence import installed

ROOT = Path(__file__).parents[2]
SMALL = json.dumps({"seed": [0], "data.num_examples": [8, 16], "train.num_epochs": 1, "evals.num_items": 6})


def run(*words: str, code: int = 0, **environment: str) -> str:
    """Run a verb in this process and return what it printed."""
    done = CliRunner(env={"WANDB_MODE": "disabled"} | environment).invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb as a process."""
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def scores(root: Path) -> dict[str, object]:
    """Return what each result says about the model, by trial."""
    found: dict[str, object] = {}
    for folder in root.glob("trials/*"):
        record = result.read(folder)
        assert record is not None
        assert record.after is not None
        found[folder.name] = (record.train, record.before.test, record.after.test, record.resolved)
    return found


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every base mean the tiny experiment."""
    experiment = with_qlora(tiny_experiment())
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment)


@pytest.mark.usefixtures("tiny")
def test_cli_sweep_from_base_to_report_and_again(tmp_path: Path) -> None:
    out = ["--set", SMALL, "--out", str(tmp_path / "two")]
    printed = run("sweep", "lima_size", *out, "--workers", "2")
    assert "3 of 3 trials final or failed, 3 ran now" in printed
    assert "report.html" in printed
    assert len(scores(tmp_path / "two")) == 3
    keeping = ["--set", json.dumps(json.loads(SMALL) | {"runtime.keep": "all"}), *out[2:]]
    again = json.loads(run("sweep", "lima_size", *keeping, "--json").split("\n", 1)[1])
    assert "runtime.keep is 'all', but 3 finished trials were run with less" in again["notes"][0]
    assert (again["num_ran"], again["why"], set(again["states"].values())) == (0, "done", {"COMPLETE"})
    planned = json.loads(run("plan", "lima_size", *out, "--json"))
    assert (planned["num_done"], planned["seconds_left"]) == (3, 0.0)
    # of a world as small as this one the plan says what it cannot show
    assert any("cloze_low will be at its floor" in note for note in planned["notes"])
    assert all(trial["seconds"] > 0 and trial["num_tokens"] > 0 for trial in planned["trials"])
    written = json.loads(run("report", "lima_size", *out, "--json"))
    assert all(Path(path).exists() for path in written["paths"])
    assert "lima_size@tiny-" in run("status", "--out", str(tmp_path / "two"))
    # The number of workers moves no number: not of the base, not of a trial.
    run("sweep", "lima_size", "--set", SMALL, "--out", str(tmp_path / "one"), "--workers", "1")
    assert scores(tmp_path / "one") == scores(tmp_path / "two")
    key = sorted(scores(tmp_path / "two"))[0]
    assert "reproduced exactly" in run("run-trial", key[:16], "--out", str(tmp_path / "two"), "--keep", "all")
    assert (tmp_path / "two/trials" / key / "weights/model.safetensors").is_file()
    assert "runtime.keep is 'all', but 2 finished trials" in run("plan", "lima_size", *keeping)
    child = run("plan", "epochs", "--base", f"trial:{key[:12]}", "--out", str(tmp_path / "two"))
    assert f"epochs on trial-{key[:12]}" in child


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "lima_sise"], "Did you mean 'lima_size'"),
        (["sweep", "lima_size", "--base", "pocktet"], "Did you mean 'pocket'"),
        (["sweep", "lima_size", "--set", "{"], "but must be a JSON object"),
        (["sweep", "lima_size", "--set", '{"train.batch_size": 0}'], "train.batch_size is 0"),
        (["plan", "lima_size", "--budget", "2 weeks"], "BUDGET is '2 weeks', but must be a positive time"),
        (["sweep", "lima_size", "--budget", "2 weeks"], "BUDGET is '2 weeks', but must be a positive time"),
        (["sweep", "lima_size", "--base", "smollm2_135m_instruct"], "make fetch BASE=smollm2_135m_instruct"),
        (["report", "lima_size"], "does not exist, but must before there is a report"),
        (["run-trial", "abc"], "must name exactly one trial"),
        (["run-trial", "abc", "--keep", "everything"], "must be one of none, adapter, all"),
        (["study", "tune", "--storage", "postgresql://me:pw@db/lab"], "STORAGE holds a password, but must be"),
        (
            ["sweep", "lima_size", "--storage", "postgresql://me@db/lab"],
            "STORAGE is given, but must be a study's alone",
        ),
        (["dashboard", "tune"], "does not exist, but must before it can be shown"),
        (["notebook", "lima_size"], "does not exist, but must before there is a report"),
        (["compare", "lima_size", "epochs"], "does not exist, but must before there is a report"),
        (["compare", "lima_sise", "epochs"], "Did you mean 'lima_size'"),
        (["recovery", "lima_size"], "33 of 33 trials of 'lima_size' have no result, but must before"),
        (["recovery", "tune"], "'tune' is a study, but must be a sweep"),
        (["recovery", "lima_size", "--budget", "soon"], "BUDGET is 'soon', but must be a positive time"),
        (["report", "recovery-lima_size"], "does not exist, but must; run make recovery NAME=lima_size."),
        (["sweep", "lima_size", "--workers", "0"], "WORKERS is 0, but must be an integer from 1 to 256."),
        (["plan", "lima_size", "--workers", "257"], "WORKERS is 257, but must be an integer from 1 to 256."),
        (["sweep", "lima_size", "--no-such-option"], "No such option"),
    ],
)
def test_cli_bad_input_ends_with_2_in_few_lines_and_creates_nothing(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = harness(*words, "--out", str(out))
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split()).replace("│ ", "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 15
    assert not out.exists()


@pytest.mark.usefixtures("tiny")
def test_cli_size_larger_than_the_usable_rows_is_refused_before_any_trial(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    answers = ["yes", "no " * 200] * 20
    rows = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}] for answer in answers]
    chats.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    setting = {"data.num_examples": [4, 30], "data.too_long": "drop", "evals.num_items": 4, "seed": 0}
    done = run("sweep", "lima_size", "--data", str(chats), "--set", json.dumps(setting), "--out", str(tmp_path), code=2)
    assert "data.num_examples is 30, but must be at most" in done
    assert not (tmp_path / "trials").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cli_device_that_is_not_here_is_refused_before_a_base_is_built(tmp_path: Path) -> None:
    done = harness("sweep", "lima_size", "--set", '{"runtime.device": "cuda"}', "--out", str(tmp_path))
    assert done.returncode == 2
    assert "\nruntime.device is 'cuda', but must be 'cpu' or 'auto'" in done.stderr
    assert not list(tmp_path.glob("artefacts/base/*"))
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize("out", ["/proc/no/such", "/dev/null/out"])
def test_cli_output_that_cannot_be_written_ends_with_75(out: str) -> None:
    done = harness("sweep", "lima_size", "--out", out)
    assert done.returncode == 75
    assert "but must be a folder that can be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("tiny")
def test_cli_plan_says_how_far_a_budget_reaches(tmp_path: Path) -> None:
    out = ["--set", SMALL, "--out", str(tmp_path), "--budget", "90m"]
    assert "trials left that end within BUDGET=90m: unknown" in run("plan", "lima_size", *out)
    spec = plan.make_plan(Request(name="lima_size", set=SMALL, out=tmp_path)).record.trials[0].spec
    row = {"num_steps": 1, "num_tokens": 1, "seconds_train": 0.0, "seconds_total": 3600.0, "memory_bytes": None}
    path = tmp_path / "probes" / f"{measurement.shape(spec)}.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(row | {"disk_bytes": 1}) + "\n")
    assert "trials left that end within BUDGET=90m: 1 of 3" in run("plan", "lima_size", *out, "--workers", "1")
    assert "not counting what they share: building the base" in run("plan", "lima_size", *out, "--workers", "1")
    assert "trials left that end within BUDGET=90m: 2 of 3" in run("plan", "lima_size", *out, "--workers", "2")


@pytest.mark.usefixtures("tiny")
def test_cli_unknown_suite_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    options = ["--evals", str(tmp_path), "--suites", "genral,code", "--out", str(tmp_path / "out")]
    done = run("plan", "lima_size", *options, code=2)
    assert "SUITES is 'genral'" in done
    assert "Did you mean 'general'?" in done


def test_cli_status_of_nothing_says_so(tmp_path: Path) -> None:
    assert "nothing was launched" in run("status", "--out", str(tmp_path / "out"))
    assert json.loads(run("status", "--out", str(tmp_path / "out"), "--json")) == []
    assert not (tmp_path / "out").exists()


def test_cli_help_names_every_verb() -> None:
    printed = run("--help")
    verbs = ("plan", "sweep", "study", "status", "report", "figures", "fetch", "dashboard", "run-trial", "mirror")
    for verb in (*verbs, "compare", "recovery", "notebook"):
        assert verb in printed
    assert "claims" in printed
    assert "claims-run" in printed


def test_cli_default_workers_fill_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tiny_experiment().runtime.replace({"device": "cpu"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    assert executor.default_workers(runtime) == 7
    assert executor.default_workers(runtime.replace({"num_threads": 2})) == 3
    assert executor.default_workers(runtime.replace({"num_threads": 64})) == 1


def test_cli_json_has_null_for_what_is_not_known_or_has_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    cli_output.printed({"bands": [{"low": -math.inf, "value": math.nan, "high": 0.1}]}, as_json=True)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refuse) == {
        "bands": [{"low": None, "value": None, "high": 0.1}]
    }


# -- two sweeps, follow-ups -------------------------------------------------------------------------------------------


WRITTEN = ("compare.md", "compare.csv", "unmatched.csv")


@pytest.mark.usefixtures("tiny")
def test_cli_compare_writes_what_it_prints(tmp_path: Path) -> None:
    root = tmp_path / "out"
    build(root, synthetic.Plan(base="tiny", seeds=(0, 1), scale=0.1))
    build(root, synthetic.Plan(base="tiny", name="epochs", seeds=(0, 1), scale=0.1, values=(25, 50)))
    printed = run("compare", "lima_size", "epochs", "--out", str(root))
    assert "epochs@tiny - lima_size@tiny: difference with its 95 % interval" in printed
    folder = root / "sweeps/lima_size@tiny/compare/epochs@tiny"
    found = json.loads(run("compare", "lima_size", "epochs", "--out", str(root), "--json"))
    assert [Path(path) for path in found["paths"]] == [folder / name for name in WRITTEN]
    table = pd.read_csv(folder / "compare.csv")
    assert table["difference"].tolist() == pytest.approx([row["difference"] for row in found["differences"]])
    assert len(pd.read_csv(folder / "unmatched.csv")) == len(found["unmatched"]) == 8
    assert "| num\\_examples=25" in (folder / "compare.md").read_text()
    refused = run("compare", "lima_size", "--out", str(root), code=2)
    assert "OTHER is 'lima_size@tiny', but must be another sweep than NAME" in refused


@pytest.mark.usefixtures("tiny")
@pytest.mark.slow
def test_cli_recovery_from_trials_that_kept_no_weights_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "NUM_DOCUMENTS", 40)  # so small a world has no more
    out = ["--set", SMALL, "--out", str(tmp_path)]
    run("sweep", "lima_size", *out)
    assert "3 of 3 trials of 'lima_size' kept no weights" in run("recovery", "lima_size", *out, code=2)
    condition = plan.make_plan(Request(name="lima_size", set=SMALL, out=tmp_path)).record.trials[0].condition_id
    some = ["--condition", condition]
    printed = run("recovery", "lima_size", *out, *some, "--rerun", "--json")
    done = json.loads(printed[printed.rindex("\n{\n") :])
    assert (done["num_ran"], done["why"], set(done["states"].values())) == (2, "done", {"COMPLETE"})
    folder = next(tmp_path.glob("sweeps/recovery-lima_size@tiny-*"))
    shares = pd.read_csv(folder / "recovery.csv")
    assert shares["quantity"].tolist() == [row["quantity"] for row in done["recovery"]]
    assert str(folder / "report.html") in run("report", "recovery-lima_size", *out)
    again = run("recovery", "lima_size", *out, *some)
    assert "2 of 2 trials final or failed, 0 ran now" in again
    assert "recovered share" in again


# -- pages served on this machine -------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def listening(port: int) -> set[str]:
    """Return the addresses, as the kernel writes them, on which a port is listened on."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    places = (row[1].split(":") for row in rows if row[3] == "0A")
    return {address for address, at in places if int(at, 16) == port}


def fetched(url: str, process: subprocess.Popen[str]) -> str:
    """Return what a server that is starting answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(process.communicate(timeout=10) if process.poll() is not None else "no answer in time")


@contextlib.contextmanager
def serving(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a verb that serves; whatever happens, it does not outlive the test."""
    command = [sys.executable, "-m", "harness", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_cli_dashboard_shows_a_study_on_loopback_alone_and_ends_with_its_process(tmp_path: Path) -> None:
    installed("optuna_dashboard", "make dashboard installs it")
    folder = plan.make_plan(Request(name="tune", out=tmp_path)).folder
    folder.mkdir(parents=True)
    made = optuna.create_study(study_name="a-small-study", storage=f"sqlite:///{folder / 'study.db'}")
    made.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    port = free_port()
    with serving("dashboard", "tune", "--out", str(tmp_path), "--port", str(port)) as process:
        assert "a-small-study" in fetched(f"http://127.0.0.1:{port}/api/studies", process)
        assert listening(port) == {"0100007F"}
        taken = harness("dashboard", "tune", "--out", str(tmp_path), "--port", str(port))
        assert (taken.returncode, taken.stderr.count("\n")) == (75, 1)
        assert f"PORT is {port}, but must be free on 127.0.0.1" in taken.stderr
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert listening(port) == set()


def test_cli_notebook_is_a_copy_of_ones_own_on_loopback_alone(tmp_path: Path) -> None:
    installed("marimo", "make notebook installs it")
    _, name = build(tmp_path, synthetic.Plan(seeds=(0,), values=(25, 400), scale=0.1))
    own = tmp_path / "sweeps" / name / "notebook.py"
    port = free_port()
    with serving("notebook", "lima_size", "--headless", "--out", str(tmp_path), "--port", str(port)) as process:
        assert "healthy" in fetched(f"http://127.0.0.1:{port}/health", process)
        assert listening(port) == {"0100007F"}
    assert own.read_bytes() == (ROOT / "notebooks/start.py").read_bytes()


def test_cli_notebook_of_ones_own_is_never_overwritten(tmp_path: Path) -> None:
    build(tmp_path, synthetic.Plan(seeds=(0,), values=(25,), scale=0.1))
    made = plan.make_plan(Request(name="lima_size", out=tmp_path))
    path = engine_serving.own_notebook(made)
    path.write_text("mine")
    assert engine_serving.own_notebook(made).read_text() == "mine"


@pytest.mark.parametrize("name", ["optuna-dashboard", "marimo"])
def test_cli_program_that_is_not_installed_is_named_with_its_target(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, synthetic.Plan(seeds=(0,), values=(25,), scale=0.1))
    made = plan.make_plan(Request(name="lima_size", out=tmp_path))
    (made.folder / "study.db").touch()
    monkeypatch.setattr(engine_serving.shutil, "which", lambda *_, **__: None)
    serve = {"marimo": lambda: engine_serving.notebook(made, 8080, headless=True)}
    with pytest.raises(HarnessError, match=f"{name} is not installed; make (dashboard|notebook) installs it"):
        serve.get(name, lambda: engine_serving.dashboard(made, 8080))()
