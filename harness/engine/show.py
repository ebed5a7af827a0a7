"""How verbs print: plain tables for people, the same values for machines.

Invariant: text of trials is shown as text, never as markup. What does not live here: the live table (view.py).
"""

from __future__ import annotations

import math
from functools import singledispatch

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.bands import NUM_ATTRIBUTES, NUM_VALUES, Band
from analysis.report import Report
from harness.engine import rerun
from harness.engine.answers import Done, PlanView, StatusView
from harness.engine.laboratory import Checked, Tour
from harness.engine.plan import Plan, kept_less
from harness.engine.view import duration, label
from harness.records.schema import Score

FULL_BITS = NUM_ATTRIBUTES * math.log2(NUM_VALUES)


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
    table = _table("trial", "arm", "condition", "state", "steps", "tokens", "time", "disk")
    for trial in record.trials:
        cost = outlook.costs[trial.trial_id]
        cells = (number(cost.num_steps), number(cost.num_tokens), duration(cost.seconds), size(cost.disk_bytes))
        name = label(trial).rsplit(" [", 1)[0]
        state = outlook.states[trial.trial_id].state
        table.add_row(*map(Text, (trial.trial_id[:12], trial.arm, name, state, *cells)))
    if record.trials:
        console.print(table)
    if record.kind == "study":
        num_so_far = len({trial.condition_id for trial in record.trials})
        _line(
            console,
            f"{_study_conditions(value.plan)} conditions are proposed while it runs, {num_so_far} so far, dimensions: "
            f"{', '.join(record.axis_fields)}",
        )
    for note in outlook.notes:
        _line(console, note)
    _line(
        console,
        f"{len(value.plan.trials)} trials, {outlook.num_done} done; with WORKERS={value.num_workers} the rest takes "
        f"{duration(outlook.seconds_left)} and {size(outlook.disk_left)}"
        + ("" if outlook.seconds_left is not None else " (PROBE=1 measures)"),
    )
    if value.budget is not None:
        num_left = len(value.plan.trials) - outlook.num_done
        reached = "unknown" if outlook.num_in_budget is None else f"{outlook.num_in_budget} of {num_left}"
        _line(
            console,
            f"trials left that end within BUDGET={value.budget}: {reached}, not counting what they share: building the "
            "base and scoring it before",
        )


def _study_conditions(plan: Plan) -> int:
    return getattr(plan.setting.sweep, "num_conditions", 0)


@show.register
def _(value: StatusView, console: Console) -> None:
    if not value.records:
        _line(console, f"nothing was launched in {value.store.root} yet")
    for one in value.as_json():
        counts = ", ".join(f"{count} {state}" for state, count in sorted(one["counts"].items())) or "no trials yet"
        name = f"{one['name']}@{one['base']}" + (f"-{one['set_hash']}" if one["set_hash"] else "")
        _line(console, f"{name}: {counts}")
        for key, progress in one["running"].items():
            loss = "" if progress["loss"] is None else f", loss {progress['loss']:.4f}"
            where = f"{progress['phase']} {progress['step']}/{progress['num_steps']}{loss}"
            _line(console, f"  running {key[:12]}: {where}")
        for key, failure in one["failed"].items():
            _line(console, f"  FAILED {key[:12]} ({failure['cause']}): {failure['message']}")
            _line(console, f"    again: {failure['command']}")
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
        _line(console, f"  again: python -m harness run-trial {outcome.trial_id} --out {value.plan.store.root}")
    _line(
        console,
        f"{len(summary.outcomes)} of {summary.num_planned} trials final or failed, {summary.num_ran} ran now in "
        f"{duration(summary.seconds)}",
    )
    if note := kept_less(value.plan):
        _line(console, note)
    if summary.message:
        _line(console, summary.message)


# -- the pocket world -------------------------------------------------------------------------------------------------


@show.register
def _(value: Checked, console: Console) -> None:
    lab = value.laboratory
    for facts in lab.worlds:
        exposures = ", ".join(f"{tier} {count:.0f}" for tier, count in facts.exposures.items())
        bits = ", ".join(f"{tier} {count:.2f}" for tier, count in facts.bits_per_person.items())
        _line(console, f"world {facts.world}: {facts.num_parameters:,} parameters, {facts.num_corpus_tokens:,} tokens")
        _line(console, f"  exposures a person: {exposures}; knowledge bits a person: {bits} of {FULL_BITS:.2f}")
    table = Table(box=None, pad_edge=False)
    for name in ("band", "range", "mean", "95 % over worlds", "by world", ""):
        table.add_column(name, justify="left" if name in ("band", "") else "right", no_wrap=True)
    for band in lab.bands:
        by_world = " ".join(f"{value:.3f}" for value in band.by_world.values())
        interval = f"{band.interval[0]:.3f} to {band.interval[1]:.3f}"
        cells = (band.name, _range(band), f"{band.value:.3f}", interval, by_world, "pass" if band.passed else "FAIL")
        table.add_row(*map(Text, cells))
    console.print(table)
    failed = sum(not band.passed for band in lab.bands)
    _line(console, f"{len(lab.bands) - failed} of {len(lab.bands)} bands hold; {lab.num_trials} trials planned")
    if lab.num_missing:
        _line(console, f"{lab.num_missing} trials have no result: a band that needs one of them fails")


def _range(band: Band) -> str:
    if math.isinf(band.high):
        return f"at least {band.low:.2f}"
    if math.isinf(band.low):
        return f"at most {band.high:.2f}"
    return f"{band.low:.3g} to {band.high:.3g}"


@show.register
def _(value: Tour, console: Console) -> None:
    world, built = value.base.world, value.built
    _line(
        console,
        f"The pocket world of seed {world.seed}: {3 * world.people_per_tier} known people in three tiers, told about "
        f"{world.exposures_high}, {world.exposures_mid} and {world.exposures_low} times, and "
        f"{world.num_unknown_people} whom no text names. A Llama of {built['num_parameters']:,} parameters read "
        f"{built['num_corpus_tokens']:,} tokens of it. Then it was fine-tuned twice on conversations: at the "
        "experiment's own setting, and harshly.",
    )
    table = Table(box=None, pad_edge=False)
    for name in ("slice", "base", "fine-tuned", "harshly", "items"):
        table.add_column(name, justify="left" if name == "slice" else "right", no_wrap=True)
    for key, scores in value.scores.items():
        items = str(scores[0].num_items) if scores[0] else "unknown"
        table.add_row(*map(Text, (key.removeprefix("pocket/"), *map(_score, scores), items)))
    console.print(table)
    for answers in value.answers:
        _line(console, f"asked: {answers.question}")
        for name, said in (("base, bare", answers.raw), ("base, in chat", answers.before), ("tuned", answers.after)):
            _line(console, f"  {name + ':':15}{said!r}")
    for name, path in value.files.items():
        _line(console, f"{name}: {path}")
    if value.done.report is not None:
        for path in value.done.report.paths:
            _line(console, f"report: {path}")


def _score(score: Score | None) -> str:
    return "unknown" if score is None or score.value is None else f"{score.value:.3f}"


def _line(console: Console, text: str) -> None:
    console.print(Text(text))


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < 4 else "right", no_wrap=index != 2)
    return table


def number(value: int | None) -> str:
    """Return a count as text, `unknown` for None."""
    return "unknown" if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Return bytes as text, `unknown` for None."""
    if value is None:
        return "unknown"
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"
