"""All planned trials, one row each.

Invariant: as many rows as the plan has. What does not live here: the other columns (trials.parquet).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from analysis.context import Context
from analysis.section import Section, rows_of

COLUMNS = ("val_loss", "steps", "num_loss_tokens", "trainable_share", "peak_memory_bytes", "seconds", "rerun")


def compute(context: Context) -> Section:
    """Return one row per planned trial: what became of it, the change of each measure, what it cost."""
    measures = list(context.record.measures)
    columns = ["trial_id", "condition", "seed", "world", "state", "chosen"]
    columns += [f"delta/{measure}" for measure in measures]
    rows = rows_of(context.frame[[*columns, *COLUMNS]])
    return Section("trials", "Trials", {"measures": measures, "rows": rows})


def files(section: Section) -> dict[str, bytes]:
    """Return none: trials.csv has every column."""
    return {}
