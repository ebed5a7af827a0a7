"""Two sweeps beside each other: the same conditions, paired by item and seed as far as they asked the same.

Invariant: every condition of either sweep has a row: compared, or listed with the reason why it is not. What does not
live here: the estimates (tables.py), comparisons within a sweep (claims.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import pandas as pd

from analysis import escape, numbers
from analysis.frames import metrics_of, sweep_frame
from analysis.items import items_frame, metric_key
from analysis.opened import OpenedSweep
from analysis.replicates import with_note
from analysis.stats import (
    Effect,
    crossed_effect,
    holm,
    item_part,
    pooled_over_worlds,
    unknown_effect,
    unpaired_effect,
)
from analysis.tables import contrasts_table
from analysis.wins import COLUMNS as WINS
from analysis.wins import Wins, wins_text

NAN = math.nan
Replicate = tuple[object, object]
"""World and seed."""
SIDES = ("first", "second")
VALUES = ("after", "delta")
DIFFERENCE_COLUMNS = [
    "pair", "arm", "axes", "value", "target", "lower_is_better", "first", "second", "difference", "low", "high",
    "p_value", "p_holm", "family_size", "mde", *WINS, "pairing", "num_items", "num_seeds", "kind", "note",
]  # fmt: skip
UNMATCHED_COLUMNS = ["side", "arm", "axes", "condition", "num_planned", "num_scored", "reason"]


@dataclass(frozen=True)
class Comparison:
    """Two sweeps, matched."""

    first: str
    """Folder of the first sweep."""
    second: str
    differences: pd.DataFrame
    """One row per matched condition, target and value (`after`, or `delta` from each sweep's own before): second -
    first."""
    unmatched: pd.DataFrame
    """One row per condition that only one sweep plans, or that cannot be compared."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Side:
    """One sweep, read."""

    frame: pd.DataFrame
    items: pd.DataFrame
    metrics: dict[str, tuple[str, ...]]
    keys: dict[str, tuple[str, str]]
    """Condition -> arm and axis values as canonical JSON."""


def compare(first: OpenedSweep, second: OpenedSweep) -> Comparison:
    """Compare the conditions that two sweeps have in common.

    Conditions match by arm and axis values. Differences are second - first. They are paired by item where both asked
    the same items of every slice of the target (`items_sha256`), and by seed where there are seeds in common; else they
    are independent: SE^2 = SE_items^2 + s_A^2/k_A + s_B^2/k_B, SE_items^2 summed over the sweeps where items differ,
    with degrees of freedom by Satterthwaite from each part's own. Worlds that only one sweep has are left out and
    noted. The scores beside a difference are means over the same worlds and seeds as it is. Holm over all
    rows with a test.
    """
    sides = _read(first), _read(second)
    pairs = list(_matched(*sides))
    targets = _common_targets(*sides)
    rows = [row for value in VALUES for row in _rows(sides, pairs, targets, value)]
    table = pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)
    table["p_holm"] = holm(table["p_value"].astype(float).tolist())
    table["family_size"] = int(table["p_value"].notna().sum())
    compared = set(table["pair"])
    unmatched = [row for place, side in enumerate(sides) for row in _unmatched(side, SIDES[place], pairs, compared)]
    folders = (first.folder, second.folder)
    return Comparison(
        *folders, table, pd.DataFrame(unmatched, columns=UNMATCHED_COLUMNS), _notes(first, second, targets)
    )


def _read(sweep: OpenedSweep) -> _Side:
    keys = {
        trial.condition: (trial.planned.arm, json.dumps(trial.planned.axes, sort_keys=True)) for trial in sweep.trials
    }
    return _Side(sweep_frame(sweep), items_frame(sweep), metrics_of(sweep), keys)


def _matched(first: _Side, second: _Side) -> Iterator[tuple[str, str]]:
    """Yield the names of conditions with the same arm and axis values."""
    names = {key: condition for condition, key in second.keys.items()}
    for condition, key in first.keys.items():
        if key in names:
            yield condition, names[key]


def _common_targets(first: _Side, second: _Side) -> dict[str, tuple[str, ...]]:
    """Return measures that both have with the same slices, then the primary slices of both."""
    measures = {name: keys for name, keys in first.metrics.items() if keys and second.metrics.get(name) == keys}
    own = [key for keys in first.metrics.values() for key in keys]
    others = {key for keys in second.metrics.values() for key in keys}
    return measures | {key: (key,) for key in dict.fromkeys(own) if key in others}


# -- one pair ---------------------------------------------------------------------------------------------------------


def _rows(
    sides: tuple[_Side, _Side], pairs: Sequence[tuple[str, str]], targets: Mapping[str, tuple[str, ...]], value: str
) -> Iterator[dict[str, object]]:
    """Yield one row per pair and target; a pair is an arm of its own, whose first condition is the first sweep's."""
    if not pairs or not targets:
        return
    frames = [[_side(sides[place].frame, pair, place, value) for place in (0, 1)] for pair in pairs]
    items = [[_side(sides[place].items, pair, place, value) for place in (0, 1)] for pair in pairs]
    every_item = pd.concat([part for own in items for part in own], ignore_index=True)
    every_trial = pd.concat([part for own in frames for part in own], ignore_index=True)
    table = contrasts_table(every_trial, every_item, dict(targets)).set_index(["arm", "target"])
    for pair, own_frames, own_items in zip(pairs, frames, items, strict=True):
        for target, keys in targets.items():
            row = _row(own_frames, own_items, target, keys, table.loc[(pair[0], target)].to_dict())
            arm, axes = sides[0].keys[pair[0]]
            yield row | {"pair": pair[0], "arm": arm, "axes": axes, "value": value}


def _row(
    frames: Sequence[pd.DataFrame],
    items: Sequence[pd.DataFrame],
    target: str,
    keys: Sequence[str],
    paired: dict[str, object],
) -> dict[str, object]:
    """Return a difference: as it is paired where both asked the same items, else of independent sides."""
    same = _asked_the_same(frames, keys)
    row = paired if same else paired | _columns(_independent(frames, items, target, keys))
    means = dict(zip(SIDES, _means(frames, target, is_paired=same), strict=True))
    pairing = _pairing(str(row["kind"]), same=same, has_seeds=bool(_common_replicates(frames, target)))
    return (
        {name: row[name] for name in DIFFERENCE_COLUMNS if name in row} | means | {"target": target, "pairing": pairing}
    )


def _means(frames: Sequence[pd.DataFrame], target: str, *, is_paired: bool) -> list[float]:
    """Return each side's score over what the difference is of: worlds of both, and in each its common seeds, if any."""
    scores = [_scores(own, target) for own in frames]
    worlds = [{world for world, _ in side} for side in scores]
    kept = worlds[0] & worlds[1] or worlds[0] | worlds[1]
    common = scores[0].keys() & scores[1].keys() if is_paired else set[Replicate]()
    paired = {world for world, _ in common}
    means: list[float] = []
    for side in scores:
        own: dict[object, list[float]] = {}
        for (world, seed), score in side.items():
            if world in kept and (world not in paired or (world, seed) in common):
                own.setdefault(world, []).append(score)
        means.append(fmean(map(fmean, own.values())) if own else NAN)
    return means


def _pairing(kind: str, *, same: bool, has_seeds: bool) -> str:
    if not same:
        return "nothing"
    return "seeds" if kind == "seeds only" else "items and seeds" if has_seeds else "items"


def _side(table: pd.DataFrame, pair: tuple[str, str], place: int, value: str) -> pd.DataFrame:
    """Return a side's rows of a pair, named by both; for `delta`, after is after - before everywhere."""
    own = table[table["condition"] == pair[place]].assign(condition=f"{SIDES[place]} {pair[0]}", arm=pair[0])
    if value == "after":
        return own
    if "item_id" in own.columns:
        return own.assign(after=own["after"] - own["before"])
    changes = {name: own[name.replace("after/", "delta/", 1)] for name in own.columns if name.startswith("after/")}
    return own.assign(**changes)


def _asked_the_same(frames: Sequence[pd.DataFrame], keys: Sequence[str]) -> bool:
    """Return whether every trial of both sides asked the same items of these slices, world by world."""
    slices = {key.rsplit("/", 1)[0] for key in keys}
    found: dict[tuple[object, str], set[object]] = {}
    for _, row in pd.concat(frames).iterrows():
        if isinstance(row["items_sha256"], str):
            asked = json.loads(row["items_sha256"])
            for name in slices:
                found.setdefault((row["world"] if pd.notna(row["world"]) else None, name), set()).add(asked.get(name))
    return bool(found) and all(len(contents) == 1 and None not in contents for contents in found.values())


def _scores(own: pd.DataFrame, target: str) -> dict[Replicate, float]:
    """Return the known scores of one side by world and seed."""
    known = own[own[f"after/{target}"].notna()]
    names = [(None if pd.isna(w) else w, s) for w, s in zip(known["world"], known["seed"], strict=True)]
    return dict(zip(names, known[f"after/{target}"].astype(float), strict=True))


def _common_replicates(frames: Sequence[pd.DataFrame], target: str) -> set[Replicate]:
    scores = [_scores(own, target) for own in frames]
    return scores[0].keys() & scores[1].keys()


def _independent(
    frames: Sequence[pd.DataFrame], items: Sequence[pd.DataFrame], target: str, keys: Sequence[str]
) -> Effect:
    """Return the difference of sides that asked other items: independent in items and seeds, worlds as strata."""
    worlds = [{None if pd.isna(world) else int(world) for world in own["world"]} for own in frames]
    common = sorted(worlds[0] & worlds[1], key=lambda world: -1 if world is None else world)
    if not common:
        return unknown_effect("no world in common")
    effects = {}
    for world in common:
        scores = [_in_world(own, world)[f"after/{target}"].dropna().tolist() for own in frames]
        parts = [_item_part(_in_world(own, world), keys) for own in items]
        effects[world] = unpaired_effect(*scores, parts)
    alone = sorted(world for world in worlds[0] ^ worlds[1] if world is not None)
    return with_note(
        pooled_over_worlds(effects), "; ".join(f"world {world} is in one sweep only and left out" for world in alone)
    )


def _in_world(table: pd.DataFrame, world: int | None) -> pd.DataFrame:
    return table[table["world"].isna() if world is None else table["world"] == world]


def _item_part(items: pd.DataFrame, keys: Sequence[str]) -> tuple[float, float]:
    """Return the clustered variance over items of the seed-averaged mean over slices, and its degrees of freedom.

    The variance is nan without items.
    """
    test = items[items["split"] == "test"]
    names = metric_key(test)
    own = test.assign(key=names)[names.isin(keys) & test["after"].notna()]
    if own["key"].nunique() < len(keys):
        return NAN, NAN
    means = own.groupby(["key", "suite", "cluster", "item_id"], sort=False)["after"].mean().reset_index()
    clusters = (means["suite"].astype(str) + "\0" + means["cluster"].astype(str)).tolist()
    values = means["after"].to_numpy(dtype=float)[:, None]
    return item_part(crossed_effect(values, clusters, means["key"].astype(str).tolist()))


def _columns(effect: Effect) -> dict[str, object]:
    columns = asdict(effect)
    estimate = columns.pop("estimate")
    note = "; ".join(filter(None, ["the sweeps asked other items", effect.note]))
    return {name: columns[name] for name in DIFFERENCE_COLUMNS if name in columns} | {
        "difference": estimate,
        "note": note,
        **asdict(Wins()),
    }


# -- what is not compared ---------------------------------------------------------------------------------------------


def _unmatched(
    side: _Side, name: str, pairs: Sequence[tuple[str, str]], compared: set[object]
) -> Iterator[dict[str, object]]:
    place = SIDES.index(name)
    matched = {pair[place]: pair for pair in pairs}
    for condition, own in side.frame.groupby("condition", sort=False):
        pair = matched.get(str(condition))
        if pair is not None and pair[0] in compared:
            continue
        reason = "the other sweep has no such condition" if pair is None else "the sweeps score nothing in common"
        arm, axes = side.keys[str(condition)]
        counts = {"num_planned": len(own), "num_scored": int(own["state"].eq("COMPLETE").sum())}
        yield {"side": name, "arm": arm, "axes": axes, "condition": condition, "reason": reason} | counts


def _notes(first: OpenedSweep, second: OpenedSweep, targets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    notes: list[str] = []
    if first.record.base != second.record.base:
        notes.append(f"the bases differ: {first.record.base} and {second.record.base}")
    fields = [set(sweep.record.axis_fields) for sweep in (first, second)]
    if fields[0] != fields[1]:
        notes.append(f"the axes differ: {', '.join(sorted(fields[0] ^ fields[1]))} varies in one sweep only")
    if not targets:
        notes.append("the sweeps have no measure and no primary slice in common")
    return tuple(notes)


# -- text -------------------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown: the measures' table, what is not compared, and notes."""
    head = f"# {escape.markdown(comparison.second)} against {escape.markdown(comparison.first)}"
    marks = "; ".join(f"{mark} {kind}" for kind, mark in numbers.INTERVAL_MARKS.items())
    about = (
        "Difference is second - first, with its 95 % interval; p after Holm over all rows. Where seeds are in common, "
        f"first, second and difference are of these alone. Wins: runs in common in which second is better. {marks}."
    )
    lines = [head, "", about, *(f"- {escape.markdown(note)}" for note in comparison.notes), ""]
    lines += [
        "| condition | score | first | second | difference | 95 % interval | p (Holm) | wins | paired by | seeds "
        "| note |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
    lines += [_markdown_row(row) for row in comparison.differences.to_dict("records")]
    if len(comparison.unmatched):
        lines += ["", "## Not compared", "", "| sweep | condition | trials scored | why |", "|---|---|---|---|"]
        lines += [
            f"| {row['side']} | {escape.markdown(row['condition'])} | {row['num_scored']}/{row['num_planned']} "
            f"| {escape.markdown(row['reason'])} |"
            for row in comparison.unmatched.to_dict("records")
        ]
    return "\n".join(lines) + "\n"


def _markdown_row(row: Mapping[str, object]) -> str:
    arrow = " ↓" if row["lower_is_better"] else ""
    cells = [
        escape.markdown(row["pair"]),
        escape.markdown(f"{row['target']}, {row['value']}") + arrow,
        numbers.score(float(row["first"]), signed=row["value"] == "delta"),
        numbers.score(float(row["second"]), signed=row["value"] == "delta"),
        numbers.score(float(row["difference"]), signed=True) + numbers.INTERVAL_MARKS.get(str(row["kind"]), ""),
        escape.markdown(numbers.interval(float(row["low"]), float(row["high"]))),
        escape.markdown(numbers.p_value(float(row["p_holm"]))),
        wins_text(row),
        str(row["pairing"]),
        str(row["num_seeds"]),
        escape.markdown(row["note"]),
    ]
    return f"| {' | '.join(cells)} |"


def text(comparison: Comparison) -> str:
    """Return a comparison for a terminal: one line per matched condition and score after training."""
    lines = [f"{_plain(comparison.second)} - {_plain(comparison.first)}: difference with its 95 % interval"]
    for row in comparison.differences.to_dict("records"):
        if row["value"] == "after":
            mark = numbers.INTERVAL_MARKS.get(str(row["kind"]), "")
            score = numbers.score(float(row["difference"]), signed=True) + mark
            ends = numbers.interval(float(row["low"]), float(row["high"]))
            about = f"paired by {row['pairing']}" + (f"; {_plain(row['note'])}" if row["note"] else "")
            lines.append(f"  {_plain(row['pair'])}  {_plain(row['target'])}: {score} {ends}, {about}")
    lines += [
        f"! {row['side']}: {_plain(row['condition'])} is not compared: {row['reason']}" for row in _records(comparison)
    ]
    return "\n".join([*lines, *(f"! {_plain(note)}" for note in comparison.notes)])


def _records(comparison: Comparison) -> list[dict[str, object]]:
    return comparison.unmatched.to_dict("records")


def _plain(value: object) -> str:
    return escape.visible(str(value), single_line=True, limit=120)
