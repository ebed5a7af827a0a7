"""Mirroring trials' records into W&B, outside every trial's process.

    with following(store, record):      # a process of its own, ended by closing its input
        ...run trials...
    rebuild(store, record)              # everything again, from the records alone

Invariant: the record is the truth and this only reads it; a trial is mirrored once per state and group (the ledger
under OUT/wandb/mirrored says which), whatever fails here is one line and stops no trial. Offline, the default, a run is
written whole once its trial is final, so that a kill leaves no half run; online, running trials are followed row by
row. What does not live here: what a run says (content.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BusyError, HarnessError, StoreError
from harness.records.schema import Failure, PlannedTrial, SweepRecord, TrialResult
from harness.records.store import Store, commit_once, lock, read_lines, write_atomic
from harness.redact import environment_secrets, protect_output, redact
from harness.tracking.content import (
    STEP,
    config_of,
    display_name,
    failure_summary,
    group_of,
    history_row,
    summary_of,
)

DEFAULT_PROJECT = "sft-ablations"
RUN_ID_LENGTH = 16
POLL_SECONDS = 2.0
FINISH_SECONDS = 120.0
"""How long a launch waits for its mirror to write the last runs."""
REBUILD = "a mirror can be rebuilt at any time from the records"


# -- what the engine calls --------------------------------------------------------------------------------------------


@contextmanager
def following(store: Store, record: SweepRecord) -> Iterator[None]:
    """Mirror a launch while it runs, in a process of its own; a problem is one line on stderr.

    The process ends when this one closes its input or dies. None is started where W&B is disabled or nothing is left
    to mirror.
    """
    # A study's trials are not planned yet when it starts.
    expected = record.kind == "study" or pending(store, record)
    process = _start(store, record) if _mode() != "disabled" and expected else None
    try:
        yield
    finally:
        if process is not None:
            _finish(process)


def rebuild(store: Store, record: SweepRecord) -> list[Path]:
    """Write every finished trial of a sweep again, under new run ids, and return the runs' folders.

    A W&B run id that was deleted cannot be used again, so a rebuilt run has the next free suffix.

    Raises:
        HarnessError: W&B is missing or broken.
    """
    try:
        mirror = _Mirror(store, group_of(record), mode=_mode())
        folders = [mirror.write(record, planned, found) for planned, found in _final(store, record)]
        mirror.close()
    except HarnessError:
        raise
    except Exception as error:  # whatever W&B raises is a sentence, not a traceback
        raise HarnessError(f"W&B cannot be written ({_one_line(error)}); {REBUILD}") from error
    return [folder for folder in folders if folder is not None]


def follow(store: Store, sweep_folder: str, stop: threading.Event) -> None:
    """Mirror a sweep's trials as they become final (online: as they run) until `stop` is set.

    Args:
        store: the output folder.
        sweep_folder: the sweep's folder name, read again each time: a study's plan grows.
        stop: ends the following, after what is final by then was written.
    """
    live = _mode() == "online"
    mirror = _Mirror(store, sweep_folder, mode=_mode())
    with lock(store.root / "wandb" / f".{sweep_folder}.lock", wait=False):
        while True:
            last = stop.wait(POLL_SECONDS)
            record = store.read(store.sweep(sweep_folder) / "sweep.json", SweepRecord)
            if record is not None:
                mirror.settle(record, with_failures=last)
                if live:
                    _follow_running(mirror, record)
            if last:
                break
        mirror.close()


def pending(store: Store, record: SweepRecord) -> list[PlannedTrial]:
    """Return the trials whose present state is not mirrored yet, trials without a result among them."""
    group = group_of(record)
    return [
        planned
        for planned in _distinct(record)
        if not (mark := _mark_of(_read_result(store, planned.trial_id))) or _ledger(store, group, planned) != mark
    ]


# -- the process ------------------------------------------------------------------------------------------------------


def _start(store: Store, record: SweepRecord) -> subprocess.Popen[str] | None:
    folder = store.root / "wandb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "mirror.log").open("a") as log:
            # Its own module, not multiprocessing: nothing of the parent is imported or inherited, and closing the
            # pipe ends it even when the parent is killed.
            return subprocess.Popen(
                [sys.executable, "-m", "harness.tracking.mirror", str(store.root.resolve()), group_of(record)],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
    except OSError as error:
        _warn(f"the W&B mirror did not start ({error})")
        return None


def _finish(process: subprocess.Popen[str]) -> None:
    try:
        said, _ = process.communicate(timeout=FINISH_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        said = "it did not finish in time\n"
        process.wait(timeout=10)
    for line in said.splitlines()[:1]:
        _warn(f"the W&B mirror is incomplete: {line}; {REBUILD}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Follow a sweep until standard input closes; print at most one line, why the mirror is incomplete."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the launch, which then closes our input
    os.nice(10)
    protect_output()
    stop = threading.Event()
    threading.Thread(target=_wait_for_the_end_of_input, args=(stop,), daemon=True).start()
    try:
        follow(Store(Path(arguments[0])), arguments[1], stop)
    except BusyError:
        return 0  # another launch of the same sweep mirrors it
    except Exception as error:  # a broken mirror must not stop a trial: it becomes the one line
        print(_one_line(error), flush=True)
        return 1
    return 0


def _wait_for_the_end_of_input(stop: threading.Event) -> None:
    # Not sys.stdin: a thread that blocks in its lock makes the interpreter abort at exit.
    while os.read(0, 4096):
        pass
    stop.set()


def _one_line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return redact(text)[:200]


# -- mirroring --------------------------------------------------------------------------------------------------------


@dataclass
class _LiveRun:
    """A run that is written while its trial trains."""

    run: Any
    num_rows: int = 0


@dataclass
class _Mirror:
    """Writes runs of one group."""

    store: Store
    group: str
    mode: str
    live: dict[str, _LiveRun] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    """Trials whose result was written: they never change again."""
    written: list[tuple[PlannedTrial, str | None, str]] = field(default_factory=list)
    """Runs not in the ledger yet: W&B completes an offline file some milliseconds after `finish` returns."""
    secrets: tuple[str, ...] = field(default_factory=environment_secrets)

    def write(self, record: SweepRecord, planned: PlannedTrial, found: TrialResult | Failure) -> Path | None:
        """Write a final trial as one run, or complete the run that followed it; return the run's folder."""
        live = self.live.pop(planned.trial_id, None)
        result = found if isinstance(found, TrialResult) else None
        run = live.run if live else self._open(record, planned, result)
        self._log_rows(run, self._rows(planned), 0 if live is None else live.num_rows)
        if result is not None and live is not None:
            run.config.update(self._clean(config_of(record, planned, result)), allow_val_change=True)
        summary = summary_of(record, found) if isinstance(found, TrialResult) else failure_summary(found)
        run.summary.update(self._clean(summary))
        folder = Path(run.dir).parent
        run.finish(exit_code=0 if result is not None else 1)
        self.written.append((planned, _mark_of(found), run.id))
        return folder

    def settle(self, record: SweepRecord, *, with_failures: bool) -> None:
        """Write every trial that is final and not mirrored yet; failures only when asked: a launch may retry them."""
        self._note_written()  # those of the last look: their files are long complete
        for planned, found in _final(self.store, record, self.settled):
            has_result = isinstance(found, TrialResult)
            noted = _ledger(self.store, self.group, planned) == _mark_of(found)
            if (has_result or with_failures) and not noted:
                self.write(record, planned, found)
            if has_result:
                self.settled.add(planned.trial_id)

    def follow(self, record: SweepRecord, planned: PlannedTrial) -> None:
        """Log what a running trial has written since the last look."""
        rows = self._rows(planned)
        if not rows:
            return
        live = self.live.get(planned.trial_id)
        if live is not None and live.num_rows > len(rows):  # the attempt began again and its log with it
            live.run.finish(exit_code=1)
            live = None
        if live is None:
            live = self.live[planned.trial_id] = _LiveRun(self._open(record, planned, None))
        self._log_rows(live.run, rows, live.num_rows)
        live.num_rows = len(rows)

    def close(self) -> None:
        """End the runs of trials that did not finish, wait until every file is complete, and note what was written."""
        for live in self.live.values():
            live.run.finish(exit_code=1)
        if self.live or self.written:
            _import_wandb(self.store).teardown()
        self.live.clear()
        self._note_written()

    def _open(self, record: SweepRecord, planned: PlannedTrial, result: TrialResult | None) -> Any:
        wandb = _import_wandb(self.store)
        run = wandb.init(
            mode=self.mode,
            dir=str(self.store.root.resolve()),
            project=os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            group=self.group,
            job_type=record.kind,
            id=self._free_id(planned.trial_id),
            name=self._clean(display_name(planned)),
            config=self._clean(config_of(record, planned, result)),
            reinit="create_new",
            settings=_settings(wandb),
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        return run

    def _free_id(self, trial_id: str) -> str:
        taken = self.store.root / "wandb" / "run_ids"
        stem, number = trial_id[:RUN_ID_LENGTH], 1
        while not commit_once(taken / (name := stem if number == 1 else f"{stem}-{number}"), self.group.encode()):
            number += 1
        return name

    def _log_rows(self, run: Any, rows: list[dict[str, Any]], start: int) -> None:
        for row in rows[start:]:
            logged = history_row(row)
            if logged is not None:
                run.log(self._clean(logged))

    def _rows(self, planned: PlannedTrial) -> list[dict[str, Any]]:
        try:
            return read_lines(self.store.trial(planned.trial_id) / "metrics.jsonl")
        except StoreError:
            return []

    def _clean(self, value: Any) -> Any:
        return redact(value, self.secrets)

    def _note_written(self) -> None:
        for planned, mark, run_id in self.written:
            row = {"mark": mark, "run_id": run_id, "mode": self.mode}
            write_atomic(_ledger_path(self.store, self.group, planned), json.dumps(row).encode())
        self.written.clear()


def _import_wandb(store: Store) -> Any:
    # Its debug logs and cache would otherwise go to the user's home.
    os.environ.setdefault("WANDB_CACHE_DIR", str((store.root / "wandb" / "cache").resolve()))
    import wandb

    return wandb


def _settings(wandb: Any) -> Any:
    # Nothing about this process: its arguments, environment and console are not the trial's, and may hold secrets.
    return wandb.Settings(
        silent=True,
        console="off",
        program="trial",
        init_timeout=30,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


def _follow_running(mirror: _Mirror, record: SweepRecord) -> None:
    for planned in _distinct(record):
        folder = mirror.store.trial(planned.trial_id)
        if (folder / "progress.json").exists() and not (folder / "result.json").exists():
            mirror.follow(record, planned)


def _final(
    store: Store, record: SweepRecord, skipped: Collection[str] = ()
) -> Iterator[tuple[PlannedTrial, TrialResult | Failure]]:
    """Return every trial with a result, or failing that a failure; a damaged record is left to the engine."""
    for planned in _distinct(record):
        found = None if planned.trial_id in skipped else _read_result(store, planned.trial_id)
        if found is not None:
            yield planned, found


def _read_result(store: Store, trial_id: str) -> TrialResult | Failure | None:
    folder = store.trial(trial_id)
    try:
        result = store.read(folder / "result.json", TrialResult)
        return result if result is not None else store.read(folder / "failure.json", Failure)
    except StoreError:
        return None


def _distinct(record: SweepRecord) -> list[PlannedTrial]:
    """Return each trial once: two arms may hold the same one."""
    return list({planned.trial_id: planned for planned in reversed(record.trials)}.values())[::-1]


def _mark_of(found: TrialResult | Failure | None) -> str | None:
    if isinstance(found, TrialResult):
        return found.state
    return None if found is None else f"failure-{found.attempt}"


def _ledger_path(store: Store, group: str, planned: PlannedTrial) -> Path:
    return store.root / "wandb" / "mirrored" / group / f"{planned.trial_id}.json"


def _ledger(store: Store, group: str, planned: PlannedTrial) -> str | None:
    try:
        return json.loads(_ledger_path(store, group, planned).read_text())["mark"]
    except (OSError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
