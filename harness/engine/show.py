"""How verbs print: plain tables for people, the same values for machines.

Invariant: text of trials is shown as text, never as markup. What does not live here: the live table (view.py).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import singledispatch

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import numbers
from analysis.report import Report
from harness.engine import rerun, show_plan, show_pocket
from harness.engine.answers import Compared, Done, PlanView, Recovered, Refused, StatusView
from harness.engine.auditing import AuditView
from harness.engine.claims_run import Started
from harness.engine.claims_view import ClaimsView
from harness.engine.laboratory import Checked, Tour
from harness.engine.plan import kept_less
from harness.engine.show_plan import number, size
from harness.engine.view import duration, label
from harness.engine.worker import rerun_command
from harness.records.schema import CONFIRM_ARM
from harness.spec import Study


@singledispatch
def show(value: object, console: Console) -> None:
    """Print a value of a verb."""
    console.print(Text(str(value)))


@show.register
def _(value: list, console: Console) -> None:
    for line in value:
        console.print(Text(str(line)))


@show.register
def _(value: PlanView, console: Console) -> None:
    record, outlook = value.plan.record, value.outlook
    _line(console, f"{record.kind} {record.name} on {record.base}: {record.hypothesis}")
    table = _table("trial", "arm", "condition", "state", "steps", "tokens", "time", "memory", "disk")
    for trial in record.trials:
        cost = outlook.costs[trial.trial_id]
        counts = number(cost.num_steps), number(cost.num_tokens)
        cells = (*counts, duration(cost.seconds), size(cost.memory_bytes), size(cost.disk_bytes))
        name = label(trial).rsplit(" [", 1)[0]
        state = outlook.states[trial.trial_id].state
        table.add_row(*map(Text, (trial.trial_id[:12], trial.arm, name, state, *cells)))
    if record.trials:
        console.print(table)
    show_plan.parts(value, console)
    for line in _study_lines(value):
        _line(console, line)
    for line in (*outlook.notes, *value.power.lines()):
        _line(console, line)
    _line(
        console,
        f"{len(value.plan.trials)} trials, {outlook.num_done} done; with WORKERS={value.num_workers} the rest takes "
        f"{duration(outlook.seconds_left)} and {size(outlook.disk_left)}"
        + ("" if outlook.seconds_left is not None else " (PROBE=1 measures)"),
    )
    for line in (*show_plan.memory_lines(value), *show_plan.probe_lines(value)):
        _line(console, line)
    if value.budget is not None:
        num_left = len(value.plan.trials) - outlook.num_done + (len(outlook.ahead.costs()) if outlook.ahead else 0)
        reached = "unknown" if outlook.num_in_budget is None else f"{outlook.num_in_budget} of {num_left}"
        _line(
            console,
            f"trials left that end within BUDGET={value.budget}: {reached}, not counting what they share: building the "
            "base and scoring it before",
        )


def _study_lines(value: PlanView) -> Iterator[str]:
    """Yield what a study proposes and confirms while it runs."""
    study, record, ahead = value.plan.setting.sweep, value.plan.record, value.outlook.ahead
    if not isinstance(study, Study) or ahead is None:
        return
    sampled = {trial.condition_id for trial in record.trials if trial.arm != CONFIRM_ARM}
    yield (
        f"{study.num_conditions} conditions are proposed while it runs, {len(sampled)} so far, dimensions: "
        f"{', '.join(record.axis_fields)}"
    )
    if study.pruning is not None:
        rungs = " and ".join(map(str, study.pruning.rungs))
        share = f"one condition in {study.pruning.reduction_factor} goes on, at least one"
        yield f"pruning: after {rungs} of its seeds {share}"
    if not study.confirm_seeds:
        yield "nothing is confirmed: the study declares no confirm_seeds, so that the report names no winner"
    elif record.winners is None:
        yield (
            f"then the {'best' if len(study.objectives) == 1 else 'front'} is confirmed on {len(study.confirm_seeds)} "
            f"fresh seeds: {ahead.num_confirming} trials at most"
        )
    if ahead.costs():
        yield (
            f"{len(ahead.costs())} trials at most are still to be planned, each counted below as the mean of "
            f"{'those planned' if record.trials else 'both ends of the space'}"
        )


@show.register
def _(value: AuditView, console: Console) -> None:
    from harness.data import page

    for name, fact in page.facts(value.audit, value.spec.data.template):
        _line(console, f"{name + ':':34}{fact}")
    table = _table("part", "tokens", "loss tokens", "of the loss weight")
    for cells in page.parts(value.audit):
        table.add_row(*map(Text, cells))
    console.print(table)
    for row in value.shown:
        console.rule()
        console.print(row)
    console.rule()
    for warning in page.warnings(value.audit):
        _line(console, f"WARNING: {warning}")
    for problem in value.problems:
        _line(console, f"PROBLEM: {problem}")
    for path in value.paths:
        _line(console, str(path))


@show.register
def _(value: StatusView, console: Console) -> None:
    if not value.records and not value.problems:
        _line(console, f"nothing was launched in {value.store.root} yet")
    for problem in value.problems:
        _line(console, f"DAMAGED: {problem}; the next launch sets it aside and writes it again")
    for one in (one for one in value.as_json() if "counts" in one):
        counts = ", ".join(f"{count} {state}" for state, count in sorted(one["counts"].items())) or "no trials yet"
        name = f"{one['name']}@{one['base']}" + (f"-{one['set_hash']}" if one["set_hash"] else "")
        _line(console, f"{name}: {counts}")
        for key, progress in one["running"].items():
            loss = "" if progress["loss"] is None else f", loss {progress['loss']:.4f}"
            where = f"{progress['phase']} {progress['step']}/{progress['num_steps']}{loss}"
            _line(console, f"  running {key[:12]}: {where}")
        for key, failure in one["failed"].items():
            _line(console, f"  FAILED {key[:12]} ({failure['cause']}): {failure['message']}")
            _whole(console, f"    again: {failure['command']}")
        for key, problem in one["damaged"].items():
            _line(console, f"  DAMAGED {key[:12]}: {problem}; the next launch sets it aside and runs it again")


@show.register
def _(value: Report, console: Console) -> None:
    if value.table:
        console.print(Text(value.table))
    for path in value.paths:
        _line(console, str(path))


@show.register
def _(value: rerun.Rerun, console: Console) -> None:
    if value.compared and not value.differences:
        _line(console, f"trial {value.trial_id[:12]} {value.state}: reproduced exactly")
        return
    _line(console, f"trial {value.trial_id[:12]} {value.state} {value.message}".rstrip())
    for name, (recorded, now) in value.differences.items():
        _line(console, f"  {name}: recorded {recorded!r}, now {now!r}")


@show.register
def _(value: Done, console: Console) -> None:
    summary = value.summary
    if value.report is not None:
        show(value.report, console)
    for outcome in summary.failed:
        _line(console, f"FAILED {outcome.trial_id[:12]} ({outcome.cause}): {outcome.message}")
        _whole(console, f"  again: {rerun_command(outcome.trial_id, value.plan.store.root)}")
    _line(
        console,
        f"{len(summary.outcomes)} of {summary.num_planned} trials final or failed, {summary.num_ran} ran now in "
        f"{duration(summary.seconds)}",
    )
    if note := kept_less(value.plan):
        _line(console, note)
    if summary.message:
        _line(console, summary.message)


@show.register
def _(value: Recovered, console: Console) -> None:
    from analysis.recovery import QUANTITIES

    show(value.done, console)
    for row in value.shares:
        ends = numbers.interval(row["low"], row["high"])
        note = f" ({row['note']})" if row["note"] else ""
        what = QUANTITIES[row["quantity"]]
        _line(console, f"{row['condition']}: {what} {numbers.score(row['estimate'], signed=True)} {ends}{note}")


@show.register
def _(value: Compared, console: Console) -> None:
    from analysis.compare import text

    _line(console, text(value.comparison))
    for path in value.paths:
        _line(console, str(path))


@show.register
def _(value: Checked, console: Console) -> None:
    show_pocket.bands(value, console)


@show.register
def _(value: Tour, console: Console) -> None:
    show_pocket.tour(value, console)


@show.register
def _(value: Refused, console: Console) -> None:
    _line(console, f"sweep {value.name} was not run: {value.problem}")


@show.register
def _(value: Started, console: Console) -> None:
    root = shlex.quote(str(value.log.parents[1]))
    _line(console, f"claims-run {'started' if value.is_new else 'is running already'}: process {value.pid}")
    _line(console, f"  log:  tail -f {value.log}")
    _whole(
        console,
        f"  look: python -m harness claims --out {root}   (make: claims; status for each sweep)",
    )
    _line(console, f"  stop: kill {value.pid}   (the same command goes on where it stopped)")


@show.register
def _(value: ClaimsView, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    names = (
        "claim",
        "statement",
        "verdict",
        "estimate, 95 % interval",
        "seeds",
        "items",
        "MDE",
        "published",
        "command",
    )
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in _NARROW, ratio=_RATIOS.get(name))
    for row in value.rows:
        about = row.label + (f"\n{row.note}" if row.note else "")
        columns = (row.estimates, row.replicates, row.items, row.detectable)
        cells = (row.claim.id, row.claim.statement, about, *map("\n".join, columns), row.published, row.command)
        table.add_row(*map(Text, cells), end_section=True)
    if value.rows:
        console.print(table)
    else:
        _line(console, "no sweep declares a claim")
    if value.running:
        _line(console, f"claims-run is at {value.running}")


_NARROW = ("claim", "seeds", "items", "MDE")
_RATIOS = {"statement": 3, "verdict": 2, "estimate, 95 % interval": 3, "published": 2, "command": 3}


def _line(console: Console, text: str) -> None:
    console.print(Text(text))


def _whole(console: Console, text: str) -> None:
    """Print a line that is to be pasted: unbroken, however long."""
    console.print(Text(text), soft_wrap=True)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < 4 else "right", no_wrap=index != 2)
    return table
