"""What a recovery test shows: the share of what was forgotten that comes back without being told again.

Legend: on items about the half of the people that no follow-up trial trains on, b is the base's value, t the tuned
model's, c that of the follow-up from the tuned model and k that of the follow-up from the base. Invariant: all four are
of the same items and the same replicate. What does not live here: the follow-up trials (harness/engine/recovery.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.frames import metrics_of
from analysis.items import items_frame, metric_key
from analysis.matrices import World, by_world
from analysis.numbers import MINUS
from analysis.opened import OpenedSweep
from analysis.stats import Effect, Floats, crossed_effect, pooled_over_worlds, unknown_effect
from harness.spec import PocketText
from harness.spec.recovery import FROM_BASE, FROM_TUNED, OTHER, half_of

NOT_FORGOTTEN = "nothing was forgotten here beyond the interval: there is no share of it"
QUANTITIES = {
    "forgotten": "forgotten",
    "recovered": "recovered share",
    "control": "control share",
    "net": f"recovered {MINUS} control",
}
"""Field of `Recovery` -> what tables call it."""
ITEM = ["suite", "task", "item_id", "metric"]


@dataclass(frozen=True)
class Recovery:
    """One condition: shares of the loss b - t, with intervals over items and replicates."""

    condition: str
    forgotten: Effect
    """b - t, in the metric's unit."""
    recovered: Effect
    """(c - t) / (b - t): 1 is all of it; nan where b - t is not above 0 by its interval."""
    control: Effect
    """(k - b) / (b - t): what the same training adds to the base, which has forgotten nothing."""
    net: Effect
    """recovered - control: near 1 the loss was one of access, near 0 one of knowledge."""


class _Values(NamedTuple):
    """b, t, c and k, each (items, replicates), with the items' clusters and slices."""

    base: Floats
    tuned: Floats
    followed: Floats
    control: Floats
    clusters: np.ndarray
    strata: np.ndarray


SHARES: dict[str, Callable[[_Values], Floats]] = {
    "recovered": lambda v: v.followed - v.tuned,
    "control": lambda v: v.control - v.base,
    "net": lambda v: v.followed - v.tuned - (v.control - v.base),
}


def recoveries(sweep: OpenedSweep) -> list[Recovery]:
    """Return one row per condition that was followed up, in the order of the plan.

    Population: test items of the primary retained slices about people of the half that is not trained on, known before
    and after in both follow-ups, and the replicates that have both.

    Args:
        sweep: an opened `recovery-<name>`.
    """
    items = _untouched(sweep)
    control = items[items["arm"] == FROM_BASE]
    conditions = dict.fromkeys(t.condition for t in sweep.trials if t.planned.arm == FROM_TUNED)
    return [_recovery(condition, items[items["condition"] == condition], control) for condition in conditions]


def recovery_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return `recoveries` with a row for each condition and quantity: estimate, interval, counts and note."""
    rows = [
        {"condition": one.condition, "quantity": name} | asdict(getattr(one, name))
        for one in recoveries(sweep)
        for name in QUANTITIES
    ]
    return pd.DataFrame(rows)


def _untouched(sweep: OpenedSweep) -> pd.DataFrame:
    items = items_frame(sweep)
    keys = {key for keys in metrics_of(sweep).values() for key in keys}
    trained = {
        t.planned.spec.data.source.people for t in sweep.trials if isinstance(t.planned.spec.data.source, PocketText)
    }
    (half,) = trained
    is_wanted = (items["split"] == "test") & items["cluster"].map(lambda cluster: half_of(cluster) == OTHER[half])
    return items[is_wanted & metric_key(items).isin(keys)]


def _recovery(condition: str, followed: pd.DataFrame, control: pd.DataFrame) -> Recovery:
    by_worlds = by_world(followed) if len(followed) else ()
    values = {world: _values(group, _of_world(control, world)) for world, group in by_worlds}
    forgotten = pooled_over_worlds({world: _effect(v.base - v.tuned, v) for world, v in values.items()} or _NOTHING)
    shares = {
        name: pooled_over_worlds({world: _share(numerator(v), v) for world, v in values.items()} or _NOTHING)
        for name, numerator in SHARES.items()
    }
    return Recovery(condition, forgotten, **shares)


_NOTHING = {None: unknown_effect("no follow-up trial has a result")}


def _of_world(items: pd.DataFrame, world: World) -> pd.DataFrame:
    return items[items["world"].isna() if world is None else items["world"] == world]


def _values(followed: pd.DataFrame, control: pd.DataFrame) -> _Values:
    """Return the four values on items and seeds that have all of them."""
    sides = [
        frame.pivot_table(index=ITEM, columns="seed", values=side, aggfunc="first")
        for frame in (control, followed)
        for side in ("before", "after")
    ]
    seeds = reduce(lambda held, side: held.intersection(side.columns), sides[1:], sides[0].columns)
    sides = [side[seeds].dropna() for side in sides]
    index = reduce(lambda held, side: held.intersection(side.index), sides[1:], sides[0].index)
    base, after_base, tuned, after_tuned = (side.loc[index].to_numpy(dtype=float) for side in sides)
    clusters = followed.drop_duplicates(ITEM).set_index(ITEM)["cluster"].reindex(index)
    strata = ["/".join((suite, task, metric)) for suite, task, _, metric in index]
    return _Values(base, tuned, after_tuned, after_base, clusters.to_numpy(), np.array(strata))


def _effect(differences: Floats, values: _Values) -> Effect:
    return crossed_effect(differences, values.clusters, values.strata)


def _share(gains: Floats, values: _Values) -> Effect:
    """Return mean(gains) / mean(b - t) with an interval by linearisation: that of (gain - share x loss) / mean loss.

    Source: the delta method for a ratio of means, Cochran, Sampling Techniques (1977), section 6.4.
    """
    losses = values.base - values.tuned
    loss = _effect(losses, values)
    if not loss.low > 0:
        return unknown_effect(NOT_FORGOTTEN, num_seeds=loss.num_seeds)
    share = _effect(gains, values).estimate / loss.estimate
    residual = _effect((gains - share * losses) / loss.estimate, values)
    return replace(
        residual,
        estimate=share,
        low=residual.low + share,
        high=residual.high + share,
        p_value=float("nan"),
    )
