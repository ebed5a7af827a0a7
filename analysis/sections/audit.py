"""What the trials really trained on, and what val and test items share, as each wrote it down before its first step.

Invariant: one row per distinct data set, with the trials that trained on it, and one per distinct slice of items; what
no audit counted is unknown, never 0.
What does not live here: the counts (harness/data/audit.py writes them).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.opened import OpenedTrial
from analysis.section import Section

AUDIT_FILE = "audit.json"
NOT_OF_THE_DATA = ("base_loss",)
"""What an audit says about the base, not about the rows."""
COUNTS = (
    "num_examples", "num_rows", "end_of_turn_share", "truncated_share", "ends_lost_share", "pack_fill",
    "num_without_loss", "num_exact_duplicates", "num_near_duplicates", "loss_tokens_per_step",
)  # fmt: skip

SPLIT_COLUMNS = (
    "num_val", "num_test", "num_checked", "num_overlapping", "share", "num_repeated", "num_across", "across_share",
    "is_large",
)  # fmt: skip


def compute(context: Context) -> Section | str:
    """Return one row per distinct data set that a trial's audit describes."""
    sets: dict[str, list[tuple[OpenedTrial, dict[str, Any]]]] = {}
    num_without = 0
    for trial in context.sweep.trials:
        found = _read(trial)
        if found is None:
            num_without += 1
        else:
            sets.setdefault(_identity(trial, found), []).append((trial, found))
    if not sets:
        return "no trial has written an audit of its data"
    rows = [_row(number, users) for number, users in enumerate(sets.values(), start=1)]
    parts = list(dict.fromkeys(part for row in rows for part in row["tokens"]))
    content = {"rows": rows, "parts": parts, "num_without": num_without, "num_trials": len(context.sweep.trials)}
    content |= {"splits": _splits(user for users in sets.values() for user in users)}
    return Section("audit", "Audit", content)


def files(section: Section) -> dict[str, bytes]:
    """Return the table as CSV, tokens of each part in columns of their own."""
    rows: list[dict[str, Any]] = []
    for row in section.content["rows"]:
        plain = {name: value for name, value in row.items() if name not in ("tokens", "loss_tokens")}
        plain |= {name: "; ".join(plain[name]) for name in ("conditions", "contaminated", "warnings", "problems")}
        plain |= {f"tokens/{part}": row["tokens"].get(part) for part in section.content["parts"]}
        plain |= {f"loss_tokens/{part}": row["loss_tokens"].get(part) for part in section.content["parts"]}
        rows.append(plain)
    splits = section.content["splits"]
    return {"audit.csv": formats.csv(pd.DataFrame(rows))} | (
        {"val_overlap.csv": formats.csv(pd.DataFrame(splits))} if splits else {}
    )


def _read(trial: OpenedTrial) -> dict[str, Any] | None:
    try:
        found = json.loads((trial.folder / AUDIT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none was written, or a crash tore it: this trial's data set is not described
        return None
    return found if isinstance(found, dict) and isinstance(found.get("tokens"), dict) else None


def _identity(trial: OpenedTrial, audit: dict[str, Any]) -> str:
    """Return what two trials have in common that trained on the same rows: their hash, or all that was counted."""
    if trial.result is not None:
        return trial.result.resolved.rows_sha256
    return json.dumps({name: value for name, value in audit.items() if name not in NOT_OF_THE_DATA}, sort_keys=True)


def _row(number: int, users: list[tuple[OpenedTrial, dict[str, Any]]]) -> dict[str, Any]:
    trials, audit = [trial for trial, _ in users], users[0][1]
    tokens, trained = audit["tokens"], audit.get("loss_tokens") or {}
    seeds = sorted({trial.planned.seed for trial in trials})
    ends = tokens.get("end_of_turn")
    return {
        "set": number,
        "conditions": list(dict.fromkeys(trial.condition for trial in trials)),
        "seeds": ", ".join(map(str, seeds)),
        "tokens": tokens,
        "loss_tokens": trained,
        "ends_trained_share": trained.get("end_of_turn", 0) / ends if ends else None,
        **{name: audit.get(name) for name in COUNTS},
        "contaminated": _contaminated(audit.get("overlaps") or {}),
        "warnings": [str(text) for text in audit.get("warnings") or ()],
        "problems": [str(text) for text in audit.get("problems") or ()],
        "trial_ids": " ".join(dict.fromkeys(trial.planned.trial_id for trial in trials)),
    }


def _splits(users: Iterable[tuple[OpenedTrial, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row per slice and distinct counts of its val and test items, the largest overlap first."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    trials: defaultdict[tuple[Any, ...], list[str]] = defaultdict(list)
    for trial, audit in users:
        found = audit.get("split_overlaps")
        for name, one in found.items() if isinstance(found, dict) else ():
            read = one.get if isinstance(one, dict) else {}.get
            row = {"slice": str(name)} | {column: _number(read(column)) for column in SPLIT_COLUMNS}
            key = tuple(row.values())
            rows.setdefault(key, row)
            trials[key].append(trial.planned.trial_id)
    made = [row | {"trial_ids": " ".join(dict.fromkeys(trials[key]))} for key, row in rows.items()]
    return sorted(made, key=lambda row: (not row["is_large"], -(row["share"] or 0.0)))


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) else None


def _contaminated(overlaps: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{key} {one.get('num_overlapping')}/{one.get('num_checked')}"
        for key, one in overlaps.items()
        if one.get("num_overlapping")
    ]
