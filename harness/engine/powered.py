"""What a planned sweep could see, said before it runs: of each claim, and of each measure between two conditions.

Invariant: torch-free, and nothing is trained or written; what is assumed is said to be. What does not live here: the
forecast itself (analysis/power.py), how it is printed (show.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analysis import power
from analysis.power import PowerRow, Size, Variances
from harness.engine.plan import Plan
from harness.errors import DataError
from harness.evals import items
from harness.records.schema import PlannedTrial, SweepRecord
from harness.spec import Claim, Contrast, Term

TWO_CONDITIONS = "difference of two conditions"
FROM_THE_BASE = "difference from the base"


@dataclass(frozen=True)
class Power:
    """The minimum detectable effects of a plan, with 80 % power at alpha = .05."""

    claims: tuple[PowerRow, ...] = ()
    """One row for each part of each claim."""
    measures: tuple[PowerRow, ...] = ()
    """One row a measure: between two conditions, or against the base where there is one condition; it has no margin."""

    def lines(self) -> list[str]:
        """Return the forecast in words; none where nothing is planned."""
        sources = (f"variances: {row.source}" for row in self.measures if row.source)
        lines = [*map(_measure_line, self.measures), *power.power_lines(self.claims), *sources]
        return sorted(dict.fromkeys(lines), key=lambda line: line.startswith("variances: "))

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        return {
            "claims": [asdict(row) | {"label": row.label} for row in self.claims],
            "measures": [asdict(row) for row in self.measures],
        }


def _measure_line(row: PowerRow) -> str:
    if math.isnan(row.mde):
        return f"{row.claim}: {row.part}: no forecast ({row.note})"
    seeds = " + ".join(map(str, row.seeds))
    counts = f"{row.num_items} items in {row.num_clusters} clusters, {seeds} seeds"
    return f"{row.claim}: {row.part}: detectable from {row.mde:.3f} on with 80 % power ({counts})"


def of_plan(plan: Plan) -> Power:
    """Return what a sweep could see; nothing of a study, whose conditions are not known before it runs."""
    if plan.record.kind == "study" or not plan.record.trials:
        return Power()
    known, sizes = _variances(plan), _sizes(plan)
    measures = plan.record.model_copy(update={"claims": tuple(_of_measures(plan.record))})
    rows = power.forecast(measures, known, sizes)
    return Power(
        claims=tuple(power.forecast(plan.record, known, sizes)),
        measures=tuple(replace(row, part=_between(plan.record), margin=math.nan) for row in rows),
    )


# -- what each measure could see --------------------------------------------------------------------------------------


def _of_measures(record: SweepRecord) -> Iterator[Claim]:
    """Yield a contrast for each measure, of the first and the last condition of the first arm."""
    for measure in record.measures:
        part = Contrast(terms=_terms(record, measure), expect="greater", margin=0.0)
        yield Claim(id=measure, statement="-", source="-", published="", parts=(part,))


def _terms(record: SweepRecord, measure: str) -> tuple[Term, ...]:
    ends = _ends(record)
    if len(ends) == 1:
        return (_term(measure, ends[0], 1.0, value="delta"),)
    return (_term(measure, ends[1], 1.0), _term(measure, ends[0], -1.0))


def _ends(record: SweepRecord) -> list[PlannedTrial]:
    """Return a trial of the first and one of the last condition of the first arm; one where they are the same."""
    arm = [trial for trial in record.trials if trial.arm == record.trials[0].arm]
    return [arm[0]] if arm[0].condition_id == arm[-1].condition_id else [arm[0], arm[-1]]


def _term(measure: str, trial: PlannedTrial, weight: float, value: Any = "after") -> Term:
    return Term(metric=measure, value=value, at=tuple(trial.axes.items()), weight=weight, arm=trial.arm)


def _between(record: SweepRecord) -> str:
    return TWO_CONDITIONS if len(_ends(record)) == 2 else FROM_THE_BASE


# -- what it is computed from -----------------------------------------------------------------------------------------


def _sizes(plan: Plan) -> dict[str, Size]:
    """Return the test items and clusters of every slice that a measure or a claim names, as far as they can be read."""
    spec = plan.record.trials[0].spec
    keys = {key for keys in plan.record.measures.values() for key in keys}
    keys |= {term.metric.rpartition("/")[0] for term in _claimed_terms(plan.record)}
    found: dict[str, Size] = {}
    for task in spec.evals.tasks:
        if task.key in keys:
            try:
                chosen = items.select(task, spec.evals)
            except DataError:  # a launch refuses it in a sentence; a plan still says what it can
                continue
            test = [item for item, split in zip(chosen.items, chosen.splits, strict=True) if split == "test"]
            found[task.key] = Size(len(test), len({item["cluster"] for item in test}))
    return found


def _claimed_terms(record: SweepRecord) -> Iterator[Term]:
    parts = (part for claim in record.claims for part in claim.parts)
    yield from (term for part in parts if isinstance(part, Contrast) for term in part.terms)


def _variances(plan: Plan) -> dict[str, Variances]:
    """Return metric -> variances of earlier reports on this base: the plan's own first, then the newest."""
    paths = [
        path for path in plan.store.root.glob(f"sweeps/*/{power.VARIANCES_FILE}") if _base_of(path) == plan.record.base
    ]
    paths.sort(key=lambda path: (path.parent == plan.folder, path.stat().st_mtime_ns))
    return {metric: own for path in paths for metric, own in power.read_variances(path).items()}


def _base_of(path: Path) -> str | None:
    """Return the base of the sweep whose report has a file; None where its plan is missing or damaged."""
    try:
        return json.loads((path.parent / "sweep.json").read_text())["base"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
