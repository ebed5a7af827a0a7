"""Whether each condition ran at the best learning rate of its recipe, as its own sweep found it on val.

Invariant: no test score is read. What does not live here: the search for the best rate (analysis/optima.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterator

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.optima import RATE_AXIS, compared_table
from analysis.section import Section, rows_of
from harness.records.schema import PlannedTrial, SweepRecord

RATE_SWEEP = "learning_rate"
"""The sweep that ships for finding a rate."""
RATE = "train.learning_rate"
REPLICATES = frozenset({"seed", "world.seed"})


def compute(context: Context) -> Section | str:
    """Return per condition: rate used, best rate with its interval, where it was found, and whether they agree."""
    if context.is_sampled:
        return "a search proposes learning rates instead of sweeping them"
    measure = (context.record.selection or {}).get("measure", "learned")
    table = compared_table(context.sweep, context.frame, measure)
    if table.empty:
        return "no trial is planned"
    answers = {
        str(method): ", ".join(f"{count} {answer}" for answer, count in Counter(own["compared_at_optimum"]).items())
        for method, own in table.groupby("method", sort=False)
    }
    methods = list(_method_rows(context, table, measure))
    content = {"rows": rows_of(table), "answers": answers, "methods": methods, "measure": measure}
    return Section("optima", "Best rates", content)


def _method_rows(context: Context, table: pd.DataFrame, measure: str) -> Iterator[dict[str, str]]:
    """Yield per method: whether it ran at its optimum, where its rate is from, and the command that finds it."""
    frame, record = context.frame, context.record
    chosen = set(frame.loc[frame["chosen"].fillna(False).astype(bool), "condition"])
    for method, own in table.groupby("method", sort=False):
        answer = overall(own, chosen, varies=RATE_AXIS in frame.columns)
        conditions = set(own.loc[own["compared_at_optimum"] == "unknown", "condition"])
        trials = (trial.planned for trial in context.sweep.trials if trial.condition in conditions)
        command = finding_command(record, next(trials), str(method)) if answer == "unknown" else ""
        origin = rate_origin(record, str(method), own, measure)
        yield {"method": str(method), "answer": answer, "origin": origin, "command": command}


def overall(own: pd.DataFrame, chosen: Collection[str], *, varies: bool) -> str:
    """Return whether a method is compared at its optimum in a sweep, from the answers of its conditions.

    Of the conditions that a selection chose, if there are any; else of all. Where the sweep varies the rate and chooses
    nothing, one condition at the optimum is enough; elsewhere each of them must be there, and a known no comes first.

    Args:
        own: rows of `compared_table` of one method.
        chosen: conditions that the sweep's selection chose.
        varies: whether the learning rate is an axis.
    """
    counted = own[own["condition"].isin(chosen)]
    answers = set((counted if len(counted) else own)["compared_at_optimum"])
    order = ("yes", "unknown", "no") if varies and counted.empty else ("no", "unknown", "yes")
    return next((answer for answer in order if answer in answers), "unknown")


def rate_origin(record: SweepRecord, method: str, own: pd.DataFrame, measure: str) -> str:
    """Return in words where the learning rate of a method is from."""
    if record.selection is not None and record.selection["axis"] == RATE:
        return f"chosen in this sweep on val items by {measure}"
    if RATE in record.axis_fields:
        return "varied in this sweep"
    if method in record.rates_found_by:
        return f"found by {record.rates_found_by[method]}"
    folders = sorted({str(name) for name in own["sweep"] if name})
    if folders:
        return f"a value of the experiment or SET, compared with {', '.join(folders)}"
    return "a value of the experiment or SET that no sweep of this base found"


def finding_command(record: SweepRecord, trial: PlannedTrial, method: str) -> str:
    """Return a command whose sweep may find the best rate of a method with a trial's other axes.

    A sweep that varies the rate itself is run on, a step beyond either end of its grid; for any other the sweep that
    ships. Fields that an arm sets are not part of it.
    """
    words = shlex.split(record.command)
    if record.name not in words:  # a record that the command line did not write
        words = ["python", "-m", "harness", "sweep", record.name, "--base", record.base]
    place = words.index("--set") + 1 if "--set" in words else None
    fields = json.loads(words[place]) if place is not None else {}
    varied = {name: value for name, value in trial.axes.items() if name not in {RATE, "method", *REPLICATES}}
    if RATE in record.axis_fields:
        fields[RATE] = _wider({float(one.axes[RATE]) for one in record.trials if one.spec.method.kind == method})
    else:
        words[words.index(record.name)] = RATE_SWEEP
        fields = {name: value for name, value in fields.items() if name != RATE} | varied
    if RATE not in record.axis_fields or "method" in record.axis_fields:
        fields["method"] = [method]
    text = json.dumps(fields)
    words = [*words[:place], text, *words[place + 1 :]] if place is not None else [*words, "--set", text]
    return shlex.join(words)


def _wider(rates: set[float]) -> list[float]:
    grid = sorted(rates)
    step = grid[1] / grid[0] if len(grid) > 1 else 3.0
    return [float(f"{rate:.3g}") for rate in (grid[0] / step, *grid, grid[-1] * step)]


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV."""
    return {"optima.csv": formats.csv(pd.DataFrame(section.content["rows"]))}
