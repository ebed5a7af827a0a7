"""Several processes that train one model: what each does of a step, and how they stay one run.

Each takes every n-th forward pass of a step, and the gradients are added up. A token's factor in the objective is known
before the first pass (losses.py), so the sum is that of one process but for the order of additions; a mean over
processes, as data parallelism usually takes it, would weigh a token by where it fell. Invariants: after every step all
processes hold the same weights; only the main one writes, validates and decides. What does not live here: starting
processes (harness/engine/together.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Protocol, TypeVar

import torch
from torch import nn

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

    def mine(self, passes: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield the passes of a step that this process takes, each with its number among all."""
        ...

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of all processes in place, and return their sums added up."""
        ...

    def agreed(self, value: T) -> T:
        """Return the main process's value."""
        ...


class Alone:
    """One process, as nearly always."""

    count, is_main = 1, True

    def mine(self, passes: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield every pass."""
        return enumerate(passes)

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        """Return the sums as they are."""
        return sums

    def agreed(self, value: T) -> T:
        """Return the value as it is."""
        return value


ALONE = Alone()


class Together:
    """The process group that RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe, held by accelerate."""

    def __init__(self) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=True, timeout=PATIENCE)
        self.count, self.is_main = self._state.num_processes, self._state.is_main_process

    def mine(self, passes: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield every n-th pass; they come longest first, so that all have about as much to do."""
        return islice(enumerate(passes), self._state.process_index, None, self.count)

    def add_up(self, model: nn.Module, sums: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of all processes in place, and return their sums added up.

        A parameter that no pass of any process reached has no gradient afterwards, as with one process: the optimizer
        leaves it alone, where a gradient of zeros would decay it.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        reached = _total(torch.tensor([float(parameter.grad is not None) for parameter in trained])).tolist()
        gradients = [_gradient(parameter) for parameter, by in zip(trained, reached, strict=True) if by]
        for bucket in _buckets(gradients):
            total = _total(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, part in zip(bucket, total.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return _total(sums)

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


def _total(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum over all processes."""
    from accelerate.utils import reduce

    total = reduce(tensor, "sum")
    assert isinstance(total, torch.Tensor)
    return total
