"""A scenario: simulated data whose truth is known, what an estimator claims about it, and whether that holds.

Invariant: what is claimed is fixed before anything is drawn, and a row says how many replicates it is from. What does
not live here: the scenarios (crossed.py, singles.py, sweeps.py), the command (stats_check.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.seeding import numpy_stream

Draw = Callable[[np.random.Generator], bool]
"""Simulate once: whether the interval covered, or whether something was called found."""
COVERS, AT_LEAST, AT_MOST_FAMILY = (0.93, 0.97), (0.93, 1.0), (0.0, 0.055)
SLACK = 2.0
"""Simulation standard errors by which a rate may lie outside its bounds."""


@dataclass(frozen=True)
class Scenario:
    """One row of the check."""

    estimator: str
    name: str
    num_items: int
    """0 where there are none."""
    num_seeds: int
    nominal: float
    bounds: tuple[float, float] | None
    """Within which the method claims its rate to lie; None is no claim, and `why` says why not."""
    draw: Draw
    why: str = ""
    share: float = 1.0
    """Of the replicates asked for: less where one takes long."""

    def num_replicates(self, asked: int) -> int:
        """Return how often it is simulated."""
        return max(1, round(asked * self.share))

    def num_hits(self, num_replicates: int, chunk: int) -> int:
        """Return how many of so many replicates hit; chunks draw from streams of their own."""
        noise = numpy_stream(chunk, f"stats_check.{self.estimator}.{self.name}.{self.num_items}.{self.num_seeds}")
        return sum(bool(self.draw(noise)) for _ in range(num_replicates))


@dataclass(frozen=True)
class Row:
    """A scenario with its simulated rate."""

    scenario: Scenario
    num_hits: int
    num_replicates: int

    @property
    def rate(self) -> float:
        """Share of replicates that covered, or that called something found."""
        return self.num_hits / self.num_replicates

    @property
    def se(self) -> float:
        """Simulation standard error of the rate, by Agresti and Coull so that it is above 0 at 0 and 1."""
        share = (self.num_hits + 2) / (self.num_replicates + 4)
        return math.sqrt(share * (1 - share) / (self.num_replicates + 4))

    def passed(self, slack: float = SLACK) -> bool:
        """Return whether the rate lies in the claimed bounds, or beside them by at most `slack` standard errors."""
        if self.scenario.bounds is None:
            return True
        low, high = self.scenario.bounds
        return low - slack * self.se <= self.rate <= high + slack * self.se


def simulate(scenario: Scenario, asked: int, chunk: int = 0) -> Row:
    """Return the row of a scenario from so many replicates, or its share of them."""
    num_replicates = scenario.num_replicates(asked)
    return Row(scenario, scenario.num_hits(num_replicates, chunk), num_replicates)
