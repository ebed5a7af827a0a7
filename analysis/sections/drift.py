"""The drift panel of a report: how far the trained models of each condition are from their base.

Invariant: every number is a mean over trials with a t interval over seeds, and says how many trials lack it. What does
not live here: measuring (harness/evals/drift.py), the tables (analysis/drift.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from typing import Any

from analysis import drift
from analysis import files as bytes_of
from analysis.context import Context
from analysis.section import Section, rows_of

SHOWN: dict[str, tuple[tuple[str, str], ...]] = {
    "Divergence, nats per token": (
        ("base_answers/kl_base_tuned", "new task, KL(base || tuned)"),
        ("tuned_answers/kl_tuned_base", "new task, KL(tuned || base)"),
        ("neutral/kl_base_tuned", "neutral, KL(base || tuned)"),
        ("neutral/kl_tuned_base", "neutral, KL(tuned || base)"),
        ("answers/kl_base_tuned_first", "answers, first 5 tokens"),
        ("answers/kl_base_tuned_rest", "answers, the rest"),
        ("neutral/argmax_loss", "L_f, neutral"),
        ("neutral/argmax_loss_base", "L_f of the base"),
    ),
    "Entropy, nats per token": (
        ("neutral/entropy_base", "neutral, base"),
        ("neutral/entropy_tuned", "neutral, tuned"),
        ("base_answers/entropy_base", "own answers, base"),
        ("tuned_answers/entropy_tuned", "own answers, tuned"),
    ),
    "Samples to one prompt": (
        ("samples/distinct_1_base", "distinct-1, base"),
        ("samples/distinct_1_tuned", "distinct-1, tuned"),
        ("samples/distinct_2_base", "distinct-2, base"),
        ("samples/distinct_2_tuned", "distinct-2, tuned"),
        ("samples/distinct_3_base", "distinct-3, base"),
        ("samples/distinct_3_tuned", "distinct-3, tuned"),
        ("samples/unique_base", "unique, base"),
        ("samples/unique_tuned", "unique, tuned"),
        ("samples/self_bleu_base", "self-BLEU, base"),
        ("samples/self_bleu_tuned", "self-BLEU, tuned"),
    ),
    "Tokens of the tuned model's answers under the base": (
        ("tuned_answers/unshifted", "unshifted"),
        ("tuned_answers/marginal", "marginal"),
        ("tuned_answers/shifted", "shifted"),
    ),
    "Weights": (
        ("weights/relative_change", "||dW|| / ||W||"),
        ("weights/stable_rank", "stable rank of dW"),
        ("weights/effective_rank", "effective rank of dW"),
        ("weights/num_intruders", "intruders of 10, mean of layers"),
    ),
}
"""Table -> the means it shows and what each column is called."""


def compute(context: Context) -> Section | str:
    """Return a table for each part of the panel: condition x mean."""
    if not any(result.drift for _, result in context.sweep.finished):
        return drift.NO_PANEL
    table = context.shown(drift.drift_table(context.frame, drift.mean_names(context.sweep)))
    cells = {(row["condition"], row["name"]): row for row in rows_of(table)}
    conditions = list(dict.fromkeys(table["condition"]))
    tables = [
        {"title": title, "columns": [label for _, label in columns], "rows": _rows(conditions, columns, cells)}
        for title, columns in SHOWN.items()
    ]
    return Section("drift", "Drift", {"tables": tables, "table": table, "unknown": _unknown(context)})


def _rows(
    conditions: list[str], columns: tuple[tuple[str, str], ...], cells: dict[tuple[str, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    return [
        {"condition": condition, "cells": [cells.get((condition, name), UNKNOWN) for name, _ in columns]}
        for condition in conditions
    ]


UNKNOWN = {"estimate": float("nan"), "low": float("nan"), "high": float("nan"), "num_seeds": 0, "note": "not measured"}


def _unknown(context: Context) -> list[str]:
    """Return why means are unknown, each reason once with how many trials have it."""
    counts: dict[str, int] = {}
    for _, result in context.sweep.finished:
        for name, reason in (result.drift.reasons if result.drift is not None else {}).items():
            counts[f"{name}: {reason}"] = counts.get(f"{name}: {reason}", 0) + 1
    return [f"{text} ({count} trials)" for text, count in counts.items()]


def files(section: Section) -> dict[str, bytes]:
    """Return every mean of every condition with its interval."""
    return {"drift.csv": bytes_of.csv(section.content["table"])}
