"""Numbers as text.

Invariant: unknown is an em dash, never 0; a sign is written where a number is a difference. What does not live here:
rounding of anything that is stored.
"""

from __future__ import annotations

import math

UNKNOWN = "—"
MINUS = "\u2212"
INTERVAL_MARKS = {"items only": "†", "seeds only": "‡", "exact bound": "§"}
"""Kind of an effect -> the mark that says what its interval covers less than items and seeds."""


def score(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """Return a score or difference to a fixed number of digits: 0.187, +0.048."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def interval(low: float, high: float, digits: int = 3) -> str:
    """Return a 95 % interval of a difference: [+0.006, +0.090]."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"[{score(low, signed=True, digits=digits)}, {score(high, signed=True, digits=digits)}]"


def plus_minus(low: float, high: float, estimate: float, digits: int = 3) -> str:
    """Return the half width of an interval, the larger side: ± 0.042."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "±" + UNKNOWN
    return f"± {score(max(estimate - low, high - estimate), digits=digits)}"


def p_value(value: float) -> str:
    """Return a p value: 0.034, < 0.001."""
    if not math.isfinite(value):
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def quantity(value: float | None) -> str:
    """Return a count or a rate compactly: 12,345 or 2.5e-05."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if 0.01 <= abs(value) < 1e6:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.3g}"


def memory(value: float | None) -> str:
    """Return bytes: 912 MB."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value / 1e6:,.0f} MB" if value < 1e10 else f"{value / 1e9:,.1f} GB"


def percent(share: float | None) -> str:
    """Return a share in percent: 7.4 %."""
    return UNKNOWN if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"
