"""Approximate randomisation: whether a mean difference is larger than chance makes it, whatever the distribution.

Legend: a sum is what one cluster of items adds to the estimate. Invariant: whole clusters change sides, never single
items of one; the same sums give the same p, to the byte. What does not live here: t tests and intervals (stats.py).
"""

# pyright: basic
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from analysis.variance import Codes, Floats
from harness.seeding import numpy_stream

NUM_RESAMPLES = 10_000
"""Where there are more ways to turn the signs than these, so many are drawn: p is then off by .002 at .05 (1 SE)."""
BATCH = 1000
AGREE_TO = 1e-10
"""Of the sums' absolute total: resampled totals that differ by less are equal, whatever the order of adding."""


def cluster_sums(differences: Floats, clusters: Codes, strata: Codes) -> Floats:
    """Return, (G,), what each cluster adds to the mean over strata of the mean over their items.

    Args:
        differences: (n, k); seeds are averaged.
        clusters: (n,) what items share; any codes from 0.
        strata: (n,) codes from 0, each with an item.
    """
    sizes = np.bincount(strata)
    by_item = differences.mean(axis=1) / (len(sizes) * sizes)[strata]
    return np.bincount(np.unique(clusters, return_inverse=True)[1], weights=by_item).astype(np.float64)


def randomised_p(sums: Iterable[Floats]) -> float:
    """Return the two-sided p of no difference, by turning the sign of whole clusters.

    p = share of the ways to turn signs whose total is, in absolute value, at least the one seen: over all 2^G ways of G
    clusters that moved where these are at most 10 000, else over 10 000 drawn ones, the one seen counted as well.
    Population: the clusters, the only thing that varies: items and seeds are fixed, so that nothing is said of other
    seeds. Of G clusters that all go one way it is 2 / 2^G: fewer than 6 cannot be under .05. 1 where nothing moved; nan
    without a cluster.

    Args:
        sums: of each world, as independent strata.

    Source: Noreen 1989, chapter 2; Yeh, doi:10.3115/992730.992783 (approximate randomisation of paired outputs).
    """
    known = np.concatenate([*sums, np.zeros(0)])
    moved = known[known != 0]
    if not len(known) or np.isnan(known).any():
        return math.nan
    least = abs(float(moved.sum())) - AGREE_TO * float(np.abs(moved).sum())
    is_exact = 2 ** len(moved) <= NUM_RESAMPLES
    turned = _every_way(moved) if is_exact else _drawn_ways(moved)
    # A turned cluster takes its sum away twice: total - 2 x (sum of those turned).
    num_extreme = sum(int((np.abs(moved.sum() - 2 * own) >= least).sum()) for own in turned)
    return num_extreme / 2 ** len(moved) if is_exact else (num_extreme + 1) / (NUM_RESAMPLES + 1)


def _every_way(moved: Floats) -> Iterator[Floats]:
    """Yield the sum of the turned clusters, (2^G,), over every way to turn some."""
    yield (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1).astype(float) @ moved


def _drawn_ways(moved: Floats) -> Iterator[Floats]:
    """Yield the sums of the turned clusters over drawn ways, (BATCH,) at a time so that memory stays small.

    A drawn byte turns some of eight clusters; what each byte adds is looked up, which many clusters need for speed.
    """
    noise, num_bytes = numpy_stream(0, "analysis.randomisation"), math.ceil(len(moved) / 8)
    by_eight = np.pad(moved, (0, 8 * num_bytes - len(moved))).reshape(num_bytes, 8)
    adds = by_eight @ np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).T.astype(float)
    for _ in range(NUM_RESAMPLES // BATCH):
        packed = noise.integers(0, 256, size=(BATCH, num_bytes), dtype=np.uint8)
        yield adds[np.arange(num_bytes), packed].sum(axis=1)
