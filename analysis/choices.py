"""What a base and each trial give to every choice of a multiple-choice item, as a frame.

Invariant: rows are those of choices.parquet; a side whose table was not kept, or is damaged, is NaN, and a trial that
has neither side has no row. What does not live here: writing them (harness/evals/choices.py), ranks and shares
(closed_set.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.items import TRIAL_KEYS, trial_keys
from analysis.opened import OpenedSweep, open_named
from harness.records.schema import CHOICES_FILE

NOT_KEPT = "unknown: the choices' log-probabilities were not kept"
DAMAGED = "unknown: the table of choices is damaged"
ITEM_KEYS = ["suite", "task", "item_id"]
CHOICE_KEYS = [*ITEM_KEYS, "choice"]
WRITTEN = dict.fromkeys(ITEM_KEYS, "category") | {
    "choice": "int64", "logprob": "float64", "num_bytes": "int64", "is_gold": "bool",
}  # fmt: skip
"""Column of choices.parquet -> its type here."""
SIDES = ("before", "after", "before_full_precision")
CHOICE_COLUMNS = {name: kind for name, kind in WRITTEN.items() if name != "logprob"} | dict.fromkeys(SIDES, "float64")
"""Column -> type; the sides are natural-log probabilities, summed over the choice's tokens."""


def load_choices(name: str, base: str = "pocket", out: str | Path = "out", set_hash: str | None = None) -> pd.DataFrame:
    """Return one row per trial, multiple-choice item and choice: its log-probability before and after.

    Text columns are categories, which keep many trials of long benchmarks small; arguments and errors as `load_during`.
    """
    return choices_frame(open_named(name, base, out, set_hash))


def choices_frame(sweep: OpenedSweep) -> pd.DataFrame:
    """Return the choices of an opened sweep; see `load_choices`. A base's table is read once for all its trials."""
    of_base = cache(choices_beside)
    parts: list[pd.DataFrame] = []
    for trial, result in sweep.finished:
        if result.after is None:
            continue
        root, full = sweep.store.root, result.before_full_precision
        found = {
            "before": of_base(root / result.before.items_file),
            "after": choices_beside(root / result.after.items_file),
            "before_full_precision": NOT_KEPT if full is None else of_base(root / full.items_file),
        }
        tables = {side: table for side, table in found.items() if isinstance(table, pd.DataFrame)}
        if tables.keys() & {"before", "after"}:
            parts.append(_joined(tables).assign(**trial_keys(trial)))
    types = dict.fromkeys(("trial_id", "condition", "condition_id", "arm"), "category") | CHOICE_COLUMNS
    names = [*TRIAL_KEYS, *CHOICE_COLUMNS]
    frame = pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)
    return frame.astype(types | {"world": "Int64"})


def choices_beside(items_file: Path) -> pd.DataFrame | str:
    """Return the choices of one model, from beside its items, with the columns of `WRITTEN`; or why there are none."""
    path = items_file.with_name(CHOICES_FILE)
    if not path.is_file():
        return NOT_KEPT
    try:
        table = pq.read_table(path, columns=list(WRITTEN), read_dictionary=ITEM_KEYS).to_pandas()
        found = table[list(WRITTEN)].astype(WRITTEN)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):  # a damaged table costs its own rows alone
        return DAMAGED
    is_whole = found[ITEM_KEYS].notna().all(axis=None) and not found.duplicated(CHOICE_KEYS).any()
    return found if is_whole else DAMAGED


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the choices of a trial with a column for each side; nan where a side has no such choice."""
    joined: pd.DataFrame | None = None
    for side, table in tables.items():
        own = table.rename(columns={"logprob": side})
        # The same choices in the same order, the usual case, need no join.
        if joined is None:
            joined = own
        elif joined[CHOICE_KEYS].equals(own[CHOICE_KEYS]):
            joined = joined.assign(**{side: own[side]})
        else:
            joined = joined.merge(own, on=[*CHOICE_KEYS, "num_bytes", "is_gold"], how="outer")
    assert joined is not None
    return joined.reindex(columns=list(CHOICE_COLUMNS))
