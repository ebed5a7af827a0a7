"""Everything that a report is made of, computed at most once: what sections and figure kinds are given.

Invariant: each property is a function of the sweep's records alone, and is computed when it is first asked for. What
does not live here: any formula (tables.py, stats.py, claims.py), anything that is shown (view.py, sections/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from analysis import claims, edl, frames, items, score_intervals, studies, tables
from analysis.matrices import ItemMatrices
from analysis.opened import OpenedSweep
from analysis.verdicts import Verdict
from harness.records.schema import SweepRecord

if TYPE_CHECKING:
    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]


T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """An opened sweep, and every table that is computed from it."""

    sweep: OpenedSweep
    _made: dict[Callable[..., Any], Any] = field(default_factory=dict[Any, Any], repr=False, compare=False)

    def once(self, compute: Callable[[Context], T]) -> T:
        """Return what a function makes of this context, computed once however many sections and figures show it."""
        if compute not in self._made:
            self._made[compute] = compute(self)
        return self._made[compute]

    @property
    def record(self) -> SweepRecord:
        """The plan."""
        return self.sweep.record

    @property
    def is_sampled(self) -> bool:
        """Whether a sampler chose the conditions: they are not independent, so that none gets an interval."""
        return self.record.kind == "study"

    @cached_property
    def primary_keys(self) -> dict[str, tuple[str, ...]]:
        """Measure -> metric keys of its primary slices."""
        return frames.metrics_of(self.sweep)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per planned trial."""
        return frames.sweep_frame(self.sweep)

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row per trial, item and metric, before joined to after."""
        return items.items_frame(self.sweep)

    @cached_property
    def matrices(self) -> ItemMatrices:
        """The same as item x seed matrices, of test items: what effects, contrasts and claims are made of."""
        return ItemMatrices(self.items)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row per trial, phase and fixed prompt."""
        return items.samples_frame(self.sweep)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The training logs: one row per trial and logged step."""
        return items.metrics_frame(self.sweep)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """One row per condition and target: before, after, delta with its interval, and those of the two scores."""
        return self._by_kind(
            lambda frame: score_intervals.with_score_intervals(
                tables.effects_table(frame, self.matrices, self.primary_keys)
            )
        )

    @cached_property
    def full_precision(self) -> pd.DataFrame:
        """The effects on measures against the base without quantisation; empty where nothing quantises."""
        return self._by_kind(lambda frame: tables.full_precision_table(frame, self.items, self.primary_keys))

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """Each condition's after minus that of its arm's first one."""
        return self._by_kind(lambda frame: tables.contrasts_table(frame, self.matrices, self.primary_keys))

    @cached_property
    def flips(self) -> pd.DataFrame:
        """Items gained and lost: one row per trial and binary metric key."""
        return tables.flips_table(self.items, [key for keys in self.primary_keys.values() for key in keys])

    @cached_property
    def condition_flips(self) -> pd.DataFrame:
        """The same per condition: means over its trials."""
        return tables.flips_by_condition(self.flips)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What became of the sweep's claims."""
        frame = claims.with_edl(self.frame, self.record.claims, lambda: edl.edl_table(self.sweep, self.metrics))
        return claims.decide(self.record.claims, frame, self.matrices, self.primary_keys)

    def shown(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return what may be shown of a table of conditions: a study's without its intervals and tests (studies.py)."""
        return studies.without_intervals(table) if self.is_sampled else table

    def _by_kind(self, table_of: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
        """Return a table of conditions: a study's in two parts, of which the winners on fresh seeds keep intervals."""
        return studies.in_parts(self.frame, table_of) if self.is_sampled else table_of(self.frame)
