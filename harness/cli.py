"""The command line: parses, calls, prints. No logic lives here.

    python -m harness sweep lima_size --base pocket --workers 2 --out out

Exit codes: 0 done, 1 some trials failed, 2 bad input, 75 try again (disk full, lock), 130 interrupted and resumable.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness import redact
from harness.cli_options import (
    Address,
    Base,
    Budget,
    Data,
    Evals,
    Executor,
    Json,
    Name,
    OptionalName,
    Out,
    Panel,
    Partition,
    Port,
    RetryFailed,
    Set,
    Storage,
    Suites,
    Watch,
    Workers,
)
from harness.cli_output import printed, printed_again, reported, requested
from harness.engine import auditing, commands, laboratory, places, watching

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)


@app.command()
def plan(
    name: Name,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    workers: Workers = None,
    executor: Executor = None,
    address: Address = None,
    partition: Partition = None,
    probe: Annotated[bool, typer.Option("--probe", help="Measure a short trial of each shape first.")] = False,
    budget: Annotated[str | None, typer.Option(help="Say how far this reaches, e.g. 2h, 90m, 45s.")] = None,
    as_json: Json = False,
) -> None:
    """Print the trials of a sweep, which are done, and what the rest costs. Runs nothing."""
    with reported(out):
        request = requested(name, base, data, evals, suites, set_, panel, out)
        where = places.choose(executor, address, partition, out)
        planned = commands.plan(request, workers=workers, probe=probe, budget=budget, as_json=as_json, place=where)
        printed(planned.as_json() if as_json else planned, as_json=as_json)
        raise typer.Exit(planned.exit_code)


@app.command()
def sweep(
    name: Name,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    workers: Workers = None,
    executor: Executor = None,
    address: Address = None,
    partition: Partition = None,
    retry_failed: RetryFailed = False,
    budget: Budget = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Run a sweep (or study): every trial that has no result yet, then the report."""
    with reported(out):
        request = requested(name, base, data, evals, suites, set_, panel, out)
        where = places.choose(executor, address, partition, out)
        done = commands.sweep(
            request,
            workers=workers,
            retry_failed=retry_failed,
            budget=budget,
            as_json=as_json,
            storage=storage,
            place=where,
        )
        printed(done.as_json() if as_json else done, as_json=as_json)
        raise typer.Exit(done.exit_code)


app.command(name="study", help="Run an Optuna study: `sweep` for a study.")(sweep)


@app.command()
def status(
    name: OptionalName = None,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Print where a sweep is, from its files alone: nothing is locked, nothing is written."""
    with reported(out):
        request = requested(name, base, data, evals, suites, set_, panel, out) if name else None
        if watch:
            for current in watching.watch(request, out):
                printed_again(current.as_json() if as_json else current, as_json=as_json)
            return
        current = watching.status(request, out)
        printed(current.as_json() if as_json else current, as_json=as_json)
        raise typer.Exit(current.exit_code)


@app.command()
def report(
    name: Name,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    as_json: Json = False,
) -> None:
    """Write the report of what is there: HTML, Markdown, tables, figures."""
    with reported(out):
        printed(commands.report(requested(name, base, data, evals, suites, set_, panel, out)), as_json=as_json)


@app.command()
def figures(
    name: Name,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    venue: Annotated[str | None, typer.Option(help="Whose page the figures must fit.")] = None,
    as_json: Json = False,
) -> None:
    """Write the figures alone: vector PDF and the numbers behind each."""
    with reported(out):
        printed(commands.figures(requested(name, base, data, evals, suites, set_, panel, out), venue), as_json=as_json)


@app.command()
def compare(
    name: Name,
    other: Annotated[str | None, typer.Argument(help="The other sweep; the same one if left out.")] = None,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    other_base: Annotated[str | None, typer.Option(help="Base of the other sweep; --base if left out.")] = None,
    other_data: Annotated[str | None, typer.Option(help="Data of the other sweep; --data if left out.")] = None,
    other_set: Annotated[str | None, typer.Option(help="Its --set; --set if left out, {} for none.")] = None,
    as_json: Json = False,
) -> None:
    """Set another sweep beside one: differences of the conditions in common, paired where the items are the same."""
    with reported(out):
        first = requested(name, base, data, evals, suites, set_, panel, out)
        given = {"name": other, "base": other_base, "data": other_data, "set": other_set}
        second = dataclasses.replace(first, **{field: value for field, value in given.items() if value is not None})
        found = commands.compare(first, second)
        printed(found.as_json() if as_json else found, as_json=as_json)


@app.command()
def recovery(
    name: Name,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    workers: Workers = None,
    executor: Executor = None,
    address: Address = None,
    partition: Partition = None,
    condition: Annotated[
        list[str] | None, typer.Option(help="Id of a condition; again for more. Default: all.")
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Run trials that kept no weights again first.")] = False,
    retry_failed: RetryFailed = False,
    budget: Budget = None,
    as_json: Json = False,
) -> None:
    """Train follow-ups of a finished sweep: does what was forgotten come back for people who are not told of again?"""
    with reported(out):
        done = commands.recovery(
            requested(name, base, data, evals, suites, set_, panel, out),
            conditions=condition or (),
            rerun_first=rerun,
            workers=workers,
            retry_failed=retry_failed,
            budget=budget,
            as_json=as_json,
            place=places.choose(executor, address, partition, out),
        )
        printed(done.as_json() if as_json else done, as_json=as_json)
        raise typer.Exit(done.exit_code)


@app.command()
def audit(
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    out: Out = Path("out"),
    as_json: Json = False,
) -> None:
    """Show what would be trained on: tokens by part, duplicates, contamination, sample rows. Trains nothing."""
    with reported(out):
        found = auditing.audit(requested("", base, data, evals, suites, set_, "primary", out))
        printed(found.as_json() if as_json else found, as_json=as_json)
        raise typer.Exit(found.exit_code)


@app.command()
def pocket(out: Out = Path("out"), workers: Workers = None, as_json: Json = False) -> None:
    """Show the pocket world: what its base knows, what it answers before and after fine-tuning, where the files are."""
    with reported(out):
        shown = laboratory.tour(out, workers=workers, as_json=as_json)
        printed(shown.as_json() if as_json else shown, as_json=as_json)
        raise typer.Exit(shown.exit_code)


@app.command(name="pocket-check")
def pocket_check(out: Out = Path("out"), workers: Workers = None, as_json: Json = False) -> None:
    """Check the acceptance bands of the pocket world on three world seeds; exit 1 if one fails."""
    with reported(out):
        checked = laboratory.check(out, workers=workers, as_json=as_json)
        printed(checked.as_json() if as_json else checked, as_json=as_json)
        raise typer.Exit(checked.exit_code)


@app.command()
def claims(
    out: Out = Path("out"),
    form: Annotated[str | None, typer.Option("--format", help="markdown or latex: a table to paste.")] = None,
    as_json: Json = False,
) -> None:
    """Print the verdict of every claim, with the command that makes it. Writes nothing."""
    with reported(out):
        found = commands.claims(out)
        if form is not None:
            print(found.pasted(form))
        else:
            printed(found.as_json() if as_json else found, as_json=as_json)
        if found.damaged:
            print("\n".join(found.damaged), file=sys.stderr)
        raise typer.Exit(found.exit_code)


@app.command(name="claims-run")
def claims_run(
    out: Out = Path("out"),
    workers: Workers = None,
    executor: Executor = None,
    address: Address = None,
    partition: Partition = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Two seeds and one world of the sweeps of few conditions.")
    ] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="Run here, and end with it.")] = False,
) -> None:
    """Run every sweep that declares claims, detached from this terminal; after a kill the same command goes on."""
    with reported(out):
        where = places.choose(executor, address, partition, out)
        if not foreground:
            printed(commands.start_claims(out, fast=fast, workers=workers, place=where), as_json=False)
            return
        code = 0
        for done in commands.run_claims(out, fast=fast, workers=workers, place=where):
            printed(done, as_json=False)
            code = max(code, done.exit_code)
        printed(commands.claims(out), as_json=False)
        raise typer.Exit(code)


@app.command()
def fetch(base: Base = "pocket", evals: Evals = None, out: Out = Path("out"), as_json: Json = False) -> None:
    """Fetch and pin the weights of a base, or a hub dataset of items: the one command that uses the network."""
    with reported(out):
        printed(commands.fetch(base, out, evals), as_json=as_json)


@app.command()
def dashboard(
    name: Name = "tune",
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    port: Port = 8080,
    storage: Storage = None,
) -> None:
    """Open optuna-dashboard on a study, on this machine only."""
    with reported(out):
        commands.dashboard(requested(name, base, data, evals, suites, set_, panel, out), port, storage)


@app.command()
def notebook(
    name: Name,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    port: Port = 2718,
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser; print the address.")] = False,
) -> None:
    """Open a marimo notebook on a sweep, on this machine only: yours, beside its report."""
    with reported(out):
        commands.notebook(requested(name, base, data, evals, suites, set_, panel, out), port, headless=headless)


@app.command(name="run-trial")
def run_trial(
    trial_id: Annotated[str, typer.Argument(help="The id of a trial, or its beginning.")],
    out: Out = Path("out"),
    keep: Annotated[str | None, typer.Option(help="Weights that stay: none, adapter or all.")] = None,
    as_json: Json = False,
) -> None:
    """Run one row again. Where it has a result already, compare with it: the record stays as it is."""
    with reported(out):
        done = commands.run_trial(trial_id, out, keep)
        printed(done.as_json() if as_json else done, as_json=as_json)
        raise typer.Exit(done.exit_code)


@app.command()
def mirror(
    name: Name,
    base: Base = "pocket",
    data: Data = None,
    evals: Evals = None,
    suites: Suites = None,
    set_: Set = None,
    panel: Panel = "primary",
    out: Out = Path("out"),
    as_json: Json = False,
) -> None:
    """Rebuild the W&B mirror of a sweep from its records."""
    with reported(out):
        printed(commands.mirror(requested(name, base, data, evals, suites, set_, panel, out)), as_json=as_json)


def main() -> None:
    """Run the command line, secrets redacted in all that it prints."""
    with redact.output():
        app()
