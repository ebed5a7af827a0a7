"""What opens in a browser: optuna-dashboard on a study, and a marimo notebook on a sweep.

Invariant: both listen on the loopback interface alone and take the place of this process, so a signal to it ends them
and nothing stays behind. What does not live here: what the notebook starts from (notebooks/start.py).
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import NoReturn

from harness.engine.plan import Plan
from harness.errors import BusyError, HarnessError, SpecError
from harness.records.store import write_atomic

HOST = "127.0.0.1"
START = Path(__file__).parents[2] / "notebooks" / "start.py"
NOTEBOOK = "notebook.py"


def dashboard(plan: Plan, port: int, storage: str | None = None) -> NoReturn:
    """Become optuna-dashboard on a study's database.

    Args:
        plan: the study's.
        port: where it listens.
        storage: URL of its server, as its driver wants it; None is the file beside the study.

    Raises:
        SpecError: the study was never launched, or it is a sweep.
        HarnessError: optuna-dashboard is not installed.
        BusyError: the port is taken.
    """
    database = plan.folder / "study.db"
    if storage is None and not database.is_file():
        raise SpecError(
            f"{database} does not exist, but must before it can be shown; run make study NAME={plan.record.name}."
        )
    program = _program("optuna-dashboard", "dashboard")
    _check_port(port)
    _become([program, storage or f"sqlite:///{database.absolute()}", "--host", HOST, "--port", str(port)])


def notebook(plan: Plan, port: int, *, headless: bool) -> NoReturn:
    """Become marimo on the sweep's own notebook, a copy of notebooks/start.py that is made once and never overwritten.

    Raises:
        HarnessError: marimo is not installed, or this installation has no notebooks.
        BusyError: the port is taken.
        DiskError: the disk is full or read-only.
    """
    program = _program("marimo", "notebook")
    _check_port(port)
    path = own_notebook(plan)
    options = ["--host", HOST, "--port", str(port), "--skip-update-check", "--no-sandbox"]
    options += ["--headless"] if headless else []
    _become([program, "edit", *options, str(path), "--", *arguments(plan)])


def own_notebook(plan: Plan) -> Path:
    """Return the notebook beside the report of a sweep, made where there is none.

    Raises:
        HarnessError: this installation has no notebooks.
        DiskError: the disk is full or read-only.
    """
    path = plan.folder / NOTEBOOK
    if not path.exists():
        if not START.is_file():
            raise HarnessError(f"{START} does not exist, but must be there to start from; use a checkout.")
        write_atomic(path, START.read_bytes())
    return path


def arguments(plan: Plan) -> list[str]:
    """Return what tells the notebook which sweep it is about; a hash of digits alone would arrive there as a number."""
    record = plan.record
    words = ["--name", record.name, "--base", record.base, "--out", str(plan.store.root.absolute())]
    return [*words, "--set_hash", f"set-{record.set_hash}"] if record.set_hash else words


def _program(name: str, extra: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise HarnessError(f"{name} is not installed; make {extra} installs it, as does pip install -e '.[{extra}]'.")
    return found


def _check_port(port: int) -> None:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: one that just ended is no hindrance
        try:
            held.bind((HOST, port))
        except OSError as error:
            raise BusyError(
                f"PORT is {port}, but must be free on {HOST} ({error.strerror}); give another number."
            ) from error


def _become(words: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], words)
