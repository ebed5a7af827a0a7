"""One function a verb of the command line: plan, sweep, status, report, figures, claims, fetch, dashboard, ...

Invariant: each returns a value that show.py prints and `--json` serialises; none prints by itself, save the progress of
a launch. Heavy packages load inside the verbs that need them. What does not live here: parsing (cli.py).
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from analysis.opened import open_sweep
from analysis.report import Report
from harness.engine import (
    ahead,
    asked,
    claims_run,
    claims_view,
    executor,
    extremes,
    hooks,
    launch,
    measuring,
    powered,
    proposals,
    rerun,
    serving,
    states,
    study,
    view,
)
from harness.engine import plan as plans
from harness.engine import recovery as follow_ups
from harness.engine import storage as storages
from harness.engine.answers import Compared, Done, PlanView, Recovered, Refused
from harness.engine.claims_run import Started
from harness.engine.claims_view import ClaimsView
from harness.engine.launch import Options
from harness.engine.launched import launched, planned
from harness.engine.places import HERE, Place
from harness.engine.plan import Plan
from harness.engine.resolve import Request
from harness.errors import EXIT_DONE, EXIT_SOME_FAILED, BadInputError, DataError, HarnessError, SpecError
from harness.records import usable
from harness.records.store import MANIFEST, Store, disk_errors, write_atomic
from harness.spec import Study

MAX_WORKERS = 256
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def plan(
    request: Request,
    *,
    workers: int | None,
    probe: bool,
    budget: str | None,
    as_json: bool,
    place: Place = HERE,
) -> PlanView:
    """Return the plan of a sweep and what is left of it, measuring unknown shapes first if asked."""
    seconds = parse_budget(budget)
    check_workers(workers)
    made = proposals.with_recorded(plans.make_plan(request))
    runtime = made.setting.experiment.runtime
    num_workers, probed = place.num_workers(workers, runtime), None
    if probe:
        plans.check_base(made.setting.experiment.spec.base, made.store, made.record.base)
        options = Options(num_workers, executor=place)
        trials = made.record.trials
        if isinstance(made.setting.sweep, Study):
            trials = ahead.examples(made.setting, made.record)
        again = f"{plans.command_of(request, 'plan')} --probe"
        shown = view.choose(made.store, as_json=as_json, again=again)
        probed = measuring.probe(made.store, trials, runtime, options, shown)
    return PlanView(
        made,
        plans.outlook(made, num_workers, seconds, runs_here=place == HERE),
        num_workers,
        budget,
        powered.of_plan(made),
        probed,
    )


def sweep(
    request: Request,
    *,
    workers: int | None,
    retry_failed: bool,
    budget: str | None,
    as_json: bool,
    storage: str | None = None,
    place: Place = HERE,
) -> Done:
    """Run a sweep or study and write its report.

    Raises:
        BadInputError: nothing was trained.
        DiskError: the output folder cannot be written.
        UnreachableError: the place does not answer.
    """
    check_workers(workers)
    made = plans.make_plan(request)
    num_workers = place.num_workers(workers, made.setting.experiment.runtime)
    storages.of_study(made, storage)
    options = Options(
        num_workers,
        retry_failed,
        parse_budget(budget),
        executor=place,
        at_last=hooks.load_report,
        storage=storage,
    )
    return run_plan(made, options, as_json=as_json)


def run_plan(made: Plan, options: Options, *, as_json: bool) -> Done:
    """Run a plan and write its report; raises as `sweep`."""
    plans.check_base(made.setting.experiment.spec.base, made.store, made.record.base)
    usable.check(made.store.root)
    extremes.say(made.setting.experiment, made.record.trials, made.store)
    if isinstance(made.setting.sweep, Study):
        made, summary = study.run(made, options, lambda: view.choose(made.store, as_json=as_json), hooks.mirrored)
    else:
        summary = _run_sweep(made, options, as_json=as_json)
    return Done(made, summary, hooks.write_report(made) if summary.why != "interrupted" else None)


def _run_sweep(made: Plan, options: Options, *, as_json: bool) -> launch.Summary:
    plans.write_record(made)
    runtime, shown = made.setting.experiment.runtime, view.choose(made.store, as_json=as_json)
    with hooks.mirrored(made):
        return launch.launch(made.store, made.record.trials, runtime, options, shown)


def check_workers(workers: int | None) -> None:
    """Refuse a number of workers that cannot be.

    Raises:
        SpecError: it is not from 1 to `MAX_WORKERS`.
    """
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise SpecError(f"WORKERS is {workers}, but must be an integer from 1 to {MAX_WORKERS}.")


def parse_budget(text: str | None) -> float | None:
    """Return seconds for `2h`, `90m` or `45s`.

    Raises:
        SpecError: it is not a time.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise SpecError(f"BUDGET is {text!r}, but must be a positive time such as 2h, 90m or 45s.")
    return float(match[1]) * UNITS[match[2]]


def report(request: Request) -> Report:
    """Write the report of what is there.

    Raises:
        SpecError: the sweep was never launched on this base.
    """
    return hooks.write_report(launched(request))


def figures(request: Request, venue: str | None) -> Report:
    """Write the figures alone."""
    return hooks.write_figures(launched(request), venue)


def compare(request: Request, other: Request) -> Compared:
    """Set the second sweep beside the first and write both as a table below the first one's folder.

    Raises:
        SpecError: one of them was never launched, or both are the same.
        DiskError: the disk is full or read-only.
    """
    first, second = (open_sweep(made.store, made.folder.name) for made in map(launched, (request, other)))
    if first.folder == second.folder:
        raise SpecError(
            f"OTHER is {second.folder!r}, but must be another sweep than NAME; give OTHER, OTHER_BASE or OTHER_SET."
        )
    from analysis import compare as comparing
    from analysis import files

    found = comparing.compare(first, second)
    folder = first.store.sweep(first.folder) / "compare" / second.folder
    content = {
        "compare.md": comparing.markdown(found).encode(),
        "compare.csv": files.csv(found.differences),
        "unmatched.csv": files.csv(found.unmatched),
    }
    with disk_errors(folder):
        for name, data in content.items():
            write_atomic(folder / name, data)
    return Compared(found, tuple(folder / name for name in content))


# -- recovery ---------------------------------------------------------------------------------------------------------


def recovery(
    request: Request,
    *,
    conditions: Collection[str],
    rerun_first: bool,
    workers: int | None,
    retry_failed: bool,
    budget: str | None,
    as_json: bool,
    place: Place = HERE,
) -> Recovered:
    """Train the follow-ups of a finished sweep and write their report.

    Args:
        request: the finished sweep, whose trials kept their weights.
        conditions: ids of conditions to follow up; empty is all.
        rerun_first: run trials that kept no weights again, to have them.
        workers: trials at a time.
        retry_failed: run follow-ups again that FAILED by their data or a bug.
        budget: when to stop.
        as_json: how progress is shown.
        place: where they run.

    Raises:
        BadInputError: nothing was trained.
        UnreachableError: the place does not answer.
        HarnessError: a trial that was run again came out other than recorded.
        DiskError: the output folder cannot be written.
    """
    check_workers(workers)
    seconds, made = parse_budget(budget), plans.make_plan(request)
    if rerun_first:
        _keep_weights(made, conditions)
    followed = follow_ups.plan_recovery(made, conditions)
    num_workers = place.num_workers(workers, made.setting.experiment.runtime)
    options = Options(num_workers, retry_failed, seconds, executor=place, at_last=hooks.load_report)
    done = run_plan(followed, options, as_json=as_json)
    return Recovered(done, () if done.report is None else _shares(followed))


def _keep_weights(made: Plan, conditions: Collection[str]) -> None:
    """Run each complete trial that kept no weights again; they join its record where every number is the same."""
    seen = states.of_trials(made.store, made.record.trials)
    for key, trial in made.trials.items():
        wanted = not conditions or trial.condition_id in conditions
        has_weights = (made.store.trial(key) / "weights" / MANIFEST).is_file()
        if not wanted or has_weights or seen[key].state != "COMPLETE":
            continue
        again = rerun.rerun(key, made.store, "all")
        if again.exit_code:
            raise HarnessError(
                f"trial {key[:12]} came out other than recorded, but must be the same before its weights are used "
                f"({again.message or again.state}); see: python -m harness run-trial {key[:12]} --keep all"
            )


def _shares(followed: Plan) -> tuple[dict[str, Any], ...]:
    from analysis.recovery import recovery_frame

    found = recovery_frame(open_sweep(followed.store, followed.folder.name))
    return tuple({str(name): value for name, value in row.items()} for row in found.to_dict("records"))


# -- claims -----------------------------------------------------------------------------------------------------------


def claims(out: Path) -> ClaimsView:
    """Return the verdicts of every claim sweep in an output folder."""
    return claims_view.collect(out)


def start_claims(out: Path, *, fast: bool, workers: int | None, place: Place = HERE) -> Started:
    """Start all claim sweeps in a process that outlives this one.

    Raises:
        HarnessError: it ended at once.
        DiskError: the output folder cannot be written.
    """
    check_workers(workers)
    usable.check(out)
    words = [sys.executable, "-m", "harness", "claims-run", "--foreground", "--out", str(out)]
    words += [*place.words(), *(["--fast"] if fast else [])]
    return claims_run.start(words + ([] if workers is None else ["--workers", str(workers)]), out)


def run_claims(
    out: Path, *, fast: bool, workers: int | None, base: str = claims_view.BASE, place: Place = HERE
) -> Iterator[Done | Refused]:
    """Run all claim sweeps one after the other and yield how each ended; stops after one that was interrupted.

    Raises:
        BusyError: another process runs them in this folder.
        DiskError: the output folder cannot be written.
    """
    check_workers(workers)
    usable.check(out)
    requests = claims_run.requests(out, base, fast=fast)
    with contextlib.ExitStack() as stack:
        report_progress = stack.enter_context(claims_run.only_run(out))
        kept: executor.Kept | None = None
        for number, request in enumerate(requests, start=1):
            report_progress(phase=request.name, step=number, num_steps=len(requests))
            try:
                made = plans.make_plan(request)
                runtime = made.setting.experiment.runtime
                if kept is None:  # workers keep what they imported from sweep to sweep
                    kept = executor.Kept(place, runtime)
                    stack.callback(kept.close)
                num_workers = place.num_workers(workers, runtime)
                done = run_plan(made, Options(num_workers, executor=kept, at_last=hooks.load_report), as_json=False)
            except BadInputError as error:
                yield Refused(request.name, str(error))
                continue
            yield done
            if done.exit_code not in (EXIT_DONE, EXIT_SOME_FAILED):
                return


def fetch(base: str, out: Path, evals: str | None = None) -> list[str]:
    """Fetch and pin what a base needs, or the dataset of items that `evals` names."""
    from harness.engine import fetch as fetching

    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731 - one line, one use
    items = fetching.items_of(base) if evals is None else (asked.hub_item(evals),)
    folders = fetching.fetch(items, Store(out), say)
    return [str(folder) for folder in folders] or [f"base {base!r} needs nothing fetched"]


def dashboard(request: Request, port: int, storage: str | None = None) -> NoReturn:
    """Serve optuna-dashboard on the loopback interface until Ctrl-C; raises as `serving.dashboard`."""
    made = planned(request)
    serving.dashboard(made, port, storages.of_study(made, storage))


def notebook(request: Request, port: int, *, headless: bool) -> NoReturn:
    """Open a sweep's notebook on the loopback interface until Ctrl-C; raises as `serving.notebook`."""
    serving.notebook(launched(request), port, headless=headless)


def run_trial(prefix: str, out: Path, keep: str | None) -> rerun.Rerun:
    """Run one row again and compare with its record where it has one."""
    if keep not in (None, "none", "adapter", "all"):
        raise DataError(f"--keep is {keep!r}, but must be one of none, adapter, all.")
    return rerun.rerun(prefix, Store(out), keep)


def mirror(request: Request) -> list[str]:
    """Rebuild the W&B mirror of a sweep from its records."""
    return hooks.rebuild_mirror(launched(request))
