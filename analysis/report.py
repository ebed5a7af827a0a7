"""Writing a sweep's report: frames, tables, figures, HTML, Markdown, LaTeX; and reading the last one back.

Invariant: a report is a function of the records and of this package's own source. Both are hashed into `report.json`,
so an unchanged report is not written again, and a changed one is replaced file by file with `report.json` last; of the
files beside it none is of an older report. What does not live here: what is said (view.py, sections/) and how it looks
(render.py, figure_kinds/).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import verdicts
from analysis.opened import OpenedSweep, open_sweep
from analysis.verdicts import Verdict
from harness.errors import BadInputError, unknown_name
from harness.records.schema import SCORE_FILES
from harness.records.store import Store, disk_errors, write_atomic

if TYPE_CHECKING:
    from analysis.context import Context

PACKAGE = Path(__file__).parent
STAMP = "report.json"
SHOWN = ("report.html", "report.md", "table.tex", "trials.parquet", "figures")
VENUES = ("neurips", "icml", "acl")


@dataclass(frozen=True)
class Report:
    """A written report."""

    folder: Path
    paths: tuple[Path, ...]
    """What to look at first: the page, the text, the frame, the figures."""
    files: tuple[Path, ...]
    """Every file written."""
    table: str
    """The main table as terminal text."""
    rebuilt: bool
    """False where nothing had changed."""


def write_report(out: str | Path, sweep_folder: str) -> Report:
    """Write the report of whatever a sweep's records hold, unless the one that is there says the same.

    Args:
        out: the output folder (`OUT=`).
        sweep_folder: `<name>@<base>[-<set hash>]`.

    Raises:
        BadInputError: there is no such sweep.
        StoreError: its plan is damaged. A damaged trial is a FAILED row, not an error.
        DiskError: the disk is full or read-only.
    """
    store = Store(Path(out))
    sweep = open_sweep(store, sweep_folder)
    inputs = _inputs_hash(sweep)
    standing = _read_stamp(store, sweep_folder)
    if standing is not None and standing["inputs"] == inputs and _all_there(store, sweep_folder, standing):
        return _report(store, sweep_folder, standing, rebuilt=False)
    return _write(sweep, inputs, standing)


def last_report(out: str | Path, sweep_folder: str) -> Report:
    """Return the report that was written last, without looking whether it is up to date.

    Raises:
        BadInputError: none was written.
    """
    store = Store(Path(out))
    stamp = _read_stamp(store, sweep_folder)
    if stamp is None:
        raise BadInputError(f"sweep folder is {sweep_folder!r}, but must have a report; write one with make report")
    return _report(store, sweep_folder, stamp, rebuilt=False)


def write_figures(out: str | Path, sweep_folder: str, venue: str | None = None) -> Report:
    """Write the figures alone, at a venue's text width, into `figures/` or `figures-<venue>/`.

    Raises:
        BadInputError: no such sweep or venue.
        DiskError: the disk is full or read-only.
    """
    if venue is not None and venue not in VENUES:
        raise BadInputError(unknown_name("VENUE", venue, VENUES))
    store = Store(Path(out))
    sweep = open_sweep(store, sweep_folder)
    from analysis import figure_kinds
    from analysis.context import Context

    drawn, missing = figure_kinds.all_figures(Context(sweep))
    folder = store.sweep(sweep_folder) / ("figures" if venue is None else f"figures-{venue}")
    with disk_errors(folder):
        paths = figure_kinds.write(drawn, folder, venue or "neurips")
    table = "\n".join(f"No figure {name}: {why}." for name, why in missing.items())
    shown = tuple(path for path in paths if path.suffix == ".pdf")
    return Report(folder, shown, tuple(paths), table, rebuilt=True)


def read_verdicts(out: str | Path, sweep_folder: str) -> tuple[Verdict, ...]:
    """Return the verdicts of a sweep's claims: those of its report where that is up to date, else decided now.

    Writes nothing; raises as `write_report`.
    """
    store = Store(Path(out))
    sweep = open_sweep(store, sweep_folder)
    if not sweep.record.claims:
        return ()
    standing = _read_stamp(store, sweep_folder)
    if standing is not None and standing["inputs"] == _inputs_hash(sweep):
        return verdicts.from_json(standing["verdicts"])
    from analysis.context import Context

    return Context(sweep).verdicts


# -- freshness --------------------------------------------------------------------------------------------------------


def _inputs_hash(sweep: OpenedSweep) -> str:
    """Hash the plan, each trial's state and records, and this package's source."""
    digest = hashlib.sha256()
    for part in _inputs(sweep):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _inputs(sweep: OpenedSweep) -> Iterator[bytes]:
    yield from (
        content for path in _sources(PACKAGE) for content in (str(path).encode(), (PACKAGE / path).read_bytes())
    )
    yield (sweep.store.sweep(sweep.folder) / "sweep.json").read_bytes()
    for trial in sweep.trials:
        yield f"{trial.planned.trial_id} {trial.state} {trial.cause}".encode()
        if trial.result is not None:
            # The result names the sha256 of the trial's own files; the base's items are named by their key.
            yield trial.result.model_dump_json().encode()
            yield from (str(_stat(path)).encode() for path in _item_files(sweep, trial.result))
    yield from (f"{path} {_stat(path)}".encode() for path in _others(sweep))


def _others(sweep: OpenedSweep) -> Iterator[Path]:
    """Yield the plans of other sweeps on this base, and their results: they tell at which rate a method is best."""
    for plan in sorted((sweep.store.root / "sweeps").glob(f"*@{sweep.record.base}*/sweep.json")):
        if plan.parent.name != sweep.folder:
            yield plan
            yield from (sweep.store.trial(key) / "result.json" for key in _trial_ids(plan))


def _trial_ids(plan: Path) -> list[str]:
    try:
        return [str(trial["trial_id"]) for trial in json.loads(plan.read_bytes())["trials"]]
    except (OSError, ValueError, KeyError, TypeError):  # a damaged plan is left out of the optima, too
        return []


def _sources(package: Path) -> list[Path]:
    """Return the modules and templates below this package, relative to it: each may change a report."""
    found = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts)


def _item_files(sweep: OpenedSweep, result: Any) -> list[Path]:
    """Return the items of a trial and of its base, and the choices beside them: both may go without the result."""
    found = [sweep.store.root / scores.items_file for scores in (result.before, result.after) if scores is not None]
    return [path.with_name(name) for path in found for name in SCORE_FILES]


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _read_stamp(store: Store, sweep_folder: str) -> dict[str, Any] | None:
    try:
        stamp: dict[str, Any] = json.loads((store.sweep(sweep_folder) / STAMP).read_text())
    except (OSError, ValueError):  # no report, or one torn by a crash: it is written again
        return None
    return stamp if {"inputs", "files", "table"} <= set(stamp) else None


def _all_there(store: Store, sweep_folder: str, stamp: dict[str, Any]) -> bool:
    return all((store.sweep(sweep_folder) / name).is_file() for name in stamp["files"])


def _report(store: Store, sweep_folder: str, stamp: dict[str, Any], *, rebuilt: bool) -> Report:
    folder = store.sweep(sweep_folder)
    shown = tuple(folder / name for name in SHOWN if (folder / name).exists())
    return Report(folder, shown, tuple(folder / name for name in stamp["files"]), stamp["table"], rebuilt)


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(sweep: OpenedSweep, inputs: str, standing: dict[str, Any] | None) -> Report:
    # pandas, statsmodels and matplotlib cost two seconds that an unchanged report must not pay.
    from analysis import figure_kinds, render
    from analysis.context import Context
    from analysis.sections import section_files
    from analysis.view import build_view

    context = Context(sweep)
    drawn, missing = figure_kinds.all_figures(context)
    view = build_view(context, missing)
    folder = sweep.store.sweep(sweep.folder)
    with disk_errors(folder):
        images = figure_kinds.write(drawn, folder / "figures")
        files = _files(context) | {name: partial(bytes, data) for name, data in section_files(view.sections).items()}
        files |= {name: partial(str.encode, text) for name, text in _claim_tables(context).items()}
        files |= {
            "report.html": lambda: render.html(view, drawn, folder / "figures").encode(),
            "report.md": lambda: render.markdown(view, drawn).encode(),
            "table.tex": lambda: render.latex(view).encode(),
        }
        for name, content in files.items():
            write_atomic(folder / name, content())
    names = ["report.html", *(name for name in files if name != "report.html")]
    names += [str(path.relative_to(folder)) for path in images]
    stamp: dict[str, Any] = {"inputs": inputs, "files": names, "table": render.text_table(view)}
    stamp["verdicts"] = verdicts.to_json(context.verdicts)
    _remove_outdated(folder, set[str](standing["files"] if standing else ()) - set(names))
    write_atomic(folder / STAMP, json.dumps(stamp, indent=1).encode())
    return _report(sweep.store, sweep.folder, stamp, rebuilt=True)


def _remove_outdated(folder: Path, names: set[str]) -> None:
    """Remove what the last report wrote and this one does not: it would stand for results that are no longer there."""
    for path in (folder / name for name in sorted(names)):
        # A stamp is a file that anyone can edit: what it names elsewhere is not a report's.
        if path.resolve().is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)


def _claim_tables(context: Context) -> dict[str, str]:
    """Return claims.tex with every claim of the sweep, and one table for each."""
    from analysis import render

    tables = {f"claims/{one.claim}.tex": render.claims_latex([one]) for one in context.verdicts}
    return {"claims.tex": render.claims_latex(context.verdicts)} | tables if tables else {}


def _files(context: Context) -> dict[str, Callable[[], bytes]]:
    from analysis import files, power

    decided = verdicts.verdicts_frame(context.verdicts)
    of_claims: dict[str, Callable[[], bytes]] = {
        "verdicts.parquet": lambda: files.parquet(decided),
        "verdicts.csv": lambda: files.csv(decided),
    }
    return {
        "trials.parquet": lambda: files.parquet(context.frame),
        "trials.csv": lambda: files.csv(context.frame),
        "effects.csv": lambda: files.csv(context.effects),
        "contrasts.csv": lambda: files.csv(context.contrasts),
        "flips.csv": lambda: files.csv(context.flips),
        "items.parquet": lambda: files.parquet(context.items),
        "samples.parquet": lambda: files.parquet(context.samples),
        power.VARIANCES_FILE: lambda: _variances(context),
    } | (of_claims if context.verdicts else {})


def _variances(context: Context) -> bytes:
    """Return how much measures vary over items and seeds, for the power of the next sweep on this base; {} of a study.

    Differences between conditions come before those from the base: they are what a claim compares.
    """
    from analysis import power

    source = f"the report of {context.sweep.folder}"
    tables = [] if context.is_sampled else [context.effects, context.contrasts]
    churn = power.churn_of(context.items) if tables else {}
    found = [power.variances_of(table, churn, source) for table in tables if len(table)]
    return json.dumps({target: row for rows in found for target, row in rows.items()}, indent=1).encode()
