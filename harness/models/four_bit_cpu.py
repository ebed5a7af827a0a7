"""A repair of how bitsandbytes 0.50 unpacks 4-bit weights on CPU.

Its AVX512 kernel reads wrong scales where a layer has a number of inputs that is a multiple of 16 but not of the
block size 64: weights are then off by up to their own size, silently. A Llama of hidden size 288 went from a loss of
.77 to 2.08 in 4 bits, and goes to .67 when repaired. The kernel is right for the same numbers laid out as rows of
whole blocks, so that is how it is called here. Invariant: where the kernel is right already, nothing is changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import torch

OPERATOR = "bitsandbytes::dequantize_4bit"
BLOCK = 64
PROBE = (3, 96)
"""A shape that the kernel gets wrong."""


@cache
def repair() -> bool:
    """Replace the operator for CPU where it is wrong, and return whether that was needed."""
    if is_right():
        return False
    native = torch.library.get_kernel(OPERATOR, "CPU")

    def dequantize(
        keys: torch.DispatchKeySet,
        packed: torch.Tensor,
        scales: torch.Tensor,
        block: int,
        kind: str,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        rows = rows_of_blocks(shape, block)
        return native.call_boxed(keys, packed, scales, block, kind, rows, dtype).reshape(tuple(shape))

    library = torch.library.Library("bitsandbytes", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that an operator was replaced
        library.impl("dequantize_4bit", dequantize, "CPU", with_keyset=True, allow_override=True)
    _KEPT.append(library)
    if not is_right():
        raise RuntimeError(f"{OPERATOR} is still wrong on this CPU after its repair")
    return True


_KEPT: list[torch.library.Library] = []  # a library that is collected takes its kernels with it


def rows_of_blocks(shape: Sequence[int], block: int) -> list[int]:
    """Return a shape of as many numbers whose rows the kernel reads rightly: whole blocks, or else pairs.

    An odd number of columns is left alone: bitsandbytes itself takes another way then.
    """
    total = prod(shape)
    if shape[-1] % block == 0 or shape[-1] % 2:
        return list(shape)
    return [total // block, block] if total % block == 0 else [total // 2, 2]


def is_right() -> bool:
    """Return whether the operator gives what its codes and scales stand for, on a shape that the kernel gets wrong."""
    import bitsandbytes.functional as functional

    weights = torch.linspace(-1.0, 1.0, prod(PROBE)).mul(torch.arange(1, prod(PROBE) + 1)).reshape(PROBE)
    packed, state = functional.quantize_4bit(weights, quant_type="nf4", blocksize=BLOCK)
    return torch.equal(functional.dequantize_4bit(packed, state), expected(packed, state))


def expected(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """Return the weights that packed codes stand for, one by one: code x scale of its block, in float32.

    Args:
        packed: two codes a byte, the first in the upper half.
        state: bitsandbytes' state of singly quantised weights.
    """
    total = prod(state.shape)
    codes = torch.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], dim=1).reshape(-1)[:total].long()
    scales = state.absmax.repeat_interleave(state.blocksize)[:total]
    return (state.code[codes] * scales).reshape(tuple(state.shape))
