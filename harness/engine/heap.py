"""How a worker's memory is handed out: what one training step frees, the next one takes again.

A step of SmolLM2-135M frees a gigabyte of gradients, casts and activations. The C library hands such blocks back to the
kernel, which clears them page by page when the next step asks for as much: 1.2 million page faults and a quarter of the
CPU time of a short training run. Invariant: no score moves. A worker keeps what it freed until its next trial begins,
which gives it back (harness/records/provenance.py), lest that trial's peak be the last one's. What does not live here:
how many workers there are (executor.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableMapping

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT_BYTES = (2**31 - 1, 32 * 2**20)
"""The largest that mallopt takes, and the largest that glibc before 2.35 does. Blocks below it come from the heap."""
SMALL_BYTES = 2**16
"""Blocks below it come from the heap where freed ones are handed back."""
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""torch asks for pages of 2 MB under blocks of 2 MB and more where this is set before it is imported. Source:
https://github.com/pytorch/pytorch/blob/v2.13.0/c10/core/impl/alloc_cpu.cpp"""


def keep_freed(environment: MutableMapping[str, str]) -> bool:
    """Let this process keep what it frees, and torch, which must not be imported yet, use huge pages.

    Args:
        environment: gets torch's setting, unless it says something of it already.

    Returns:
        Whether the C library takes such settings; glibc does, musl does not.

    Source: mallopt(3).
    """
    environment.setdefault(HUGE_PAGES, "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Never the second alone: any of the two stops glibc from raising the first as blocks are freed.
    if not any(mallopt(M_MMAP_THRESHOLD, size) == 1 for size in KEPT_BYTES):
        return False
    return mallopt(M_TRIM_THRESHOLD, KEPT_BYTES[0]) == 1


def give_back_freed() -> None:
    """Let this process hand freed blocks back at once, where the C library takes such settings.

    Weights that are gathered for one layer after another are blocks of many sizes: a heap that keeps them grew to twice
    what a process held of a model of 50 M weights (benchmarks/processes.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, SMALL_BYTES)
