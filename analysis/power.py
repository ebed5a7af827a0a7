"""What a planned sweep could see: the minimum detectable effect of each declared claim, before anything is trained.

Invariant: pure, and light to import; a forecast says where its variances come from, and what is not known stays
unknown. What does not live here: the detectable effect at a size and the size that it needs (design.py), the plan
(harness/engine/plan.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pandas has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.design import Design, Size, SliceVariance, both_needed, items_needed, needed_text, seeds_needed
from analysis.verdicts import part_text
from harness.records.schema import PlannedTrial, SweepRecord
from harness.spec import Contrast, EvalTask, Term
from harness.spec.claim import TRAINING_NUMBERS, same_value

if TYPE_CHECKING:
    import pandas as pd

NAN = math.nan
NOT_POWERED = "not powered as planned"
VARIANCES_FILE = "variances.json"


@dataclass(frozen=True)
class Variances:
    """How much the difference between two models varies on one metric."""

    item_variance: float
    """Between clusters of items, of the seed-averaged difference; nan where only the churn is known."""
    seed_sd: float
    """Between seeds, of the mean difference over all items there could be, of two conditions: each has seeds."""
    churn: float
    """Share of answers that differ between two models: the item variance of a binary metric without an effect."""
    source: str


ASSUMED = Variances(NAN, 0.02, 0.2, "assumed: 20 % of answers differ, seeds move a difference by .02")


@dataclass(frozen=True)
class PowerRow:
    """What one part of a claim could see."""

    claim: str
    part: str
    margin: float
    """The smallest effect that matters; nan of a part that has none."""
    se: float = NAN
    mde: float = NAN
    """Found with 80 % power at alpha = .05."""
    num_items: int = 0
    """Over slices and worlds."""
    num_clusters: int = 0
    seeds: tuple[int, ...] = ()
    """Of each world."""
    items_needed: int | None = None
    """Test items of every slice at which the MDE is at most the margin, at the planned seeds. None: no number is
    enough, or there is no MDE or no margin above 0."""
    seeds_needed: int | None = None
    """Seeds of every world, likewise, at the planned items."""
    both_needed: tuple[int, int] | None = None
    """Where neither is enough alone: seeds of every world and test items of every slice that are, together."""
    source: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """`powered`, `not powered as planned` (the MDE exceeds the margin), or `no forecast`."""
        if math.isnan(self.mde) or math.isnan(self.margin):
            return "no forecast"
        return NOT_POWERED if self.mde > self.margin else "powered"


# -- before launch ----------------------------------------------------------------------------------------------------


def forecast(
    record: SweepRecord, variances: Mapping[str, Variances] | None = None, sizes: Mapping[str, Size] | None = None
) -> list[PowerRow]:
    """Return the expected power of every part of a sweep's claims.

    SE^2 = sum over metrics (q sum over slices v / (G H^2) + r s^2 / k) in a world, averaged over worlds as effects are:
    v is the variance between clusters, G clusters and H slices of a metric, s the seeds' standard deviation of a
    difference, and q and r half the sum of squared weights, which is 1 for the difference of two conditions. The base
    of deltas counts in q alone: it has no seeds, so that r is 1/2 for a change against it.

    Args:
        record: the plan.
        variances: metric -> its variances, as `read_variances` has them; one that is not there is assumed, and said.
        sizes: `suite/task` -> its test items; else what the plan samples, one item a cluster.
    """
    rows = (
        _row(record, claim.id, part, variances or {}, sizes or {})
        if isinstance(part, Contrast)
        else PowerRow(claim.id, part_text(part), NAN, note="no forecast for optima and lines")
        for claim in record.claims
        for part in claim.parts
    )
    return list(rows)


def _row(
    record: SweepRecord, claim: str, part: Contrast, variances: Mapping[str, Variances], sizes: Mapping[str, Size]
) -> PowerRow:
    row = PowerRow(claim, part_text(part), part.margin)
    seeds = _seeds(record.trials, part.terms)
    if not seeds or min(seeds) < 2:
        return replace(row, seeds=seeds, note="fewer than 2 seeds in a world: no interval over seeds")
    slices: list[SliceVariance] = []
    seed_variance, sources = 0.0, []
    for metric in dict.fromkeys(term.metric for term in part.terms):
        found = _slices(record, metric, sizes)
        if isinstance(found, str):
            return replace(row, seeds=seeds, note=found)
        own = variances.get(metric, ASSUMED)
        of_models, of_base = _factors([term for term in part.terms if term.metric == metric])
        weighted = (of_models + of_base) * _item_variance(own) / len(found) ** 2
        slices += [SliceVariance(size, weighted) for size in found]
        seed_variance += of_models * own.seed_sd**2
        sources.append(own.source)
    source = "; ".join(dict.fromkeys(sources))
    return _with_design(replace(row, seeds=seeds, source=source), Design(tuple(slices), seed_variance, seeds))


def _with_design(row: PowerRow, design: Design) -> PowerRow:
    row = replace(
        row,
        se=design.precision()[0],
        mde=design.mde(),
        num_items=design.num_items,
        num_clusters=design.num_clusters,
    )
    if not row.mde > 0 < row.margin:
        return row
    items, seeds = items_needed(design, row.margin), seeds_needed(design, row.margin)
    both = both_needed(design, row.margin) if items is None and seeds is None else None
    return replace(row, items_needed=items, seeds_needed=seeds, both_needed=both)


def _seeds(trials: Sequence[PlannedTrial], terms: Sequence[Term]) -> tuple[int, ...]:
    """Return for each world how many seeds every term has there."""
    found = [{(trial.world, trial.seed) for trial in trials if _is_at(trial, term)} for term in terms]
    common = set.intersection(*found)
    worlds = sorted({world for world, _ in common}, key=lambda world: -1 if world is None else world)
    return tuple(sum(1 for own, _ in common if own == world) for world in worlds)


def _is_at(trial: PlannedTrial, term: Term) -> bool:
    here = all(field in trial.axes and same_value(trial.axes[field], value) for field, value in term.at)
    return here and term.arm in (None, trial.arm)


def _slices(record: SweepRecord, metric: str, sizes: Mapping[str, Size]) -> list[Size] | str:
    """Return the test items of each slice of a metric, or why they are not known."""
    if metric in TRAINING_NUMBERS:
        return f"{metric} has no items: its spread over seeds is not known before it ran"
    keys = (metric.rsplit("/", 1)[0],) if "/" in metric else record.measures.get(metric, ())
    evals = record.trials[0].spec.evals
    tasks = {task.key: task for task in evals.tasks if task.key in keys}
    if not keys or len(tasks) < len(keys):
        return f"{metric} is not scored here"
    found = [sizes.get(key) or _planned_size(tasks[key], evals.val_share) for key in keys]
    known = [size for size in found if size is not None]
    if len(known) < len(found):
        return f"the number of items of {metric} is not known before they are read"
    return known if all(size.num_clusters for size in known) else f"{metric} has a slice without test items"


def _planned_size(task: EvalTask, val_share: float) -> Size | None:
    if task.num_items is None or task.kind == "perplexity":  # bits per byte have no churn to assume
        return None
    num_test = task.num_items - round(task.num_items * val_share)
    return Size(num_test, num_test)


def _factors(terms: Sequence[Term]) -> tuple[float, float]:
    """Return half the sum of squared weights of the trained models compared, and half that of the base of deltas."""
    of_base = sum(term.weight for term in terms if term.value == "delta")
    return sum(term.weight**2 for term in terms) / 2, of_base**2 / 2


def _item_variance(variances: Variances) -> float:
    if not math.isnan(variances.item_variance):
        return variances.item_variance
    return ASSUMED.churn if math.isnan(variances.churn) else variances.churn


def power_lines(rows: Iterable[PowerRow]) -> list[str]:
    """Return the forecast in words, one line a part and one for each source of variances; none without rows."""
    lines: list[str] = []
    sources: dict[str, None] = {}
    for row in rows:
        seeds = f"{' + '.join(map(str, row.seeds))} seeds" if row.seeds else ""
        size = f"{row.num_items} items in {row.num_clusters} clusters, {seeds}" if row.num_items else seeds
        effect = "" if math.isnan(row.mde) else f"detectable {row.mde:.3f}, margin {row.margin:.3f}"
        needs = row.items_needed, row.seeds_needed, row.both_needed
        enough = needed_text(*needs, len(row.seeds)) if row.mde > 0 < row.margin else ""
        about = "; ".join(filter(None, (", ".join(filter(None, (effect, size, row.note))), enough)))
        lines.append(f"{row.claim}: {row.part}: {row.label} ({about})")
        sources |= dict.fromkeys([row.source] if row.source else [])
    return [*lines, *(f"variances: {source}" for source in sources)]


# -- from an earlier report -------------------------------------------------------------------------------------------


def variances_of(
    effects: pd.DataFrame, churn: Mapping[str, float], source: str = "an earlier report"
) -> dict[str, Any]:
    """Return the content of `variances.json`: target -> variances, medians over conditions.

    Only effects over seeds and items count; a target without any is left out. In a change from the base one model has
    seeds, in a difference of two conditions both have: of changes the seeds' variance counts twice, as for conditions
    whose seeds have nothing in common. Churn is null where it is not known.

    Args:
        effects: rows of the effects table, changes from the base; with a column `difference`, of the contrasts table.
        churn: of metric keys, as `churn_of` returns it.
        source: what a forecast says of them.
    """
    content: dict[str, Any] = {}
    num_trained = 2 if "difference" in effects.columns else 1
    for target, rows in effects[effects["kind"] == "seeds and items"].groupby("target", sort=False):
        of_items = float((rows["se_items"] ** 2 * rows["num_clusters"]).median())
        beyond_items = (rows["se"] ** 2 - rows["se_items"] ** 2).clip(lower=0.0)
        of_seeds = float((beyond_items * rows["num_seeds"]).median())
        found = Variances(of_items, math.sqrt(of_seeds * 2 / num_trained), churn.get(str(target), NAN), source)
        content[str(target)] = {name: None if value != value else value for name, value in asdict(found).items()}
    return content


def churn_of(items: pd.DataFrame) -> dict[str, float]:
    """Return metric key -> share of test items whose value differs, over all trials; of keys with values 0 and 1."""
    columns = ["suite", "task", "metric", "before", "after"]
    test = items.loc[(items["split"] == "test") & items["before"].notna() & items["after"].notna(), columns]
    found: dict[str, float] = {}
    for names, rows in test.groupby(["suite", "task", "metric"], observed=True):
        if rows[["before", "after"]].isin([0.0, 1.0]).all(axis=None):
            found["/".join(map(str, names))] = float((rows["before"] != rows["after"]).mean())
    return found


def read_variances(path: Path) -> dict[str, Variances]:
    """Return the variances that an earlier report left; none where there is no such file or it is damaged."""
    try:
        content = json.loads(path.read_text())
        return {
            str(target): Variances(*(NAN if row[name] is None else row[name] for name in asdict(ASSUMED)))
            for target, row in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
