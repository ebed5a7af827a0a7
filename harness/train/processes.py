"""Several processes that train one model: what each does of a step, and how they stay one run.

Each takes every n-th forward pass of a step, and the gradients are added up. A token's factor in the objective is known
before the first pass (losses.py), so the sum is that of one process but for the order of additions; a mean over
processes, as data parallelism usually takes it, would weigh a token by where it fell. Invariants: after every step all
processes hold the same weights; only the main one writes, validates and decides. What does not live here: processes
that hold a share of each weight (sharding.py), starting processes (harness/engine/together.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Protocol, TypeVar

import torch
from torch import nn

from harness.train.batches import MicroBatch
from harness.train.schedules import gradients

T = TypeVar("T")
BUCKET = 2**23
"""Numbers in one exchange, 32 MB in float32."""
PATIENCE = timedelta(hours=12)
"""How long the others wait for the main process, which validates alone."""


class Processes(Protocol):
    """The processes of one run, as one of them sees them."""

    @property
    def count(self) -> int: ...
    @property
    def is_main(self) -> bool: ...
    @property
    def shards(self) -> bool:
        """Whether each holds a share of every weight in place of all."""
        ...

    def share(self, model: nn.Module) -> nn.Module:
        """Return what this process trains of a model, which is handed over."""
        ...

    def gathered(self, model: nn.Module) -> nn.Module:
        """Return what was handed over with the weights of what `share` made of it, whole in the main process."""
        ...

    def let_go(self, model: nn.Module) -> None:
        """Free what `gathered` gathered."""
        ...

    def mine(self, passes: Iterable[MicroBatch]) -> Iterator[tuple[int, MicroBatch]]:
        """Yield the passes of a step that this process takes, each with its number among all."""
        ...

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of all processes in place, and return their sums added up."""
        ...

    def norm(self, model: nn.Module) -> torch.Tensor:
        """Return the norm of the whole gradient, all parameters together, once it is added up."""
        ...

    def agreed(self, value: T) -> T:
        """Return the main process's value."""
        ...


class Alone:
    """One process, as nearly always."""

    count, is_main, shards = 1, True, False

    def share(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def gathered(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def let_go(self, model: nn.Module) -> None:
        """The model stays."""

    def mine(self, passes: Iterable[MicroBatch]) -> Iterator[tuple[int, MicroBatch]]:
        """Yield every pass."""
        return enumerate(passes)

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        """Return the sums as they are."""
        return sums

    def norm(self, model: nn.Module) -> torch.Tensor:
        """Return the norm of the gradient."""
        return torch.nn.utils.get_total_norm(gradients(model))

    def agreed(self, value: T) -> T:
        """Return the value as it is."""
        return value


ALONE = Alone()


class Together(Alone):
    """The process group that RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe, held by accelerate."""

    def __init__(self, device: str = "cpu") -> None:
        """Join the group.

        Args:
            device: `cpu`, over gloo, or `cuda`, over NCCL: the process then takes the GPU of its LOCAL_RANK.
        """
        from accelerate import PartialState

        self._state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
        self.count, self.is_main = self._state.num_processes, self._state.is_main_process

    def mine(self, passes: Iterable[MicroBatch]) -> Iterator[tuple[int, MicroBatch]]:
        """Yield every n-th pass; they come longest first, so that all have about as much to do."""
        return islice(enumerate(passes), self._state.process_index, None, self.count)

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of all processes in place, and return their sums added up.

        A parameter that no pass of any process reached has no gradient afterwards, as with one process: the optimizer
        leaves it alone, where a gradient of zeros would decay it.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        has_gradient = [float(parameter.grad is not None) for parameter in trained]
        reached = total(torch.tensor(has_gradient, device=sums.device)).tolist()
        gradients = [_gradient(parameter) for parameter, by in zip(trained, reached, strict=True) if by]
        for bucket in _buckets(gradients):
            added = total(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, part in zip(bucket, added.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return total(sums)

    def agreed(self, value: T) -> T:
        """Return the main process's value."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def close(self) -> None:
        """Leave the group; whoever still waits for this process gets an error."""
        self._state.destroy_process_group()


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    """Return a parameter's gradient, zeros where no pass of this process reached it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield tensors in groups of one dtype and of about `BUCKET` numbers: each is one exchange."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(one.numel() for one in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def total(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum over all processes."""
    from accelerate.utils import reduce

    added = reduce(tensor, "sum")
    assert isinstance(added, torch.Tensor)
    return added
