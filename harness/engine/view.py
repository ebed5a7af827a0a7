"""What a launch looks like: a live table on a terminal, plain lines elsewhere, JSON lines for machines.

Invariant: reads progress files, locks nothing, and shows text of trials without interpreting it as markup. What does
not live here: what is true (states.py).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.engine.forecast import Cost, Forecast, total_seconds
from harness.engine.launch import View
from harness.engine.worker import Outcome, log_tail, rerun_command
from harness.errors import StoreError
from harness.records.provenance import utc_now
from harness.records.schema import PlannedTrial, Progress
from harness.records.store import Store

LINE_SECONDS = 30.0
TAIL_LINES = 6
REFRESH_SECONDS = 1.0


class Counting(View):
    """Keeps count; the views below show it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.again: str | None = None
        """What runs a failed trial again where it has no command of its own, as a probe."""
        self.trials: dict[str, PlannedTrial] = {}
        self.states: dict[str, str] = {}
        self.running: dict[str, PlannedTrial] = {}
        self.num_workers = 1
        self.started_at = time.monotonic()
        self.num_ran = 0
        self.phase_text = ""
        self.phase_progress: Path | None = None
        self._forecast = Forecast(store)
        self._refreshed_at = self.started_at

    def begin(self, trials: dict[str, PlannedTrial], done: dict[str, str], num_workers: int) -> None:
        self.trials, self.states, self.num_workers = trials, dict(done), num_workers
        self.started_at = time.monotonic()

    def phase(self, text: str, progress: Path | None = None) -> None:
        self.phase_text, self.phase_progress = text, progress

    def started(self, trial: PlannedTrial) -> None:
        self.running[trial.trial_id] = trial

    def finished(self, trial: PlannedTrial, outcome: Outcome) -> None:
        self.running.pop(trial.trial_id, None)
        self.states[trial.trial_id] = outcome.state
        self.num_ran += outcome.ran

    def phase_line(self) -> str:
        """Return the step before the trials, with where it is."""
        progress = _read(self.phase_progress) if self.phase_progress else None
        if progress is None:
            return self.phase_text
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        return f"{self.phase_text}: {progress.phase} {progress.step}/{progress.num_steps}{loss}"

    def counts(self) -> str:
        """Return e.g. `12/27 done, 1 failed`."""
        failed = sum(state == "FAILED" for state in self.states.values())
        return f"{len(self.states)}/{len(self.trials)} done" + (f", {failed} failed" if failed else "")

    def seconds_left(self) -> float | None:
        """Return the seconds that the rest is expected to take: from measured shapes, else from this launch's pace."""
        left = [trial for key, trial in self.trials.items() if key not in self.states]
        if time.monotonic() - self._refreshed_at > REFRESH_SECONDS:
            self._forecast.refresh()
            self._refreshed_at = time.monotonic()
        costs: list[Cost] = [self._forecast.of(trial.spec) for trial in left]
        expected = total_seconds(costs, self.num_workers)
        if expected is None and self.num_ran:
            return (time.monotonic() - self.started_at) / self.num_ran * len(left)
        return expected

    def command(self, outcome: Outcome) -> str:
        """Return the one line that runs a trial again."""
        return self.again or rerun_command(outcome.trial_id, self.store.root)

    def progress(self) -> list[tuple[PlannedTrial, Progress | None]]:
        """Return the running trials and where each is."""
        return [(trial, _read(self.store.trial(key) / "progress.json")) for key, trial in self.running.items()]


def _read(path: Path) -> Progress | None:
    try:
        return Store(path.parent).read(path, Progress)
    except StoreError:
        return None


def label(trial: PlannedTrial) -> str:
    """Return what distinguishes a trial within its sweep."""
    axes = " ".join(
        f"{name.split('.')[-1]}={value:g}" if isinstance(value, float) else f"{name.split('.')[-1]}={value}"
        for name, value in trial.axes.items()
    )
    world = "" if trial.world is None else f" world={trial.world}"
    return f"{axes} seed={trial.seed}{world} [{trial.arm}]"


def duration(seconds: float | None) -> str:
    """Return seconds as text, `unknown` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def failure_lines(outcome: Outcome, command: str) -> list[str]:
    """Return what is known about a failure or a divergence: cause, end of the log, the command that runs it again."""
    if outcome.cause is None:
        return []
    return [f"  {outcome.cause}: {outcome.message}", *(f"  | {line}" for line in _tail(outcome)), f"  again: {command}"]


def _tail(outcome: Outcome) -> list[str]:
    return log_tail(Path(outcome.log), TAIL_LINES).splitlines() if outcome.log else []


class LineView(Counting):
    """One line an event, and one every half minute."""

    def __init__(self, store: Store, stream: TextIO | None = None) -> None:
        super().__init__(store)
        self._stream = stream or sys.stderr
        self._last = time.monotonic()

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        print(text, file=self._stream, flush=True)

    def begin(self, trials: dict[str, PlannedTrial], done: dict[str, str], num_workers: int) -> None:
        super().begin(trials, done, num_workers)
        self._say(f"{self.counts()}, WORKERS={num_workers}")

    def phase(self, text: str, progress: Path | None = None) -> None:
        super().phase(text, progress)
        self._say(text)

    def finished(self, trial: PlannedTrial, outcome: Outcome) -> None:
        super().finished(trial, outcome)
        left = duration(self.seconds_left())
        self._say(f"{self.counts()}: {trial.trial_id[:12]} {label(trial)} {outcome.state}; left: {left}")
        for line in failure_lines(outcome, self.command(outcome)):
            self._say(line)

    def tick(self) -> None:
        if time.monotonic() - self._last < LINE_SECONDS:
            return
        if not self.running:
            self._say(self.phase_line())
        for trial, progress in self.progress():
            where = f"{progress.phase} {progress.step}/{progress.num_steps}" if progress else "starting"
            self._say(f"running: {trial.trial_id[:12]} {label(trial)} {where}")
        self._last = time.monotonic()


class JsonView(Counting):
    """One JSON object a line, for machines."""

    def __init__(self, store: Store, stream: TextIO | None = None) -> None:
        super().__init__(store)
        self._stream = stream or sys.stderr

    def _emit(self, event: str, **fields: object) -> None:
        row = {"event": event, "time_utc": utc_now(), **fields}
        print(json.dumps(row), file=self._stream, flush=True)

    def begin(self, trials: dict[str, PlannedTrial], done: dict[str, str], num_workers: int) -> None:
        super().begin(trials, done, num_workers)
        self._emit("begin", num_trials=len(trials), num_done=len(done), num_workers=num_workers)

    def phase(self, text: str, progress: Path | None = None) -> None:
        self._emit("phase", text=text)

    def started(self, trial: PlannedTrial) -> None:
        super().started(trial)
        where = {"seed": trial.seed, "world": trial.world, "arm": trial.arm}
        self._emit("started", trial_id=trial.trial_id, axes=trial.axes, **where)

    def finished(self, trial: PlannedTrial, outcome: Outcome) -> None:
        super().finished(trial, outcome)
        more = {} if outcome.cause is None else {"log_tail": _tail(outcome), "command": self.command(outcome)}
        self._emit("finished", **asdict(outcome), **more)


class LiveView(Counting):
    """A table that is redrawn in place."""

    def __init__(self, store: Store, console: Console) -> None:
        super().__init__(store)
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0
        self._left: float | None = None

    def begin(self, trials: dict[str, PlannedTrial], done: dict[str, str], num_workers: int) -> None:
        super().begin(trials, done, num_workers)
        if len(done) < len(trials):
            self._live.start()

    def phase(self, text: str, progress: Path | None = None) -> None:
        super().phase(text, progress)
        self._draw()

    def finished(self, trial: PlannedTrial, outcome: Outcome) -> None:
        super().finished(trial, outcome)
        self._left = self.seconds_left()
        if outcome.cause is not None:
            self._live.console.print(Text(f"{outcome.state} {trial.trial_id[:12]} {label(trial)}"))
            self._live.console.print(Text("\n".join(failure_lines(outcome, self.command(outcome)))), soft_wrap=True)

    def tick(self) -> None:
        if time.monotonic() - self._drawn >= 0.5:
            self._draw()

    def end(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        elapsed = duration(time.monotonic() - self.started_at)
        title = f"{self.counts()} · {elapsed} · left: {duration(self._left)}" if self.running else self.phase_line()
        table = Table(title=Text(title), title_justify="left")
        for name in ("trial", "condition", "phase", "step", "loss", "tokens/s"):
            table.add_column(name, justify="left" if name in ("trial", "condition", "phase") else "right")
        for trial, progress in self.progress():
            table.add_row(*map(Text, _cells(trial, progress)))
        self._live.update(table, refresh=True)


def _cells(trial: PlannedTrial, progress: Progress | None) -> tuple[str, ...]:
    name = (trial.trial_id[:12], label(trial))
    if progress is None:
        return (*name, "starting", "", "", "")
    loss = "" if progress.loss is None else f"{progress.loss:.4f}"
    speed = "" if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f}"
    return (*name, progress.phase, f"{progress.step}/{progress.num_steps}", loss, speed)


def choose(store: Store, *, as_json: bool, again: str | None = None) -> View:
    """Return the view that fits where output goes; `again` is as of `Counting`."""
    console = Console(stderr=True)
    plain = LiveView(store, console) if console.is_terminal else LineView(store)
    chosen = JsonView(store) if as_json else plain
    chosen.again = again
    return chosen
