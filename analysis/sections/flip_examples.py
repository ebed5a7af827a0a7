"""Items that training turned around: what was asked, and the answers before and after.

Invariant: an item is shown for the condition under which most seeds turned it the same way, and says how many did. What
does not live here: counting all of them (tables.py), fixed prompts (samples.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.escape import latex, visible
from analysis.items import metric_key, questions_beside
from analysis.section import Section, rows_of

NUM_SHOWN = 3
"""Items shown of each primary slice and direction."""
DIRECTIONS = (("gained", 0.0, 1.0), ("lost", 1.0, 0.0))
ITEM = ["key", "world", "item_id"]
COLUMNS = [
    "key", "direction", "item_id", "world", "condition", "num_flipped", "num_seeds", "trial_id", "prompt", "reference",
    "output_before", "output_after",
]  # fmt: skip

TEXTS = ("prompt", "reference", "output_before", "output_after")


def compute(context: Context) -> Section | str:
    """Return up to three items gained and three lost of each primary slice, those that most seeds turned around."""
    keys = list(dict.fromkeys(key for keys in context.primary_keys.values() for key in keys))
    test = _test_items(context.items, keys)
    if test.empty:
        return "no item of a primary slice is known before and after"
    found = [part for key in keys for part in _of_slice(test[test["key"] == key])]
    if not found:
        return "no item of a primary slice with scores of 0 and 1 changed"
    table = pd.concat(found, ignore_index=True)
    table = table.assign(slice=[_slice(key) for key in table["key"]])
    table = table.merge(_questions(context), on=["trial_id", "slice", "item_id"], how="left")
    return Section(
        "flip_examples", "Examples", {"rows": rows_of(table[COLUMNS].astype(object).where(table.notna(), None))}
    )


def files(section: Section) -> dict[str, bytes]:
    """Return the examples as CSV, long texts cut, and as a LaTeX table of answers before and after."""
    rows = section.content["rows"]
    table = pd.DataFrame(rows, columns=COLUMNS)
    for name in TEXTS:  # the whole text is in items.parquet
        table[name] = [None if text is None else visible(str(text)) for text in table[name]]
    return {"flip_examples.csv": formats.csv(table), "flip_examples.tex": _latex(rows).encode()}


def _test_items(items: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    known = items[(items["split"] == "test") & items["before"].notna() & items["after"].notna()]
    names = metric_key(known)
    # A world of its own where there is none: pandas leaves rows without a group out.
    return known.assign(key=names, world=known["world"].fillna(-1))[names.isin(keys)]


def _of_slice(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    if not rows[["before", "after"]].isin((0.0, 1.0)).all().all():
        return
    seeds = rows.groupby([*ITEM, "condition"])["trial_id"].nunique().rename("num_seeds")
    for direction, before, after in DIRECTIONS:
        flipped = rows[(rows["before"] == before) & (rows["after"] == after)]
        if len(flipped):
            yield _most_flipped(flipped, seeds).assign(direction=direction)


def _most_flipped(flipped: pd.DataFrame, seeds: pd.Series) -> pd.DataFrame:
    """Return one row per item: the condition with the largest share of seeds that turned it, and its first trial."""
    counts = flipped.groupby([*ITEM, "condition"], sort=False)["trial_id"].nunique().rename("num_flipped")
    table = counts.to_frame().join(seeds).reset_index()
    table["share"] = table["num_flipped"] / table["num_seeds"]
    everywhere = flipped.groupby(ITEM)["trial_id"].nunique().rename("num_anywhere").reset_index()
    ranked = table.merge(everywhere, on=ITEM).sort_values(
        ["share", "num_flipped", "num_anywhere", "item_id", "world"],
        ascending=[False, False, False, True, True],
        kind="stable",
    )
    chosen = ranked.drop_duplicates(ITEM).head(NUM_SHOWN)
    shown = chosen.merge(flipped.drop_duplicates([*ITEM, "condition"]), on=[*ITEM, "condition"], how="left")
    return shown.assign(world=[None if world == -1 else int(world) for world in shown["world"]])


def _questions(context: Context) -> pd.DataFrame:
    """Return what each item of each trial asks, as far as it was written down beside the base's items."""
    columns = ["item_id", "slice", "prompt", "reference", "trial_id"]
    read = cache(questions_beside)
    parts = [
        table.assign(trial_id=trial.planned.trial_id, slice=table["suite"] + "/" + table["task"])[columns]
        for trial, result in context.sweep.finished
        if (table := read(context.sweep.store.root / result.before.items_file)) is not None
    ]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts).drop_duplicates(["item_id", "slice", "trial_id"])


def _slice(key: object) -> str:
    """Return `suite/task` of a slice's or a metric's key."""
    return "/".join(str(key).split("/")[:2])


def _latex(rows: list[dict[str, Any]]) -> str:
    lines = [r"\begin{tabular}{llp{0.28\linewidth}p{0.25\linewidth}p{0.25\linewidth}}", r"\toprule"]
    lines += [r"slice & change & question & before & after \\", r"\midrule"]
    for row in rows:
        change = f"{row['direction']} ({row['num_flipped']}/{row['num_seeds']})"
        question = row["prompt"] if row["prompt"] is not None else row["item_id"]
        cells = (row["key"], change, question, row["output_before"], row["output_after"])
        lines.append(" & ".join("--" if cell is None else latex(cell, limit=200) for cell in cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
