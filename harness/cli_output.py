"""What the verbs share: the request, what is printed, and the boundary at which errors become sentences and exit codes.

Invariant: an error of ours is its own sentence, a defect of ours one line; a traceback goes to a file, never to the
screen. What does not live here: the verbs (cli.py), how values look (engine/show.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console

from harness.engine import show
from harness.engine.resolve import Request, check_out
from harness.errors import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    BadInputError,
    BusyError,
    DiskError,
    HarnessError,
    UnreachableError,
)
from harness.redact import redact

WIDE = 180
"""Columns where output is no terminal."""


def requested(
    name: str,
    base: str,
    data: str | None,
    evals: str | None,
    suites: str | None,
    set_: str | None,
    panel: str,
    out: Path,
) -> Request:
    """Return what was asked for, which `resolve` checks."""
    chosen: Literal["primary", "full"] = panel  # pyright: ignore[reportAssignmentType] - resolve() refuses others
    return Request(name=name, base=base, data=data, evals=evals, suites=suites, set=set_, panel=chosen, out=out)


def printed(value: Any, *, as_json: bool, indent: int | None = 1) -> None:
    """Print what a verb answers, for people or for machines."""
    if as_json:
        text = json.dumps(value, default=_plain)  # JSON has no nan and no infinity: what is not known is null
        print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=indent), flush=True)
    else:
        show.show(value, Console(width=None if sys.stdout.isatty() else WIDE))


def printed_again(value: Any, *, as_json: bool) -> None:
    """Print one of several answers to the same question: in the place of the last on a terminal, JSON on one line."""
    if sys.stdout.isatty() and not as_json:
        Console().clear()
    printed(value, as_json=as_json, indent=None)
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


@contextlib.contextmanager
def reported(out: Path) -> Iterator[None]:
    """Print an error of ours as it is and exit with its code; a traceback goes to a file, never to the screen."""
    try:
        check_out(out)
        yield
    except HarnessError as error:
        print(str(error), file=sys.stderr)
        if not isinstance(error, BadInputError | BusyError | DiskError | UnreachableError):
            _keep_traceback(out)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except typer.Exit:
        raise
    # The boundary of the program: a defect of ours is one line on the screen and a traceback in a file.
    except Exception as error:
        print(f"internal error, please report it: {type(error).__name__}: {error}", file=sys.stderr)
        _keep_traceback(out)
        raise typer.Exit(EXIT_SOME_FAILED) from None


def _keep_traceback(out: Path) -> None:
    path = out / "logs" / "last_error.log"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redact(traceback.format_exc()))
        print(f"traceback: {path}", file=sys.stderr)
