"""Estimates with intervals: paired by item and seed, clustered, seeds and items as crossed sources of variance.

Legend: d[i, s] is a difference of item i under seed s, n items, k seeds; an interval is 95 % unless said otherwise.
Invariant: what the data cannot tell is NaN with a note, never 0 and never a narrower interval. Regressions, tests and
distributions come from statsmodels and scipy. What does not live here: reading records (frames.py), tables (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy.special
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analysis.detectable import ALPHA, minimum_detectable_effect
from analysis.variance import CrossedVariance, Floats, Labels, codes_of, crossed_variance, num_independent

NAN = math.nan
Z = float(scipy.stats.norm.ppf(1 - ALPHA / 2))
FEW_DISCORDANT = 10
"""Below this many changed items a t interval for a binary metric is called approximate."""

Kind = Literal["seeds and items", "items only", "seeds only", "exact bound", "none"]
WEAKEST_FIRST: tuple[Kind, ...] = ("none", "items only", "seeds only", "exact bound", "seeds and items")
"""Of effects with different kinds of intervals, their mean has the kind that covers least."""


@dataclass(frozen=True)
class Effect:
    """A mean difference with its uncertainty."""

    estimate: float
    low: float
    high: float
    se: float
    """sqrt(se_items^2 + seed_sd^2 / k - what both hold); for one seed se_items alone, and `kind` says so."""
    se_items: float
    """Clustered standard error over items of the seed-averaged differences."""
    seed_sd: float
    """Standard deviation over seeds of the mean difference; NaN for one seed."""
    df: float
    """Welch-Satterthwaite degrees of freedom of the t interval; of an exact bound one less than it counts clusters."""
    p_value: float
    """Two-sided, of no difference."""
    mde: float
    """Smallest true difference that such a comparison finds with 80 % power at alpha = 0.05."""
    num_items: int
    num_clusters: int
    num_seeds: int
    kind: Kind
    note: str = ""


def unknown_effect(note: str, estimate: float = NAN, num_seeds: int = 0) -> Effect:
    """Return an effect of which nothing but perhaps its estimate is known."""
    return Effect(estimate, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0, 0, num_seeds, "none", note)


# -- differences ------------------------------------------------------------------------------------------------------


def crossed_effect(
    differences: Floats,
    clusters: Labels | None = None,
    strata: Labels | None = None,
    *,
    binary: bool = False,
) -> Effect:
    """Return the mean difference with an interval over items and seeds.

    The estimate is the mean over strata (slices) of the mean over their items of the seed-averaged difference.
    SE^2 = SE_items^2 + s^2 / k - R, at least the larger of the first two: SE_items is clustered over items, s is the
    standard deviation of the estimate over seeds, and R, the variance that neither an item nor a seed explains, is in
    both and counts once. A t interval with degrees of freedom by Welch-Satterthwaite from clusters - strata and k - 1,
    each for the whole of its part, so that with 3 seeds that dominate it is t = 4.30.

    Args:
        differences: (n, k), complete; items in rows, seeds in columns.
        clusters: cluster of each item; None is one item a cluster.
        strata: slice of each item; None is one slice.
        binary: the values differenced are 0 or 1. Where every item then moves alike, the exact binomial bound
            replaces an interval of width 0.

    Source: Miller, arXiv:2411.00640, equations 4 and 7 (clustered, paired); Satterthwaite 1946; variance.py.
    """
    num_items, num_seeds = differences.shape
    if num_items == 0 or num_seeds == 0:
        return unknown_effect("no common items", num_seeds=num_seeds)
    cluster_codes = np.arange(num_items) if clusters is None else codes_of(clusters)
    strata_codes = np.zeros(num_items, dtype=np.int64) if strata is None else codes_of(strata)
    num_clusters = int(cluster_codes.max()) + 1
    parts = crossed_variance(differences, cluster_codes, strata_codes)
    effect = replace(
        unknown_effect("", parts.estimate, num_seeds),
        se_items=math.sqrt(parts.items),
        seed_sd=math.sqrt(parts.seeds * num_seeds),
        num_items=num_items,
        num_clusters=num_clusters,
    )
    if binary and np.ptp(differences) == 0:
        return _exact_bound(effect, num_independent(cluster_codes, strata_codes))
    effect = _with_interval(effect, parts, max(num_clusters - int(strata_codes.max()) - 1, 1))
    return _for_binary(effect, int((differences.mean(axis=1) != 0).sum())) if binary else effect


def _for_binary(effect: Effect, num_discordant: int) -> Effect:
    note = f"only {num_discordant} items changed: the interval is approximate"
    notes = [effect.note, note if num_discordant < FEW_DISCORDANT else ""]
    low, high = max(effect.low, -1.0), min(effect.high, 1.0)
    return replace(effect, low=low, high=high, note="; ".join(filter(None, notes)))


def _with_interval(effect: Effect, variance: CrossedVariance, item_df: int) -> Effect:
    has_items, has_seeds = not math.isnan(variance.items), not math.isnan(variance.seeds)
    if not has_items and not has_seeds:
        return replace(effect, note="one item cluster and one seed: no interval")
    parts = [(variance.items, item_df)] if has_items else []
    parts += [(variance.seeds, effect.num_seeds - 1)] if has_seeds else []
    kind: Kind = "seeds and items" if len(parts) == 2 else "items only" if has_items else "seeds only"
    return replace(_t_interval(effect, parts, variance.total), kind=kind)


def _t_interval(effect: Effect, parts: list[tuple[float, float]], variance: float | None = None) -> Effect:
    """Return the effect with its t interval.

    Args:
        effect: with its estimate.
        parts: variance and degrees of freedom of each source.
        variance: of the estimate; None is the sum of the parts.
    """
    variance = sum(part for part, _ in parts) if variance is None else variance
    if variance == 0:
        return replace(effect, se=0.0, note="no variation between items or seeds: no interval")
    df = variance**2 / sum(part**2 / part_df for part, part_df in parts)
    df = max(df, min(part_df for _, part_df in parts))  # what parts share could take it below the fewest
    se = math.sqrt(variance)
    half = float(scipy.special.stdtrit(df, 1 - ALPHA / 2)) * se
    p_value = 2 * float(scipy.special.stdtr(df, -abs(effect.estimate) / se))
    return replace(
        effect,
        low=effect.estimate - half,
        high=effect.estimate + half,
        se=se,
        df=df,
        p_value=p_value,
        mde=minimum_detectable_effect(se, df),
    )


def _exact_bound(effect: Effect, num_clusters: int) -> Effect:
    """Bound the share of clusters that could have moved otherwise, by Clopper-Pearson at zero of n seen."""
    share = 1 - (ALPHA / 2) ** (1 / num_clusters)
    p_value = 1.0 if effect.estimate == 0 else (1 / 2) ** (num_clusters - 1)
    return replace(
        effect,
        low=max(effect.estimate - share, -1.0),
        high=min(effect.estimate + share, 1.0),
        se=NAN,
        df=max(num_clusters - 1, 1),
        p_value=p_value,
        mde=share,
        kind="exact bound",
        note=f"{'every item moved alike' if effect.estimate else 'no item changed'}: exact binomial bound",
    )


def seeds_effect(differences: Sequence[float]) -> Effect:
    """Return the mean over seeds with a t interval over seeds alone, where no items are at hand."""
    values = np.asarray(differences, dtype=float)
    if len(values) == 0 or np.isnan(values).any():
        return unknown_effect("no known value", num_seeds=len(values))
    sd = float(values.std(ddof=1)) if len(values) > 1 else NAN
    effect = Effect(float(values.mean()), NAN, NAN, NAN, NAN, sd, NAN, NAN, NAN, 0, 0, len(values), "none")
    if math.isnan(sd):
        return replace(effect, note="one seed and no items: no interval")
    return replace(_t_interval(effect, [(sd**2 / len(values), len(values) - 1)]), kind="seeds only")


def pooled_over_worlds(effects: Mapping[Any, Effect]) -> Effect:
    """Return the mean of independent effects, one a world; worlds are fixed strata, a single one is returned as it is.

    estimate = sum of estimate_w / W, SE^2 = sum of SE_w^2 / W^2, a t interval with Satterthwaite's degrees of freedom.
    A world where every item moved alike has an exact bound in place of SE_w: it enters as bound / 1.96. A world without
    an estimate is left out and noted; one without an interval leaves the mean without one.

    Args:
        effects: world -> its effect.
    """
    if len(effects) == 1:
        return next(iter(effects.values()))
    known = {world: effect for world, effect in effects.items() if not math.isnan(effect.estimate)}
    note = _notes_of_worlds({world: effect.note for world, effect in effects.items()})
    if not known:
        return unknown_effect(note or "no known value")
    parts = [(_se_of(effect), effect.df) for effect in known.values()]
    mean = _sums_over_worlds(list(known.values()), note)
    if any(not se > 0 for se, _ in parts):  # nan, or no variation in a world, which is no certainty either
        return replace(mean, kind="none")
    return _t_interval(mean, [((se / len(known)) ** 2, df) for se, df in parts])


def _notes_of_worlds(notes: Mapping[Any, str]) -> str:
    if len(set(notes.values())) == 1:
        return next(iter(notes.values()))
    return "; ".join(f"world {world}: {note}" for world, note in notes.items() if note)


def _se_of(effect: Effect) -> float:
    return effect.mde / Z if effect.kind == "exact bound" else effect.se


def _sums_over_worlds(effects: list[Effect], note: str) -> Effect:
    """Return the mean estimate with everything but its interval."""
    variances = [effect.seed_sd**2 for effect in effects]
    kinds = {effect.kind for effect in effects}
    return replace(
        unknown_effect(note, float(np.mean([effect.estimate for effect in effects]))),
        se_items=float(np.sqrt(np.sum([effect.se_items**2 for effect in effects]))) / len(effects),
        seed_sd=float(np.sqrt(np.mean(variances))),
        num_items=sum(effect.num_items for effect in effects),
        num_clusters=sum(effect.num_clusters for effect in effects),
        num_seeds=sum(effect.num_seeds for effect in effects),
        kind=next(kind for kind in WEAKEST_FIRST if kind in kinds),
    )


def item_part(effect: Effect) -> tuple[float, float]:
    """Return the variance over items of seed-averaged values and its degrees of freedom; nan without two clusters."""
    return effect.se_items**2, effect.df if math.isfinite(effect.df) else max(effect.num_clusters - 1.0, 1.0)


def unpaired_effect(first: Sequence[float], second: Sequence[float], items: Sequence[tuple[float, float]]) -> Effect:
    """Return mean(second) - mean(first) for conditions run on different seeds: SE_items^2 + s_A^2/k_A + s_B^2/k_B.

    Args:
        first: scores of one condition's seeds.
        second: of the other's.
        items: variance and degrees of freedom of each independent set of items, from `item_part`: one where both
            conditions asked the same, else one a side. None, or one that is nan, leaves seeds only.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    estimate = float(b.mean() - a.mean()) if len(a) and len(b) else NAN
    if min(len(a), len(b)) < 2:
        return unknown_effect("fewer than two seeds on a side", estimate, min(len(a), len(b)))
    of_items = sum(part for part, _ in items) if items else NAN
    parts = [(float(x.var(ddof=1)) / len(x), float(len(x) - 1)) for x in (a, b)]
    parts += [] if math.isnan(of_items) else items
    effect = replace(unknown_effect("", estimate, min(len(a), len(b))), se_items=math.sqrt(of_items))
    return replace(_t_interval(effect, parts), kind="seeds only" if math.isnan(of_items) else "seeds and items")


# -- one score --------------------------------------------------------------------------------------------------------


def wilson(num_correct: float, num_items: int) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a share; (nan, nan) without items."""
    if num_items == 0:
        return NAN, NAN
    low, high = proportion_confint(num_correct, num_items, alpha=ALPHA, method="wilson")
    return float(low), float(high)


# -- flips ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flips:
    """How a binary metric's items moved between two models."""

    num_items: int
    kept: int
    """Right before and after (n11)."""
    lost: int
    """Right before, wrong after (n10)."""
    gained: int
    """Wrong before, right after (n01)."""

    @property
    def net(self) -> float:
        """(gained - lost) / n: the change of accuracy; nan without items."""
        return _share(self.gained - self.lost, self.num_items)

    @property
    def churn(self) -> float:
        """(gained + lost) / n: how many answers changed, whichever way; nan without items."""
        return _share(self.gained + self.lost, self.num_items)

    @property
    def retention(self) -> float:
        """kept / (kept + lost): of what the base knew, the share still right; nan where it knew nothing."""
        return _share(self.kept, self.kept + self.lost)

    @property
    def p_value(self) -> float:
        """McNemar: exact binomial on the discordant pairs below 25 of them, chi-square with correction from there."""
        if self.num_items == 0:
            return NAN
        table = [[self.kept, self.lost], [self.gained, self.num_items - self.kept - self.lost - self.gained]]
        return float(mcnemar(table, exact=self.gained + self.lost < 25, correction=True).pvalue)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else NAN


def flips(before: Floats, after: Floats) -> Flips:
    """Count how items moved; a pair with an unknown side is left out.

    Args:
        before: (n,) of 0, 1 or nan.
        after: (n,) of the same items.

    Raises:
        ValueError: a value is neither 0 nor 1.
    """
    known = ~(np.isnan(before) | np.isnan(after))
    first, second = before[known], after[known]
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        raise ValueError("flips are defined for values 0 and 1 only")
    right = first == 1, second == 1
    return Flips(
        num_items=int(known.sum()),
        kept=int((right[0] & right[1]).sum()),
        lost=int((right[0] & ~right[1]).sum()),
        gained=int((~right[0] & right[1]).sum()),
    )


def chance_corrected_retention(after: float, before: float, chance: float, se_before: float) -> float:
    """Return (after - chance) / (before - chance); nan where the base is not above chance, or by less than 2 SE.

    A base at floor has an SE of 0: every item is wrong, and 0 is at least 2 x 0 above a chance of 0.
    """
    above = before - chance
    return (after - chance) / above if above > 0 and above >= 2 * se_before else NAN


# -- many tests -------------------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p values of one declared family; nan stays nan and does not count."""
    return _adjusted(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return false-discovery-rate-adjusted p values, for exploration; nan stays nan and does not count."""
    return _adjusted(p_values, "fdr_bh")


def _adjusted(p_values: Sequence[float], method: str) -> list[float]:
    adjusted = np.asarray(p_values, dtype=float).copy()
    known = ~np.isnan(adjusted)
    if known.any():
        with _spared_collection():
            adjusted[known] = multipletests(adjusted[known], method=method)[1]
    return [float(value) for value in adjusted]


@contextmanager
def _spared_collection() -> Iterator[None]:
    """Keep what lives out of the full garbage collection that statsmodels runs at every call: 60 ms beside pandas."""
    if gc.get_freeze_count():  # somebody else's, to be kept
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
