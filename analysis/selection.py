"""Which condition a sweep's selection picks: on val, never on test.

Invariant: nothing here reads a test score. What does not live here: reporting the chosen condition's test scores.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from harness.records.schema import SweepRecord


def mark_chosen(frame: pd.DataFrame, record: SweepRecord, *, lower_is_better: bool) -> pd.DataFrame:
    """Add `chosen`, `chosen_clear`, `chosen_note`: in each arm and level of `within`, the best level of `axis` on val.

    The score of a condition is the mean over its seeds of `val_after/<measure>`. A condition with a DIVERGED seed is
    not eligible: the mean of its surviving seeds would be a survivor's. While a trial of the group is neither COMPLETE
    nor DIVERGED the choice is open (`chosen` is <NA>). It is clear where one condition is best, neither tied nor open.
    """
    frame["chosen"] = pd.Series(pd.NA, index=frame.index, dtype="boolean")
    frame["chosen_clear"] = frame["chosen"]
    frame["chosen_note"] = None
    if record.selection is None:
        return frame
    column = f"val_after/{record.selection['measure']}"
    within, axis = (f"axis.{record.selection[part]}" for part in ("within", "axis"))
    if not {column, axis} <= set(frame.columns):
        frame["chosen_clear"] = pd.Series(data=False, index=frame.index, dtype="boolean")
        frame["chosen_note"] = f"no column {column if column not in frame.columns else axis} to choose by"
        return frame
    groups = ["arm", within] if within in frame.columns else ["arm"]
    for _, group in frame.groupby(groups, dropna=False, sort=False):
        chosen, is_clear, note = _best_condition(group, column, lower_is_better=lower_is_better)
        frame.loc[group.index, "chosen_clear"] = is_clear
        frame.loc[group.index, "chosen_note"] = note
        if chosen is not None:
            frame.loc[group.index, "chosen"] = group["condition"] == chosen
    return frame


def _best_condition(group: pd.DataFrame, column: str, *, lower_is_better: bool) -> tuple[str | None, bool, str]:
    """Return the best condition of a group, whether it is clearly the best, and why."""
    open_states = group.loc[~group["state"].isin(["COMPLETE", "DIVERGED"]), "condition"]
    if len(open_states):
        return None, False, f"open: {open_states.iloc[0]} has trials without a result"
    scores = {
        str(condition): float(trials[column].mean())
        for condition, trials in group.groupby("condition", sort=False)
        if (trials["state"] == "COMPLETE").all() and trials[column].notna().all()
    }
    if not scores:
        return None, False, "open: no condition has a known val score on every seed"
    best = (min if lower_is_better else max)(scores, key=lambda condition: scores[condition])
    ties = [condition for condition, score in scores.items() if score == scores[best]]
    if len(ties) > 1:
        note = f"tie of {len(ties)} conditions on val by mean {column}: {best} is the first of {', '.join(ties)}"
        return best, False, note
    return best, True, f"best of {len(scores)} conditions on val by mean {column} over seeds"
