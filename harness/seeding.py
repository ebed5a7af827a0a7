"""Named random streams: the only source of randomness in this project.

`derive(seed, "data.shuffle")` gives the same 63-bit integer on every machine and Python build, and streams of
different names are independent, so adding a consumer never moves another one's numbers. No torch here: `seed_torch`
and `preserved_rng` import it when called.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive(seed: int, stream: str) -> int:
    """Return the seed of a named stream, in [0, 2**63).

    Args:
        seed: the trial's or the world's seed.
        stream: a dotted name, e.g. "data.shuffle"; one consumer each.
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def python_stream(seed: int, stream: str) -> random.Random:
    """Return a standard-library generator for a named stream."""
    return random.Random(derive(seed, stream))


def numpy_stream(seed: int, stream: str) -> np.random.Generator:
    """Return a numpy generator for a named stream."""
    return np.random.default_rng(derive(seed, stream))


def seed_torch(seed: int, stream: str) -> None:
    """Seed torch's global generators (CPU and every GPU) from a named stream: dropout and initialisation draw there."""
    import torch

    torch.manual_seed(derive(seed, stream))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the python, numpy and torch generators on exit, whatever a library did to them inside."""
    import torch

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
