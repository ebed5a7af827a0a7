"""Running a plan: which trial goes next, what is tried again, when to stop.

Order: base models, one check of data and template, the before-scores, trials. Invariant: the store is the only state;
a launch that is killed at any point is continued by the same command. What does not live here: processes
(executor.py), an attempt (worker.py), what is shown (view.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.engine import executor as executors
from harness.engine import jobs, measurement, states, worker
from harness.engine.doubt import Doubt
from harness.engine.executor import Executor, KilledForMemoryError, PreemptedError, WorkerDiedError
from harness.engine.stopping import Stop, stopped_by_signals
from harness.engine.worker import Outcome, TrialFunction, TrialJob
from harness.errors import BadInputError, DiskError, StoreError
from harness.records import leftovers, result
from harness.records.schema import PlannedTrial, TrialResult
from harness.records.store import Store
from harness.spec import MAX_HALVINGS, Runtime, TrialBase

LOG = logging.getLogger(__name__)
MAX_ATTEMPTS = 3
"""Attempts at a trial whose worker was killed, within one launch: in a row, without a new checkpoint between."""
POLL_SECONDS = 0.25
BUSY_SECONDS = 0.5
BUSY_NAMED_SECONDS = 30.0

Why = Literal["done", "interrupted", "budget", "disk", "equal_failures", "machine"]
"""`machine`: a study cannot go on without a trial that failed by its machine."""


@dataclass(frozen=True)
class Options:
    """How to run, none of which moves a number."""

    num_workers: int
    retry_failed: bool = False
    budget_seconds: float | None = None
    run: TrialFunction = worker.run_trial
    executor: Callable[[int, Runtime], Executor] = executors.local
    """Makes what trials run on, from the number of workers and how a trial runs."""
    measure_into: Path | None = None
    """The store whose forecasts learn from these trials, where it is not their own."""
    at_last: Callable[[], None] | None = None
    """Called in a thread of its own once nothing is left to hand out, while the last trials run."""
    storage: str | None = None
    """URL of the server that mirrors a study; None is a file beside it."""
    prepare: bool = True
    """Build bases, check and score before; a stub trial needs none of it."""


class View:
    """What a launch tells while it runs. This one says nothing."""

    def begin(self, trials: dict[str, PlannedTrial], done: dict[str, str], num_workers: int) -> None:
        """The trials of this launch, and the states of those already final."""

    def phase(self, text: str, progress: Path | None = None) -> None:
        """A step before the trials: a base, the check; `progress` is where it reports to."""

    def started(self, trial: PlannedTrial) -> None:
        """A trial went to a worker."""

    def finished(self, trial: PlannedTrial, outcome: Outcome) -> None:
        """A trial ended; FAILED ones carry their cause."""

    def tick(self) -> None:
        """Called a few times a second."""

    def end(self) -> None:
        """The launch is over."""


@dataclass
class Summary:
    """How a launch ended."""

    why: Why
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """Every planned trial that is final or failed."""
    num_planned: int = 0
    seconds: float = 0.0
    message: str = ""

    @property
    def num_ran(self) -> int:
        return sum(outcome.ran for outcome in self.outcomes.values())

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes.values() if outcome.state == "FAILED"]

    @property
    def exit_code(self) -> int:
        if self.why == "disk":
            return DiskError.exit_code
        if self.why in ("interrupted", "budget", "machine"):
            return 130
        return 1 if self.failed else 0


def launch(
    store: Store, trials: Iterable[PlannedTrial], runtime: Runtime, options: Options, view: View | None = None
) -> Summary:
    """Run every trial that is not final and return how each ended. Call it from the main thread.

    Raises:
        BadInputError: base, template or data cannot be used; nothing was trained.
        DiskError: the output folder cannot be written.
    """
    run = _Launch(store, list(trials), runtime, options, view or View())
    started = time.monotonic()
    with stopped_by_signals(run.stop):
        summary = run.run()
    summary.seconds = time.monotonic() - started
    return summary


class _Launch:
    def __init__(
        self, store: Store, trials: list[PlannedTrial], runtime: Runtime, options: Options, view: View
    ) -> None:
        self.store, self.runtime, self.options, self.view = store, runtime, options, view
        self.trials = {trial.trial_id: trial for trial in reversed(trials)}
        self.trials = {key: self.trials[key] for key in dict.fromkeys(trial.trial_id for trial in trials)}
        self.stop = Stop()
        self.deadline = None if options.budget_seconds is None else time.monotonic() + options.budget_seconds
        self.outcomes: dict[str, Outcome] = {}
        self.ready: deque[str] = deque()
        self.not_before: dict[str, float] = {}
        self.rerun_after: dict[str, int] = {}
        self.busy_since: dict[str, float] = {}
        self.deaths: dict[str, int] = {}
        self.halvings: dict[str, int] = {}
        self.eval_halvings: dict[str, int] = {}
        self.reached: dict[str, str] = {}
        self.running: dict[Future[Outcome], str] = {}
        self.others: set[Future[None]] = set()
        self.doubt = Doubt(self.trials)

    def run(self) -> Summary:
        leftovers.sweep_store(self.store.root)
        self._look()
        self.view.begin(self.trials, {key: o.state for key, o in self.outcomes.items()}, self.options.num_workers)
        try:
            why = self._work() if self.ready else "done"
        finally:
            self.view.end()
        return Summary(why, self.outcomes, len(self.trials), message=self._message(why))

    def _look(self) -> None:
        """Sort the trials into final, failed for good, and to be run: those that failed before come last."""
        again: list[str] = []
        for key in self.trials:
            leftovers.sweep(self.store.trial(key))
            seen = states.of_trial(self.store, key)
            if seen.result is not None and self._is_whole(key, seen.result):
                self.outcomes[key] = Outcome(key, seen.state, ran=False)
                leftovers.sweep_finished(self.store.trial(key))
                continue
            failure = seen.failure
            if failure is not None and not failure.reruns_by_itself and not self.options.retry_failed:
                self.outcomes[key] = Outcome(key, "FAILED", ran=False, cause=failure.cause, message=failure.message)
                continue
            self.rerun_after[key] = failure.attempt if failure is not None else 0
            (self.ready if failure is None else again).append(key)
        self.ready.extend(again)

    def _is_whole(self, key: str, standing: TrialResult) -> bool:
        """Return whether the files of a result are as committed; where not, its worker sets them aside."""
        try:
            result.verify_small(self.store.trial(key), standing)
        except (StoreError, OSError) as error:
            LOG.warning("%s; trial %s runs again", error, key[:12])
            return False
        return True

    # -- steps before the trials --------------------------------------------------------------------------------------

    def _work(self) -> Why:
        self.store.root.mkdir(parents=True, exist_ok=True)
        measurement.set_damaged_aside(self.options.measure_into or self.store.root)
        if self.options.prepare:
            self._build_bases()
        if self.stop.wanted:
            return "interrupted"
        executor = self.options.executor(min(self.options.num_workers, len(self.ready)), self.runtime)
        try:
            if self.options.prepare:
                self._prepare(executor)
            return "interrupted" if self.stop.wanted else self._loop(executor)
        finally:
            executor.stop()
            for key in self.running.values():
                worker.redact_log(self.store.trial(key), worker.num_attempts(self.store.trial(key)))

    def _build_bases(self) -> None:
        """Build the bases that are missing, once it is known that this machine can train on them."""
        trials = [self.trials[key] for key in self.ready]
        wanted = jobs.CheckJob(tuple(trial.spec for trial in trials), self.store.root, self.runtime)
        for job in jobs.missing_bases(self.store, trials, self.runtime):
            text = f"building the base model {job.key[:12]}, once"
            self.view.phase(text, jobs.base_progress(self.store, job.key))
            alone = self.options.executor(1, self.runtime.replace({"num_threads": job.base.model.num_threads}))
            try:
                self._await(alone, jobs.check_devices, wanted)
                self._await(alone, jobs.build_base, job)
            finally:
                alone.stop()

    def _prepare(self, executor: Executor) -> None:
        """Check data and template while the other workers import, then send the before-scores ahead of the trials."""
        self.view.phase("checking base, template and data")
        trials = [self.trials[key] for key in self.ready]
        own = [trial for trial in trials if not isinstance(trial.spec.base, TrialBase)]
        befores = [jobs.BeforeJob(s, self.store.root, self.runtime) for s in jobs.distinct_befores(own)]
        checked = jobs.distinct_data(trial for trial in trials if not self._starts_from_planned(trial))
        if checked:
            if executor.keeps_workers:
                self.others |= {executor.submit(jobs.warm_up) for _ in range(executor.num_slots - 1)}
            self._await(executor, jobs.check, jobs.CheckJob(checked, self.store.root, self.runtime))
        self.others |= {executor.submit(jobs.score_before, job) for job in befores}
        while self.runtime.rehearses and self.others and not self.stop.wanted:
            self._wait()
            self._check_others()
            self.view.tick()

    def _starts_from_planned(self, trial: PlannedTrial) -> bool:
        return isinstance(trial.spec.base, TrialBase) and trial.spec.base.trial_id in self.trials

    def _await(self, executor: Executor, call: Callable[[Any], None], job: Any) -> None:
        """Run a job that everything else waits for; one whose worker is killed is tried again."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            future = executor.submit(call, job)
            while not self.stop.wanted and not future.done():
                wait([future], timeout=POLL_SECONDS)
                self.view.tick()
            if self.stop.wanted:
                return
            try:
                return future.result()
            except WorkerDiedError:
                if attempt == MAX_ATTEMPTS:
                    raise

    # -- trials -------------------------------------------------------------------------------------------------------

    def _loop(self, executor: Executor) -> Why:
        at_last = self.options.at_last
        while self.ready or self.running:
            if self.stop.wanted:
                return "interrupted"
            if self.deadline is not None and time.monotonic() > self.deadline:
                return "budget"
            self._submit(executor)
            if at_last is not None and not self.ready:
                threading.Thread(target=at_last).start()
                at_last = None
            self._wait()
            for future in [future for future in self.running if future.done()]:
                self._take(self.running.pop(future), future)
            self._check_others()
            self.view.tick()
            if why := self._hopeless():
                return why
        return "done"

    def _wait(self) -> None:
        under_way: list[Future[Any]] = [*self.running, *self.others]
        if under_way:
            wait(under_way, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        else:
            time.sleep(POLL_SECONDS)  # other launchers hold everything that is left

    def _submit(self, executor: Executor) -> None:
        while len(self.running) + len(self.others) < executor.num_slots and (key := self._next()) is not None:
            trial = self.trials[key]
            job = TrialJob(
                trial.spec,
                self.store.root,
                self.runtime,
                self.options.run,
                self.rerun_after[key],
                self.options.measure_into,
                self.halvings.get(key, 0),
                self.eval_halvings.get(key, 0),
            )
            self.running[executor.submit(worker.attempt, job)] = key
            self.view.started(trial)

    def _next(self) -> str | None:
        """Return the next trial that may start: not waiting for another process or for the trial it starts from."""
        now = time.monotonic()
        if self.doubt.is_there:
            scouts = self.doubt.scouts(self.rerun_after)
            self.ready = deque(sorted(self.ready, key=lambda key: key not in scouts))
        for _ in range(len(self.ready)):
            key = self.ready.popleft()
            if self.not_before.get(key, 0.0) <= now and not self._waits_for_parent(key):
                return key
            self.ready.append(key)
        return None

    def _waits_for_parent(self, key: str) -> bool:
        base = self.trials[key].spec.base
        return isinstance(base, TrialBase) and (base.trial_id in self.ready or base.trial_id in self.running.values())

    def _take(self, key: str, future: Future[Outcome]) -> None:
        try:
            outcome = future.result()
        except WorkerDiedError as error:
            outcome = self._died(key, error)
            if outcome is None:
                self.ready.appendleft(key)
                return
        if outcome.state == "BUSY":
            self._busy(key)
            return
        self.outcomes[key] = outcome
        self.doubt.add(outcome)
        self.view.finished(self.trials[key], outcome)

    def _busy(self, key: str) -> None:
        """Try a trial that another process holds a little later; say which one where that takes long."""
        now = time.monotonic()
        self.not_before[key] = now + BUSY_SECONDS
        self.ready.append(key)
        if now - self.busy_since.setdefault(key, now) > BUSY_NAMED_SECONDS and (
            pids := worker.holders(self.store, key)
        ):
            self.busy_since[key] = now
            text = ", ".join(map(str, pids))
            self.view.phase(f"trial {key[:12]} is held by process {text}; it runs here once that has ended")

    def _died(self, key: str, error: WorkerDiedError) -> Outcome | None:
        """Return a FAILED row after the last attempt that one launch makes, or None to try again."""
        if isinstance(error, KilledForMemoryError):
            return self._killed_for_memory(key, error)
        before, self.reached[key] = self.reached.get(key, ""), worker.newest_checkpoint(self.store.trial(key))
        if self.reached[key] > before:
            self.deaths[key] = 0
        self.deaths[key] = self.deaths.get(key, 0) + (not isinstance(error, PreemptedError))
        if self.deaths[key] < MAX_ATTEMPTS:
            return None
        return self._lost(key, error.cause_class, f"{error}, {MAX_ATTEMPTS} times in a row")

    def _killed_for_memory(self, key: str, error: WorkerDiedError) -> Outcome | None:
        """Try a trial again at half the micro-batch, or half the rows of an evaluation where it was at one; FAILED
        where it is at its smallest, or after three halvings."""
        spec, halvings = self.trials[key].spec, self.halvings.get(key, 0)
        if worker.was_evaluating(self.store.trial(key)):
            return self._killed_in_evaluation(key, error)
        measured = Store(self.options.measure_into or self.store.root)  # where its worker looks, too
        found = measurement.num_halvings(measured, spec, self.runtime)
        size = self.runtime.rows_per_pass(spec.train.batch_size, max(halvings, found))
        if size > 1 and max(halvings, found) < MAX_HALVINGS:
            self.halvings[key] = max(halvings, found) + 1
            return None
        return self._lost(key, "oom", f"{error}, at a micro-batch of {size}; it needs a machine with more memory")

    def _killed_in_evaluation(self, key: str, error: WorkerDiedError) -> Outcome | None:
        count = self.eval_halvings.get(key, self.runtime.num_eval_halvings)
        size = max(1, self.runtime.eval_batch_size // 2**count)
        if size > 1 and count < MAX_HALVINGS:
            self.eval_halvings[key] = count + 1
            return None
        return self._lost(key, "oom", f"{error}, in an evaluation of {size} rows together; it needs more memory")

    def _lost(self, key: str, cause: str, message: str) -> Outcome:
        folder = self.store.trial(key)
        number, command = worker.num_attempts(folder), worker.rerun_command(key, self.store.root)
        return worker.record_failure(folder, key, cause, message, number, command)

    def _check_others(self) -> None:
        """Before-scores only run ahead: a trial that misses one computes it, so that only bad input matters here."""
        for future in [future for future in self.others if future.done()]:
            self.others.discard(future)
            error = future.exception()
            if isinstance(error, BadInputError | DiskError):
                raise error

    def _hopeless(self) -> Why | None:
        """Return why nothing that is left can be expected to go better, or None."""
        if self.doubt.no_disk:
            return "disk"
        return "equal_failures" if self.ready and self.doubt.is_certain(self.rerun_after) else None

    def _message(self, why: Why) -> str:
        left = len(self.trials) - len(self.outcomes)
        again = "run the same command again to continue"
        if why == "equal_failures":
            return f"stopped after {self.doubt.num_ran} equal failures with {left} trials left; {self._advice()}"
        messages: dict[Why, str] = {
            "done": "",
            "interrupted": f"interrupted with {left} trials left; {again}",
            "budget": f"the budget is used up with {left} trials left; {again}",
            "disk": f"the disk is full or read-only, {left} trials left; mend it and {again}",
        }
        return messages[why]

    def _advice(self) -> str:
        failure = states.of_trial(self.store, self.doubt.failed[0]).failure
        if failure is not None and failure.reruns_by_itself:
            return "mend the cause and run the same command again: it tries them again by itself, after the others"
        return "mend the cause and run the same command with --retry-failed (make: RETRY=1)"
