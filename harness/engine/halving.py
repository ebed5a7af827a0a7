"""Successive halving over seeds: which conditions of a study go on to more seeds, and why the others do not.

Invariant: a decision depends on the val scores of the first seeds of this batch's conditions and of those before it,
so that a study that was killed, rebuilt or ran on more workers prunes the same. A condition without a value does not
compete and does not go on. What does not live here: running (study.py), what a rung is (harness.spec.Pruning).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.spec import Study


@dataclass(frozen=True)
class Standing:
    """How a condition stands at a rung."""

    value: float | None
    """Its objective's mean over the first seeds, on val items; None is unknown."""
    excess: float = 0.0
    """By how much it exceeds its constraints in sum; 0 is feasible."""


def rungs(study: Study, num_seeds: int) -> tuple[int, ...]:
    """Return after how many seeds conditions are compared, and last the number of all seeds."""
    return (*(study.pruning.rungs if study.pruning else ()), num_seeds)


def promoted(here: Mapping[int, Standing], before: Iterable[Standing], study: Study) -> dict[int, bool]:
    """Return number -> whether a condition goes on from a rung.

    All that have reached the rung compete; one in `reduction_factor` goes on, at least one, and whoever ties with the
    last of them. A condition that exceeds a constraint stands behind every feasible one.

    Args:
        here: the conditions of this batch that reached the rung.
        before: those of earlier batches.
        study: its pruning and its one objective.

    Source: Li et al., arXiv:1810.05934 (asynchronous successive halving), as Optuna's SuccessiveHalvingPruner decides
    for the condition that comes last.
    """
    assert study.pruning is not None
    sign = -1.0 if study.objectives[0].direction == "maximize" else 1.0
    known = sorted(_rank(one, sign) for one in (*before, *here.values()) if one.value is not None)
    last = max(1, len(known) // study.pruning.reduction_factor) - 1
    return {number: one.value is not None and _rank(one, sign) <= known[last] for number, one in here.items()}


def _rank(standing: Standing, sign: float) -> tuple[float, float]:
    assert standing.value is not None
    return standing.excess, sign * standing.value


@dataclass
class Ladder:
    """Who stood where at each rung so far, and where conditions were given up."""

    study: Study
    num_seeds: int
    standings: dict[int, list[Standing]] = field(default_factory=dict[int, list[Standing]])
    stopped: dict[int, tuple[int, str]] = field(default_factory=dict[int, tuple[int, str]])
    """Number -> the rung at which a condition was given up, and why in words."""

    def climb(self, rung: int, here: Mapping[int, Standing]) -> None:
        """Decide who of a batch goes on from a rung; at the last one everybody has arrived."""
        if rung == self.num_seeds:
            return
        before = self.standings.setdefault(rung, [])
        goes_on = promoted(here, before, self.study)
        before += here.values()
        competing = sum(one.value is not None for one in before)
        for number, standing in here.items():
            if not goes_on[number]:
                self.stopped[number] = rung, self._why(rung, standing, competing)

    def _why(self, rung: int, standing: Standing, competing: int) -> str:
        place = f"pruned at {rung} of {self.num_seeds} seeds"
        if standing.value is None:
            return f"{place}: one of them has no val score"
        assert self.study.pruning is not None
        best = max(1, competing // self.study.pruning.reduction_factor)
        against = " and exceeds a constraint" if standing.excess > 0 else ""
        return f"{place}: its val score {standing.value:.4g}{against} is not among the best {best} of {competing}"
