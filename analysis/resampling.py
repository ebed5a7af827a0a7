"""Intervals from resampled replicates, wide enough for few of them.

Invariant: below `MIN_RESAMPLED` replicates there is no interval. What does not live here: what is resampled
(aggregate.py, fits.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false
# scipy has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import math

import numpy as np
import scipy.stats

from analysis.stats import ALPHA
from analysis.variance import Floats

MIN_RESAMPLED = 5
"""Replicates that a bootstrap needs: of fewer there are too few distinct resamples for a 95 % interval."""


def expanded_alpha(num_replicates: int) -> float:
    """Return the share of resamples outside a 95 % interval: 2 Phi(-sqrt(k / (k - 1)) t), t of k - 1 degrees.

    The spread of resampled means is too small by sqrt((k - 1) / k), and normal where a t is due; for k = 5 this share
    is 0.2 %, in the limit 5 %.

    Source: Hesterberg, arXiv:1411.5279, section 4.3 (the expanded percentile interval).
    """
    t = scipy.stats.t.ppf(1 - ALPHA / 2, num_replicates - 1)
    return float(2 * scipy.stats.norm.cdf(-math.sqrt(num_replicates / (num_replicates - 1)) * t))


def interval_of(resampled: Floats, num_replicates: int) -> tuple[float, float]:
    """Return the expanded 95 % percentile interval; (nan, nan) with too few replicates or without spread.

    Args:
        resampled: (resamples,) values of a statistic; a resample without one (nan) leaves no interval.
        num_replicates: replicates that each resample was drawn from; of several groups, the smallest.
    """
    if num_replicates < MIN_RESAMPLED or np.isnan(resampled).any() or np.ptp(resampled) == 0:
        return math.nan, math.nan
    alpha = expanded_alpha(num_replicates)
    low, high = np.quantile(resampled, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def why_no_interval(num_replicates: int) -> str:
    """Return the reason why replicates were not resampled, or nothing where they were."""
    enough = num_replicates >= MIN_RESAMPLED
    return "" if enough else f"no interval: {num_replicates} replicates, {MIN_RESAMPLED} are needed"
