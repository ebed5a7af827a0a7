"""Fixed prompts with the answers before and after training.

Invariant: what is shown is the first seed's, and says so. What does not live here: items of suites (flip_examples.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.context import Context
from analysis.section import Section

NUM_PROMPTS = 6
"""Fixed prompts shown for each condition; all are in samples.parquet."""


def compute(context: Context) -> Section:
    """Return per condition the first seed's fixed prompts with the answers before and after."""
    return Section("samples", "Samples", {"conditions": _conditions(context.samples)})


def files(section: Section) -> dict[str, bytes]:
    """Return none: samples.parquet has every answer."""
    return {}


def _conditions(samples: pd.DataFrame) -> list[dict[str, Any]]:
    if samples.empty or not {"phase", "prompt", "answer"} <= set(samples.columns):
        return []
    found: list[dict[str, Any]] = []
    for condition, rows in samples.groupby("condition", sort=False):
        own = rows[rows["trial_id"] == rows["trial_id"].iloc[0]]
        before, after = (
            own[own["phase"] == phase].groupby("prompt", sort=False).first() for phase in ("before", "after")
        )
        prompts = list(dict.fromkeys([*before.index, *after.index]))[:NUM_PROMPTS]
        answers = [{"prompt": str(p), "before": _answer(before, p), "after": _answer(after, p)} for p in prompts]
        found.append({"condition": str(condition), "seed": int(own["seed"].iloc[0]), "answers": answers})
    return found


def _answer(table: pd.DataFrame, prompt: Any) -> str | None:
    if prompt not in table.index:
        return None
    answer = table.loc[prompt, "answer"]
    return None if answer is None or pd.isna(answer) else str(answer)
