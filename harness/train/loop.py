"""The one training loop, in plain torch.

A step is one optimizer step over `batch_size` examples, however many forward passes they take. Invariants: on CPU the
same recipe at the same thread count gives the same bytes, evaluated in between or not, interrupted or not; a step
whose loss is out of bounds is logged and not applied. What does not live here: what carries loss (harness/data), what
is trained (harness/methods), how the result is scored (harness/evals).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.data import Example, PreparedData
from harness.errors import DataError
from harness.methods import count_parameters
from harness.records.schema import TrainSummary
from harness.records.store import disk_errors
from harness.seeding import seed_torch
from harness.spec import TrainSpec
from harness.train import batches, losses, schedules, segments
from harness.train.checkpoints import Checkpoints
from harness.train.dropout import has_dropout
from harness.train.early_stopping import VAL_LOSS, Best
from harness.train.head import chosen
from harness.train.log import Reporter, write_row
from harness.train.out_of_memory import in_what_fits
from harness.train.processes import ALONE, Processes
from harness.train.rehearsal import rehearse
from harness.train.resume import identity, resume, save
from harness.train.run import Context, Run, Sample, Watch
from harness.train.validation import sample as write_samples
from harness.train.validation import validate, watch


def fit(
    model: nn.Module,
    rows: PreparedData,
    spec: TrainSpec,
    *,
    seed: int,
    context: Context,
    folder: Path,
    sample: Sample,
    watched: Watch | None = None,
    processes: Processes = ALONE,
) -> TrainSummary:
    """Train a model's trainable parameters in place and return what was done.

    Continues from the newest intact checkpoint of this very run in `folder`, where there is one. The model is left in
    eval mode, without gradients, at its last or (with early stopping) its best weights.

    Args:
        model: a causal language model of transformers, perhaps wrapped by peft.
        rows: examples with token ids and a loss weight for each token.
        spec: the recipe.
        seed: the trial's seed; drives order and dropout.
        context: thread count, micro-batch, checkpoints, and whom to report progress to.
        folder: gets metrics.jsonl and samples.jsonl, and checkpoints while it runs.
        sample: answers the fixed prompts.
        watched: scores val items before the first step and with every validation, into during.jsonl.
        processes: those that train this model together, each of which calls this with the same arguments.

    Raises:
        DataError: no training rows, or early stopping without validation rows or without the metric that it is on.
        DiskError: the disk is full or read-only.
    """
    run = _begin(model, rows, spec, seed, context, folder, sample, watched, processes)
    if run.state.step == 0:
        with run.whole():
            validate(run)
            watch(run)
            write_samples(run, "before")
    run.state = processes.agreed(run.state)
    while not run.finished:
        _step(run)
        if run.state.divergence is None and (run.due(spec.eval_every) or run.finished):
            with run.whole():
                validate(run)
                watch(run)
                _consider_stopping(run)
                if run.due(spec.eval_every) and not run.finished:
                    write_samples(run, "during")
            run.state = processes.agreed(run.state)
        every = run.runtime.checkpoint_every
        if run.state.divergence is None and every and (run.due(every) or run.finished):
            save(run)  # the last step as well: a trial killed while it is evaluated need not train again
    if run.runtime.rehearses:
        rehearse(run, _backward)
    return _end(run)


def _begin(
    model: nn.Module,
    rows: PreparedData,
    spec: TrainSpec,
    seed: int,
    context: Context,
    folder: Path,
    sample: Sample,
    watched: Watch | None,
    processes: Processes,
) -> Run:
    _refuse_impossible(rows, spec, watched)
    runtime = context.runtime
    torch.set_num_threads(runtime.num_threads)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    logs = folder / "metrics.jsonl", folder / "samples.jsonl", folder / "during.jsonl"
    run_identity = identity(model, rows, spec, seed, runtime) if runtime.checkpoint_every else ""
    head, drops = chosen(model, runtime.loss_kernel), has_dropout(model)
    if rows.reads_itself_alone:
        segments.require(model)
    model.train()
    model = processes.share(model)
    run = Run(
        model=model,
        rows=rows,
        spec=spec,
        runtime=runtime,
        order=batches.Order.of(spec, len(rows.train), seed),
        optimizer=schedules.adamw(model, spec),
        checkpoints=Checkpoints(folder / "checkpoints", run_identity, logs if watched is not None else logs[:2]),
        metrics=logs[0],
        samples=logs[1],
        sample=sample,
        report=Reporter(context.report),
        best=_best(spec),
        during=logs[2],
        watch=watched,
        has_dropout=drops,
        head=head,
        eval_halvings=context.eval_halvings,
        processes=processes,
    )
    seed_torch(seed, "train.other")
    _continue_or_clear(run, logs)
    return run


def _continue_or_clear(run: Run, logs: tuple[Path, ...]) -> None:
    """Go on from a checkpoint; the main process chooses, cuts the logs back and sets damaged ones aside."""
    run.state.num_halvings = run.runtime.num_halvings
    if run.processes.is_main and not (run.runtime.checkpoint_every and resume(run)):
        run.checkpoints.discard()
        for path in logs:
            path.unlink(missing_ok=True)
    step = run.processes.agreed(run.state.step)
    if step and not run.processes.is_main:
        resume(run, step)


def _best(spec: TrainSpec) -> Best | None:
    if spec.early_stopping_patience is None:
        return None
    return Best(spec.early_stopping_patience, spec.early_stopping_on or VAL_LOSS)


def _refuse_impossible(rows: PreparedData, spec: TrainSpec, watched: Watch | None) -> None:
    if not rows.train:
        raise DataError("data.num_examples is 0 after filtering, but must be at least 1; see the rows dropped and why")
    if spec.early_stopping_on is not None and watched is None:
        raise DataError(
            f"train.early_stopping_on is {spec.early_stopping_on!r}, but must be None where no val items are scored"
        )
    needs_loss = spec.early_stopping_patience is not None and spec.early_stopping_on is None
    if needs_loss and not rows.validation:
        raise DataError("data.num_validation is 0, but must be at least 1 for train.early_stopping_patience")


@dataclass(frozen=True)
class Measured:
    """What one step measured, on the host."""

    loss: float | None
    """Token mean over the step, in nats, whatever the reduction: comparable between recipes. None without weights."""
    objective: float
    """What was differentiated."""
    grad_norm: float
    """Before clipping."""


def _step(run: Run) -> None:
    """Take one optimizer step and log it. Where it diverged, the run ends with the weights as they were."""
    started = time.perf_counter()
    state, spec = run.state, run.spec
    rows = [run.rows.train[index] for index in run.order.indices(state.step)]
    rate = schedules.learning_rate(spec, state.step, run.order.num_steps)
    measured = in_what_fits(run, rows, _backward)
    state.divergence = _divergence(spec, state.step + 1, measured)
    if state.divergence is None:
        schedules.clip_gradients(run.model, measured.grad_norm, spec.max_grad_norm)
        schedules.set_learning_rate(run.optimizer, rate)
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    _record(run, rows, rate, measured, time.perf_counter() - started)


def _backward(run: Run, rows: Sequence[Example]) -> Measured:
    """Accumulate the gradient of a whole step; the device is waited for once, at the end."""
    weight_sums = np.concatenate([row.weight_sums for row in rows])
    scales = losses.example_scales(run.spec.loss_reduction, weight_sums, run.spec.loss_group_size)
    by_row = np.split(scales, np.cumsum([row.num_examples for row in rows])[:-1])
    end_to_end = run.rows.reads_itself_alone
    sums = torch.zeros(2, dtype=torch.float64, device=run.device)
    passes = batches.micro_batches(rows, by_row, run.forward_size, run.device, end_to_end=end_to_end)
    with run.shared_casts():
        for number, batch in run.processes.mine(passes):
            if run.has_dropout:
                seed_torch(run.order.seed, f"train.dropout/{run.state.step}/{number}")
            with run.autocast():
                objective, nll_sum = losses.objective(run.model, batch, run.head)
            objective.backward()
            sums += torch.stack([objective.detach(), nll_sum])
    sums = run.processes.add_up(run.model, sums)
    norm = run.processes.norm(run.model)
    total_objective, total_nll, grad_norm = torch.cat([sums, norm.reshape(1).to(sums)]).tolist()
    weight_sum = float(weight_sums.sum())
    return Measured(total_nll / weight_sum if weight_sum else None, total_objective, grad_norm)


def _divergence(spec: TrainSpec, step: int, measured: Measured) -> str | None:
    for name, value in asdict(measured).items():
        if value is not None and not math.isfinite(value):
            return f"training {name} is {value} at step {step}, but must be finite"
    if measured.loss is not None and measured.loss > spec.loss_limit:
        limit = f"must be at most train.loss_limit = {spec.loss_limit:g}"
        return f"training loss is {measured.loss:.6g} at step {step}, but {limit}"
    return None


def _record(run: Run, rows: Sequence[Example], rate: float, measured: Measured, seconds: float) -> None:
    """Log a step, and count it if it was applied."""
    state = run.state
    num_tokens = sum(len(row.input_ids) for row in rows)
    num_loss_tokens = sum(int(np.count_nonzero(row.loss_weights[1:])) for row in rows)
    num_examples_seen = state.num_examples_seen + sum(row.num_examples for row in rows)
    row = {
        "step": state.step + 1,
        "epoch": num_examples_seen / run.rows.num_examples,
        "train/loss": measured.loss,
        "train/objective": measured.objective,
        "train/learning_rate": rate,
        "train/grad_norm": measured.grad_norm,
        "train/num_tokens": num_tokens,
        "train/num_loss_tokens": num_loss_tokens,
        "seconds": seconds,
        "tokens_per_second": num_tokens / seconds,
    }
    if run.processes.is_main:
        write_row(run.metrics, row if num_loss_tokens else row | {"reason": "no token of the step carries loss"})
    state.train_loss_last = measured.loss if measured.loss is None or math.isfinite(measured.loss) else None
    if state.divergence is None:
        state.step += 1
        state.num_examples_seen = num_examples_seen
        state.num_tokens += num_tokens
        state.num_loss_tokens += num_loss_tokens
        state.learning_rate_integral += rate
        state.train_loss_first = state.train_loss_last if state.step == 1 else state.train_loss_first
    run.report(state.step, run.order.num_steps, state.train_loss_last, num_tokens / seconds)


def _consider_stopping(run: Run) -> None:
    state = run.state
    if run.best is None or state.divergence is not None or not run.processes.is_main:
        return
    value = state.val_loss if run.best.metric == VAL_LOSS else state.val_metric
    if run.best.metric == VAL_LOSS and value is None:
        return
    state.stopped_early = run.best.should_stop(run.model, value, step=state.step, val_loss=state.val_loss)


def _end(run: Run) -> TrainSummary:
    """Settle which weights are kept, and sample from them. Checkpoints stay until the trial's result is committed."""
    state = run.state
    trainable_parameters, total_parameters = count_parameters(run.model)
    run.model = run.processes.gathered(run.model)
    if state.divergence is not None:
        state.val_loss = None
    else:
        if run.best is not None and run.best.weights:
            run.best.restore(run.model)
            state.val_loss = run.best.val_loss
        write_samples(run, "after")
    run.model.eval()
    return TrainSummary(
        num_steps=state.step,
        num_epochs=state.num_examples_seen / run.rows.num_examples,
        num_examples_seen=state.num_examples_seen,
        num_tokens=state.num_tokens,
        num_loss_tokens=state.num_loss_tokens,
        learning_rate_integral=state.learning_rate_integral,
        trainable_parameters=trainable_parameters,
        total_parameters=total_parameters,
        train_loss_first=state.train_loss_first,
        train_loss_last=state.train_loss_last,
        val_loss=state.val_loss,
        stopped_early=state.stopped_early,
        divergence=state.divergence,
        best_step=None if run.best is None or state.divergence is not None else run.best.step,
        micro_batch_size=run.forward_size,
        num_halvings=state.num_halvings,
    )
