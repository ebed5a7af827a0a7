"""What a study found, by seeds that its search never saw: the winners' scores on test items, and what the search said.

Invariant: a winner is named by fresh seeds and test items alone, of which neither was chosen on; until all of them have
a score it is not confirmed. What does not live here: choosing and running the winners (harness/engine/confirm.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.context import Context
from analysis.labels import short_fields
from analysis.matrices import Matrix
from analysis.points import cell_text
from analysis.stats import Effect, Floats, crossed_effect, seeds_effect
from harness.records.schema import CONFIRM_ARM

NAN = math.nan
COLUMNS = (
    "condition", "objective", "direction", "is_confirmed", "on_front", "found_val", "fresh_val", "regression",
    "found_test", "estimate", "low", "high", "kind", "num_scored", "num_fresh", "best_of", "num_items", "note",
    "condition_id", "trial_ids",
)  # fmt: skip


def confirmation_table(context: Context) -> pd.DataFrame:
    """Return one row per winner and objective: what the search saw of it, and what fresh seeds say.

    `estimate` with `low` and `high`: mean of the objective over the fresh seeds on test items, with its 95 % interval
    over items (clustered) and seeds (crossed), not adjusted for the number of winners. `found_val`: the mean over the
    search's seeds on val items, by which the winner was chosen as the best of `best_of` conditions, and which is
    therefore flattered by its noise. `regression`: `fresh_val` - `found_val`, the same items under fresh seeds: how far
    the choice flattered. `on_front`: no other confirmed winner is better on one objective by `estimate` and worse on
    none. A number is nan where a seed that it is over has none; `note` says which states stand in its way. Empty
    without winners.
    """
    if not context.record.winners:
        return pd.DataFrame(columns=list(COLUMNS))
    rows = [
        _row(context, condition_id, objective, direction)
        for condition_id in context.record.winners
        for objective, direction in context.record.objectives
    ]
    table = pd.DataFrame(rows)
    return table.assign(on_front=_on_front(table))[list(COLUMNS)]


def _row(context: Context, condition_id: str, objective: str, direction: str) -> dict[str, Any]:
    frame, seeds = context.frame, context.record.confirm_seeds
    own = frame[frame["condition_id"] == condition_id]
    found = own[own["arm"] != CONFIRM_ARM]
    fresh = own[(own["arm"] == CONFIRM_ARM) & own["seed"].isin(seeds)]
    measure, value = objective.split("/", 1)
    column = f"{value}/{measure}"
    known = fresh[fresh[column].notna()]
    effect = _effect(context, known, measure, value)
    found_val, fresh_val = _whole_mean(found, f"val_{column}"), _whole_mean(fresh, f"val_{column}")
    return {
        "condition": _label(context, own),
        "objective": objective,
        "direction": direction,
        "is_confirmed": bool(seeds) and len(known) == len(seeds),
        "found_val": found_val,
        "fresh_val": fresh_val,
        "regression": fresh_val - found_val,
        "found_test": _whole_mean(found, column),
        **{name: asdict(effect)[name] for name in ("estimate", "low", "high", "kind", "num_items")},
        "num_scored": len(known),
        "num_fresh": len(seeds),
        "best_of": frame.loc[frame["arm"] != CONFIRM_ARM, "condition_id"].nunique(),
        "note": "; ".join(filter(None, [_states(fresh, known), effect.note])),
        "condition_id": condition_id,
        "trial_ids": " ".join(fresh["trial_id"]),
    }


def _label(context: Context, own: pd.DataFrame) -> str:
    """Return a condition's axis values; its label in tables names the arm as well."""
    first = own.iloc[0]
    fields = [name for name in context.record.axis_fields if pd.notna(first[f"axis.{name}"])]
    names = short_fields(context.record.axis_fields)
    return ", ".join(f"{names[name]}={cell_text(first[f'axis.{name}'])}" for name in fields) or str(first["condition"])


def _whole_mean(trials: pd.DataFrame, column: str) -> float:
    return float(trials[column].mean(skipna=False)) if len(trials) and column in trials else NAN


def _states(fresh: pd.DataFrame, known: pd.DataFrame) -> str:
    """Return what became of the fresh trials without a score."""
    left = Counter(fresh.loc[~fresh["trial_id"].isin(known["trial_id"]), "state"])
    return ", ".join(f"{count} {'without a score' if state == 'COMPLETE' else state}" for state, count in left.items())


def _effect(context: Context, known: pd.DataFrame, measure: str, value: str) -> Effect:
    """Return the mean over fresh seeds on test items: of the score after, or of its change."""
    keys = context.primary_keys.get(measure, ())
    condition = str(known["condition"].iloc[0]) if len(known) else ""
    slices, _ = context.matrices.find(condition, keys, known["seed"].to_numpy())
    if not slices:
        return seeds_effect(known[f"{value}/{measure}"].tolist())
    values = np.concatenate([_values(part, value) for part in slices])
    clusters = np.concatenate([part.clusters for part in slices])
    strata = np.repeat(np.arange(len(slices)), [len(part.items) for part in slices])
    is_binary = all(np.isin(side, (0.0, 1.0)).all() for part in slices for side in (part.before, part.after))
    # Of a score, as opposed to a change, the bound for items that are all alike is all that is special to 0 and 1.
    binary = is_binary and (value == "delta" or bool(np.ptp(values) == 0))
    return crossed_effect(values, clusters, strata, binary=binary)


def _values(part: Matrix, value: str) -> Floats:
    return part.after if value == "after" else part.after - part.before


def _on_front(table: pd.DataFrame) -> list[bool]:
    """Return for each row whether no other confirmed winner dominates its condition."""
    sign = table["direction"].map({"maximize": 1.0, "minimize": -1.0})
    wide = table.assign(gain=sign * table["estimate"].where(table["is_confirmed"])).pivot(
        index="condition_id", columns="objective", values="gain"
    )
    points = wide.dropna()
    on_front = {
        name: not any((other >= point).all() and (other > point).any() for _, other in points.iterrows())
        for name, point in points.iterrows()
    }
    return [on_front.get(name, False) for name in table["condition_id"]]


# -- in words ---------------------------------------------------------------------------------------------------------


def sentence(context: Context) -> str:
    """Return who won, by fresh seeds, or why nobody is named."""
    record = context.record
    if record.winners is None:
        return "not confirmed: the search is not through"
    if not record.winners:
        return "none: no condition has every score and keeps every constraint"
    if not record.confirm_seeds:
        return "not confirmed: the study declares no confirm_seeds, and the best of a search is flattered by its noise"
    table = context.once(confirmation_table)
    whole = table.groupby("condition_id", sort=False).filter(lambda own: bool(own["is_confirmed"].all()))
    texts = [_named(own) for _, own in whole[whole["on_front"]].groupby("condition_id", sort=False)]
    lacking = table[~table["condition_id"].isin(whole["condition_id"])].drop_duplicates("condition_id")
    texts += [
        f"not confirmed: {row['num_scored']} of {row['num_fresh']} fresh seeds of a condition that the search chose "
        f"have a score ({row['note'] or 'the rest is not there'})"
        for _, row in lacking.iterrows()
    ]
    beaten = int((~whole.drop_duplicates("condition_id")["on_front"]).sum())
    return "; ".join(texts + [f"{beaten} more of the search's front fell behind these"] * (beaten > 0))


def _named(own: pd.DataFrame) -> str:
    """Return one winner in words: its scores on fresh seeds, beside what the search had seen."""
    first = own.iloc[0]
    scores = " and ".join(
        f"{row['objective']} {numbers.score(row['estimate'], signed=row['objective'].endswith('/delta'))} "
        f"{_interval(row)} (the search saw {numbers.score(row['found_val'])} on val)"
        for _, row in own.iterrows()
    )
    return (
        f"{first['condition']}: {scores}, on test items over {first['num_fresh']} fresh seeds; chosen on val from "
        f"{first['best_of']} conditions"
    )


def _interval(row: pd.Series) -> str:
    """Return the ends of an interval; of a score, as opposed to a change, without signs."""
    if row["objective"].endswith("/delta") or not math.isfinite(row["low"]):
        return numbers.interval(row["low"], row["high"])
    return f"[{numbers.score(row['low'])}, {numbers.score(row['high'])}]"
