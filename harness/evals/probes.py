"""What is measured of a trained model besides its scores: drift from its base, and scores on the way there.

Invariant: nothing is measured that the spec does not ask for, and the model is the same afterwards. What does not live
here: the measures (drift.py, interpolation.py, during.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from harness import models
from harness.evals import drift, during, interpolation
from harness.evals.scoring import Context, ask, report_phase, scorer_of
from harness.records.schema import DriftSummary, TrainSummary
from harness.spec import TrialSpec

if TYPE_CHECKING:
    from harness.data import ChatFormat, PreparedData
    from harness.evals.targets import Targets
    from harness.models import BaseFiles


def measure(
    model: nn.Module,
    base: BaseFiles,
    chat: ChatFormat,
    rows: PreparedData,
    spec: TrialSpec,
    context: Context,
    folder: Path,
    summary: TrainSummary,
    targets: Targets,
) -> DriftSummary | None:
    """Write the tables of the probes that a spec asks for, and return the drift, where it is asked for.

    Args:
        model: as training left it; it is not changed.
        base: what it was made from.
        chat: the trial's tokenizer and template.
        rows: whose validation rows are the new task.
        spec: the trial's.
        context: the store and how to run.
        folder: the trial's; gets during.parquet, drift.parquet and interpolation.parquet.
        summary: what training did; of a diverged one only what was seen during it is written.
        targets: gives the index of training targets, for the behaviour panel.

    Raises:
        DataError: items that are missing or cannot be asked.
        ModelError: the base cannot be loaded.
        DiskError: the disk is full or read-only.
    """
    during.write_table(folder)
    asks = bool(spec.probes.interpolation) or spec.probes.drift == "on"
    if summary.divergence is not None or not asks:
        return None
    report_phase(context, "probing")
    start = _start(base, chat, spec, context)
    if spec.probes.interpolation:
        _interpolate(model, start, chat, spec, context, folder, targets)
    return _drift(model, start, chat, rows, spec, context, folder) if spec.probes.drift == "on" else None


def _start(base: BaseFiles, chat: ChatFormat, spec: TrialSpec, context: Context) -> nn.Module | None:
    """Return the base with as many tokens, on the trial's device; None where an adapter holds it."""
    if spec.method.kind != "full":
        return None
    model = models.load_model(base, spec.train.dtype, context.runtime.device)
    models.add_rows(model, chat.tokenizer, chat.added)
    return model


def _interpolate(
    model: nn.Module,
    start: nn.Module | None,
    chat: ChatFormat,
    spec: TrialSpec,
    context: Context,
    folder: Path,
    targets: Targets,
) -> None:
    tasks = tuple(task for task in spec.evals.tasks if task.primary)
    evals = spec.evals.model_copy(update={"tasks": tasks})
    scorer = scorer_of(model, chat, evals, context.runtime.eval_batch_size, context.eval_halvings)
    weights = None if start is None else {name: held.detach().cpu() for name, held in start.named_parameters()}
    rows = interpolation.rows_between(
        model, weights, spec.probes.interpolation, lambda: ask(scorer, evals, targets=targets)
    )
    interpolation.write_rows(folder / interpolation.TABLE, rows)


def _drift(
    model: nn.Module,
    start: nn.Module | None,
    chat: ChatFormat,
    rows: PreparedData,
    spec: TrialSpec,
    context: Context,
    folder: Path,
) -> DriftSummary:
    summary, found = drift.measure(
        model,
        start,
        chat,
        rows.validation,
        spec.evals,
        num_texts=spec.probes.drift_texts,
        batch_size=context.runtime.eval_batch_size,
        halvings=context.eval_halvings,
    )
    drift.write_rows(folder / drift.DRIFT_FILE, found)
    return summary
