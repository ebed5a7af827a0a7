"""The gate before training: what would be trained on is counted, shown, and refused where nothing could be learned.

Invariant: an audit lies beside the record whether it passes or not, and none of it moves a number of the run. What does
not live here: the counts (harness/data/audit.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from harness.data import Audit, ChatFormat, Example, PreparedData, SplitOverlap, audit_of, audit_page, write_ledger
from harness.errors import DataError
from harness.records.schema import AUDIT_FILES
from harness.records.store import write_atomic
from harness.spec import TrialSpec
from harness.train import batches, losses
from harness.train.head import tried
from harness.train.modes import evaluating

NUM_SHOWN = 4
"""Rows shown whole."""
NUM_READ_BY_BASE = 32
"""Rows on which the base's loss is measured, at most."""
TOKENS_READ_BY_BASE = 8192
"""Tokens that these rows may have together; the first row is read whatever it has."""
MICRO_BATCH = 4

Asked = Mapping[str, Mapping[str, str]]
Splits = Mapping[str, SplitOverlap]


def require_sound(
    model: nn.Module,
    rows: PreparedData,
    chat: ChatFormat,
    spec: TrialSpec,
    *,
    asked: Asked,
    folder: Path,
    splits: Splits = MappingProxyType({}),
) -> None:
    """Write the audit of a trial's rows, and go on only if they can be trained on.

    Args:
        model: the base, before anything is attached to it.
        rows: what is trained on.
        chat: tokenizer and template.
        spec: the recipe.
        asked: task key -> item id -> what the item asks.
        folder: the trial's.
        splits: task key -> what its val and test items have in common.

    Raises:
        DataError: no token carries loss, or the end of a turn is to be learned and never trained on.
        DiskError: the disk is full or read-only.
    """
    found = audited(model, rows, chat, spec, asked=asked, folder=folder, splits=splits)
    if problems := found.problems(spec.data):
        raise DataError("; ".join(problems))


def audited(
    model: nn.Module,
    rows: PreparedData,
    chat: ChatFormat,
    spec: TrialSpec,
    *,
    asked: Asked,
    folder: Path,
    splits: Splits = MappingProxyType({}),
) -> Audit:
    """Count what rows train on, write it into a folder as JSON, page and table of rows, and return it.

    Raises:
        DiskError: the disk is full or read-only.
    """
    counted = audit_of(rows, chat, spec.train.batch_size, asked, splits)
    found = replace(counted, base_loss=base_loss(model, rows))
    as_json, as_page, ledger = (folder / name for name in AUDIT_FILES)
    problems = {"problems": found.problems(spec.data)}
    write_atomic(as_json, json.dumps(_known(problems | found.as_json()), indent=1, allow_nan=False).encode())
    write_atomic(as_page, audit_page(found, spec.data, rows.train[:NUM_SHOWN], chat.tokenizer).encode())
    write_ledger(ledger, rows)
    return found


def _known(value: Any) -> Any:
    """Return a JSON value with null for every number that is none: a loss that overflowed is not known."""
    if isinstance(value, Mapping):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def base_loss(model: nn.Module, rows: PreparedData) -> float | None:
    """Return the mean loss in nats over the loss tokens of the first rows, weighted as in training; None without any.

    sum(weight x nll) / sum(weight) over at most `NUM_READ_BY_BASE` rows; lower is better.
    """
    chosen = _first(rows)
    weight = math.fsum(float(row.weight_sums.sum()) for row in chosen)
    if not weight:
        return None
    device = next(model.parameters()).device
    unscaled = [row.weight_sums * 0.0 for row in chosen]
    total, head = torch.zeros((), dtype=torch.float64, device=device), tried(model)
    with evaluating(model):
        for batch in batches.micro_batches(chosen, unscaled, MICRO_BATCH, device, end_to_end=rows.reads_itself_alone):
            total += losses.objective(model, batch, head)[1]
    return total.item() / weight


def _first(rows: PreparedData) -> list[Example]:
    chosen, num_tokens = list[Example](), 0
    for row in rows.train[:NUM_READ_BY_BASE]:
        num_tokens += len(row.input_ids)
        if chosen and num_tokens > TOKENS_READ_BY_BASE:
            break
        chosen.append(row)
    return chosen
