"""The minimum detectable effect: what true difference a t test finds with 80 % power.

Invariant: light to import, because a plan needs nothing else of the statistics. What does not live here: standard
errors and degrees of freedom (stats.py, design.py).
"""

# pyright: basic
# scipy has no complete annotations: what strict checking says of it is noise.
from __future__ import annotations

import math
from functools import cache

import scipy.special

ALPHA = 0.05
POWER = 0.8


def minimum_detectable_effect(se: float, df: float = math.inf) -> float:
    """Return the true difference found with 80 % power by a two-sided t test at alpha = 0.05; 2.8 SE for many df."""
    # Nearby degrees of freedom share a solution, which is remembered: off by less than 0.5 %.
    rounded = round(df, 1) if df < 10 else float(round(df)) if df < 100 else float(f"{df:.2g}")
    return detectable_in_se(math.inf if df > 1000 else rounded) * se


@cache
def detectable_in_se(df: float) -> float:
    """Return the detectable difference in standard errors: the noncentrality at which t passes its limit in 80 %.

    Within 5 in a million: the other tail, which holds next to nothing, is left out.
    """
    if math.isinf(df):
        return float(scipy.special.ndtri(1 - ALPHA / 2) + scipy.special.ndtri(POWER))
    return float(scipy.special.nctdtrinc(df, 1 - POWER, scipy.special.stdtrit(df, 1 - ALPHA / 2)))
