"""What one training run holds: what it was asked, what it works on, where it is.

Invariant: `State` is all that moves besides weights, optimizer and generators, and is plain JSON. What does not live
here: anything that acts on a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from harness.data import PreparedData
from harness.models import Halvings
from harness.spec import Runtime, TrainSpec
from harness.train.batches import Order
from harness.train.checkpoints import Checkpoints
from harness.train.early_stopping import Best
from harness.train.head import Head
from harness.train.log import Reporter
from harness.train.processes import ALONE, Processes

Sample = Callable[[nn.Module, str], list[dict[str, Any]]]
"""Answers to the fixed prompts, given the model and the phase: before, during or after."""

Watch = Callable[[nn.Module], list[dict[str, Any]]]
"""Scores of val items: rows with suite, task, metric and value, given the model."""


class Context(Protocol):
    """What training needs to know about where it runs."""

    @property
    def runtime(self) -> Runtime: ...
    @property
    def report(self) -> Callable[..., None]: ...
    @property
    def eval_halvings(self) -> Halvings: ...


@dataclass
class State:
    """Where a run is. Counters cover applied steps only; what diverged is not among them."""

    step: int = 0
    num_examples_seen: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    learning_rate_integral: float = 0.0
    train_loss_first: float | None = None
    train_loss_last: float | None = None
    val_loss: float | None = None
    val_metric: float | None = None
    """Of `train.early_stopping_on`, at the latest validation."""
    stopped_early: bool = False
    divergence: str | None = None
    num_halvings: int = 0
    """Of the micro-batch, for want of memory."""


@dataclass
class Run:
    """One training run."""

    model: nn.Module
    """What forward passes go through: of several processes perhaps a share of each weight."""
    rows: PreparedData
    spec: TrainSpec
    runtime: Runtime
    order: Order
    optimizer: torch.optim.Optimizer
    checkpoints: Checkpoints
    metrics: Path
    samples: Path
    sample: Sample
    report: Reporter
    best: Best | None
    """None without early stopping."""
    during: Path
    watch: Watch | None
    """None where no val items are scored while training."""
    has_dropout: bool
    head: Head
    eval_halvings: Halvings
    """Of `runtime.eval_batch_size`, for want of memory."""
    state: State = field(default_factory=State)
    processes: Processes = ALONE

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return next(self.model.parameters()).device

    @property
    def forward_size(self) -> int:
        """Examples per forward pass: one where there is dropout, so that each example's masks are its own stream and
        the micro-batch, which is the machine's, moves no number."""
        return 1 if self.has_dropout else self.runtime.rows_per_pass(self.spec.batch_size, self.state.num_halvings)

    @property
    def finished(self) -> bool:
        """Whether no further step is to be taken."""
        state = self.state
        return state.step >= self.order.num_steps or state.stopped_early or state.divergence is not None

    def due(self, every: int) -> bool:
        """Return whether something that happens every so many steps (0: never) happens now."""
        return every > 0 and self.state.step % every == 0

    def autocast(self) -> torch.autocast:
        """Return the context of every forward pass: bf16 arithmetic over float32 weights, or nothing."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.dtype == "bfloat16_autocast")

    def shared_casts(self) -> AbstractContextManager[object]:
        """Return the context of all passes of a step: weights are cast to bf16 once for as long as they stay the same.

        It computes in no dtype of its own; what autocast keeps is let go with the outermost of its contexts. Where a
        process holds a share of each weight it keeps no cast of the whole.
        """
        if self.processes.shards:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=False)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let `model` be one with all its weights in the main process; every process goes in and out together."""
        trained = self.model
        self.model = self.processes.gathered(trained)
        try:
            yield
        finally:
            self.processes.let_go(self.model)
            self.model = trained
