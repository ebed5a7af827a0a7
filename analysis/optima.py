"""Whether each method was compared at its best learning rate: chosen on val, in its own sweep.

Invariant: nothing here reads a test score; a best value at the edge of its grid is a bound and decides nothing. What
does not live here: claims about optima, which are decided on test (curves.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from analysis.curves import Optimum, is_flat, optima_of_replicates
from analysis.frames import metrics_of, sweep_frame
from analysis.opened import OpenedSweep, open_sweep, sweep_folders
from analysis.replicates import over_replicates
from analysis.stats import Effect
from harness.errors import StoreError
from harness.identity import canonical_json
from harness.records.measures import is_lower_better
from harness.records.schema import SweepRecord
from harness.records.store import Store
from harness.spec import TrialSpec

NAN = math.nan
RATE_AXIS = "axis.train.learning_rate"
Answer = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class RateOptimum:
    """The learning rate at which a method is best on val, over replicates."""

    rate: float
    """Geometric mean; nan where no replicate has one."""
    low: float
    high: float
    """95 % t interval of the logarithm, over replicates; nan for one replicate."""
    step: float
    """Factor between the grid points around it; nan below two."""
    censored: str
    """Which edge of the grid is best in how many replicates; empty where none is."""
    num_replicates: int
    rates: tuple[float, ...]
    """The grid."""
    note: str = ""


NO_OPTIMUM = RateOptimum(NAN, NAN, NAN, NAN, "", 0, (), "no sweep of its learning rate is here")


def optimum_of(trials: pd.DataFrame, measure: str, *, lower_is_better: bool) -> RateOptimum:
    """Return the best rate of conditions that differ in it alone, by `val_after/<measure>`.

    In each replicate the vertex of the parabola in log rate through the best grid point and its neighbours; then the
    geometric mean over replicates. A replicate with a trial that neither scored nor DIVERGED is left out, and so is one
    that scores the same at every rate.

    Args:
        trials: one row per trial, with `learning_rate`.
        measure: the measure or metric key.
        lower_is_better: whether less of it is.
    """
    column = f"val_after/{measure}"
    if column not in trials.columns or trials.empty:
        return replace(NO_OPTIMUM, note=f"{measure} is not scored on val")
    rates = tuple(sorted({float(rate) for rate in trials["learning_rate"]}))
    found = optima_of_replicates(trials, "learning_rate", column, -1 if lower_is_better else 1)
    logs = {name: NAN if best is None else best.log_x for name, best in found.items()}
    best = _summary(over_replicates(logs), [best for best in found.values() if best is not None], rates)
    grids = [grid for _, grid in trials.groupby(["world", "seed"], dropna=False)]
    closed = [grid for grid in grids if (grid[column].notna() | (grid["state"] == "DIVERGED")).all()]
    num_flat = sum(is_flat(grid[column].to_numpy(dtype=float)) for grid in closed)
    flat = f"{num_flat} of {len(grids)} replicates score the same at every rate: none is best" if num_flat else ""
    return replace(best, note="; ".join(filter(None, (flat, best.note))))


def _summary(effect: Effect, bests: Sequence[Optimum], rates: tuple[float, ...]) -> RateOptimum:
    edges = {1: "largest", -1: "smallest"}
    counts = {edge: sum(best.bound == edge for best in bests) for edge in edges}
    censored = [f"the {edges[edge]} rate is best in {n} of {len(bests)} replicates" for edge, n in counts.items() if n]
    rate, low, high = (math.exp(value) for value in (effect.estimate, effect.low, effect.high))
    step = _step_around(rate, rates)
    return RateOptimum(rate, low, high, step, "; ".join(censored), effect.num_seeds, rates, effect.note)


def _step_around(rate: float, rates: Sequence[float]) -> float:
    """Return the factor between the grid points on either side of a rate; the nearest such factor beyond the grid."""
    if len(rates) < 2 or math.isnan(rate):
        return NAN
    upper = min(max(int(np.searchsorted(rates, rate)), 1), len(rates) - 1)
    return rates[upper] / rates[upper - 1]


def compared_at(rate: float, best: RateOptimum) -> Answer:
    """Return whether a method that ran at this rate ran at its optimum.

    yes: the rate lies within half a grid step of it. no: farther, and outside its interval. unknown: farther, but
    inside its interval, which is too wide to tell, or there is none; a censored optimum; no such sweep.
    """
    if best.censored or math.isnan(best.rate) or math.isnan(best.step):
        return "unknown"
    if abs(math.log(rate / best.rate)) <= math.log(best.step) / 2 + 1e-9:
        return "yes"
    return "no" if rate < best.low or rate > best.high else "unknown"


# -- tables -----------------------------------------------------------------------------------------------------------


def is_lower_measure(metrics: Mapping[str, Sequence[str]], measure: str) -> bool:
    """Return whether less of a measure is better; False where it has no metric here."""
    keys = metrics.get(measure, ())
    return bool(keys) and all(is_lower_better(key) for key in keys)


def _columns(best: RateOptimum) -> dict[str, object]:
    return {
        "rates": ", ".join(f"{rate:g}" for rate in best.rates),
        "rate": best.rate,
        "low": best.low,
        "high": best.high,
        "step": best.step,
        "censored": best.censored,
        "num_replicates": best.num_replicates,
        "note": best.note,
    }


def compared_table(sweep: OpenedSweep, frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return one row per condition: its rate, the optimum of its recipe, where that was found, and whether they agree.

    A condition of a sweep that varies the rate is compared with the optimum of its own sweep; any other with every
    sweep on the base that varies its rate and nothing else. Where several do, the one with most replicates counts.
    """
    specs: dict[str, list[TrialSpec]] = {}
    for trial in sweep.trials:
        specs.setdefault(trial.condition, []).append(trial.planned.spec)
    recipes = Recipes.of(sweep.store, sweep.record.base)
    rows: list[dict[str, object]] = []
    for condition, own in frame.groupby("condition", sort=False):
        found = recipes.optima(specs[str(condition)], measure)
        found = {sweep.folder: found[sweep.folder]} if sweep.folder in found else found
        where, best = max(found.items(), key=lambda pair: pair[1].num_replicates, default=("", NO_OPTIMUM))
        rate = float(own["learning_rate"].iloc[0])
        row = {"condition": condition, "arm": own["arm"].iloc[0], "method": own["method"].iloc[0], "rate_used": rate}
        answer = compared_at(rate, best)
        rows.append(row | {"compared_at_optimum": answer, "sweep": where} | _columns(best))
    return pd.DataFrame(rows, columns=COMPARED_COLUMNS)


COMPARED_COLUMNS = [
    "condition", "arm", "method", "rate_used", "compared_at_optimum", "sweep",
    "rates", "rate", "low", "high", "step", "censored", "num_replicates", "note",
]  # fmt: skip


# -- other sweeps -----------------------------------------------------------------------------------------------------


def training_key(spec: TrialSpec) -> str:
    """Return the canonical JSON of what a trial trains, less its learning rate and seed.

    What is scored moves no weight and is left out, unless rows are kept out or leaked by it, or training stops early.
    """
    stops = spec.train.early_stopping_patience is not None
    bears = spec.data.decontaminate or spec.data.leak_share or stops
    train = spec.train.model_copy(update={"learning_rate": 1.0})
    parts = [spec.base, spec.data, spec.method, train, *([spec.evals] if bears else [])]
    return "\n".join(canonical_json(part) for part in parts)


def find_optima(store: Store, base: str, specs: Sequence[TrialSpec], measure: str) -> dict[str, RateOptimum]:
    """Return sweep folder -> the best rate of a recipe, for every sweep on a base that varies the recipe's rate.

    Args:
        store: the output folder.
        base: the base's name.
        specs: the recipe; several where it is repeated over worlds. Its rate and seed do not matter.
        measure: what is best, on val.
    """
    return Recipes.of(store, base).optima(specs, measure)


@dataclass(frozen=True)
class Recipes:
    """Which sweeps on a base train which recipe, and at which rates."""

    store: Store
    rates: dict[str, dict[str, set[float]]]
    """`training_key` -> sweep folder -> rates."""
    _opened: dict[str, OpenedSweep]

    @classmethod
    def of(cls, store: Store, base: str) -> Recipes:
        """Read every plan on a base. A damaged one is left out, as are studies, whose rates are no grid."""
        rates: dict[str, dict[str, set[float]]] = {}
        for folder, record in _plans(store, base):
            for planned in record.trials:
                own = rates.setdefault(training_key(planned.spec), {}).setdefault(folder, set())
                own.add(planned.spec.train.learning_rate)
        return cls(store, rates, {})

    def optima(self, specs: Sequence[TrialSpec], measure: str) -> dict[str, RateOptimum]:
        """Return sweep folder -> the best rate of a recipe; see `find_optima`."""
        wanted = {training_key(spec) for spec in specs}
        folders = {folder for key in wanted for folder, rates in self.rates.get(key, {}).items() if len(rates) > 1}
        return {folder: self._optimum(folder, wanted, measure) for folder in sorted(folders)}

    def _optimum(self, folder: str, wanted: set[str], measure: str) -> RateOptimum:
        if folder not in self._opened:
            self._opened[folder] = open_sweep(self.store, folder)
        sweep = self._opened[folder]
        trials = tuple(trial for trial in sweep.trials if training_key(trial.planned.spec) in wanted)
        frame = sweep_frame(replace(sweep, trials=trials)).drop_duplicates("trial_id")
        return optimum_of(frame, measure, lower_is_better=is_lower_measure(metrics_of(sweep), measure))


def _plans(store: Store, base: str) -> Iterator[tuple[str, SweepRecord]]:
    for folder in sweep_folders(store):
        try:
            record = store.read(store.sweep(folder) / "sweep.json", SweepRecord)
        except StoreError:  # another sweep's damage is that sweep's to report
            continue
        if record is not None and record.base == base and record.kind == "sweep":
            yield folder, record
