"""How a worker's memory is handed out: what one training step frees, the next one takes again.

A step of SmolLM2-135M frees a gigabyte of gradients, casts and activations. The C library hands such blocks back to the
kernel, which clears them page by page when the next step asks for as much: 1.2 million page faults and a quarter of the
CPU time of a short training run. Invariant: no number moves. An idle worker keeps what it freed until it ends: at most
`KEPT_BYTES` at the end of its heap, beside what lies between blocks in use. What does not live here: how many workers
there are (executor.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableMapping

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 2**31 - 1
"""The largest that mallopt takes. Blocks below it come from the heap, whose end is given back beyond as much."""
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
    taken = [mallopt(option, KEPT_BYTES) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)]
    return all(taken)
