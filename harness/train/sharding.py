"""Processes that hold a share of every weight: fully sharded data parallelism, torch's `fully_shard`.

accelerate holds the process group but does not shard: its FSDP plugin is ignored on the CPU (accelerate 1.15,
`AcceleratorState` turns it on for accelerators alone). A process holds 1/n of weights, gradients and optimizer state;
a layer's weights are whole while it is computed, and whatever lies outside the layers - embedding, output layer, last
norm - during a whole pass. Invariants: every process takes the same number of passes, since each gathers weights;
gradients are added up, not averaged; only the main process ever holds all weights beside its share, and only while
something is measured on them. What does not live here: gloo, NCCL and who does what (processes.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from harness.errors import ModelError
from harness.train.batches import MicroBatch
from harness.train.placed import full
from harness.train.processes import Together, total
from harness.train.segments import inner


class Sharded(Together):
    """The process group, each of whose members holds a share of every weight."""

    shards = True

    def share(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model that holds this process's share of the weights; the model itself keeps none.

        Raises:
            ModelError: it holds weights that cannot be shared out, such as those of 4 bits.
        """
        _refuse_quantised(model)
        copies = {id(own): nn.Parameter(own.data, own.requires_grad) for own in model.parameters()}
        shared = copy.deepcopy(model, dict(copies))
        kind = next(model.parameters()).device.type
        self.let_go(model)
        copies.clear()
        self._whole = model
        return _sharded(shared, kind, self.count)

    def gathered(self, model: nn.Module) -> nn.Module:
        """Return the model that was shared out, with all weights in the main process and none in the others."""
        own = dict(self._whole.named_parameters())
        for name, parameter in model.named_parameters():
            weights = full(parameter.detach())
            if self.is_main:
                own[name].data = weights
        return self._whole

    def let_go(self, model: nn.Module) -> None:
        """Free a model's weights; it stays without."""
        for parameter in model.parameters():
            parameter.data = parameter.data.new_empty(0)

    def mine(self, passes: Iterable[MicroBatch]) -> Iterator[tuple[int, MicroBatch]]:
        """Yield every n-th pass, and one that counts for nothing where other processes have one more."""
        every = list(passes)
        taken = range(self._state.process_index, len(every), self.count)
        yield from ((number, every[number]) for number in taken)
        if len(taken) * self.count < len(every):
            yield len(every), _counting_for_nothing(every[-1])

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        """Return the sums added up; gradients are since each backward pass."""
        return total(sums)

    def norm(self, model: nn.Module) -> torch.Tensor:
        """Return the norm of the whole gradient, over the shares of all processes."""
        return full(super().norm(model))


def _refuse_quantised(model: nn.Module) -> None:
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            raise ModelError(
                "runtime.sharding is 'fsdp', but must be 'none' for weights held in 4 bits, whose blocks cannot be "
                "shared out; use method 'lora', or let each process hold the whole model"
            )


def _sharded(model: nn.Module, kind: str, num_processes: int) -> nn.Module:
    """Share out a model in place: each decoder layer by itself, and then whatever is left."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(kind, (num_processes,))
    layers: Any = inner(model)._no_split_modules or ()
    for module in [module for module in model.modules() if type(module).__name__ in layers]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Sums, as a token's factor is known before: what torch divides by in place of the number of processes.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    return model


def _counting_for_nothing(batch: MicroBatch) -> MicroBatch:
    """Return a pass whose gradient is zero."""
    return replace(batch, scales_K=torch.zeros_like(batch.scales_K), weights_K=torch.zeros_like(batch.weights_K))
