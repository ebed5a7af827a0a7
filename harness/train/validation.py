"""Validation loss, scores of val items and fixed-prompt samples while training.

Invariant: nothing here changes training: generators, train mode and weights are the same after as before; of several
processes the main one alone does it. What does not live here: the evaluation suites (harness/evals).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from harness.train import batches, log, losses
from harness.train.modes import evaluating
from harness.train.run import Run


def validate(run: Run) -> None:
    """Measure the validation loss, log it, and end the run where it is not finite.

    The loss is sum(weight x nll) / sum(weight) over all tokens of the validation rows, in nats, lower is better;
    None without validation rows or without any weight in them.
    """
    if not run.processes.is_main:
        return
    weight_sum = sum(float(example.loss_weights[1:].sum(dtype=np.float64)) for example in run.rows.validation)
    if weight_sum == 0:
        return
    most, num_rows = run.runtime.eval_batch_size, len(run.rows.validation)
    loss = run.eval_halvings.in_what_fits(lambda size: _nll_sum(run, size), most, num_rows) / weight_sum
    log.write_row(run.metrics, {"step": run.state.step, "val/loss": loss})
    if math.isfinite(loss):
        run.state.val_loss = loss
    else:
        run.state.divergence = f"validation loss is {loss} after step {run.state.step}, but must be finite"


def _nll_sum(run: Run, num_rows: int) -> float:
    rows = run.rows.validation
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    with evaluating(run.model):
        for batch in batches.micro_batches(rows, list(np.zeros((len(rows), 1))), num_rows, run.device):
            with run.autocast():
                total += losses.objective(run.model, batch, run.head)[1]
    return total.item()


def watch(run: Run) -> None:
    """Score the watched val items and append the rows to during.jsonl; keep the metric that early stopping is on.

    That metric is the mean over its items, None as soon as one of them has no value.
    """
    if run.watch is None or not run.processes.is_main:
        return
    with evaluating(run.model):
        rows = run.watch(run.model)
    for row in rows:
        log.write_row(run.during, {"step": run.state.step} | row)
    key = run.spec.early_stopping_on
    values = [row["value"] for row in rows if f"{row['suite']}/{row['task']}/{row['metric']}" == key]
    run.state.val_metric = None if not values or None in values else math.fsum(values) / len(values)


def sample(run: Run, phase: str) -> None:
    """Answer the fixed prompts and append the answers to samples.jsonl, with step and phase."""
    if not run.processes.is_main:
        return
    with evaluating(run.model):
        rows = run.sample(run.model, phase)
    for row in rows:
        log.write_row(run.samples, {"step": run.state.step, "phase": phase} | row)
