"""The drift panel of a trial: its base once more where training changed it, and the file of rows.

Invariant: a trial without `probes.drift` costs nothing here; a base that is loaded again is the one that was trained,
in the same dtype. What does not live here: what is measured (drift.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from harness import models
from harness.evals import drift
from harness.evals.scoring import Context
from harness.records.schema import DriftSummary, TrainSummary
from harness.spec import FullConfig, TrialSpec

if TYPE_CHECKING:
    from harness.data import ChatFormat
    from harness.data.prepare import PreparedData
    from harness.models import BaseFiles


def drift_of_trial(
    tuned: nn.Module,
    base: BaseFiles,
    chat: ChatFormat,
    rows: PreparedData,
    spec: TrialSpec,
    context: Context,
    folder: Path,
    summary: TrainSummary,
) -> DriftSummary | None:
    """Measure a trained model's drift and write its `drift.parquet`; None where it is not asked for or DIVERGED.

    Args:
        tuned: as training left it; it is not changed.
        base: what it was trained from.
        chat: tokenizer and template.
        rows: the trial's data, of which the validation rows are used.
        spec: the trial.
        context: the store and how to run.
        folder: the trial's folder.
        summary: what training did.

    Raises:
        ModelError: the base cannot be loaded again.
        DataError: items of a slice are missing or cannot be read.
        DiskError: the disk is full or read-only.
    """
    if spec.probes.drift == "off" or summary.divergence is not None:
        return None
    context.report(phase="drift", step=0, num_steps=0, loss=None, tokens_per_second=None)
    found, rows_found = drift.measure(
        tuned,
        _base_again(base, chat, spec, context) if isinstance(spec.method, FullConfig) else None,
        chat,
        rows.validation,
        spec.evals,
        num_texts=spec.probes.drift_texts,
        batch_size=context.runtime.eval_batch_size,
    )
    drift.write_rows(folder / drift.DRIFT_FILE, rows_found)
    return found


def _base_again(base: BaseFiles, chat: ChatFormat, spec: TrialSpec, context: Context) -> nn.Module:
    model = models.load_model(base, spec.train.dtype, context.runtime.device)
    models.add_rows(model, chat.tokenizer, chat.added)
    return model
