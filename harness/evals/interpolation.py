"""Scores between a base and what training made of it: theta(w) = theta_b + w (theta - theta_b).

Full fine-tuning mixes every weight; of an adapter the product that it adds is scaled by w, and rows of added tokens are
mixed. Invariant: w = 1 is the trained model and w = 0 the base, bit for bit, and afterwards the model holds the bytes
that it held before, which is checked. What does not live here: whether and at which weights (harness/spec/probes.py).

Source: Wortsman et al. (WiSE-FT), arXiv:2109.01903, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import torch
from torch import nn

from harness.errors import ModelError
from harness.evals.table import SCHEMA, ItemRow, columns_of, write_parquet

TABLE = "interpolation.parquet"
Weights = Mapping[str, torch.Tensor]


def rows_between(
    model: nn.Module, base: Weights | None, weights: Sequence[float], score: Callable[[], list[ItemRow]]
) -> list[tuple[float, ItemRow]]:
    """Return the item rows at each weight, in the order of the weights.

    Args:
        model: as training left it; it holds the same bytes afterwards.
        base: name -> tensor of every trained parameter as it was before training, on the CPU; None for an adapter,
            which knows its base.
        weights: w, from 0 to 1.
        score: scores the model as it is when called.

    Raises:
        ModelError: a trained parameter has no counterpart in the base.
    """
    found: list[tuple[float, ItemRow]] = []
    with _restored(model) as tuned:
        starts = _starts(model, tuned, base)
        for weight in weights:
            _set(model, tuned, starts, weight)
            found.extend((weight, row) for row in score())
    return found


def write_rows(path: Path, rows: Sequence[tuple[float, ItemRow]]) -> None:
    """Write interpolation.parquet: a column `weight`, then those of items.parquet.

    Raises:
        DiskError: the disk is full or read-only.
    """
    columns = {"weight": [weight for weight, _ in rows], **columns_of([row for _, row in rows], SCHEMA.names)}
    write_parquet(path, columns, pa.schema([("weight", pa.float64()), *SCHEMA]))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training moves, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@contextmanager
def _restored(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a copy of the trained parameters on the CPU, and put it back on exit."""
    tuned = {name: parameter.detach().to("cpu", copy=True) for name, parameter in trained(model).items()}
    try:
        yield tuned
    finally:
        with torch.no_grad():
            for name, parameter in trained(model).items():
                parameter.copy_(tuned[name])
    changed = [name for name, parameter in trained(model).items() if not _same(parameter.detach().cpu(), tuned[name])]
    if changed:
        raise ModelError(f"{changed[0]} does not hold its trained values after interpolation; run the trial again")


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _starts(model: nn.Module, tuned: Weights, base: Weights | None) -> dict[str, torch.Tensor]:
    """Return what each trained parameter is at w = 0."""
    if base is not None:
        lacking = [name for name in tuned if name not in base or base[name].shape != tuned[name].shape]
        if lacking:
            raise ModelError(f"{lacking[0]} was trained, but the base has no weight of that name and shape")
        return {name: base[name].detach().to(tuned[name].dtype) for name in tuned}
    return {name: _start_of_adapter(model, name, tensor) for name, tensor in tuned.items()}


def _start_of_adapter(model: nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if ".lora_A." in name:
        return tensor  # of the product B A it is enough to scale one factor
    if ".lora_B." in name:
        return torch.zeros_like(tensor)
    if "trainable_tokens_delta" in name:
        owner, _, adapter = name.rpartition(".trainable_tokens_delta.")
        return model.get_submodule(owner).trainable_tokens_original[adapter].detach().to("cpu", copy=True)  # type: ignore[index]
    raise ModelError(f"{name} is trained, but must be part of a low-rank adapter or a row of an added token")


def _set(model: nn.Module, tuned: Weights, starts: Weights, weight: float) -> None:
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter.copy_(_mixed(starts[name], tuned[name], weight))


def _mixed(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """Return start + weight (end - start) in float32, the ends exactly."""
    if weight in (0.0, 1.0) or start is end:
        return end if weight == 1.0 else start
    return (start.float() + weight * (end.float() - start.float())).to(end.dtype)
