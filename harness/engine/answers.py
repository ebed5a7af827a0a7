"""What the verbs answer: values with a JSON form, printed by show.py.

Invariant: everything here was read from plan and records; nothing is computed for display only. What does not live
here: how it looks (show.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.report import Report
from harness.engine import launch, states
from harness.engine.plan import Outlook, Plan, kept_less
from harness.engine.powered import Power
from harness.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_SOME_FAILED
from harness.records.schema import SweepRecord
from harness.records.store import Store

if TYPE_CHECKING:
    from analysis.compare import Comparison


@dataclass(frozen=True)
class PlanView:
    """What `plan` shows."""

    plan: Plan
    outlook: Outlook
    num_workers: int
    budget: str | None = None
    power: Power = field(default_factory=Power)
    probed: launch.Summary | None = None
    """How its probes ended; None where none were asked for."""

    @property
    def exit_code(self) -> int:
        """That of its probes: without one that failed, something stays unknown."""
        return EXIT_DONE if self.probed is None else self.probed.exit_code

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        plan, outlook = self.plan, self.outlook
        return {
            "name": plan.record.name,
            "base": plan.record.base,
            "kind": plan.record.kind,
            "folder": str(plan.folder),
            "hypothesis": plan.record.hypothesis,
            "num_workers": self.num_workers,
            "num_trials": len(plan.trials),
            "num_done": outlook.num_done,
            "seconds_left": outlook.seconds_left,
            "disk_bytes_left": outlook.disk_left,
            "memory_bytes_left": outlook.memory_left,
            "memory_bytes_here": outlook.memory_here,
            "warning": outlook.warning,
            "num_in_budget": outlook.num_in_budget,
            "num_to_propose": outlook.ahead.num_trials if outlook.ahead else 0,
            "num_to_confirm": outlook.ahead.num_confirming if outlook.ahead else 0,
            "notes": list(outlook.notes),
            "power": self.power.as_json(),
            "failed_probes": [vars(outcome) for outcome in self.probed.failed] if self.probed else [],
            "trials": [
                {
                    "trial_id": trial.trial_id,
                    "condition_id": trial.condition_id,
                    "arm": trial.arm,
                    "axes": trial.axes,
                    "seed": trial.seed,
                    "world": trial.world,
                    "state": outlook.states[trial.trial_id].state,
                    **asdict(outlook.costs[trial.trial_id]),
                }
                for trial in plan.record.trials
            ],
        }


@dataclass(frozen=True)
class StatusView:
    """What `status` shows."""

    records: tuple[SweepRecord, ...]
    store: Store
    problems: tuple[str, ...] = ()
    """Plans that cannot be read."""

    @property
    def exit_code(self) -> int:
        return EXIT_SOME_FAILED if self.problems else EXIT_DONE

    def as_json(self) -> list[dict[str, Any]]:
        """Return what a machine wants to know."""
        return [*map(self._one, self.records), *({"problem": problem} for problem in self.problems)]

    def is_over(self, found: list[dict[str, Any]]) -> bool:
        """Return whether nothing of what `as_json` returned will change by itself: every trial has ended."""
        counts = [one["counts"] for one in found if "counts" in one]
        proposing = any(record.kind == "study" and record.winners is None for record in self.records)
        return bool(counts) and not proposing and not any({"PENDING", "RUNNING"} & set(count) for count in counts)

    def _one(self, record: SweepRecord) -> dict[str, Any]:
        found = states.of_record(self.store, record)
        running = {key: state.progress for key, state in found.items() if state.state == "RUNNING"}
        return {
            "name": record.name,
            "base": record.base,
            "set_hash": record.set_hash,
            "counts": dict(Counter(state.state for state in found.values())),
            "running": {key: progress.model_dump() for key, progress in running.items() if progress},
            "failed": {
                key: {"cause": s.failure.cause, "message": s.failure.message, "command": s.failure.command}
                for key, s in found.items()
                if s.state == "FAILED" and s.failure
            },
            "damaged": {key: state.problem for key, state in found.items() if state.state == "DAMAGED"},
        }


@dataclass(frozen=True)
class Done:
    """How a sweep ended."""

    plan: Plan
    summary: launch.Summary
    report: Report | None

    @property
    def exit_code(self) -> int:
        return self.summary.exit_code

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        summary = self.summary
        return {
            "folder": str(self.plan.folder),
            "why": summary.why,
            "num_planned": summary.num_planned,
            "num_ran": summary.num_ran,
            "states": {key: outcome.state for key, outcome in summary.outcomes.items()},
            "failed": [vars(outcome) for outcome in summary.failed],
            "seconds": summary.seconds,
            "notes": [note] if (note := kept_less(self.plan)) else [],
            "report": [str(path) for path in self.report.files] if self.report else [],
        }


@dataclass(frozen=True)
class Recovered:
    """How a recovery test ended."""

    done: Done
    shares: tuple[dict[str, Any], ...]
    """Rows of analysis.recovery.recovery_frame; none where it was interrupted."""

    @property
    def exit_code(self) -> int:
        return self.done.exit_code

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        return self.done.as_json() | {"recovery": list(self.shares)}


@dataclass(frozen=True)
class Compared:
    """Two sweeps beside each other."""

    comparison: Comparison
    paths: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        found = self.comparison
        return {
            "first": found.first,
            "second": found.second,
            "notes": list(found.notes),
            "differences": found.differences.to_dict("records"),
            "unmatched": found.unmatched.to_dict("records"),
            "paths": [str(path) for path in self.paths],
        }


@dataclass(frozen=True)
class Refused:
    """A sweep of several that could not be run as asked."""

    name: str
    problem: str
    exit_code: int = EXIT_BAD_INPUT
