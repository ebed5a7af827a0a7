"""Where a mean over items and seeds gets its variance: clustered items, seeds, and what is left of both.

Legend: y[i, s] is the value of item i under seed s, n items in H strata, k seeds, G clusters. Invariant: the parts are
variances of the estimate, not of an item; one that the data cannot tell is NaN, never 0. What does not live here:
intervals and degrees of freedom (stats.py).
"""

# pyright: basic
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Labels = Sequence[str] | Codes


@dataclass(frozen=True)
class CrossedVariance:
    """The mean over strata of the means over their items and seeds, and the parts of its variance."""

    estimate: float
    items: float
    """Clustered, of the seed-averaged values: what other items would change, and the noise of single answers. NaN below
    two clusters."""
    seeds: float
    """s^2 / k, s over the seeds' estimates: what other seeds would change, and that noise again. NaN of one seed."""
    residual: float
    """The noise that `items` and `seeds` both hold: what neither an item nor a seed explains. NaN where either is."""

    @property
    def total(self) -> float:
        """items + seeds - residual, at least the larger of both; the one that is known where the other is not."""
        known = [part for part in (self.items, self.seeds) if not math.isnan(part)]
        if len(known) < 2:
            return known[0] if known else math.nan
        return max(*known, sum(known) - self.residual)


def crossed_variance(values: Floats, clusters: Codes, strata: Codes) -> CrossedVariance:
    """Return the mean of a complete items x seeds table with the parts of its variance.

    With one stratum and no clusters they are mean squares of the two-way layout: MS_items / nk, MS_seeds / nk and
    MS_residual / nk, so that items + seeds - residual is unbiased. The residual is that of the interaction: the whole
    spread, which two-way clustered regressions subtract, would take away s_items^2 / nk of real variance as well.

    Args:
        values: (n, k), items in rows.
        clusters: (n,) codes from 0 of what items share.
        strata: (n,) codes from 0 of the slices, each with an item.

    Source: Searle, Casella and McCulloch, Variance Components (1992), section 4.3; clusters and strata as in Miller,
    arXiv:2411.00640, equation 4, and Cameron, Gelbach and Miller, doi:10.1198/jbes.2010.07136, section 2.
    """
    num_seeds = values.shape[1]
    sizes = np.bincount(strata)
    means = np.zeros((len(sizes), num_seeds))
    np.add.at(means, strata, values)
    means /= sizes[:, None]
    centred = values - means[strata]
    by_item = centred.mean(axis=1, keepdims=True)
    weights = (1 / (len(sizes) * sizes))[strata, None]
    pairs = num_seeds * (num_seeds - 1)
    return CrossedVariance(
        estimate=float(means.mean()),
        items=_clustered(weights * by_item, clusters, len(sizes)),
        seeds=float(means.mean(axis=0).var(ddof=1)) / num_seeds if pairs else math.nan,
        residual=_clustered(weights * (centred - by_item), clusters, len(sizes)) / pairs if pairs else math.nan,
    )


def _clustered(parts: Floats, clusters: Codes, num_strata: int) -> float:
    """Return the sum of squares of the clusters' sums, for few clusters; NaN below two, or an item a stratum.

    Args:
        parts: (n, columns): what each item adds to the mean, less its expectation.
        clusters: (n,)
        num_strata: means that were estimated.
    """
    num_items, num_clusters = len(parts), int(clusters.max()) + 1
    if num_clusters < 2 or num_items <= num_strata:
        return math.nan
    sums = np.zeros((num_clusters, parts.shape[1]))
    np.add.at(sums, clusters, parts)
    few = num_clusters / (num_clusters - 1) * (num_items - 1) / (num_items - num_strata)
    return few * float((sums**2).sum())


# -- labels -----------------------------------------------------------------------------------------------------------


def codes_of(labels: Labels) -> Codes:
    """Return codes from 0 in the order of sorted labels; codes that are such already are returned as they are."""
    given = np.asarray(labels)
    is_small = (
        np.issubdtype(given.dtype, np.integer) and len(given) > 0 and 0 == given.min() <= given.max() < len(given)
    )
    if is_small and np.bincount(given).all():
        return given
    return np.unique(given, return_inverse=True)[1]


def num_independent(clusters: Codes, strata: Codes) -> int:
    """Return the clusters that a bound on the mean over strata may count: H x the fewest of a stratum, at most all.

    With shares p_h and G_h clusters, no cluster of any stratum moves otherwise with probability prod (1 - p_h)^G_h,
    which is at most (1 - mean p)^(H min G_h) because -log(1 - p) is convex: a small stratum may hide a large share.
    """
    of_strata = np.bincount(np.unique(np.stack([strata, clusters]), axis=1)[0])
    return min(int(clusters.max()) + 1, len(of_strata) * int(of_strata.min()))
