"""In how many paired runs a condition beats another: wins, the sign test, and whether that is a meaningful difference.

Legend: a gain is what a condition scores above another one in the same run (world and seed). Invariant: more is better;
whoever has a score of which less is better turns its sign first. What does not live here: pairing runs (tables.py).
"""

# pyright: basic
# scipy has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import scipy.stats

from analysis.numbers import UNKNOWN
from analysis.stats import wilson

NAN = math.nan
EVEN, MEANINGFUL = 0.5, 0.75
"""P(A > B) of two equal conditions, and what the upper end of its interval exceeds where a difference is meaningful."""

Better = Literal["significant and meaningful", "significant, not meaningful", "not significant", "unknown"]


@dataclass(frozen=True)
class Wins:
    """How often one condition has the better score; its fields are columns of the tables."""

    prob_better: float = NAN
    """P(A > B): share of the runs with a gain above 0, ties half; nan without a run."""
    prob_better_low: float = NAN
    """Lower end of its Wilson 95 % interval, over runs taken as independent."""
    prob_better_high: float = NAN
    num_wins: int = 0
    num_ties: int = 0
    num_runs: int = 0
    """With a known gain; what is neither won nor tied is lost."""
    sign_p: float = NAN
    """Two-sided sign test on the runs that are not tied; nan without one. Below 6 of them it cannot be under .05."""
    better: Better = "unknown"
    """Whether the condition is the better one, by Bouthillier's rule; one that loses is `not significant`, too."""


COLUMNS = tuple(field.name for field in fields(Wins))


def wins(gains: Sequence[float]) -> Wins:
    """Count the runs that a condition wins, with the sign test and the share's interval.

    More is better. Population: known gains, one a run; of none everything is nan and `better` unknown. `sign_p` is
    sum over j with P(j) <= P(wins) of P(j), j binomial of the runs not tied with a half: of k runs that all go one way
    2 / 2^k.

    Source: Dixon and Mood 1946 (sign test, ties left out); the share and the rule: `better_of`.
    """
    known = np.array([gain for gain in gains if not math.isnan(gain)])
    won, tied = int((known > 0).sum()), int((known == 0).sum())
    share = (won + tied / 2) / len(known) if len(known) else NAN
    low, high = wilson(won + tied / 2, len(known))
    decided = len(known) - tied
    sign_p = float(scipy.stats.binomtest(won, decided).pvalue) if decided else NAN
    return Wins(share, low, high, won, tied, len(known), sign_p, better_of(low, high))


def better_of(low: float, high: float) -> Better:
    """Return whether P(A > B) with this 95 % interval tells a difference, and one that matters.

    *Significant*: low > .5. *Meaningful*: high > .75 as well. Unknown without an interval. It asks one side only: where
    B is the better one, A is not significantly better.

    Source: Bouthillier et al., arXiv:2103.03098, section 5; there with a bootstrap, for which seeds are few here.
    """
    if math.isnan(low) or math.isnan(high):
        return "unknown"
    if low <= EVEN:
        return "not significant"
    return "significant and meaningful" if high > MEANINGFUL else "significant, not meaningful"


def wins_text(row: Mapping[str, Any]) -> str:
    """Return the counts of a row that has the columns of `Wins`: 4/5, 2/5 (1 tied); a dash without a run."""
    if not row["num_runs"]:
        return UNKNOWN
    tied = f" ({row['num_ties']} tied)" if row["num_ties"] else ""
    return f"{row['num_wins']}/{row['num_runs']}{tied}"
